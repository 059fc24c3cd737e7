"""Models that arrive quantised: recognised, brought to Q/DQ, kept, retyped or dequantised; never quantised twice."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.graph import Graph
from edgec.passes.quantize.adopt_quantized import AdoptQuantized
from edgec.passes.quantize.canonical_qdq import CanonicalQdq
from edgec.passes.quantize.dequantize import Dequantize
from edgec.passes.quantize.qoperator_to_qdq import QoperatorToQdq
from edgec.passes.quantize.quantize import Quantize
from edgec.passes.quantize.quantized_input import already_quantized, stored_weight
from edgec.passes.quantize.retype import Retype
from edgec.passes.quantize.stored_weights import StoredWeights
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.quantization.form import DYNAMIC_OPS, PACKED_OPS, STATIC_OPS, quantization_form
from edgec.quantization.params import QuantParams
from edgec.recipe import build_passes, parse_pipeline
from edgec.runtime import Session
from edgec.specs.scheme import QuantKind

Array = npt.NDArray[Any]

HEAD = '<ir_version: 10, opset_import: ["" : 24, "com.microsoft" : 1]> '
PREPARE = "inline-functions,constants-to-initializers,upgrade-opset,infer-shapes,[fold-constants,eliminate-noops]*,cse"
FLOAT = (
    PREPARE + ",fuse-clip,fuse-leaky-relu,fuse-hard-sigmoid,fuse-hard-swish,fuse-silu,fuse-gelu,fuse-layer-norm,"
    "fuse-softmax,fuse-reduce,fuse-focus,fold-bn,fold-scale-bias,fuse-pad,matmul-add-to-gemm,space-to-depth,"
    "cancel-transposes,sink-transposes,fuse-reshapes,split-slice,[fold-constants,eliminate-noops,cse]*,remove-dead"
)
INT8 = QuantKind(dtype="int8", symmetric=True, per="channel")


def run(graph: Graph, text: str) -> PassContext:
    ctx = PassContext()
    PassManager(build_passes(parse_pipeline(text), Registry().passes()), verify="structure").run(graph, ctx)
    return ctx


def graph_of(
    nodes: list[Any], inputs: dict[str, tuple[int, list[Any]]], outputs: dict[str, tuple[int, int]], **weights: Array
) -> Graph:
    """A model of opset 21. Inputs by name: type and shape; outputs: type and rank."""
    ins = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    outs = [helper.make_tensor_value_info(n, t, [f"{n}{i}" for i in range(rank)]) for n, (t, rank) in outputs.items()]
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_graph(nodes, "g", ins, outs, tensors)
    return Graph.from_proto(helper.make_model(proto, opset_imports=opsets, ir_version=10))


def ms(op: str, inputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(op, inputs, ["y"], domain="com.microsoft", **attributes)


# --- what it is ----------------------------------------------------------------------------------------------------------

QDQ = "g (float[2] x) => (float[2] y) <float s = {0.5}, int8 z = {1}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
STORED = """g (float[1,2] x) => (float[1,2] y) <int8[2,2] w = {1,2,3,-128}, float[2] s = {0.5,0.25}, int8[2] z = {0,0}>
    { d = DequantizeLinear<axis = 1>(w, s, z) y = MatMul(x, d) }"""
QOPERATOR = """g (float[2] x) => (float[2] y) <float s = {0.5}, uint8 z = {1}>
    { q = QuantizeLinear(x, s, z) a = com.microsoft.QLinearAdd(q, s, z, q, s, z, s, z) y = DequantizeLinear(a, s, z) }"""
DYNAMIC = """g (float[1,2] x) => (int32[1,2] y) <int8[2,2] w = {1,2,3,4}>
    { q, s, z = DynamicQuantizeLinear(x) y = MatMulInteger(q, w, z) }"""
FLOAT_MODEL = "g (float[2] x) => (float[2] y) { y = Relu(x) }"


@pytest.mark.parametrize(
    ("text", "form", "counts"),
    [
        (FLOAT_MODEL, "none", {}),
        (QDQ, "qdq", {"activations": 1}),
        (STORED, "weight-only", {"weights": 1}),
        (QOPERATOR, "qoperator", {"QLinearAdd": 1, "activations": 1}),
        (DYNAMIC, "dynamic", {"DynamicQuantizeLinear": 1, "MatMulInteger": 1}),
    ],
)
def test_forms(text: str, form: str, counts: dict[str, int]) -> None:
    found = quantization_form(Graph.from_text(HEAD + text))
    assert (found.form, dict(found.counts)) == (form, counts)
    assert form in str(found)


def test_mixed_is_integer_ops_beside_stored_weights() -> None:
    text = """g (float[2] x) => (float[2] y, float[2] t) <float s = {0.5}, uint8 z = {1}, int8[2] w = {1,2}, int8 v = {0}, int32[2] b = {1,2}>
        { q = QuantizeLinear(x, s, z) a = com.microsoft.QLinearAdd(q, s, z, q, s, z, s, z) y = DequantizeLinear(a, s, z)
          d = DequantizeLinear(w, s, v) e = DequantizeLinear(b, s) f = Add(d, e) t = Add(x, f) }"""
    found = quantization_form(Graph.from_text(HEAD + text))
    assert found.form == "mixed"
    assert found.counts["weights"] == found.counts["biases"] == 1


def test_what_a_quantiser_leaves_alone() -> None:
    assert already_quantized(Graph.from_text(HEAD + QDQ)) == {"x", "q", "y"}
    assert already_quantized(Graph.from_text(HEAD + STORED)) == {"w", "d"}
    assert already_quantized(Graph.from_text(HEAD + QOPERATOR)) == {"x", "q", "a", "y"}
    assert already_quantized(Graph.from_text(HEAD + FLOAT_MODEL)) == frozenset()


def test_the_parameters_of_a_stored_weight() -> None:
    g = Graph.from_text(HEAD + STORED)
    found = stored_weight(next(n for n in g.nodes() if n.op_type == "MatMul").inputs[1])
    assert found is not None
    assert found[0].name == "w"
    assert (found[1].dtype, found[1].axis, found[1].scale.tolist()) == ("int8", 1, [0.5, 0.25])
    assert stored_weight(g.inputs[0]) is None


# --- integer ops, one by one, against ONNX Runtime --------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (2, 8, 9, 9)).astype(np.uint8)
IMAGE = {"x": (TensorProto.UINT8, [2, 8, 9, 9])}
STEPS = {"xs": np.float32(0.02), "xz": np.uint8(120), "ys": np.float32(0.05), "yz": np.uint8(90)}
UNIT = {**STEPS, "ys": np.float32(1 / 256), "yz": np.uint8(0)}
WEIGHT = {"w": RNG.integers(0, 256, (8, 1, 1)).astype(np.uint8), "ws": np.float32(0.01), "wz": np.uint8(7)}


def steps_apart(graph: Graph, feeds: dict[str, Array], before: str = "infer-shapes") -> tuple[int, float]:
    """The largest difference in steps, and the part of the elements that are equal, after `qoperator-to-qdq`."""
    after = graph.clone()
    run(after, f"upgrade-opset,{before},qoperator-to-qdq")
    assert quantization_form(after).form == "qdq"
    want, got = Session(graph).run(feeds)["y"].astype(int), Session(after).run(feeds)["y"].astype(int)
    assert len(np.unique(want)) > 10, "the test must reach many steps"
    return int(np.abs(want - got).max()), float((want == got).mean())


@pytest.mark.parametrize("group", [1, 2, 8])
def test_qlinear_conv(group: int) -> None:
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    node = helper.make_node("QLinearConv", names, ["y"], group=group, pads=[1, 1, 1, 1], strides=[2, 2])
    g = graph_of(
        [node], IMAGE, {"y": (TensorProto.UINT8, 4)}, **STEPS,
        w=RNG.integers(-127, 128, (16, 8 // group, 3, 3)).astype(np.int8),
        ws=(RNG.random(16) * 0.01 + 0.001).astype(np.float32), wz=np.zeros(16, np.int8),
        b=RNG.integers(-9000, 9000, 16).astype(np.int32),
    )  # fmt: skip
    apart, equal = steps_apart(g, {"x": X})
    assert apart <= 1
    assert equal >= 0.999


@pytest.mark.parametrize(
    ("op", "weights", "attributes", "equal"),
    [
        ("QLinearSigmoid", UNIT, {}, 0.999),
        ("QLinearLeakyRelu", STEPS, {"alpha": 0.3}, 0.999),
        ("QLinearSoftmax", UNIT, {"axis": -1, "opset": 13}, 0.999),
        ("QLinearGlobalAveragePool", {**STEPS, "ys": np.float32(0.004)}, {}, 0.9),
        # with one scale on both sides means of 9 fall on halves, which are rounded otherwise
        ("QLinearAveragePool", STEPS, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 0.9),
    ],
)
def test_unary_ops(op: str, weights: dict[str, Array], attributes: dict[str, Any], equal: float) -> None:
    g = graph_of([ms(op, ["x", "xs", "xz", "ys", "yz"], **attributes)], IMAGE, {"y": (TensorProto.UINT8, 4)}, **weights)
    apart, same = steps_apart(g, {"x": X})
    assert apart <= 1
    assert same >= equal


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_binary_ops_broadcast(op: str) -> None:
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    g = graph_of([ms(op, names)], IMAGE, {"y": (TensorProto.UINT8, 4)}, **STEPS, **WEIGHT)
    apart, equal = steps_apart(g, {"x": X})
    assert apart <= 1
    assert equal >= 0.99


def test_qlinear_matmul_of_batches() -> None:
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    x = RNG.integers(-128, 128, (2, 3, 8, 16)).astype(np.int8)
    g = graph_of(
        [helper.make_node("QLinearMatMul", names, ["y"])], {"x": (TensorProto.INT8, [2, 3, 8, 16])},
        {"y": (TensorProto.INT8, 4)}, xs=np.float32(0.02), xz=np.int8(3), ys=np.float32(0.05), yz=np.int8(5),
        w=RNG.integers(-128, 128, (2, 3, 16, 4)).astype(np.int8), ws=np.float32(0.01), wz=np.int8(-2),
    )  # fmt: skip
    apart, equal = steps_apart(g, {"x": x})
    assert apart <= 1
    assert equal >= 0.999


def sqnr(want: Array, got: Array) -> float:
    error = np.square(want.astype(np.float64) - got).sum()
    return float(10 * np.log10(np.square(want.astype(np.float64)).sum() / error)) if error else np.inf


def float_results(graph: Graph, feeds: dict[str, Array], pipeline: str) -> tuple[Array, Array, Graph]:
    after = graph.clone()
    run(after, f"upgrade-opset,infer-shapes,{pipeline}")
    return Session(graph).run(feeds)["y"], Session(after).run(feeds)["y"], after


def test_matmul_integer_to_float() -> None:
    g = graph_of(
        [ms("MatMulIntegerToFloat", ["x", "w", "xs", "ws", "xz", "", "b"])], {"x": (TensorProto.UINT8, ["n", 64])},
        {"y": (TensorProto.FLOAT, 2)}, w=RNG.integers(-128, 128, (64, 32)).astype(np.int8), xs=np.float32(0.02),
        ws=(RNG.random(32) * 0.01).astype(np.float32), xz=np.uint8(120), b=RNG.standard_normal(32).astype(np.float32),
    )  # fmt: skip
    x = RNG.integers(0, 256, (5, 64)).astype(np.uint8)
    want, got, after = float_results(g, {"x": x}, "qoperator-to-qdq")
    assert after.op_counts() == {"DequantizeLinear": 2, "MatMul": 1, "Add": 1}
    assert sqnr(want, got) > 120


def test_dynamic_quantize_matmul_with_its_ranges_and_without() -> None:
    g = graph_of(
        [ms("DynamicQuantizeMatMul", ["x", "w", "ws", "wz", "b"])], {"x": (TensorProto.FLOAT, ["n", 64])},
        {"y": (TensorProto.FLOAT, 2)}, w=RNG.integers(0, 256, (64, 32)).astype(np.uint8),
        ws=(RNG.random(32) * 0.01).astype(np.float32), wz=RNG.integers(100, 150, 32).astype(np.uint8),
        b=RNG.standard_normal(32).astype(np.float32),
    )  # fmt: skip
    x = RNG.standard_normal((5, 64)).astype(np.float32)
    want, got, after = float_results(g, {"x": x}, "qoperator-to-qdq{dynamic=ranges}")
    assert after.op_counts() == {"DynamicQuantizeLinear": 1, "DequantizeLinear": 2, "MatMul": 1, "Add": 1}
    assert sqnr(want, got) > 120
    want, got, after = float_results(g, {"x": x}, "qoperator-to-qdq")
    assert after.op_counts() == {"DequantizeLinear": 1, "MatMul": 1, "Add": 1}
    assert 30 < sqnr(want, got) < 100, "the activations are no longer rounded"


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero_points", [True, False])
def test_matmul_nbits(bits: int, zero_points: bool) -> None:
    k, n, block = 70, 32, 32
    blocks = -(-k // block)
    weights: dict[str, Array] = {
        "w": RNG.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
        "s": (RNG.random(n * blocks) * 0.01).astype(np.float32),
    }
    if zero_points:
        weights["z"] = RNG.integers(0, 256, n * -(-blocks * bits // 8)).astype(np.uint8)
    node = ms("MatMulNBits", ["x", *weights], K=k, N=n, bits=bits, block_size=block)
    g = graph_of([node], {"x": (TensorProto.FLOAT, ["n", k])}, {"y": (TensorProto.FLOAT, 2)}, **weights)
    x = RNG.standard_normal((5, k)).astype(np.float32)
    want, got, after = float_results(g, {"x": x}, "qoperator-to-qdq")
    assert after.op_counts() == {"DequantizeLinear": 1, "MatMul": 1}
    assert sqnr(want, got) > 100
    want, got, after = float_results(g, {"x": x}, "dequantize")
    assert after.op_counts() == {"MatMul": 1}
    assert sqnr(want, got) > 100


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("per_gate", [True, False])
def test_dynamic_quantize_lstm(directions: int, per_gate: bool) -> None:
    hidden, inputs = 8, 12
    gates = 4 * hidden
    shape = (directions, gates) if per_gate else (directions,)
    weights: dict[str, Array] = {"b": RNG.standard_normal((directions, 2 * gates)).astype(np.float32)}
    for name, rows in (("w", inputs), ("r", hidden)):
        weights[name] = RNG.integers(-127, 128, (directions, rows, gates)).astype(np.int8)
        weights[f"{name}s"] = (RNG.uniform(0.5, 1, shape) * 0.008).astype(np.float32)
        weights[f"{name}z"] = np.zeros(shape, np.int8)
    names = ["x", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"]
    direction = "forward" if directions == 1 else "bidirectional"
    node = ms("DynamicQuantizeLSTM", names, hidden_size=hidden, direction=direction)
    g = graph_of([node], {"x": (TensorProto.FLOAT, [5, 2, inputs])}, {"y": (TensorProto.FLOAT, 4)}, **weights)
    x = RNG.standard_normal((5, 2, inputs)).astype(np.float32)
    want, got, after = float_results(g, {"x": x}, "qoperator-to-qdq,fold-constants")
    assert quantization_form(after).form == "weight-only"
    assert after.op_counts()["LSTM"] == 1
    assert sqnr(want, got) > 35, "only the activations are no longer rounded"


def test_what_is_left_has_a_reason() -> None:
    text = "g (uint8[3,2] x) => (int32[3,4] y) <int8[2,4] w = {1,2,3,4,5,6,7,8}> { y = MatMulInteger(x, w) }"
    ctx = PassContext()
    assert not QoperatorToQdq().run(Graph.from_text(HEAD + text), ctx).changed
    (note,) = ctx.diagnostics
    assert note.code == "EC0790"
    assert "MatMulInteger y (no rule knows this form)" in note.message


@pytest.mark.parametrize("op", sorted(STATIC_OPS | DYNAMIC_OPS | PACKED_OPS | {"QuantizeLinear", "DequantizeLinear"}))
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7])
def test_ops_no_schema_checked_do_no_harm(op: str, count: int) -> None:
    """Too few inputs, of wrong types: a reason, never an exception."""
    names = ["q", "s", "z", "w", "ws", "wz", "s"][:count]
    weights: dict[str, Array] = {
        "s": np.float32(0.5), "z": np.uint8(1), "w": np.ones((2, 2), np.int8), "ws": np.ones(2, np.float32),
        "wz": np.zeros(2, np.int8),
    }  # fmt: skip
    for domain in ("", "com.microsoft"):
        g = graph_of(
            [
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                helper.make_node(op, names, ["y"], name="odd", domain=domain),
            ],
            {"x": (TensorProto.FLOAT, [2, 2])}, {"y": (TensorProto.FLOAT, 2)}, **weights,
        )  # fmt: skip
        quantization_form(g)
        already_quantized(g)
        for p in (QoperatorToQdq(), CanonicalQdq(), Retype("int8", "uint8"), Dequantize()):
            p.run(g.clone(), PassContext())


def test_a_float_model_is_left_alone() -> None:
    for p in (QoperatorToQdq(), CanonicalQdq(), Dequantize(), Retype("uint8", "int8")):
        g = Graph.from_text(HEAD + FLOAT_MODEL)
        before = g.to_bytes()
        assert not p.run(g, PassContext()).changed
        assert g.to_bytes() == before


# --- one spelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "zero"), [("int8", 0), ("uint8", 131), ("int16", 0), ("uint16", 40000)])
def test_a_weight_is_stored_as_onnx_runtime_stores_it(dtype: str, zero: int) -> None:
    w = RNG.standard_normal((16, 40)).astype(np.float32)
    scale = np.full(16, np.abs(w).max() / (100 if "8" in dtype else 30000), np.float32) * RNG.uniform(0.5, 1, 16)
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=0),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    g = graph_of(
        nodes, {"x": (TensorProto.FLOAT, ["n", 16])}, {"y": (TensorProto.FLOAT, 2)}, w=w, s=scale.astype(np.float32),
        z=np.full(16, zero, dtype),
    )  # fmt: skip
    after = g.clone()
    run(after, "upgrade-opset,infer-shapes,canonical-qdq")
    assert after.op_counts() == {"DequantizeLinear": 1, "MatMul": 1}
    before = Session(g, all_values=["d"]).run({"x": np.zeros((1, 16), np.float32)})["d"]
    found = Session(after, all_values=["d"]).run({"x": np.zeros((1, 16), np.float32)})["d"]
    np.testing.assert_array_equal(found, before)


def test_blocks_of_four_bits_go_along_with_a_transpose() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=1, block_size=2),
        helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    g = graph_of(
        nodes, {"x": (TensorProto.FLOAT, ["n", 4])}, {"y": (TensorProto.FLOAT, 2)},
        w=np.array([[1, 2, 3, 4], [5, 6, 7, 15]], ml_dtypes.uint4), s=np.array([[0.5, 0.25], [1, 2]], np.float32),
        z=np.array([[8, 8], [7, 0]], ml_dtypes.uint4),
    )  # fmt: skip
    after = g.clone()
    run(after, "infer-shapes,canonical-qdq")
    assert after.op_counts() == {"DequantizeLinear": 1, "MatMul": 1}
    x = {"x": np.array([[1, 10, 100, 1000]], np.float32)}
    np.testing.assert_array_equal(Session(after).run(x)["y"], Session(g).run(x)["y"])


# --- back to float -----------------------------------------------------------------------------------------------------


def test_integer_inputs_keep_their_type_and_that_is_told() -> None:
    text = (
        "g (uint8[2] x) => (float[2] y) <float s = {0.5}, uint8 z = {1}> { d = DequantizeLinear(x, s, z) y = Relu(d) }"
    )
    g, ctx = Graph.from_text(HEAD + text), PassContext()
    assert not Dequantize().run(g, ctx).changed
    assert [d.code for d in ctx.diagnostics] == ["EC0791"]


@pytest.mark.parametrize(("clip", "ops"), [("auto", {"Relu": 1}), ("all", {"Clip": 1}), ("none", {"Identity": 1})])
def test_a_range_stands_for_the_relu_it_swallowed(clip: Any, ops: dict[str, int]) -> None:
    text = "g (float[4] x) => (float[4] y) <float s = {0.5}, uint8 z = {0}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    g = Graph.from_text(HEAD + text)
    Dequantize(clip=clip).run(g, PassContext())
    assert g.op_counts() == ops
    limits = {"auto": (0, np.inf), "all": (0, 127.5), "none": (-np.inf, np.inf)}[clip]
    x = np.array([-3, 0.3, 5, 999], np.float32)
    np.testing.assert_allclose(Session(g).run({"x": x})["y"], np.clip(x, *limits), rtol=1e-6)


# --- weights that keep their integers -----------------------------------------------------------------------------------


def test_a_stored_weight_keeps_its_parameters() -> None:
    g = Graph.from_text(HEAD + STORED)
    stored = StoredWeights(g)
    assert len(stored) == 1
    weight = next(n for n in g.nodes() if n.op_type == "MatMul").inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    own = stored.params(weight, INT8)
    assert isinstance(own, QuantParams)
    np.testing.assert_array_equal(own.quantize(weight.const_value.numpy()), [[1, 2], [3, -128]])
    assert stored.params(weight, INT8.model_copy(update={"dtype": "uint8"})) is None, "another type"
    assert stored.params(weight, INT8.model_copy(update={"per": "tensor"})) is None, "one scale is wanted"
    assert stored.params(weight, INT8.model_copy(update={"nonzero": True})) is None, "zero points may not be 0"


def test_a_stored_weight_nobody_stored_again_is_as_it_was() -> None:
    g = Graph.from_text(HEAD + STORED)
    before = g.op_counts()
    StoredWeights(g).restore()
    assert g.op_counts() == before
    assert [v.dtype.name for v in g.model.graph.initializers.values() if v.dtype] == ["INT8", "FLOAT", "INT8"]


# --- what becomes of it for a target -------------------------------------------------------------------------------------

CONV = """g (float[1,2,4,4] x) => (float[1,2,4,4] y)
    <int8[2,2,1,1] w = {1,2,3,-127}, float[2] ws = {0.5,0.25}, int8[2] wz = {0,0}, float s = {0.5}, int8 z = {SIGNED}>
    { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear<axis = 0>(w, ws, wz) c = Conv(d, v)
      p = QuantizeLinear(c, s, z) y = DequantizeLinear(p, s, z) }"""


def adopt(text: str, scheme: str) -> tuple[Graph, list[str], Graph]:
    before = Graph.from_text(HEAD + text)
    run(before, "infer-shapes")
    g, ctx = before.clone(), PassContext()
    AdoptQuantized(scheme).run(g, ctx)
    return g, [d.code for d in ctx.diagnostics], before


def test_kept_where_the_scheme_takes_it() -> None:
    g, codes, before = adopt(CONV.replace("SIGNED", "0"), "tensorrt-int8")
    assert codes == ["EC0792"]
    assert g.op_counts() == before.op_counts()


def test_signs_are_changed_number_for_number() -> None:
    g, codes, before = adopt(CONV.replace("SIGNED", "3"), "onnxruntime-int8")
    assert codes == ["EC0792"]
    assert {str(n.inputs[2].dtype) for n in g.nodes() if n.op_type == "QuantizeLinear" and n.inputs[2]} == {"UINT8"}
    x = {"x": RNG.standard_normal((1, 2, 4, 4)).astype(np.float32) * 30}
    np.testing.assert_array_equal(Session(g).run(x)["y"], Session(before).run(x)["y"])


def test_dequantised_with_a_warning_where_the_scheme_refuses_it() -> None:
    g, codes, _ = adopt(CONV.replace("SIGNED", "3"), "tensorrt-int8")
    assert codes == ["EC0793"]
    assert g.op_counts() == {"Conv": 1}


def test_without_a_scheme_it_is_kept_or_not_as_asked() -> None:
    target = Registry().target("x86-64").spec()
    for otherwise, code, ops in (
        ("keep", "EC0792", {"QuantizeLinear": 1, "DequantizeLinear": 1}),
        ("float", "EC0793", {"Identity": 1}),
    ):
        g, ctx = Graph.from_text(HEAD + QDQ), PassContext(target=target, precision="fp32")
        AdoptQuantized(otherwise=otherwise).run(g, ctx)  # type: ignore[arg-type]
        assert [d.code for d in ctx.diagnostics] == [code]
        assert g.op_counts() == ops


@pytest.mark.parametrize("text", [CONV.replace("SIGNED", "3"), QOPERATOR, DYNAMIC])
def test_quantize_adds_nothing_and_needs_no_calibration(text: str) -> None:
    g, ctx = Graph.from_text(HEAD + text), PassContext()
    before = g.to_bytes()
    assert not Quantize(scheme="onnxruntime-int8").run(g, ctx).changed
    assert [d.code for d in ctx.diagnostics] == ["EC0794"]
    assert g.to_bytes() == before


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_compiling_a_quantised_model_needs_no_calibration(effort: Any) -> None:
    import edgec

    g = Graph.from_text(HEAD + CONV.replace("SIGNED", "3"))
    made = edgec.compile(g, target="x86-64", precision="int8", effort=effort)
    assert {"EC0792", "EC0794"} <= {d.code for d in made.diagnostics}
    assert made.graph.op_counts() == g.op_counts()


def test_without_a_target_nothing_is_done() -> None:
    g, ctx = Graph.from_text(HEAD + QOPERATOR), PassContext()
    assert not AdoptQuantized().run(g, ctx).changed
    assert not list(ctx.diagnostics)
