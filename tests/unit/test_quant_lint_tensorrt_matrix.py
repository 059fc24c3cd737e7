"""All 50 Q/DQ cases that were put through the parser and the builder of TensorRT-RTX 1.7.1, and what the linter says of each.

taken: TensorRT takes the model and computes what ONNX says; the linter may advise, but refuses nothing. refused: the
parser or the checker refuses it. wrong: TensorRT takes it and computes something else, so the linter refuses it. The
two schemes of 8-bit floats stand for the GPUs: tensorrt-int8 is what SM86 and Orin take, tensorrt-fp8 SM89 and newer.
"""

from __future__ import annotations

from typing import Literal

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto
from qdq_models import FP8, FP8_E5M2, INT4, UINT4, Build, check, errors, warnings
from trt_models import product, trt_conv

from edgec.diagnostics import EdgecError, Severity
from edgec.graph import Graph

Verdict = Literal["taken", "refused", "wrong"]
FP4 = ml_dtypes.float4_e2m1fn


def weight_only(shape: tuple[int, int], axis: int | None, block: int = 0, op: str = "MatMul", *, dtype: object = INT4,
                half: bool = True, transpose: int = 0, opset: int = 21) -> Graph:  # fmt: skip
    return product(
        op,
        shape=shape,
        axis=axis,
        dtype=dtype,
        block=block,
        stored_input=False,
        half=half,
        transpose=transpose,
        opset=opset,
    )


def transposed_conv(axis: int, group: int = 1) -> Graph:
    return trt_conv(op="ConvTranspose", w_axis=axis, group=group)


def unquantised(op: str, kind: int, made: int, **attributes: int) -> Graph:
    """x -> op -> y, without any Q or DQ."""
    b = Build(17)
    b.input("x", [1, 16], kind)
    b.op(op, ["x"], "c", **attributes)
    b.op("Relu", ["c"], "y")
    b.output("y", [1, 16], made)
    return b.graph()


def mixed_types() -> Graph:
    b = Build(13)
    b.input("x", [4, 8])
    b.op("MatMul", ["x", b.const("w", np.ones((8, 8), np.float16))], "y")
    b.output("y", [4, 8])
    return b.graph()


def integers_inside(first: str) -> Graph:
    """An int8 input behind DQ, or an int8 output behind Q."""
    b = Build(13)
    scale, zero = b.const("s", np.float32(0.1)), b.const("z", np.int8(0))
    b.input("x", [1, 16], TensorProto.INT8 if first == "input" else TensorProto.FLOAT)
    if first == "input":
        b.op("Relu", [b.op("DequantizeLinear", ["x", scale, zero], "d")], "y")
    else:
        b.op("QuantizeLinear", [b.op("Relu", ["x"], "r"), scale, zero], "y")
    b.output("y", [1, 16], TensorProto.FLOAT if first == "input" else TensorProto.INT8)
    return b.graph()


I8, F8, I4 = "tensorrt-int8", "tensorrt-fp8", "tensorrt-int4"
F32 = np.float32

