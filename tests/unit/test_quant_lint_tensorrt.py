"""The linter on the Q/DQ rule matrix of TensorRT: what its own parser and builder were measured to take and to refuse."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from qdq_models import FP8, FP8_E5M2, INT4, UINT4, Build, check, errors, small, warnings
from trt_models import product, trt_conv

from edgec.diagnostics import Severity
from edgec.graph import Graph

TRT_ACCEPTED: dict[str, Graph] = {
    "int8, per-channel weight": trt_conv(),
    "weight float -> Q -> DQ": trt_conv(prequantised=False),
    "no bias": trt_conv(bias=""),
    "fp16": trt_conv(half=True, opset=19),
    "depthwise": trt_conv(group=16),
    "grouped": trt_conv(group=8),
    "ConvTranspose axis 1": trt_conv(op="ConvTranspose", w_axis=1),
    "MatMul axis 1": product(),
    "Gemm transB=1 axis 0": product("Gemm", shape=(32, 64), axis=0, transpose=1),
    "Gemm transB=0 axis 1": product("Gemm"),
}


@pytest.mark.parametrize("case", TRT_ACCEPTED)
def test_tensorrt_accepts(case: str) -> None:
    found = check(TRT_ACCEPTED[case], "tensorrt-int8")
    assert found == []


TRT_WARNED: dict[str, tuple[Graph, str]] = {
    "weight along input channels": (trt_conv(w_axis=1), "granularity"),
    "ConvTranspose axis 0": (trt_conv(op="ConvTranspose", w_axis=0), "granularity"),
    "per-channel activation": (
        trt_conv(zero=np.zeros(16, np.int8), scale=np.full(16, 0.02, np.float32), act_axis=1),
        "granularity",
    ),
    "only the activation stored": (trt_conv(stored_weight=False), "missing"),
    "MatMul axis 0": (product(axis=0), "granularity"),
    "int8 weight only": (product(stored_input=False), "missing"),
}


@pytest.mark.parametrize("case", TRT_WARNED)
def test_tensorrt_takes_but_should_not_get(case: str) -> None:
    graph, rule = TRT_WARNED[case]
    found = check(graph, "tensorrt-int8")
    assert errors(found) == set()
    assert warnings(found) == {rule}


def test_tensorrt_one_scale_for_the_weight_is_a_note() -> None:
    found = check(trt_conv(w_axis=None), "tensorrt-int8")
    assert [(f.rule, f.severity) for f in found] == [("granularity", Severity.NOTE)]


TRT_REFUSED: dict[str, tuple[Graph, set[str]]] = {
    "activation zero point 3": (trt_conv(zero=np.int8(3)), {"zero-point"}),
    "uint8 zero point 128": (trt_conv(zero=np.uint8(128)), {"dtype"}),
    "uint8 zero point 0 clips at 127, silently": (trt_conv(zero=np.uint8(0)), {"dtype"}),
    "zero point left out: uint8, silently": (trt_conv(zero=None), {"dtype"}),
    "weight zero point 2": (trt_conv(w_zero=np.full(16, 2, np.int8)), {"zero-point"}),
    "int32 bias behind a DQ": (trt_conv(bias="int32"), {"bias"}),
    "scale 0": (trt_conv(scale=0.0), {"scale"}),
    "scale below 0": (trt_conv(scale=-0.02), {"scale"}),
    "int16 activations": (trt_conv(zero=np.int16(0), opset=21), {"dtype"}),
    "uint4 weights": (trt_conv(w_dtype=UINT4, opset=21), {"dtype"}),
    "float8 e5m2 activations": (trt_conv(zero=np.zeros((), FP8_E5M2), opset=19), {"dtype"}),
}


@pytest.mark.parametrize("case", TRT_REFUSED)
def test_tensorrt_refuses(case: str) -> None:
    graph, rules = TRT_REFUSED[case]
    assert errors(check(graph, "tensorrt-int8")) == rules


def test_a_zero_point_left_out_is_said() -> None:
    assert "implicit-zero-point" in warnings(check(trt_conv(zero=None), "tensorrt-int8"))


INT4_CASES: dict[str, tuple[Graph, set[str], set[str]]] = {
    "block 128": (product(shape=(256, 64), axis=0, dtype=INT4, block=128, stored_input=False), set(), set()),
    "block 128, fp16": (
        product(shape=(256, 64), axis=0, dtype=INT4, block=128, stored_input=False, half=True), set(), set(),
    ),
    "block 64": (product(shape=(256, 64), axis=0, dtype=INT4, block=64, stored_input=False), set(), set()),
    "Gemm transB=1, axis 1": (
        product("Gemm", shape=(64, 256), axis=1, dtype=INT4, block=128, stored_input=False, transpose=1), set(), set(),
    ),
    "block 32 is not documented": (
        product(shape=(256, 64), axis=0, dtype=INT4, block=32, stored_input=False), set(), {"granularity"},
    ),
    "per channel": (product(shape=(256, 64), axis=1, dtype=INT4, stored_input=False), set(), {"granularity"}),
    "uint4": (product(shape=(256, 64), axis=0, dtype=UINT4, block=128, stored_input=False), {"dtype"}, set()),
    "blocks along N": (
        product(shape=(256, 128), axis=1, dtype=INT4, block=128, stored_input=False), {"granularity"}, set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INT4_CASES)
def test_tensorrt_int4(case: str) -> None:
    graph, bad, doubtful = INT4_CASES[case]
    found = check(graph, "tensorrt-int4")
    assert errors(found) == bad
    assert warnings(found) == doubtful


def test_tensorrt_int4_scales_blocked_on_another_axis() -> None:
    """What ModelOpt 0.47 writes for Gemm transB=1: w[128, 256], s[128, 1] along axis 0. The parser refuses it."""
    graph = product(
        "Gemm", shape=(128, 256), axis=0, dtype=INT4, block=256, stored_input=False, transpose=1,
        scale=np.full((128, 1), 0.01, np.float32),
    )  # fmt: skip
    assert errors(check(graph, "tensorrt-int4")) == {"granularity"}


def test_tensorrt_fp8() -> None:
    per_tensor = check(product(axis=None, dtype=FP8), "tensorrt-fp8")
    assert errors(per_tensor) | warnings(per_tensor) == set()
    assert check(product(axis=1, dtype=FP8), "tensorrt-fp8") == []
    assert errors(check(product(axis=1, dtype=FP8_E5M2), "tensorrt-fp8")) == {"dtype"}
    assert errors(check(product(axis=1, dtype=FP8, opset=21), "tensorrt-fp8", opset=17)) == {"form"}


def residual(stored: str) -> Graph:
    """conv(x) + skip, the skip coming out of a Relu; `stored`: which inputs of the Add have a pair."""
    b = Build()
    b.input("x", [1, 16, 8, 8])
    b.op("Relu", ["x"], "r")
    b.pair("r")
    w = b.weight("w", small((16, 16, 1, 1)))
    b.op("Conv", ["r_dq", w], "c", kernel_shape=[1, 1])
    left = b.pair("c", scale=np.float32(0.03)) if "c" in stored else "c"
    right = "r_dq" if "s" in stored else "r"
    b.op("Add", [left, right], "y")
    b.output("y", [1, 16, 8, 8])
    return b.graph()


def test_tensorrt_wants_the_skip_input_of_a_residual_addition_stored_and_no_other() -> None:
    assert check(residual("s"), "tensorrt-int8") == []
    assert warnings(check(residual("cs"), "tensorrt-int8")) == {"residual"}
    assert warnings(check(residual("c"), "tensorrt-int8")) == {"residual"}
    assert [f.severity for f in check(residual(""), "tensorrt-int8")] == [Severity.NOTE]


def test_integers_at_the_models_doors_are_fine() -> None:
    b = Build()
    b.input("x", [1, 16], TensorProto.INT8)
    scale, zero = b.const("s", np.float32(0.1)), b.const("z", np.int8(0))
    b.op("DequantizeLinear", ["x", scale, zero], "d")
    b.op("Relu", ["d"], "r")
    b.op("QuantizeLinear", ["r", scale, zero], "y")
    b.output("y", [1, 16], TensorProto.INT8)
    found = check(b.graph(), "tensorrt-int8")
    assert errors(found) | warnings(found) == set()
