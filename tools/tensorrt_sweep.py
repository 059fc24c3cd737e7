"""What the parser and builder of TensorRT-RTX make of models of one ONNX op: tests/data/tensorrt_sweep.csv.

Needs no GPU. In an environment with tensorrt-rtx-cu12 1.7.1.116, onnx 1.23.2 and numpy:

    python tools/tensorrt_sweep.py > tests/data/tensorrt_sweep.csv

The models are the node tests of the onnx package, and a few of our own (`OWN`) for limits those do not reach. Each is tried twice: as it
is, all inputs computed (`dynamic`), and with every input but the first as a constant (`constant`). `ok`: parsed and built for
SM86; `build`: parsed, and the builder stops; `no`: the parser refuses, and `message` says why. TensorRT-RTX has no plugin library: what
TensorRT proper runs by a plugin (NonZero, RoiAlign, DeformConv) is refused here and not there.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

X = "float[1,4,8,8]"
OWN: dict[str, str] = {
    "conv_1d": "float[1,4,8] x, float[4,4,3] w => float[1,4,6] y = Conv(x, w)",
    "conv_2d": f"{X} x, float[4,4,3,3] w => float[1,4,6,6] y = Conv(x, w)",
    "conv_3d": "float[1,4,8,8,8] x, float[4,4,3,3,3] w => float[1,4,6,6,6] y = Conv(x, w)",
    "conv_4d": "float[1,2,4,4,4,4] x, float[2,2,1,1,1,1] w => float[1,2,4,4,4,4] y = Conv(x, w)",
    "conv_dilated": f"{X} x, float[4,4,3,3] w => float[1,4,4,4] y = Conv <dilations=[2,2]> (x, w)",
    "conv_grouped": f"{X} x, float[4,1,3,3] w => float[1,4,6,6] y = Conv <group=4> (x, w)",
    "conv_float64": "double[1,4,8,8] x, double[4,4,3,3] w => double[1,4,6,6] y = Conv(x, w)",
    "conv_float16": "float16[1,4,8,8] x, float16[4,4,3,3] w => float16[1,4,6,6] y = Conv(x, w)",
    "conv_transpose_1d": "float[1,4,8] x, float[4,4,2] w => float[1,4,16] y = ConvTranspose <strides=[2]> (x, w)",
    "conv_transpose_dilated": f"{X} x, float[4,4,2,2] w => float[1,4,10,10] y = ConvTranspose <dilations=[2,2]> (x, w)",
    "conv_transpose_grouped": f"{X} x, float[4,1,2,2] w => float[1,4,16,16] y = ConvTranspose <group=4, strides=[2,2]> (x, w)",
    "conv_transpose_output_padding": f"{X} x, float[4,4,2,2] w => float[1,4,17,17] y = ConvTranspose <strides=[2,2], output_padding=[1,1]> (x, w)",
    "max_pool_1d": "float[1,4,8] x => float[1,4,7] y = MaxPool <kernel_shape=[2]> (x)",
    "max_pool_4d": "float[1,2,4,4,4,4] x => float[1,2,3,3,3,3] y = MaxPool <kernel_shape=[2,2,2,2]> (x)",
    "max_pool_dilated": f"{X} x => float[1,4,6,6] y = MaxPool <kernel_shape=[2,2], dilations=[2,2]> (x)",
    "average_pool_1d": "float[1,4,8] x => float[1,4,7] y = AveragePool <kernel_shape=[2]> (x)",
    "rank_8": "float[1,1,1,1,1,2,2,2] x => float[1,1,1,1,1,2,2,2] y = Relu(x)",
    "rank_9": "float[1,1,1,1,1,1,2,2,2] x => float[1,1,1,1,1,1,2,2,2] y = Relu(x)",
    "slice_negative_step": f"{X} x, int64[1] s, int64[1] e, int64[1] a, int64[1] t => float[1,4,8,8] y = Slice(x, s, e, a, t) | s=-1 e=-100 a=2 t=-1",
    "slice_step": f"{X} x, int64[1] s, int64[1] e, int64[1] a, int64[1] t => float[1,4,4,8] y = Slice(x, s, e, a, t) | s=0 e=8 a=2 t=2",
    "pad_reflect": f"{X} x, int64[8] p => float[1,4,10,10] y = Pad <mode=\"reflect\"> (x, p) | p=0,0,1,1,0,0,1,1",
    "pad_edge": f"{X} x, int64[8] p => float[1,4,10,10] y = Pad <mode=\"edge\"> (x, p) | p=0,0,1,1,0,0,1,1",
    "pad_wrap": f"{X} x, int64[8] p => float[1,4,10,10] y = Pad <mode=\"wrap\"> (x, p) | p=0,0,1,1,0,0,1,1",
    "pad_value": f"{X} x, int64[8] p, float v => float[1,4,10,10] y = Pad (x, p, v) | p=0,0,1,1,0,0,1,1 v=1",
    "top_k_3840": "float[1,8000] x, int64[1] k => float[1,3840] y, int64[1,3840] i = TopK(x, k) | k=3840",
    "top_k_3841": "float[1,8000] x, int64[1] k => float[1,3841] y, int64[1,3841] i = TopK(x, k) | k=3841",
    "top_k_unsorted": "float[1,80] x, int64[1] k => float[1,4] y, int64[1,4] i = TopK <sorted=0> (x, k) | k=4",
    "cum_sum_int32": "int32[2,8] x, int32 a => int32[2,8] y = CumSum(x, a) | a=1",
    "grid_sample_3d": "float[1,2,4,4,4] x, float[1,4,4,4,3] g => float[1,2,4,4,4] y = GridSample(x, g)",
    "grid_sample_cubic": f"{X} x, float[1,4,4,2] g => float[1,4,4,4] y = GridSample <mode=\"cubic\"> (x, g)",
    "layer_normalization": "float[2,8,16] x, float[16] s, float[16] b => float[2,8,16] y = LayerNormalization(x, s, b)",
    "instance_normalization_2d": f"{X} x, float[4] s, float[4] b => {X} y = InstanceNormalization(x, s, b)",
    "resize_linear_3d": "float[1,2,4,4,4] x, float[] r, float[5] s => float[1,2,8,8,8] y = Resize <mode=\"linear\"> (x, r, s) | s=1,1,2,2,2",
    "resize_cubic": f"{X} x, float[] r, float[4] s => float[1,4,16,16] y = Resize <mode=\"cubic\"> (x, r, s) | s=1,1,2,2",
    "resize_channels": f"{X} x, float[] r, float[4] s => float[1,8,16,16] y = Resize <mode=\"nearest\"> (x, r, s) | s=1,2,2,2",
    "reshape_int32": "int32[2,8] x, int64[1] s => int32[16] y = Reshape(x, s) | s=16",
    "gather_bool": "bool[8] x, int64[2] i => bool[2] y = Gather(x, i) | i=0,1",
    "gather_int8": "int8[8] x, int64[2] i => int8[2] y = Gather(x, i) | i=0,1",
    "gather_uint8": "uint8[8] x, int64[2] i => uint8[2] y = Gather(x, i) | i=0,1",
    "transpose_int8": "int8[2,8] x => int8[8,2] y = Transpose(x)",
    "transpose_uint8": "uint8[2,8] x => uint8[8,2] y = Transpose(x)",
    "concat_bool": "bool[8] x, bool[8] z => bool[16] y = Concat <axis=0> (x, z)",
    "relu_int32": "int32[8] x => int32[8] y = Relu(x)",
    "relu_int8": "int8[8] x => int8[8] y = Relu(x)",
    "relu_float64": "double[8] x => double[8] y = Relu(x)",
    "softmax_float64": "double[8] x => double[8] y = Softmax(x)",
    "matmul_int32": "int32[4,4] x, int32[4,4] w => int32[4,4] y = MatMul(x, w)",
    "reduce_sum_int32": "int32[4,4] x, int64[1] a => int32[4,1] y = ReduceSum(x, a) | a=1",
    "reduce_mean_empty_axes": "float[4,4] x => float[1,1] y = ReduceMean(x)",
    "one_hot": "int64[4] x, int64 d, float[2] v => float[4,10] y = OneHot(x, d, v) | d=10 v=0,1",
    "arg_max_last_index": "float[4,4] x => int64[4,1] y = ArgMax <axis=1, select_last_index=1> (x)",
    "lstm_layout": "float[2,3,4] x, float[1,20,4] w, float[1,20,5] r => float[2,3,1,5] y = LSTM <hidden_size=5, layout=1> (x, w, r)",
    "lstm_input_forget": "float[3,2,4] x, float[1,20,4] w, float[1,20,5] r => float[3,1,2,5] y = LSTM <hidden_size=5, input_forget=1> (x, w, r)",
    "lstm": "float[3,2,4] x, float[1,20,4] w, float[1,20,5] r => float[3,1,2,5] y = LSTM <hidden_size=5> (x, w, r)",
    "gru_linear_before_reset": "float[3,2,4] x, float[1,15,4] w, float[1,15,5] r => float[3,1,2,5] y = GRU <hidden_size=5, linear_before_reset=1> (x, w, r)",
    "einsum_ellipsis": "float[2,3,4] x, float[2,4,5] w => float[2,3,5] y = Einsum <equation=\"...ij,...jk->...ik\"> (x, w)",
    "einsum_diagonal": "float[3,3] x => float[3] y = Einsum <equation=\"ii->i\"> (x)",
    "scatter_elements_add": "float[4,4] x, int64[1,4] i, float[1,4] u => float[4,4] y = ScatterElements <reduction=\"add\"> (x, i, u) | i=0,1,2,3",
    "quantize_int8": "float[4,4] x, float s, int8 z => int8[4,4] y = QuantizeLinear(x, s, z) | s=0.1 z=0",
    "quantize_int8_zero_point": "float[4,4] x, float s, int8 z => int8[4,4] y = QuantizeLinear(x, s, z) | s=0.1 z=3",
    "dequantize_int8": "int8[4,4] x, float s, int8 z => float[4,4] y = DequantizeLinear(x, s, z) | s=0.1 z=0",
    "dequantize_int8_zero_point": "int8[4,4] x, float s, int8 z => float[4,4] y = DequantizeLinear(x, s, z) | s=0.1 z=3",
    "non_max_suppression": "float[1,6,4] b, float[1,1,6] c, int64[1] m, float[1] i, float[1] s => int64[n,3] y = NonMaxSuppression(b, c, m, i, s) | m=3 i=0.5 s=0",
    "max_pool_indices": f"{X} x => float[1,4,7,7] y, int64[1,4,7,7] i = MaxPool <kernel_shape=[2,2]> (x)",
    "range_int64": "int64 a, int64 l, int64 d => int64[n] y = Range(a, l, d)",
    "squeeze": "float[2,1] x, int64[1] a => float[2] y = Squeeze(x, a) | a=1",
    "cast_uint8_float": "uint8[8] x => float[8] y = Cast <to=1> (x)",
    "cast_float_uint8": "float[8] x => uint8[8] y = Cast <to=2> (x)",
    "identity_uint8": "uint8[8] x => uint8[8] y = Identity(x)",
    "quantize_uint8": "float[4,4] x, float s, uint8 z => uint8[4,4] y = QuantizeLinear(x, s, z) | s=0.1 z=0",
    "dequantize_uint8": "uint8[4,4] x, float s, uint8 z => float[4,4] y = DequantizeLinear(x, s, z) | s=0.1 z=0",
    "dequantize_int32": "int32[4,4] x, float s => float[4,4] y = DequantizeLinear(x, s) | s=0.1",
}  # fmt: skip
OPSET = 21


@dataclass(frozen=True)
class Case:
    name: str
    model: Any
    data: dict[str, Any]
    fixed: tuple[str, ...] = ()
    """Inputs that are constant in the second try; empty: all but the first."""


def own(name: str, text: str) -> Case:
    """`types and names of inputs => those of outputs = node | name=values of inputs`."""
    head, _, values = text.partition(" | ")
    signature, _, node = head.partition(" => ")
    outputs, _, node = node.partition(" = ")
    names = ", ".join(o.split()[-1] for o in re.split(r",\s*(?=[a-z])", outputs))
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {OPSET}]> g ({signature}) => ({outputs}) {{ {names} = {node} }}'
    )
    given = {k: v.split(",") for k, _, v in (item.partition("=") for item in values.split())}
    data = {}
    for value in model.graph.input:
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        flat = given.get(value.name)
        if flat is None:
            data[value.name] = np.ones([0] if "float[]" in text and value.name == "r" else shape, dtype)
        else:
            data[value.name] = np.array([float(v) for v in flat]).astype(dtype).reshape(shape)
    empty = [n for n, a in data.items() if not a.size]
    return Case(name, model, data, (*given, *empty) if given else ())


def cases() -> Iterator[Case]:
    yield from (own(name, text) for name, text in OWN.items())
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        tests = collect_testcases(None)
    for test in tests:
        if test.model is None or len(test.model.graph.node) != 1:
            continue
        arrays = test.data_sets[0][0] if test.data_sets else []
        data = {v.name: a for v, a in zip(test.model.graph.input, arrays, strict=False)}
        yield Case(test.name, test.model, data)


def with_constants(case: Case) -> Any | None:
    """The model with `fixed` inputs as initializers; None where there are none or a value is no array."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    rest = [v for v in list(model.graph.input)[0 if case.fixed else 1 :] if not case.fixed or v.name in case.fixed]
    if not rest or not all(isinstance(case.data.get(v.name), (np.ndarray, np.generic)) for v in rest):
        return None
    for value in rest:
        try:
            tensor = numpy_helper.from_array(np.asarray(case.data[value.name]), value.name)
        except (KeyError, ValueError, TypeError):  # an array of text, or of a type NumPy lacks
            return None
        tensor.data_type = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else tensor.data_type
        model.graph.initializer.append(tensor)
        model.graph.input.remove(value)
    return model


