"""What LiteRT, tflite-micro and Vela make of models of one TFLite operator: tests/data/tflite_sweep.csv.

Run it in three environments (ai-edge-litert 2.3.0; tflite-micro; anything for Vela, whose command is given):

    python tools/tflite_sweep.py make FOLDER            with ai-edge-litert: one .tflite a case and precision
    python tools/tflite_sweep.py litert FOLDER          with ai-edge-litert
    python tools/tflite_sweep.py micro FOLDER           with tflite-micro
    python tools/tflite_sweep.py vela FOLDER /path/vela ethos-u55-128
    python tools/tflite_sweep.py table FOLDER > tests/data/tflite_sweep.csv

Each model runs in a process of its own, because some of them crash the runtime. LiteRT: `xnnpack` where the interpreter
put the operator into a delegate (its list of operators then ends with DELEGATE), `builtin` where it did not, `fail` where it
refuses. tflite-micro: `ok` or `fail`. Vela: `NPU` or `CPU` by its per-layer table, `fail` where it stops.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

S = (1, 8, 8, 16)
PRECISIONS = ("fp32", "int8", "int16x8", "dynamic", "weight-int8", "weight-int4", "dynamic-int4", "weight-fp16")
FLOATS = ("fp32", "dynamic", "weight-int8", "weight-int4", "dynamic-int4", "weight-fp16")


@dataclass(frozen=True)
class T:
    """An input: an activation (`a`), a weight (`w`), a bias (`b`), or a constant or computed one of a NumPy type."""

    kind: str
    shape: tuple[int, ...]
    data: Any = None
    scale: float | None = None


@dataclass(frozen=True)
class Case:
    name: str
    op: str
    ins: tuple[T, ...]
    outs: tuple[tuple[int, ...], ...]
    table: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    out: str = "a"
    fixed: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Precision -> scale and zero point of the output."""
    shared: bool = False
    """Whether inputs and output have one scale."""


def a(*shape: int) -> T:
    return T("a", shape or S)


def i32(*values: int) -> T:
    return T("int32", (len(values),), list(values))


def ws(*shape: int) -> T:
    return T("w", shape)


def one(name: str, op: str = "", table: str = "", **kw: Any) -> Case:
    """One activation in, one of the same shape out."""
    op = op or name.upper()
    extra = {k: kw.pop(k) for k in ("fixed", "shared") if k in kw}
    return Case(name, op, (a(),), (S,), table, kw, **extra)


def two(name: str, op: str = "", table: str = "", out: str = "a", **kw: Any) -> Case:
    shared = kw.pop("shared", False)
    return Case(name, op or name.upper(), (a(), a()), (S,), table, kw, out, shared=shared)


def shaped(
    name: str, op: str, ins: Iterable[T], *outs: tuple[int, ...], table: str = "", out: str = "a", **kw: Any
) -> Case:
    fixed, shared = kw.pop("fixed", {}), kw.pop("shared", True)
    return Case(name, op, tuple(ins), outs, table, kw, out, fixed, shared)


def reduce(
    name: str, op: str, axes: tuple[int, ...], out: tuple[int, ...], shared: bool = False, src: T | None = None
) -> Case:
    return shaped(name, op, (src or a(), i32(*axes)), out, table="ReducerOptions", keepDims=True, shared=shared)