CASES: dict[str, tuple[Graph, str, Verdict, set[str], set[str]]] = {
    # name: graph, scheme, what TensorRT does, the rules broken, the rules whose advice is not followed
    "conv act i8 zp0, w per-ch ax0 prequant": (trt_conv(), I8, "taken", set(), set()),
    "conv w fp32->Q->DQ": (trt_conv(prequantised=False), I8, "taken", set(), set()),
    "conv zp omitted on activation (i.e. uint8)": (trt_conv(zero=None), I8, "wrong", {"dtype"}, {"implicit-zero-point"}),
    "conv act int8 zp=3": (trt_conv(zero=np.int8(3)), I8, "refused", {"zero-point"}, set()),
    "conv act uint8 zp=0": (trt_conv(zero=np.uint8(0)), I8, "wrong", {"dtype"}, set()),
    "conv act uint8 zp=128": (trt_conv(zero=np.uint8(128)), I8, "refused", {"dtype"}, set()),
    "conv w per-tensor": (trt_conv(w_axis=None), I8, "taken", set(), set()),
    "conv w per-channel axis=1": (trt_conv(w_axis=1), I8, "taken", set(), {"granularity"}),
    "conv w zp nonzero": (trt_conv(w_zero=np.full(16, 2, np.int8)), I8, "refused", {"zero-point"}, set()),
    "conv act per-channel axis=1": (
        trt_conv(zero=np.zeros(16, np.int8), scale=np.full(16, 0.02, F32), act_axis=1), I8, "taken", set(), {"granularity"},
    ),
    "conv int32 bias DQ": (trt_conv(bias="int32"), I8, "refused", {"bias"}, set()),
    "conv no bias": (trt_conv(bias=""), I8, "taken", set(), set()),
    "conv act only quantized (w fp32)": (trt_conv(stored_weight=False), I8, "taken", set(), {"missing"}),
    "conv fp16 scales/io opset19": (trt_conv(half=True, opset=19), I8, "taken", set(), set()),
    "conv depthwise g=16": (trt_conv(group=16), I8, "taken", set(), set()),
    "conv group=8 (2 ch per group)": (trt_conv(group=8), I8, "taken", set(), set()),
    "convT w axis=1": (transposed_conv(1), I8, "taken", set(), set()),
    "convT w axis=0": (transposed_conv(0), I8, "taken", set(), {"granularity"}),
    "convT depthwise axis=1": (transposed_conv(1, 16), I8, "taken", set(), set()),
    "convT depthwise axis=0": (transposed_conv(0, 16), I8, "taken", set(), {"granularity"}),
    "conv act scale=0": (trt_conv(scale=F32(0)), I8, "refused", {"scale"}, set()),
    "conv act scale<0": (trt_conv(scale=F32(-0.02)), I8, "refused", {"scale"}, set()),
    "conv act scale shape [1]": (trt_conv(zero=np.zeros(1, np.int8), scale=np.full(1, 0.02, F32)), I8, "taken", set(), set()),
    "conv 16-bit int16 act opset21": (trt_conv(zero=np.int16(0), opset=21), I8, "refused", {"dtype"}, set()),
    "conv cin=3 (first layer)": (trt_conv(channels=3), I8, "taken", set(), set()),
    "MatMul w i8 axis=1 (out ch)": (product(), I8, "taken", set(), set()),
    "MatMul w i8 axis=0 (in ch)": (product(axis=0), I8, "taken", set(), {"granularity"}),
    "MatMul w i8 per-tensor": (product(axis=None), I8, "taken", set(), set()),
    "Gemm transB=1 w axis=0": (product("Gemm", shape=(32, 64), axis=0, transpose=1), I8, "taken", set(), set()),
    "Gemm transB=0 w axis=1": (product("Gemm"), I8, "taken", set(), set()),
    "Gemm transB=0 w axis=0": (product("Gemm", axis=0), I8, "taken", set(), {"granularity"}),
    "MatMul int8 weight-only": (product(stored_input=False), I8, "taken", set(), {"missing"}),
    "MatMul int4 WoQ block=16 axis0 fp16": (weight_only((256, 64), 0, 16), I4, "taken", set(), {"granularity"}),
    "MatMul int4 WoQ block=32 axis0 fp16": (weight_only((256, 64), 0, 32), I4, "taken", set(), {"granularity"}),
    "MatMul int4 WoQ block=64 axis0 fp16": (weight_only((256, 64), 0, 64), I4, "taken", set(), set()),
    "MatMul int4 WoQ block=128 axis0 fp16": (weight_only((256, 64), 0, 128), I4, "taken", set(), set()),
    "MatMul int4 WoQ block=128 axis0 fp32": (weight_only((256, 64), 0, 128, half=False), I4, "taken", set(), set()),
    "MatMul int4 per-channel axis1": (weight_only((256, 64), 1), I4, "taken", set(), {"granularity"}),
    "MatMul uint4 block=128": (weight_only((256, 64), 0, 128, dtype=UINT4), I4, "refused", {"dtype"}, set()),
    "Gemm int4 block=128 axis0 transB=0": (weight_only((256, 64), 0, 128, "Gemm"), I4, "taken", set(), set()),
    "Gemm int4 block=128 axis1 transB=1": (weight_only((64, 256), 1, 128, "Gemm", transpose=1), I4, "taken", set(), set()),
    "MatMul fp8 e4m3 act+w per-tensor": (product(axis=None, dtype=FP8, opset=19, half=True), F8, "taken", set(), set()),
    "MatMul fp8 e4m3 act+w per-ch": (product(axis=1, dtype=FP8, opset=19, half=True), F8, "taken", set(), set()),
    "MatMul fp8 e5m2": (product(axis=None, dtype=FP8_E5M2, opset=19, half=True), F8, "refused", {"dtype"}, set()),
    "MatMul fp4 e2m1 block16 WoQ opset23": (
        weight_only((256, 64), 0, 16, dtype=FP4, opset=23), I4, "refused", {"dtype"}, {"granularity"},
    ),
    "strong typing: fp32 act x fp16 w (bad ONNX)": (mixed_types(), I8, "refused", set(), set()),
    "int8 graph input -> DQ -> Relu": (integers_inside("input"), I8, "taken", set(), set()),
    "Relu -> Q -> int8 graph output": (integers_inside("output"), I8, "taken", set(), set()),
    "uint8 graph input -> Cast f32": (
        unquantised("Cast", TensorProto.UINT8, TensorProto.FLOAT, to=TensorProto.FLOAT), I8, "taken", set(), set(),
    ),
    "float64 model": (unquantised("Identity", TensorProto.DOUBLE, TensorProto.DOUBLE), I8, "taken", set(), set()),
}  # fmt: skip


