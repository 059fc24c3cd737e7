"""The linter of Q/DQ graphs on what TensorFlow Lite, QNN and RKNN were measured to take, and on breaches anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qdq_models import (
    FIVE,
    MINUS_THREE,
    Array,
    Build,
    check,
    errors,
    small,
    warnings,
)

from edgec.diagnostics import Severity
from edgec.graph import Graph
from edgec.quantization.lint import summarise

# --- TensorFlow Lite -------------------------------------------------------------------------------------------------


def conv_bias(
    *, x_zero: Array = FIVE, out_zero: Array = MINUS_THREE, bias_scale: float = 1.0, bias_dtype: Any = np.int32,
    w_axis: int | None = 0, w: Array | None = None, w_zero: Array | None = None, group: int = 1, store_output: bool = True,
) -> Graph:  # fmt: skip
    """Conv with an int32 bias of the right scale (times `bias_scale`), its output stored."""
    b = Build()
    b.input("x", [1, 8, 6, 6])
    x = b.pair("x", x_zero)
    data = small((8, 8 // group, 1, 1)) if w is None else w
    weight = b.weight("w", data, w_axis, zero=w_zero)
    scale = np.full(() if w_axis is None else 8, 0.02 * 0.01 * bias_scale, np.float32)
    stored = [
        b.const("b_q", np.ones(8, bias_dtype)), b.const("b_s", scale), b.const("b_z", np.zeros(scale.shape, bias_dtype)),
    ]  # fmt: skip
    b.op("DequantizeLinear", stored, "b", **({} if w_axis is None else {"axis": 0}))
    b.op("Conv", [x, weight, "b"], "y" if not store_output else "c", kernel_shape=[1, 1], group=group)
    if store_output:
        b.pair("c", out_zero, np.float32(0.05), out="y")
    b.output("y", [1, 8, 6, 6])
    return b.graph()


def test_tflite_accepts_its_own_convolutions() -> None:
    assert check(conv_bias(), "tflite-int8") == []
    assert check(conv_bias(group=8), "tflite-int8") == []  # depthwise: channels are axis 0 in ONNX


LOWEST = np.array([-128, *range(-60, 3)], np.int8).reshape(8, 8, 1, 1)

TFLITE_BREACHES: dict[str, tuple[Graph, set[str]]] = {
    "weights along input channels": (conv_bias(w_axis=1), {"granularity"}),
    "asymmetric weights": (conv_bias(w_zero=np.full(8, 3, np.int8)), {"zero-point"}),
    "bias with a scale of its own": (conv_bias(bias_scale=1.5), {"bias"}),
    "int8 bias": (conv_bias(bias_dtype=np.int8), {"bias"}),
    "uint8 weights": (conv_bias(w=small((8, 8, 1, 1), np.uint8), w_zero=np.full(8, 128, np.uint8)), {"dtype"}),
    "int16 activations": (conv_bias(x_zero=np.int16(0), out_zero=np.int16(0)), {"dtype"}),
}


@pytest.mark.parametrize("case", TFLITE_BREACHES)
def test_tflite_refuses(case: str) -> None:
    graph, rules = TFLITE_BREACHES[case]
    assert errors(check(graph, "tflite-int8")) == rules


def test_tflite_bias_a_rounding_off_is_fine() -> None:
    assert check(conv_bias(bias_scale=1 + 1e-6), "tflite-int8") == []


def test_tflite_weights_avoid_the_lowest_value() -> None:
    found = check(conv_bias(w=LOWEST), "tflite-int8")
    assert [(f.rule, f.severity) for f in found] == [("narrow", Severity.NOTE)]


def test_tflite_wants_a_scale_for_what_a_convolution_puts_out() -> None:
    found = check(conv_bias(store_output=False), "tflite-int8")
    assert [f.rule for f in found] == ["missing"]
    assert found[0].severity is Severity.WARNING


def unary(
    op: str, *, scale: float, zero: Array, x_scale: float = 0.02, x_zero: Array | None = None, **attrs: Any
) -> Graph:
    b = Build()
    b.input("x", [1, 8, 6, 6])
    x = b.pair("x", np.zeros((), zero.dtype) if x_zero is None else x_zero, np.float32(x_scale))
    b.op(op, [x], "c", **attrs)
    b.pair("c", zero, np.float32(scale), out="y")
    b.output("y", None)  # type: ignore[arg-type]
    return b.graph()


TFLITE_FIXED = [
    ("tflite-int8", "Sigmoid", 1 / 256, np.int8(-128)),
    ("tflite-int8", "Softmax", 1 / 256, np.int8(-128)),
    ("tflite-int8", "LogSoftmax", 16 / 256, np.int8(127)),
    ("tflite-int8", "Tanh", 1 / 128, np.int8(0)),
    ("tflite-int16x8", "Sigmoid", 1 / 32768, np.int16(0)),
    ("tflite-int16x8", "Tanh", 1 / 32768, np.int16(0)),
    ("qnn-a16w8", "Sigmoid", 1 / 65536, np.uint16(0)),
    ("qnn-a16w8", "Tanh", 1 / 32768, np.uint16(32768)),
]


@pytest.mark.parametrize(("scheme", "op", "scale", "zero"), TFLITE_FIXED)
def test_prescribed_output_scales(scheme: str, op: str, scale: float, zero: Array) -> None:
    assert check(unary(op, scale=scale, zero=zero), scheme) == []
    off = check(unary(op, scale=scale * 1.01, zero=zero), scheme)
    assert [f.rule for f in off] == ["fixed"]
    assert off[0].severity is (Severity.WARNING if scheme.startswith("tflite") else Severity.ERROR)
    moved = zero + zero.dtype.type(1) if zero < 100 else zero - zero.dtype.type(1)
    shifted = check(unary(op, scale=scale, zero=moved), scheme)
    assert "fixed" in {f.rule for f in shifted}


def test_prescribed_scale_in_uint8() -> None:
    assert errors(check(unary("Sigmoid", scale=1 / 256, zero=np.uint8(0)), "tflite-int8")) == set()
    assert check(unary("Sigmoid", scale=1 / 256, zero=np.uint8(0)), "tflite-int8") == []


SHARING = [
    ("tflite-int8", "MaxPool", {"kernel_shape": [2, 2]}),
    ("tflite-int8", "AveragePool", {"kernel_shape": [2, 2]}),
    ("tflite-int8", "Transpose", {"perm": [0, 2, 3, 1]}),
    ("tflite-int8", "Flatten", {}),
    ("tflite-int8", "DepthToSpace", {"blocksize": 2}),
    ("qnn-int8", "MaxPool", {"kernel_shape": [2, 2]}),
    ("qnn-int8", "Transpose", {"perm": [0, 2, 3, 1]}),
    ("tensorrt-dla", "MaxPool", {"kernel_shape": [2, 2]}),
    ("tensorrt-dla", "AveragePool", {"kernel_shape": [2, 2]}),
    ("rknn-int8", "MaxPool", {"kernel_shape": [2, 2]}),
]


@pytest.mark.parametrize(("scheme", "op", "attrs"), SHARING)
def test_ops_whose_input_and_output_have_one_scale(scheme: str, op: str, attrs: dict[str, Any]) -> None:
    zero = {"q": np.uint8(7), "t": np.int8(7), "r": np.int8(7)}[scheme[0]]
    zero = np.int8(0) if scheme.startswith("tensorrt") else zero
    assert check(unary(op, scale=0.02, zero=zero, x_zero=zero, **attrs), scheme) == []
    found = check(unary(op, scale=0.03, zero=zero, x_zero=zero, **attrs), scheme)
    assert [f.rule for f in found] == ["shared"]


def concat(scales: tuple[float, float, float]) -> Graph:
    b = Build()
    for name, scale in (("a", scales[0]), ("b", scales[1])):
        b.input(name, [1, 4, 5])
        b.pair(name, np.int8(1), np.float32(scale))
    b.op("Concat", ["a_dq", "b_dq"], "c", axis=1)
    b.pair("c", np.int8(1), np.float32(scales[2]), out="y")
    b.output("y", [1, 8, 5])
    return b.graph()


def test_inputs_of_concat() -> None:
    assert check(concat((0.1, 0.1, 0.1)), "tflite-int8") == []
    assert {f.rule for f in check(concat((0.1, 0.2, 0.2)), "tflite-int8")} == {"shared"}
    assert check(concat((0.1, 0.2, 0.2)), "rknn-int8") == []  # the NPU rescales


# --- QNN -------------------------------------------------------------------------------------------------------------


def layer_norm(gamma: Any, beta: Any) -> Graph:
    """gamma and beta: the types they are stored in, None: float."""
    b = Build()
    b.input("x", [1, 4, 16])
    x = b.pair("x", np.uint8(128))
    names = []
    for name, dtype in (("g", gamma), ("e", beta)):
        if dtype is None:
            names.append(b.const(name, np.ones(16, np.float32)))
        else:
            names.append(b.weight(name, np.ones(16, dtype), None))
    b.op("LayerNormalization", [x, *names], "c", axis=-1)
    b.pair("c", np.uint8(128), np.float32(0.05), out="y")
    b.output("y", [1, 4, 16])
    return b.graph()


def test_qnn_layer_norm_keeps_gamma_and_beta_in_float_or_uint8() -> None:
    assert check(layer_norm(None, None), "qnn-int8") == []
    assert errors(check(layer_norm(np.uint8, np.uint8), "qnn-int8")) == set()
    assert errors(check(layer_norm(np.int8, np.int32), "qnn-int8")) == {"dtype", "bias"}


def test_qnn_erf_and_batch_norm_must_be_gone() -> None:
    assert errors(check(unary("Erf", scale=0.01, zero=np.uint8(128)), "qnn-int8")) == {"float-op"}
    b = Build()
    b.input("x", [1, 8, 6, 6])
    x = b.pair("x", np.uint8(128))
    params = [b.const(n, np.ones(8, np.float32)) for n in ("scale", "bias", "mean", "var")]
    b.op("BatchNormalization", [x, *params], "c")
    b.pair("c", np.uint8(128), np.float32(0.05), out="y")
    b.output("y", [1, 8, 6, 6])
    found = check(b.graph(), "qnn-a16w8")
    assert "float-op" in errors(found)


def test_qnn_element_types() -> None:
    assert check(unary("Relu", scale=0.02, zero=np.uint8(0), x_zero=np.uint8(128)), "qnn-int8") == []
    assert check(unary("Relu", scale=0.02, zero=np.uint16(0), x_zero=np.uint16(9)), "qnn-a16w8") == []
    assert errors(check(unary("Relu", scale=0.02, zero=np.uint8(0)), "qnn-a16w8")) == {"dtype"}


def test_qnn_matmul_has_one_scale_for_its_weight() -> None:
    b = Build()
    b.input("x", [1, 4, 16])
    x = b.pair("x", np.uint8(128))
    b.op("MatMul", [x, b.weight("w", small((16, 8)), 1)], "c")
    b.pair("c", np.uint8(128), np.float32(0.05), out="y")
    b.output("y", [1, 4, 8])
    assert errors(check(b.graph(), "qnn-int8")) == {"granularity"}


# --- RKNN ------------------------------------------------------------------------------------------------------------


def test_rknn_zero_points_are_never_zero() -> None:
    weight = np.full(8, 1, np.int8)
    assert check(conv_bias(w_zero=weight), "rknn-int8") == []
    found = check(conv_bias(), "rknn-int8")  # symmetric weights: the SDK scales them by 128/127
    assert warnings(found) == {"zero-point"}
    assert errors(found) == set()
    assert warnings(check(conv_bias(w_zero=weight, x_zero=np.int8(0)), "rknn-int8")) == {"zero-point"}
    assert warnings(check(conv_bias(w_zero=weight, x_zero=np.uint8(128)), "rknn-int8")) == {"zero-point"}
    assert check(conv_bias(w_zero=weight, x_zero=np.uint8(0)), "rknn-int8") == []


@pytest.mark.parametrize(("op", "fatal"), [("Erf", True), ("Sqrt", False), ("Exp", False), ("Softmax", False)])
def test_rknn_ops_that_stay_in_float(op: str, fatal: bool) -> None:
    found = check(unary(op, scale=0.02, zero=np.int8(-5), x_zero=np.int8(3)), "rknn-int8")
    assert [f.rule for f in found] == ["float-op"]
    assert found[0].severity is (Severity.ERROR if fatal else Severity.WARNING)


def test_rknn_div_by_a_tensor() -> None:
    b = Build()
    for name in "ab":
        b.input(name, [1, 4])
        b.pair(name, np.int8(3))
    b.op("Div", ["a_dq", "b_dq"], "c")
    b.pair("c", np.int8(3), out="y")
    b.output("y", [1, 4])
    assert errors(check(b.graph(), "rknn-int8")) == {"float-op"}


def silu(inside: bool) -> Graph:
    b = Build()
    b.input("x", [1, 8, 6, 6])
    b.pair("x", np.int8(3))
    b.op("Sigmoid", ["x_dq"], "s")
    gate = b.pair("s", np.int8(-127), np.float32(1 / 250)) if inside else "s"
    b.op("Mul", ["x_dq", gate], "c")
    b.pair("c", np.int8(-100), np.float32(0.02), out="y")
    b.output("y", [1, 8, 6, 6])
    return b.graph()


def test_rknn_pairs_stand_around_composites() -> None:
    assert check(silu(inside=False), "rknn-int8") == []
    assert warnings(check(silu(inside=True), "rknn-int8")) == {"unit"}


def test_rknn_reads_opset_19_and_no_16_bits() -> None:
    graph = unary("Relu", scale=0.02, zero=np.int16(1), x_zero=np.int16(1))
    assert errors(check(graph, "rknn-int8", opset=19)) == {"dtype", "form"}


def test_a_pair_between_a_convolution_and_its_activation() -> None:
    b = Build()
    b.input("x", [1, 8, 6, 6])
    x = b.pair("x", np.int8(3))
    b.op("Conv", [x, b.weight("w", small((8, 8, 1, 1)), zero=np.full(8, 1, np.int8))], "c", kernel_shape=[1, 1])
    b.pair("c", np.int8(3))
    b.op("Relu", ["c_dq"], "r")
    b.pair("r", np.int8(-128), out="y")
    b.output("y", [1, 8, 6, 6])
    for scheme in ("rknn-int8", "tflite-int8"):
        assert "unit" in warnings(check(b.graph(), scheme))


# --- any target ------------------------------------------------------------------------------------------------------


def test_scales_no_runtime_survives() -> None:
    for scale in (0.0, -1.0, np.nan, np.inf, 1e-40):
        assert "scale" in errors(check(unary("Relu", scale=float(scale), zero=np.int8(1)), "tflite-int8")), scale


def test_parameters_computed_at_run_time() -> None:
    b = Build()
    b.input("x", [1, 4])
    b.input("s", [])
    zero = b.const("z", np.int8(0))
    b.op("QuantizeLinear", ["x", "s", zero], "q")
    b.op("DequantizeLinear", ["q", "s", zero], "y")
    b.output("y", [1, 4])
    assert errors(check(b.graph(), "tflite-int8")) == {"scale"}


def test_a_dq_must_read_what_its_q_wrote() -> None:
    b = Build()
    b.input("x", [1, 4])
    b.op("QuantizeLinear", ["x", b.const("s", np.float32(0.1)), b.const("z", np.int8(1))], "q")
    b.op("DequantizeLinear", ["q", b.const("s2", np.float32(0.2)), "z"], "y")
    b.output("y", [1, 4])
    assert errors(check(b.graph(), "tflite-int8")) == {"pair"}


def twice(second: Array, scale: float) -> Graph:
    b = Build()
    b.input("x", [1, 4])
    b.pair("x", np.int8(1), np.float32(0.1))
    b.pair("x_dq", second, np.float32(scale), out="y")
    b.output("y", [1, 4])
    return b.graph()


def test_quantised_twice() -> None:
    assert [(f.rule, f.severity) for f in check(twice(np.int8(1), 0.1), "tflite-int8")] == [("double", Severity.NOTE)]
    assert warnings(check(twice(np.int8(1), 0.11), "tflite-int8")) == {"double"}


def test_two_quantisations_of_one_value() -> None:
    b = Build()
    b.input("x", [1, 4])
    b.pair("x", np.int8(1), np.float32(0.1))
    b.op("QuantizeLinear", ["x", b.const("s2", np.float32(0.2)), "x_z"], "q2")
    b.op("DequantizeLinear", ["q2", "s2", "x_z"], "y2")
    b.output("x_dq", [1, 4])
    b.output("y2", [1, 4])
    assert warnings(check(b.graph(), "tflite-int8")) == {"double"}


def test_integer_reader_without_a_dq() -> None:
    b = Build()
    b.input("x", [1, 1, 4, 4])
    b.op("QuantizeLinear", ["x", b.const("s", np.float32(0.1)), b.const("z", np.int8(1))], "q")
    b.op("MaxPool", ["q"], "p", kernel_shape=[2, 2])
    b.op("DequantizeLinear", ["p", "s", "z"], "y")
    b.output("y", [1, 1, 3, 3])
    assert "pair" in warnings(check(b.graph(), "tflite-int8"))


def test_integer_ops_are_not_q_dq() -> None:
    b = Build()
    b.input("x", [1, 4])
    b.op("DynamicQuantizeLinear", ["x"], "q")
    b.nodes[-1].output.extend(["s", "z"])
    b.op("DequantizeLinear", ["q", "s", "z"], "y")
    b.output("y", [1, 4])
    for scheme in ("tensorrt-int8", "rknn-int8", "tflite-int8", "qnn-int8"):
        assert "form" in errors(check(b.graph(), scheme))


def test_16_bits_need_opset_21() -> None:
    graph = unary("Relu", scale=0.02, zero=np.uint16(0), x_zero=np.uint16(9))
    graph.model.opset_imports[""] = 19
    assert "form" in errors(check(graph, "qnn-a16w8"))


def test_a_float_model_gives_no_findings() -> None:
    b = Build()
    b.input("x", [1, 4])
    b.op("Relu", ["x"], "y")
    b.output("y", [1, 4])
    assert check(b.graph(), "tflite-int8") == []


def test_an_op_left_in_float_among_quantised_ones_is_noted() -> None:
    b = Build()
    b.input("x", [1, 8, 6, 6])
    x = b.pair("x", np.int8(3))
    b.op("Conv", [x, b.weight("w", small((8, 8, 1, 1)))], "c", kernel_shape=[1, 1])
    b.pair("c", np.int8(3))
    b.op("Sin", ["c_dq"], "t")
    b.op("Conv", ["t", b.const("v", np.ones((8, 8, 1, 1), np.float32))], "y", kernel_shape=[1, 1])
    b.output("y", [1, 8, 6, 6])
    found = check(b.graph(), "tflite-int8")
    assert [(f.node, f.rule, f.severity) for f in found] == [("y_node", "missing", Severity.NOTE)]


def test_the_graph_is_not_changed() -> None:
    graph = silu(inside=True)
    before = graph.fingerprint()
    check(graph, "rknn-int8")
    assert graph.fingerprint() == before


def test_summary_is_one_message_a_rule() -> None:
    b = Build()
    b.input("x", [1, 4])
    value = "x"
    for i in range(6):
        b.pair(value, np.uint8(0))
        value = b.op("Relu", [f"{value}_dq"], f"r{i}")
    b.output(value, [1, 4])
    found = check(b.graph(), "tensorrt-int8")
    assert len([f for f in found if f.rule == "dtype"]) == 6
    messages = [d for d in summarise(found, "m.onnx") if d.code == "EC0771"]
    assert len(messages) == 1
    assert "5 more" in messages[0].message
    assert messages[0].location.file == "m.onnx"