def conv(
    name: str,
    k: int = 3,
    s: int = 1,
    d: int = 1,
    cin: int = 16,
    cout: int = 16,
    groups: int = 1,
    padding: int = 0,
    size: int = 8,
) -> Case:
    n = -(-size // s) if padding == 0 else (size - d * (k - 1) - 1) // s + 1
    return shaped(
        name, "CONV_2D", (a(1, size, size, cin), ws(cout, k, k, cin // groups), T("b", (cout,))), (1, n, n, cout), shared=False,
        table="Conv2DOptions", padding=padding, strideW=s, strideH=s, dilationWFactor=d, dilationHFactor=d,
    )  # fmt: skip


def depthwise(name: str, k: int = 3, s: int = 1, d: int = 1, mult: int = 1) -> Case:
    n = -(-8 // s)
    return shaped(
        name, "DEPTHWISE_CONV_2D", (a(), T("dw", (1, k, k, 16 * mult)), T("b", (16 * mult,))), (1, n, n, 16 * mult), shared=False,
        table="DepthwiseConv2DOptions", padding=0, strideW=s, strideH=s, depthMultiplier=mult, dilationWFactor=d,
        dilationHFactor=d,
    )  # fmt: skip


def pool(name: str, op: str, k: int, s: int, padding: int = 0, size: int = 8) -> Case:
    n = -(-size // s) if padding == 0 else (size - k) // s + 1
    return shaped(
        name, op, (a(1, size, size, 16),), (1, n, n, 16),
        table="Pool2DOptions", padding=padding, strideW=s, strideH=s, filterWidth=k, filterHeight=k,
    )  # fmt: skip


def resize(name: str, op: str, n: int, table: str, align: bool = False, half: bool = False) -> Case:
    return shaped(name, op, (a(), i32(n, n)), (1, n, n, 16), table=table, alignCorners=align, halfPixelCenters=half)


def fc(name: str, bias: bool = True, shape: tuple[int, ...] = (1, 64)) -> Case:
    ins = (a(*shape), ws(32, shape[-1]), *([T("b", (32,))] if bias else []))
    return shaped(
        name,
        "FULLY_CONNECTED",
        ins,
        (*shape[:-1], 32),
        table="FullyConnectedOptions",
        shared=False,
        keepNumDims=len(shape) > 2,
    )


def strided(
    name: str, begin: tuple[int, ...], end: tuple[int, ...], steps: tuple[int, ...], out: tuple[int, ...]
) -> Case:
    return shaped(name, "STRIDED_SLICE", (a(), i32(*begin), i32(*end), i32(*steps)), out, table="StridedSliceOptions")


def split(name: str, n: int) -> Case:
    return shaped(name, "SPLIT", (i32(3), a()), *[(1, 8, 8, 16 // n)] * n, table="SplitOptions", numSplits=n)


LOGISTIC = {"int8": (1 / 256, -128), "int16x8": (1 / 32768, 0)}
TANH = {"int8": (1 / 128, 0), "int16x8": (1 / 32768, 0)}
MASK = T("bool", S)
CASES: tuple[Case, ...] = (
    # activations and other functions of one value
    *(one(n) for n in ("abs", "neg", "exp", "log", "sqrt", "rsqrt", "square", "sin", "cos", "floor", "ceil", "round", "sign")),
    one("elu"), one("relu"), one("relu6"), one("relu_n1_to_1"), one("hard_swish"),
    one("relu_0_to_1"), one("leaky_relu", table="LeakyReluOptions", alpha=0.1), one("gelu", table="GeluOptions"),
    one("gelu_tanh", "GELU", "GeluOptions", approximate=True),
    one("logistic", fixed=LOGISTIC), one("tanh", fixed=TANH),
    one("softmax", table="SoftmaxOptions", beta=1.0, fixed=LOGISTIC),
    one("log_softmax", fixed={"int8": (16 / 256, 127)}),
    one("l2_normalization", table="L2NormOptions", fixed={"int8": (1 / 128, 0)}),
    one("local_response_normalization", table="LocalResponseNormalizationOptions", radius=2, bias=1.0, alpha=1e-4, beta=0.75),
    shaped("prelu", "PRELU", (a(), T("a", (1, 1, 16), "const")), S, shared=False),
    one("cast_to_int32", "CAST"), shaped("cast_to_float", "CAST", (T("int32", S),), S, shared=False),
    # functions of two
    two("add", table="AddOptions"), two("sub", table="SubOptions"), two("mul", table="MulOptions"), two("div", table="DivOptions"),
    shaped("add_const", "ADD", (a(), T("a", (16,), "const")), S, table="AddOptions", shared=False),
    shaped("mul_const", "MUL", (a(), T("a", (16,), "const")), S, table="MulOptions", shared=False),
    shaped("add_broadcast", "ADD", (a(), a(1, 1, 1, 16)), S, table="AddOptions", shared=False),
    shaped("add_rank5", "ADD", (a(1, 2, 4, 8, 16), a(1, 2, 4, 8, 16)), (1, 2, 4, 8, 16), table="AddOptions", shared=False),
    shaped("mul_rank6", "MUL", (a(1, 2, 2, 2, 4, 4), a(1, 2, 2, 2, 4, 4)), (1, 2, 2, 2, 4, 4), table="MulOptions", shared=False),
    two("maximum", shared=True), two("minimum", shared=True), two("squared_difference"), two("pow"), two("floor_mod"), two("floor_div"),
    *(two(n, out="bool") for n in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")),
    *(shaped(n, n.upper(), (MASK, MASK), S, out="bool") for n in ("logical_and", "logical_or")),
    shaped("logical_not", "LOGICAL_NOT", (MASK,), S, out="bool"),
    shaped("select_v2", "SELECT_V2", (MASK, a(), a()), S),
    # convolutions and products
    conv("conv_2d"), conv("conv_1x1", k=1), conv("conv_stride2", s=2), conv("conv_stride4_same", k=4, s=4),
    conv("conv_stride4_valid", k=4, s=4, padding=1), conv("conv_dilated", d=2), conv("conv_groups", groups=4),
    conv("conv_15x15", k=15, size=24), conv("conv_65x65", k=65, size=80),
    depthwise("depthwise_conv_2d"), depthwise("depthwise_stride2", s=2), depthwise("depthwise_stride4", k=4, s=4),
    depthwise("depthwise_mult2", mult=2), depthwise("depthwise_dilated", d=2),
    *(shaped(n, "TRANSPOSE_CONV", (i32(1, 8 * s, 8 * s, 16), ws(16, k, k, 16), a(), T("b", (16,))), (1, 8 * s, 8 * s, 16), shared=False,
             table="TransposeConvOptions", padding=0, strideW=s, strideH=s)
      for n, k, s in (("transpose_conv", 2, 2), ("transpose_conv_stride4", 4, 4), ("transpose_conv_k3", 3, 2))),
    shaped("conv_3d", "CONV_3D", (a(1, 4, 8, 8, 4), T("w3", (3, 3, 3, 4, 8)), T("b", (8,))), (1, 4, 8, 8, 8), shared=False,
           table="Conv3DOptions", padding=0, strideW=1, strideH=1, strideD=1, dilationWFactor=1, dilationHFactor=1, dilationDFactor=1),
    fc("fully_connected"), fc("fully_connected_no_bias", bias=False), fc("fully_connected_rank3", shape=(1, 12, 64)),
    shaped("batch_matmul", "BATCH_MATMUL", (a(1, 4, 8, 16), a(1, 4, 16, 8)), (1, 4, 8, 8), table="BatchMatMulOptions", shared=False),
    # pooling and reductions
    pool("average_pool_2d", "AVERAGE_POOL_2D", 2, 2), pool("average_pool_k9_same", "AVERAGE_POOL_2D", 9, 1, size=16),
    pool("average_pool_k9_valid", "AVERAGE_POOL_2D", 9, 1, 1, 16), pool("average_pool_stride4", "AVERAGE_POOL_2D", 4, 4, 1),
    pool("max_pool_2d", "MAX_POOL_2D", 2, 2), pool("max_pool_k13", "MAX_POOL_2D", 13, 1, size=16),
    pool("max_pool_stride4", "MAX_POOL_2D", 4, 4, 1), pool("max_pool_stride4_same", "MAX_POOL_2D", 4, 4),
    reduce("mean_hw", "MEAN", (1, 2), (1, 1, 1, 16)), reduce("mean_w", "MEAN", (2,), (1, 8, 1, 16)),
    reduce("mean_c", "MEAN", (3,), (1, 8, 8, 1)), reduce("mean_rank3_last", "MEAN", (2,), (1, 12, 1), src=a(1, 12, 64)),
    reduce("mean_hw_64x64", "MEAN", (1, 2), (1, 1, 1, 4), src=a(1, 64, 64, 4)),
    reduce("mean_hw_128x128", "MEAN", (1, 2), (1, 1, 1, 4), src=a(1, 128, 128, 4)),
    reduce("sum_hw", "SUM", (1, 2), (1, 1, 1, 16)), reduce("sum_c", "SUM", (3,), (1, 8, 8, 1)),
    reduce("reduce_max", "REDUCE_MAX", (1, 2), (1, 1, 1, 16), True), reduce("reduce_max_c", "REDUCE_MAX", (3,), (1, 8, 8, 1), True),
    reduce("reduce_min", "REDUCE_MIN", (1, 2), (1, 1, 1, 16), True), reduce("reduce_prod", "REDUCE_PROD", (1, 2), (1, 1, 1, 16)),
    shaped("arg_max", "ARG_MAX", (a(), i32(3)), (1, 8, 8), table="ArgMaxOptions", out="int32", outputType=2),
    shaped("arg_max_c200", "ARG_MAX", (a(1, 4, 4, 200), i32(3)), (1, 4, 4), table="ArgMaxOptions", out="int32", outputType=2),
    shaped("arg_min", "ARG_MIN", (a(), i32(3)), (1, 8, 8), table="ArgMinOptions", out="int32", outputType=2),
    shaped("cumsum", "CUMSUM", (a(), i32(3)), S, table="CumsumOptions", shared=False),
    # data movement
    shaped("reshape", "RESHAPE", (a(), i32(1, 64, 16)), (1, 64, 16), table="ReshapeOptions", newShape=[1, 64, 16]),
    shaped("squeeze", "SQUEEZE", (a(),), (8, 8, 16), table="SqueezeOptions", squeezeDims=[0]),
    shaped("expand_dims", "EXPAND_DIMS", (a(8, 8, 16), i32(0)), S),
    shaped("transpose", "TRANSPOSE", (a(), i32(0, 3, 1, 2)), (1, 16, 8, 8)),
    shaped("transpose_rank5", "TRANSPOSE", (a(1, 2, 4, 8, 16), i32(0, 2, 1, 3, 4)), (1, 4, 2, 8, 16)),
    shaped("transpose_rank6", "TRANSPOSE", (a(1, 2, 2, 2, 4, 4), i32(0, 2, 1, 3, 5, 4)), (1, 2, 2, 2, 4, 4)),
    *(shaped(f"concatenation_{n}", "CONCATENATION", [a()] * n, (1, 8, 8, 16 * n), table="ConcatenationOptions", axis=3) for n in (2, 4, 5, 6, 8)),
    *(split(f"split_{n}", n) for n in (2, 4, 8)),
    shaped("split_5", "SPLIT", (i32(3), a(1, 8, 8, 20)), *[(1, 8, 8, 4)] * 5, table="SplitOptions", numSplits=5),
    shaped("split_v", "SPLIT_V", (a(), i32(4, 12), i32(3)), (1, 8, 8, 4), (1, 8, 8, 12), table="SplitVOptions", numSplits=2),
    strided("strided_slice", (0, 1, 1, 0), (1, 7, 7, 16), (1, 1, 1, 1), (1, 6, 6, 16)),
    strided("strided_slice_step2", (0, 0, 0, 0), (1, 8, 8, 16), (1, 2, 2, 1), (1, 4, 4, 16)),
    strided("strided_slice_step2_c", (0, 0, 0, 0), (1, 8, 8, 16), (1, 1, 1, 2), (1, 8, 8, 8)),
    strided("strided_slice_reverse", (0, 7, 0, 0), (1, -9, 8, 16), (1, -1, 1, 1), S),
    shaped("slice", "SLICE", (a(), i32(0, 1, 1, 0), i32(1, 6, 6, 16)), (1, 6, 6, 16)),
    shaped("pad", "PAD", (a(), T("int32", (4, 2), [0, 0, 1, 1, 1, 1, 0, 0])), (1, 10, 10, 16)),
    shaped("pad_c", "PAD", (a(), T("int32", (4, 2), [0, 0, 0, 0, 0, 0, 0, 16])), (1, 8, 8, 32)),
    shaped("padv2", "PADV2", (a(), T("int32", (4, 2), [0, 0, 1, 1, 1, 1, 0, 0]), T("a", (), "const")), (1, 10, 10, 16)),
    shaped("mirror_pad", "MIRROR_PAD", (a(), T("int32", (4, 2), [0, 0, 1, 1, 1, 1, 0, 0])), (1, 10, 10, 16), table="MirrorPadOptions", mode=0),
    shaped("broadcast_to", "BROADCAST_TO", (a(1, 1, 1, 16), i32(*S)), S),
    shaped("tile", "TILE", (a(), i32(1, 2, 2, 1)), (1, 16, 16, 16)),
    shaped("gather", "GATHER", (a(), i32(0, 3, 5)), (1, 3, 8, 16), table="GatherOptions", axis=1),
    shaped("gather_axis0", "GATHER", (a(64, 16), i32(0, 3, 5)), (3, 16), table="GatherOptions", axis=0),
    shaped("gather_nd", "GATHER_ND", (a(), T("int32", (2, 2), [0, 1, 0, 3])), (2, 8, 16)),
    shaped("scatter_nd", "SCATTER_ND", (T("int32", (2, 1), [1, 3]), a(2, 16), i32(8, 16)), (8, 16)),
    shaped("one_hot", "ONE_HOT", (T("int32", (3,)), T("int32", (), 4), T("one", (), 1), T("one", (), 0)), (3, 4), table="OneHotOptions", axis=-1, out="float32"),
    shaped("depth_to_space", "DEPTH_TO_SPACE", (a(),), (1, 16, 16, 4), table="DepthToSpaceOptions", blockSize=2),
    shaped("space_to_depth", "SPACE_TO_DEPTH", (a(),), (1, 4, 4, 64), table="SpaceToDepthOptions", blockSize=2),
    resize("resize_bilinear_2x", "RESIZE_BILINEAR", 16, "ResizeBilinearOptions"),
    resize("resize_bilinear_2x_half_pixel", "RESIZE_BILINEAR", 16, "ResizeBilinearOptions", half=True),
    resize("resize_bilinear_4x_half_pixel", "RESIZE_BILINEAR", 32, "ResizeBilinearOptions", half=True),
    resize("resize_bilinear_align", "RESIZE_BILINEAR", 15, "ResizeBilinearOptions", align=True),
    resize("resize_bilinear_3x", "RESIZE_BILINEAR", 24, "ResizeBilinearOptions"),
    resize("resize_nearest_2x", "RESIZE_NEAREST_NEIGHBOR", 16, "ResizeNearestNeighborOptions"),
    resize("resize_nearest_3x", "RESIZE_NEAREST_NEIGHBOR", 24, "ResizeNearestNeighborOptions"),
    resize("resize_nearest_half_pixel", "RESIZE_NEAREST_NEIGHBOR", 16, "ResizeNearestNeighborOptions", half=True),
    shaped("topk_v2", "TOPK_V2", (a(1, 64), T("int32", (), 5)), (1, 5), (1, 5)),
    shaped("pack", "PACK", (a(8, 16), a(8, 16)), (2, 8, 16), table="PackOptions", valuesCount=2, axis=0),
    shaped("unpack", "UNPACK", (a(2, 8, 16),), (8, 16), (8, 16), table="UnpackOptions", num=2, axis=0),
    shaped("reverse_v2", "REVERSE_V2", (a(), i32(1)), S),
    shaped("shape", "SHAPE", (a(),), (4,), table="ShapeOptions", out="int32", outType=2),
    shaped("quantize", "QUANTIZE", (T("float32", S),), S, shared=False),
    shaped("dequantize", "DEQUANTIZE", (a(),), S, out="float32"),
    shaped("requantize", "QUANTIZE", (a(),), S, shared=False),
)  # fmt: skip


def quantised(precision: str) -> bool:
    return precision in ("int8", "int16x8")


def build(case: Case, precision: str) -> bytes | None:
    """The model of one operator; None where the precision says nothing of the operator."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    weighty = any(t.kind in ("w", "dw", "w3") for t in case.ins)
    if precision not in ("fp32", "int8", "int16x8") and not weighty:
        return None
    if case.name in ("quantize", "dequantize", "requantize") and not quantised(precision):
        return None
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description, model.buffers, model.operatorCodes = 3, case.name, [schema.BufferT()], []
    graph.tensors, graph.operators, inputs, made = [], [], [], []
    kinds = {
        "float32": "FLOAT32",
        "int32": "INT32",
        "bool": "BOOL",
        "int8": "INT8",
        "int16": "INT16",
        "int64": "INT64",
        "float16": "FLOAT16",
        "int4": "INT4",
    }

    def tensor(
        name: str, shape: tuple[int, ...], dtype: str, data: Any = None, scale: Any = None, zero: int = 0, axis: int = 0
    ) -> int:
        t = schema.TensorT()
        t.name, t.shape, t.type, t.buffer = (
            name,
            np.asarray(shape, np.int32),
            getattr(schema.TensorType, kinds[dtype]),
            0,
        )
        t.hasRank = True
        if data is not None:
            raw = np.asarray(data)
            if dtype == "int4":
                flat = raw.astype(np.int8).reshape(-1) & 15
                flat = np.append(flat, 0) if flat.size % 2 else flat
                raw = (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)
            else:
                raw = raw.astype(dtype)
            b = schema.BufferT()
            b.data = np.frombuffer(raw.tobytes(), np.uint8)
            model.buffers.append(b)
            t.buffer = len(model.buffers) - 1
        if scale is not None:
            q = schema.QuantizationParametersT()
            q.scale = np.atleast_1d(np.asarray(scale, np.float32))
            q.zeroPoint = np.full(q.scale.shape, zero, np.int64)
            q.quantizedDimension = axis
            t.quantization = q
        graph.tensors.append(t)
        return len(graph.tensors) - 1

    def operator(
        op: str, ins: list[int], outs: list[int], table: str = "", options: dict[str, Any] | None = None
    ) -> None:
        code = schema.OperatorCodeT()
        number = getattr(schema.BuiltinOperator, op)
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        code.version = version(op, quantised(precision))
        model.operatorCodes.append(code)
        o = schema.OperatorT()
        o.opcodeIndex, o.inputs, o.outputs = (
            len(model.operatorCodes) - 1,
            np.asarray(ins, np.int32),
            np.asarray(outs, np.int32),
        )
        if table:
            o.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            o.builtinOptions = getattr(schema, table + "T")()
            for key, value in (options or {}).items():
                if not hasattr(o.builtinOptions, key):
                    raise AttributeError(f"{table}.{key}")
                setattr(o.builtinOptions, key, value)
        graph.operators.append(o)

    act = {"int8": "int8", "int16x8": "int16"}.get(precision, "float32")
    scale, zero = (0.05 if quantised(precision) else None), (3 if precision == "int8" else 0)
    rng = np.random.default_rng(0)
    for i, t in enumerate(case.ins):
        name = f"in{i}"
        if t.kind == "a":
            data = rng.integers(1, 20, t.shape) if t.data == "const" else None
            made.append(tensor(name, t.shape, act, data, scale, zero))
            if data is None:
                inputs.append(made[-1])
        elif t.kind in ("w", "dw", "w3"):
            axis = {"w": 0, "dw": 3, "w3": 4}[t.kind]
            channels = t.shape[axis]
            values = rng.integers(-7, 8, t.shape)
            scales = np.full(channels, 0.01)
            if precision in ("fp32", "weight-fp16") or t.kind == "w3":
                half = precision == "weight-fp16"
                w = tensor(name, t.shape, "float16" if half else "float32", values * 0.01)
            else:
                w = tensor(name, t.shape, "int4" if precision.endswith("int4") else "int8", values, scales, 0, axis)
            if precision.startswith("weight-"):
                real = tensor(name + "_real", t.shape, "float32")
                operator("DEQUANTIZE", [w], [real])
                w = real
            made.append(w)
        elif t.kind == "b":
            dtype = {"int8": "int32", "int16x8": "int64"}.get(precision, "float32")
            made.append(
                tensor(
                    name, t.shape, dtype, np.zeros(t.shape), np.full(t.shape, 0.0005) if quantised(precision) else None
                )
            )
        elif t.kind == "one":
            made.append(tensor(name, t.shape, "float32", t.data))
        else:
            made.append(tensor(name, t.shape, t.kind, None if t.data is None else np.reshape(t.data, t.shape)))
            if t.data is None:
                inputs.append(made[-1])
    outs = []
    for i, shape in enumerate(case.outs):
        dtype = act if case.out == "a" else case.out
        if case.name == "cast_to_int32" or (case.name == "topk_v2" and i == 1):
            dtype = "int32"
        s, z = case.fixed.get(precision, (scale if case.shared or scale is None else scale * 2, zero))
        outs.append(tensor(f"out{i}", shape, dtype, None, s if dtype in ("int8", "int16") else None, z))
    operator(case.op, made, outs, case.table, case.options)
    graph.inputs, graph.outputs = np.asarray(inputs or made[:1], np.int32), np.asarray(outs, np.int32)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


QUANTISED_VERSIONS = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "TRANSPOSE_CONV": 3, "RESIZE_BILINEAR": 3,
    "RESIZE_NEAREST_NEIGHBOR": 3, "BROADCAST_TO": 2,
}  # fmt: skip
ONE_VERSION = {
    "CEIL", "CONV_3D", "CUMSUM", "ELU", "EXPAND_DIMS", "FLOOR", "HARD_SWISH", "LOCAL_RESPONSE_NORMALIZATION", "LOGICAL_AND",
    "LOGICAL_NOT", "LOGICAL_OR", "NEG", "ONE_HOT", "POW", "PRELU", "RELU_0_TO_1", "RELU_N1_TO_1", "RESHAPE", "ROUND",
    "SCATTER_ND", "SHAPE", "SQUARE",
}  # fmt: skip


def version(op: str, integers: bool) -> int:
    """A version that LiteRT registers and that takes the element types."""
    if op in ONE_VERSION:
        return 1
    return QUANTISED_VERSIONS.get(op, 2) if integers or op == "BROADCAST_TO" else 1


def in_child(work: Callable[[], str]) -> str:
    """What `work` returns, or how it failed: a crash of the runtime ends the child only."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        null = os.open(os.devnull, os.O_WRONLY)
        err = tempfile.TemporaryFile()  # noqa: SIM115 - the child ends by _exit
        os.dup2(null, 1)
        os.dup2(err.fileno(), 2)
        try:
            answer = work()
        except BaseException as e:  # noqa: BLE001 - the child's answer is what went wrong
            err.seek(0)
            said = err.read().decode(errors="replace").strip().replace("\n", " ")
            answer = f"fail {' '.join(str(e).split())[:160]} | {said[-160:]}"
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as f:
        answer = f.read().decode()
    status = os.waitpid(pid, 0)[1]
    return answer or f"fail signal {os.WTERMSIG(status)}"


def given(shape: Iterable[int], dtype: Any) -> Any:
    """An input: positive numbers, also after a zero point is taken off."""
    return np.full(tuple(shape), {"f": 1, "b": 1, "i": 10}[np.dtype(dtype).kind], dtype)


def litert(path: Path) -> str:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    for d in interpreter.get_input_details():
        interpreter.set_tensor(d["index"], given(d["shape"], d["dtype"]))
    interpreter.invoke()
    names = [d["op_name"] for d in interpreter._get_ops_details()]
    kept = names[: names.index("DELEGATE")] if "DELEGATE" in names else names
    delegates = names.count("DELEGATE")
    return f"xnnpack {delegates}/{len(kept)}" if delegates else "builtin"


def micro(path: Path) -> str:
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(str(path), arena_size=4 << 20)
    for i in range(interpreter_inputs(path)):
        d = interpreter.get_input_details(i)
        interpreter.set_input(given(d["shape"], d["dtype"]), i)
    interpreter.invoke()
    return "ok"


def interpreter_inputs(path: Path) -> int:
    return int(json.loads(path.with_suffix(".json").read_text())["inputs"])


def vela(path: Path, command: str, config: str) -> str:
    with tempfile.TemporaryDirectory() as out:
        args = [command, str(path), "--accelerator-config", config, "--output-dir", out, "--verbose-performance"]
        done = subprocess.run(args, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            return "fail " + " ".join((done.stderr or done.stdout).split())[-200:]
        (layers,) = Path(out).glob("*per-layer.csv")
        with open(layers) as f:
            rows = list(csv.DictReader(f))
        return " ".join(sorted({r["Target"].strip() for r in rows})) or "none"


COMPUTED = ("a", "int32", "bool", "float32")
"""Kinds that are inputs of the model when they hold no data."""


def main() -> int:
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "make":
        folder.mkdir(exist_ok=True)
        for case in CASES:
            for p in PRECISIONS:
                if (data := build(case, p)) is not None:
                    path = folder / f"{case.name}@{p}.tflite"
                    path.write_bytes(data)
                    n = sum(t.data is None and t.kind in COMPUTED for t in case.ins)
                    path.with_suffix(".json").write_text(json.dumps({"inputs": n}))
        return 0
    if what == "table":
        return table(folder)
    results = {}
    for path in sorted(folder.glob("*.tflite")):
        if what == "vela":
            precision = path.stem.split("@")[1]
            if quantised(precision):
                results[path.stem] = vela(path, sys.argv[3], sys.argv[4])
        else:
            results[path.stem] = in_child(lambda p=path: litert(p) if what == "litert" else micro(p))  # type: ignore[misc]
    name = sys.argv[4] if what == "vela" else what
    (folder / f"{name}.result").write_text(json.dumps(results, indent=1))
    return 0


def table(folder: Path) -> int:
    found = {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*.result"))}
    columns = [f"{n} {p}" for n in ("litert", "micro") for p in PRECISIONS]
    columns += [f"{n} {p}" for n in sorted(found) if n.startswith("ethos") for p in ("int8", "int16x8")]
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["case", "op", *columns])
    for case in CASES:
        row = [found.get(n, {}).get(f"{case.name}@{p}", "") for n, p in (c.split(" ") for c in columns)]
        out.writerow([case.name, case.op, *(r.split(" |")[0].split(" ")[0] for r in row)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