def test_there_are_fifty() -> None:
    assert len(CASES) == 50


@pytest.mark.parametrize("case", CASES)
def test_the_linter_agrees_with_tensorrt(case: str) -> None:
    graph, scheme, verdict, broken, advised = CASES[case]
    found = check(graph, scheme)
    assert errors(found) == broken
    assert warnings(found) == advised
    if case.startswith("strong typing"):  # nothing is quantised: ONNX's own checker is the one to refuse it
        with pytest.raises(EdgecError, match="EC0305"):
            graph.verify()
    else:
        graph.verify()
        assert bool(broken) == (verdict != "taken")


@pytest.mark.parametrize("case", [c for c, (_, _, verdict, _, _) in CASES.items() if verdict == "wrong"])
def test_what_is_computed_wrong_is_told_with_the_fix(case: str) -> None:
    found = check(CASES[case][0], "tensorrt-int8")
    assert any("clips at 127" in (f.hint or "") and "--fix" in (f.hint or "") for f in found)


@pytest.mark.parametrize("case", ["MatMul fp8 e4m3 act+w per-tensor", "MatMul fp8 e4m3 act+w per-ch"])
def test_float8_is_refused_where_the_gpu_has_none(case: str) -> None:
    """SM86 refuses it (HW-specific datatypes), and Orin has no float8."""
    assert errors(check(CASES[case][0], "tensorrt-int8")) == {"dtype"}


def test_float4_is_in_no_scheme() -> None:
    """SM86 and SM89 refuse it; SM120 takes it, but edgec has no scheme that writes it, and says so."""
    graph = CASES["MatMul fp4 e2m1 block16 WoQ opset23"][0]
    assert all("dtype" in errors(check(graph, s)) for s in (I8, F8, I4))


@pytest.mark.parametrize("case", ["conv act uint8 zp=128", "conv act uint8 zp=0", "conv int32 bias DQ"])
def test_orin_is_held_to_these_rules(case: str) -> None:
    from edgec import api
    from edgec.diagnostics import Diagnostics

    notes = Diagnostics()
    api.check(CASES[case][0], ["jetson-orin-nano"], precision="int8", diagnostics=notes)
    assert any(d.severity is Severity.ERROR and d.code in ("EC0771", "EC0776") for d in notes)
