"""Weights in few bits beside float activations: who reads them as they are, who gets a DEQUANTIZE, who refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext
from edgec.specs.schema import builtin_target
from edgec.targets.tflite.lower import LoweredModel, LowerOptions, lower
from edgec.targets.tflite.model import Operator, Tensor


def model(nodes: list[onnx.NodeProto], x: tuple[int, ...], y: tuple[int, ...], w: tuple[int, ...]) -> Graph:
    """`nodes` from "x" to "y", with a normal weight "w"."""
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal(w).astype(np.float32), "w")
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    made = Graph.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10))
    infer_shapes(made)
    return made


def conv(w: tuple[int, ...], channels: int, group: int = 1, op: str = "Conv", **attributes: Any) -> Graph:
    outputs = w[0] if op == "Conv" else w[1]
    node = helper.make_node(op, ["x", "w"], ["y"], "layer", group=group, pads=[1, 1, 1, 1], **attributes)
    return model([node], (1, channels, 6, 6), (1, outputs, 6, 6), w)


def lowered(graph: Graph, scheme: str, *, hybrid: bool) -> LoweredModel:
    Quantize(scheme=scheme).run(graph, PassContext())
    return lower(graph, LowerOptions(hybrid=hybrid))


def product(m: LoweredModel) -> Operator:
    return next(o for o in m.model.main.operators if o.op.startswith(("CONV", "DEPTH", "TRANSPOSE_C", "FULLY")))


def weight(o: Operator) -> Tensor:
    t = o.inputs[1]
    assert t is not None
    return t


@pytest.mark.parametrize(("scheme", "dtype"), [("tflite-dynamic", "int8"), ("tflite-int4-weights", "int4")])
def test_dense_convolutions_and_products_read_stored_weights(scheme: str, dtype: str) -> None:
    matmul = model([helper.make_node("MatMul", ["x", "w"], ["y"], "layer")], (2, 64), (2, 48), (64, 48))
    for graph, rows in ((conv((24, 32, 3, 3), 32), 24), (matmul, 48)):
        o = product(lowered(graph, scheme, hybrid=True))
        w = weight(o)
        assert w.dtype == dtype
        assert w.shape[0] == rows
        assert w.quant is not None
        assert (w.quant.axis, w.quant.scale.size) == (0, rows)
        assert o.outputs[0].dtype == "float32"
        assert o.options.get("asymmetric_quantize_inputs", False) == (o.op == "FULLY_CONNECTED")


@pytest.mark.parametrize("scheme", ["tflite-dynamic", "tflite-int4-weights"])
def test_a_depthwise_convolution_gets_int8_behind_dequantize(scheme: str) -> None:
    m = lowered(conv((256, 1, 3, 3), 256, group=256), scheme, hybrid=True)
    o = product(m)
    assert o.op == "DEPTHWISE_CONV_2D"
    maker = next(d for d in m.model.main.operators if weight(o) in d.outputs)
    assert maker.op == "DEQUANTIZE"
    assert maker.inputs[0] is not None
    assert maker.inputs[0].dtype == "int8"


@pytest.mark.parametrize("scheme", ["tflite-dynamic", "tflite-int4-weights"])
def test_a_transposed_convolution_reads_int8_never_int4(scheme: str) -> None:
    o = product(lowered(conv((32, 24, 3, 3), 32, op="ConvTranspose"), scheme, hybrid=True))
    assert o.op == "TRANSPOSE_CONV"
    assert weight(o).dtype == "int8"


def test_weight_only_dequantises_everything() -> None:
    m = lowered(conv((24, 32, 3, 3), 32), "tflite-weight-only", hybrid=False)
    assert "DEQUANTIZE" in [o.op for o in m.model.main.operators]
    assert weight(product(m)).dtype == "float32"


def test_a_weight_shared_by_steps_is_stored_once() -> None:
    steps = [helper.make_node("MatMul", [a, "w"], [b], b) for a, b in (("x", "h1"), ("h1", "h2"), ("h2", "y"))]
    m = lowered(model(steps, (2, 64), (2, 64), (64, 64)), "tflite-int4-weights", hybrid=True)
    weights = {id(weight(o)) for o in m.model.main.operators if o.op == "FULLY_CONNECTED"}
    assert len(weights) == 1


def test_one_scale_is_repeated_for_grouped_convolutions() -> None:
    """LiteRT refuses a hybrid grouped convolution with one scale."""
    graph = _grouped()
    w = weight(product(lower(graph, LowerOptions(hybrid=True))))
    assert w.quant is not None
    assert w.quant.scale.size == 8
    assert w.quant.axis == 0


def _grouped() -> Graph:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["dq"], "dq"),
        helper.make_node("Conv", ["x", "dq"], ["y"], "layer", group=2),
    ]
    ends = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s)
        for n, s in (("x", (1, 4, 6, 6)), ("y", (1, 8, 4, 4)))
    ]
    held = [
        numpy_helper.from_array(np.ones((8, 2, 3, 3), np.int8), "q"),
        numpy_helper.from_array(np.float32(0.5), "s"),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    made = Graph.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10))
    infer_shapes(made)
    return made


@pytest.mark.parametrize("target", ["cortex-m", "esp32-s3", "ethos-u55-128", "ethos-u85-256"])
@pytest.mark.parametrize("precision", ["int8-dynamic", "int8-weights", "int4-weights"])
def test_microcontrollers_and_npus_say_why_not(target: str, precision: str) -> None:
    with pytest.raises(EdgecError) as caught:
        builtin_target(target).precision(precision)
    (d,) = caught.value.diagnostics
    text = f"{d.message} {d.hint or ''}"
    assert precision in text
    assert builtin_target(target).unavailable[precision] in text