class Sweep:
    def __init__(self) -> None:
        import tensorrt_rtx as trt

        self.trt = trt
        self.logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
        self.builder = trt.Builder(self.logger)
        self.builder.max_threads = 1

    def verdict(self, model: Any) -> tuple[str, str]:
        """`ok`, `build` or `no`, and what was said."""
        network = self.builder.create_network(0)
        reader = self.trt.OnnxParser(network, self.logger)
        if not reader.parse(model.SerializeToString()):
            said = reader.get_error(0).desc() if reader.num_errors else "refused without a word"
            return "no", " ".join(said.split("\n")[0].split())[:160]
        config = self.builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(self.trt.ComputeCapability.SM86, 0)
        profile, free = self.builder.create_optimization_profile(), False
        for i in range(network.num_inputs):
            tensor = network.get_input(i)
            if -1 in tuple(tensor.shape):
                shape = tuple(1 if d == -1 else d for d in tensor.shape)
                profile.set_shape(tensor.name, shape, shape, shape)
                free = True
        if free:
            config.add_optimization_profile(profile)
        return ("ok" if self.builder.build_serialized_network(network, config) is not None else "build"), ""


def types(model: Any) -> str:
    """Element types of the inputs."""
    names = [onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type).lower() for v in model.graph.input]
    return " ".join({"float": "float32", "double": "float64", "undefined": "-"}.get(n, n) for n in names)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The library writes to both streams by itself."""
    kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)


def main() -> int:
    sweep = Sweep()
    rows = []
    with quiet():
        for case in cases():
            node = case.model.graph.node[0]
            opset = next((o.version for o in case.model.opset_import if o.domain == node.domain), 0)
            dynamic, why = sweep.verdict(case.model)
            fixed = with_constants(case)
            constant, why_constant = sweep.verdict(fixed) if fixed is not None else ("", "")
            op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            rows.append(
                [case.name, op, opset, types(case.model), dynamic, constant, why_constant if constant == "no" else why]
            )
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["case", "op", "opset", "types", "dynamic", "constant", "message"])
    out.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
