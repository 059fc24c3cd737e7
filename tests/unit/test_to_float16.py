"""`to-float16`: what is converted, what stays float32 and why, Q/DQ, bodies, and the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.passes.legalize.half_decisions import KEPT_KEY
from edgec.passes.legalize.to_float16 import ToFloat16
from edgec.pipeline import PassContext, PassManager
from edgec.rewrite import RULE_KEY
from edgec.runtime import Session
from edgec.samples import Samples
from edgec.testing import run

HEAD = '<ir_version: 10, opset_import: ["" : 24]>\n'
HALF = ir.DataType.FLOAT16


def convert(text: str, *samples: dict[str, Any], **options: Any) -> tuple[Graph, PassContext]:
    """The graph converted and checked; one sample of ones for `x` unless given."""
    graph = Graph.from_text(text if text.startswith("<") else HEAD + text)
    infer_shapes(graph)
    ctx = PassContext()
    given = list(samples) or [
        {v.name: np.ones([d if isinstance(d, int) else 1 for d in v.shape], v.dtype.numpy()) for v in graph.inputs}
    ]
    ctx.calibration = Samples(lambda: iter(given), describe="given")
    interface = [(v.name, v.dtype) for v in (*graph.inputs, *graph.outputs)]
    PassManager([ToFloat16(**options)], verify="structure").run(graph, ctx)
    if options.get("io") != "half":
        assert [(v.name, v.dtype) for v in (*graph.inputs, *graph.outputs)] == interface
    again = graph.clone()
    assert not PassManager([ToFloat16(**options)]).run(again, PassContext(calibration=ctx.calibration))[0].changed
    assert again.fingerprint() == graph.fingerprint()
    return graph, ctx


def codes(ctx: PassContext) -> list[str]:
    return [d.code for d in ctx.diagnostics.items]


def kept(graph: Graph) -> set[str]:
    return {n.op_type for n in graph.nodes() if KEPT_KEY in n.metadata_props}


def types(graph: Graph, op: str) -> list[ir.DataType | None]:
    return [n.outputs[0].dtype for n in graph.nodes() if n.op_type == op]


def casts(graph: Graph) -> int:
    return graph.op_counts()["Cast"]


def test_all_of_a_small_network() -> None:
    graph, ctx = convert("""g (float[1,2,4,4] x) => (float[1,2,4,4] y)
    <float[2,2,1,1] w = {1,2,3,4}, float[2] b = {1,1}> { c = Conv (x, w, b)  y = Relu (c) }""")
    assert casts(graph) == 2
    assert types(graph, "Conv") == types(graph, "Relu") == [HALF]
    assert graph.model.graph.initializers["w"].dtype is HALF
    assert not ctx.diagnostics.items
    assert all(n.metadata_props[RULE_KEY] == "to-float16" for n in graph.nodes() if n.op_type == "Cast")


def test_bfloat16() -> None:
    graph, _ = convert("""g (float[1,4] x) => (float[1,2] y)
    <float[4,2] w = {1,2,3,4,5,6,7,8}> { y = MatMul (x, w) }""", to="bfloat16")  # fmt: skip
    assert types(graph, "MatMul") == [ir.DataType.BFLOAT16]


def test_half_interface() -> None:
    graph, _ = convert("g (float[1,4] x) => (float[1,4] y) { y = Relu (x) }", io="half")
    assert [v.dtype for v in (*graph.inputs, *graph.outputs)] == [HALF, HALF]
    assert casts(graph) == 0


def test_overflow_keeps_maker_and_readers_and_says_so() -> None:
    graph, ctx = convert(
        """g (float[1,4] x) => (float[1,4] y)
    <float k = {1000}, float s = {0.001}, float[4,4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}>
    { a = MatMul (x, w)  b = Mul (a, k)  c = Relu (b)  d = Mul (c, s)  y = MatMul (d, w) }""",
        {"x": np.full((1, 4), 100, np.float32)},
    )
    assert codes(ctx) == ["EC0240"] * 3
    assert "b reaches 1e+05 (margin 4), float16 ends at 65504" in str(ctx.diagnostics.items[0])
    assert types(graph, "MatMul") == [HALF, HALF]
    assert [n.op_type for n in graph.nodes() if KEPT_KEY in n.metadata_props] == ["Mul", "Relu", "Mul"]
    x = np.array([[1, 2, 3, 100]], np.float32)
    np.testing.assert_allclose(run(graph, {"x": x})[0], x, rtol=2e-3)


def test_margin() -> None:
    text = "g (float[1] x) => (float[1] y) <float k = {100}> { a = Mul (x, k)  b = Relu (a)  y = Sigmoid (b) }"
    sample = {"x": np.full(1, 300, np.float32)}
    assert kept(convert(text, sample)[0])
    assert not kept(convert(text, sample, margin=1.0)[0])


def test_a_bound_that_always_holds_beats_the_margin() -> None:
    text = "g (float[1] x) => (float[1] y) <float lo = {0}, float hi = {60000}> { a = Clip (x, lo, hi)  y = Relu (a) }"
    graph, _ = convert(text, {"x": np.full(1, 10000, np.float32)}, margin=6.0)
    assert kept(graph) == set()
    graph, _ = convert(text, {"x": np.full(1, 20000, np.float32)}, margin=6.0)
    assert "Clip" in kept(graph)  # its input is beyond, whatever it makes of that


def test_a_mean_is_a_sum_first() -> None:
    text = "g (float[1,1,128,128] x) => (float[1,1,1,1] y) { r = Relu (x)  m = GlobalAveragePool (r)  y = Sigmoid (m) }"
    graph, ctx = convert(text, {"x": np.full((1, 1, 128, 128), 5, np.float32)})
    assert "GlobalAveragePool" in kept(graph)
    assert "the sum of 16384 numbers behind a mean of 5" in str(ctx.diagnostics.items[0])


def test_a_norm_in_float32_inside_needs_no_help() -> None:
    graph, _ = convert(
        """g (float[1,4] x) => (float[1,4] y)
    <float[4] s = {1,1,1,1}> { y = LayerNormalization <stash_type = 1> (x, s) }""",
        {"x": np.array([[-1, 2000, 3, 4]], np.float32)},
    )
    assert types(graph, "LayerNormalization") == [HALF]
    graph, _ = convert(
        """g (float[1,4] x) => (float[1,4] y)
    <float[4] s = {1,1,1,1}> { y = MeanVarianceNormalization <axes = [1]> (x) }""",
        {"x": np.array([[-1, 2000, 3, 4]], np.float32)},
    )
    assert kept(graph) == {"MeanVarianceNormalization"}


def test_epsilon_that_becomes_zero() -> None:
    graph, ctx = convert("""g (float[1,4] x) => (float[1,4] y)
    <float e = {1e-12}, float two = {2}, int64[1] last = {-1}>
    { q = Mul (x, x)  m = ReduceMean (q, last)  v = Add (m, e)  r = Sqrt (v)  y = Div (x, r) }""",
        {"x": np.array([[0, 0, 0, 0]], np.float32)}, {"x": np.array([[1, 2, 3, 4]], np.float32)})  # fmt: skip
    assert {"Add", "Sqrt", "Div"} <= kept(graph)
    y = run(graph, {"x": np.zeros((1, 4), np.float32)})[0]
    assert np.isfinite(y).all()
    assert "divides by what is made of" in " ".join(map(str, ctx.diagnostics.items)) or "EC0241" in codes(ctx)


def test_denominator_that_gets_small() -> None:
    graph, ctx = convert("g (float[1,4] x) => (float[1,4] y) <float k = {1e-3}> { s = Sigmoid (x)  r = Sqrt (s)  y = Div (k, r) }",
        {"x": np.array([[-12, 0, 1, 2]], np.float32)})  # fmt: skip
    assert kept(graph) == {"Sigmoid", "Sqrt", "Div"}  # Div between float32 and the output: no Casts at all
    assert "divides by what is made of s, which gets down to 6.1" in str(ctx.diagnostics.items[0])


def test_weights_too_large_and_too_small() -> None:
    graph, ctx = convert("""g (float[1,2] x) => (float[1,2] y, float[1,2] z)
    <float[2,2] w = {1e5,1,1,1}, float[2,2] u = {1e-9,2e-9,1e-9,1e-9}>
    { y = MatMul (x, w)  z = MatMul (x, u) }""")
    assert types(graph, "MatMul") == [ir.DataType.FLOAT] * 2
    assert codes(ctx) == ["EC0241", "EC0241"]
    assert casts(graph) == 0


def test_a_tiny_bias_does_no_harm() -> None:
    graph, _ = convert("""g (float[1,1,2,2] x) => (float[1,1,2,2] y)
    <float[1,1,1,1] w = {1}, float[1] b = {1e-9}> { y = Conv (x, w, b) }""")
    assert types(graph, "Conv") == [HALF]


def test_shared_weights_stay_shared_and_those_of_both_types_are_two() -> None:
    graph, _ = convert("""g (float[1,2] x) => (float[1,2] y, float[1,2] z, float[1,2] o)
    <float[2,2] w = {1,2,3,4}> { y = MatMul (x, w)  z = MatMul (x, w)  o = MatMul (z, w) }""")
    assert [v.dtype for v in graph.model.graph.initializers.values()] == [HALF]
    graph, _ = convert("""g (float[1,2] x) => (float[1,2] y, float[1,2] z)
    <float[2,2] w = {1,2,3,4}> { [a] y = MatMul (x, w)  [b] z = MatMul (x, w) }""", keep=("a",))  # fmt: skip
    assert {k: v.dtype for k, v in graph.model.graph.initializers.items()} == {
        "w": ir.DataType.FLOAT,
        "w.float16": HALF,
    }


def test_limits_end_at_the_largest_float16() -> None:
    graph, _ = convert("""g (float[1,2] x) => (float[1,2] y)
    <float low = {0}, float high = {3.4e38}> { a = Clip (x, low, high)  y = Relu (a) }""")
    assert kept(graph) == set()
    limit = next(v for v in graph.model.graph.initializers.values() if v.name.startswith("high"))
    assert limit.const_value.numpy() == 65504


def test_mask_in_front_of_softmax() -> None:
    text = """g (float[1,4] x, float[1,4] m) => (float[1,4] y)
    <float one = {1}, float big = {-1e9}> { n = Sub (one, m)  b = Mul (n, big)  a = Add (x, b)  y = Softmax (a) }"""
    x, m = np.array([[1, 2, 3, -4]], np.float32), np.array([[1, 1, 0, 0]], np.float32)
    graph, _ = convert(text, {"x": x, "m": m})
    assert kept(graph) == set()
    np.testing.assert_allclose(run(graph, {"x": x, "m": m})[0], [[0.268941, 0.731059, 0, 0]], atol=1e-3)
    np.testing.assert_allclose(
        run(graph, {"x": x, "m": np.zeros_like(m)})[0].sum(), 1, rtol=1e-2
    )  # nothing but mask: no NaN


def test_integers_beyond_2048_are_computed_in_float32() -> None:
    text = """g (float[1] x) => (int64[1] y)
    <float k = {3}> { a = Mul (x, k)  f = Floor (a)  y = Cast <to = 7> (f) }"""
    graph, _ = convert(text, {"x": np.array([1001], np.float32)})
    assert kept(graph) == {"Mul", "Floor"}
    assert run(graph, {"x": np.array([1001], np.float32)})[0] == 3003
    graph, _ = convert(text, {"x": np.array([100], np.float32)})
    assert kept(graph) == set()


def test_keep_by_op_node_and_value_and_what_is_not_there() -> None:
    text = """g (float[1,2] x) => (float[1,2] y)
    <float[2,2] w = {1,2,3,4}> { [first] a = MatMul (x, w)  b = MatMul (a, w)  y = Softmax (b) }"""
    for name, left in (("Softmax", {"Softmax"}), ("first", {"MatMul"}), ("b", {"MatMul"})):
        graph, ctx = convert(text, keep=(name,))
        assert kept(graph) == left
        assert not ctx.diagnostics.items
    with pytest.raises(EdgecError, match=r"EC0243.*Softmaxx"):
        convert(text, keep=("Softmaxx",))


def test_cheap_nodes_between_float32_nodes_stay() -> None:
    graph, _ = convert(
        """g (float[1,2] x) => (float[1,2] y)
    <float[2,2] w = {1,2,3,4}>
    { [a] p = MatMul (x, w)  q = Relu (p)  r = Sigmoid (q)  [b] s = MatMul (r, w)  t = Relu (s)  y = MatMul (t, w) }""",
        keep=("a", "b"),
    )
    assert casts(graph) == 2  # behind b (or the Relu behind it), before y
    assert types(graph, "Sigmoid") == [ir.DataType.FLOAT]
    assert types(graph, "MatMul")[-1] is HALF


def test_casts_are_shared_and_cancelled() -> None:
    graph, _ = convert("""g (float[1,2] x) => (float[1,2] y)
    <float[2,2] w = {1,2,3,4}> { h = Cast <to = 10> (x)  f = Cast <to = 1> (h)  a = MatMul (f, w)  b = MatMul (f, w)  y = Add (a, b) }""")
    assert casts(graph) == 2


def test_a_cast_that_does_nothing_costs_nothing() -> None:
    graph, _ = convert("""g (float[1,2] x) => (float[1,2] y, float[1,2] z)
    <float[2,2] w = {1,2,3,4}> { y = Cast <to = 1> (x)  z = MatMul (y, w) }""")
    assert casts(graph) == 3
    assert "x.float16" not in [v.name for n in graph.nodes() if n.outputs[0].name == "y" for v in n.inputs]


def test_what_onnx_types_float32_gets_it() -> None:
    graph, _ = convert("""g (float[1,1,4,4] x) => (float[1,1,8,8] y)
    <float[1,1,1,1] w = {1}, float[0] roi = {}, float[4] scales = {1,1,2,2}>
    { c = Conv (x, w)  y = Resize <mode = "linear"> (c, roi, scales) }""")
    resize = next(n for n in graph.nodes() if n.op_type == "Resize")
    assert [v.dtype for v in resize.inputs if v is not None] == [HALF, ir.DataType.FLOAT, ir.DataType.FLOAT]
    graph, _ = convert("""g (float[1,4,4] x) => (int64[N,3] y)
    <float[1,1,4] s = {1,2,3,4}> { b = Relu (x)  y = NonMaxSuppression (b, s) }""")
    nms = next(n for n in graph.nodes() if n.op_type == "NonMaxSuppression")
    assert all(v.dtype is ir.DataType.FLOAT for v in nms.inputs)


def test_types_in_attributes() -> None:
    graph, _ = convert("""g (int64[2] n, float[2,3] x) => (float[2,3] y)
    <float[2] levels = {0,1}, int64 depth = {3}>
    { a = ConstantOfShape <value = float[1] {2}> (n)  b = Cast <to = 1> (n)  h = OneHot (n, depth, levels)
      r = RandomNormalLike <dtype = 1, scale = 0.0> (h)  e = Constant <value_float = 1.0> ()
      s = Add (h, r)  t = Mul (s, e)  u = MatMul (x, a2)  y = Add (t, x)
      a2 = Identity (a) }""".replace("      u = MatMul (x, a2)", "").replace("u = MatMul (x, a2)  ", "").replace("\n      a2 = Identity (a)", ""),
        {"n": np.array([1, 2]), "x": np.ones((2, 3), np.float32)})  # fmt: skip
    assert types(graph, "OneHot") == types(graph, "RandomNormalLike") == types(graph, "Add")[:1] == [HALF]
    assert graph.op_counts()["Constant"] == 0 or types(graph, "Constant") == [HALF]


def test_if_and_loop_bodies() -> None:
    graph, _ = convert("""g (float[2] x, bool c) => (float[2] y)
    <float k = {2}>
    { z = If (c) <then_branch = t () => (float[2] a) { a = Mul (x, k) }, else_branch = e () => (float[2] b) { b = Add (x, k) }>
      y = Relu (z) }""", {"x": np.ones(2, np.float32), "c": np.array(True)})  # fmt: skip
    assert types(graph, "If") == types(graph, "Mul") == [HALF]
    assert casts(graph) == 2
    graph, _ = convert("""g (float[2] x) => (float[2] y)
    <int64 n = {3}, bool go = {1}, float k = {2}>
    { y = Loop (n, go, x) <body = b (int64 i, bool on, float[2] s) => (bool more, float[2] t)
        { more = Identity (on)  m = Mul (s, k)  q = ReduceSum <keepdims = 1> (m)  u = Mul (q, k)  t = Add (m, u) }> }""",
        {"x": np.ones(2, np.float32)})  # fmt: skip
    assert types(graph, "Loop") == [HALF]
    assert "ReduceSum" in kept(graph)  # nobody saw its numbers
    np.testing.assert_allclose(run(graph, {"x": np.ones(2, np.float32)})[0], [1000, 1000], rtol=1e-2)


QDQ = """g (float[1,2,2,2] x) => (float[1,2,2,2] y)
<float s = {0.01}, int8 z = {0}, int8[2,2,1,1] q = {100,-50,127,3}, float[2] t = {%s}, int8[2] u = {0,0}, float[2] b = {0.1,0.2}>
{ a = QuantizeLinear (x, s, z)  d = DequantizeLinear (a, s, z)  w = DequantizeLinear <axis = 0> (q, t, u)
  c = Conv (d, w, b)  y = Relu (c) }"""


def test_scales_are_float16_and_nothing_stands_at_quantised_convolutions() -> None:
    graph, _ = convert(QDQ % "0.01,0.02", {"x": np.ones((1, 2, 2, 2), np.float32)})
    for n in graph.nodes():
        if n.op_type == "DequantizeLinear":
            assert n.inputs[1].dtype is HALF
            assert n.outputs[0].dtype is HALF
        elif n.op_type == "QuantizeLinear":  # of the model's input, which is float32
            assert n.inputs[1].dtype is ir.DataType.FLOAT
    assert [n.op_type for n in graph.nodes()].count("Cast") == 1


def test_scales_that_float16_does_not_have_are_raised() -> None:
    text = QDQ % "1e-9,0.02"
    x = np.random.default_rng(0).uniform(-1, 1, (1, 2, 2, 2)).astype(np.float32)
    graph, ctx = convert(text, {"x": x})
    dq = [n for n in graph.nodes() if n.op_type == "DequantizeLinear"]
    assert all(n.inputs[1].dtype is HALF and (n.inputs[1].const_value.numpy() > 0).all() for n in dq)
    assert "EC0244" not in codes(ctx)
    np.testing.assert_allclose(run(graph, {"x": x})[0], run(Graph.from_text(HEAD + text), {"x": x})[0], atol=3e-3)


def test_an_activation_scale_that_float16_does_not_have_stays() -> None:
    graph, ctx = convert(
        (QDQ % "0.01,0.02").replace("s = {0.01}", "s = {1e-9}"), {"x": np.full((1, 2, 2, 2), 1e-8, np.float32)}
    )
    assert "EC0244" in codes(ctx)
    q = next(n for n in graph.nodes() if n.op_type == "QuantizeLinear")
    assert q.inputs[1].dtype is ir.DataType.FLOAT


def test_readers_of_a_scale_that_does_not_fit_stay_float32_with_all_their_scales() -> None:
    text = """g (float[1,2] x) => (float[1,2] y)
    <float s = {1e-9}, int8 z = {0}, int8[2,2] q = {100,-50,127,3}, float t = {0.01}>
    { a = QuantizeLinear (x, s, z)  d = DequantizeLinear (a, s, z)  w = DequantizeLinear (q, t, z)  m = MatMul (d, w)  y = Softmax (m) }"""
    graph, ctx = convert(text, {"x": np.full((1, 2), 1e-8, np.float32)})
    assert "MatMul" in kept(graph)
    assert "EC0244" in codes(ctx)
    assert {n.inputs[1].dtype for n in graph.nodes() if n.op_type == "DequantizeLinear"} == {ir.DataType.FLOAT}


def test_float32_scales_on_request() -> None:
    text = QDQ.replace("QuantizeLinear (x", "QuantizeLinear (r").replace("{ a =", "{ r = Relu (x)  a =") % "0.01,0.02"
    graph, _ = convert(text, {"x": np.ones((1, 2, 2, 2), np.float32)}, scales="float32")
    assert {n.inputs[1].dtype for n in graph.nodes() if n.op_type.endswith("antizeLinear")} == {ir.DataType.FLOAT}
    assert types(graph, "Conv") == types(graph, "Relu")[-1:] == [HALF]


def test_a_dequantized_value_read_in_both_types_is_dequantized_twice() -> None:
    graph, _ = convert(
        """g (float[1,2] x) => (float[1,2] y, float[1,2] z)
    <float s = {0.01}, int8 z0 = {0}, float[2,2] w = {1,2,3,4}>
    { q = QuantizeLinear (x, s, z0)  d = DequantizeLinear (q, s, z0)  [a] y = MatMul (d, w)  [b] z = MatMul (d, w) }""",
        keep=("a",),
    )
    made = [n for n in graph.nodes() if n.op_type == "DequantizeLinear"]
    assert {n.outputs[0].dtype for n in made} == {HALF, ir.DataType.FLOAT}
    assert all(n.inputs[1].dtype is n.outputs[0].dtype for n in made)


def test_before_opset_19_scales_are_float32() -> None:
    text = HEAD.replace("24", "17") + QDQ % "0.01,0.02"
    graph, ctx = convert(text, {"x": np.ones((1, 2, 2, 2), np.float32)})
    assert "EC0244" in codes(ctx)
    assert all(n.inputs[1].dtype is ir.DataType.FLOAT for n in graph.nodes() if n.op_type.endswith("antizeLinear"))


def test_plugin_nodes_stay_float32() -> None:
    graph = Graph.from_text("""<ir_version: 10, opset_import: ["" : 24, "com.acme" : 1]>
    g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {1,2,3,4}> { a = MatMul (x, w)  b = com.acme.Magic (a)  y = Exp (b) }""")
    for n in graph.nodes():
        n.outputs[0].type, n.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape((1, 2))
    ctx = PassContext(calibration=Samples(lambda: iter([{"x": np.ones((1, 2), np.float32)}]), describe="given"))
    ToFloat16().run(graph, ctx)
    assert types(graph, "Magic") == [ir.DataType.FLOAT]
    assert types(graph, "MatMul") == [HALF]
    assert kept(graph) == {"Exp"}  # its numbers were not seen


def test_without_samples_it_says_that_ranges_are_made_up() -> None:
    graph = Graph.from_text(HEAD + "g (float[1,2] x) => (float[1,2] y) { a = Relu (x)  y = Sigmoid (a) }")
    infer_shapes(graph)
    ctx = PassContext()
    assert ToFloat16().run(graph, ctx).changed
    assert codes(ctx) == ["EC0242"]


def test_types_are_inferred_where_they_are_missing() -> None:
    graph = Graph.from_text(HEAD + "g (float[1,2] x) => (float[1,2] y) { a = Relu (x)  y = Sigmoid (a) }")
    assert ToFloat16().run(graph, PassContext()).changed
    assert types(graph, "Relu") == [HALF]
    graph.verify()


def test_weights_in_a_file_are_converted_when_written(tmp_path: Any) -> None:
    numbers = ",".join(str(i % 7) for i in range(4096))
    text = f"g (float[1,64] x) => (float[1,64] y) <float[64,64] w = {{{numbers}}}> {{ y = MatMul (x, w) }}"
    graph = Graph.from_text(HEAD + text)
    graph.save(tmp_path / "m.onnx", external_data=True)
    graph = Graph.load(tmp_path / "m.onnx")
    infer_shapes(graph)
    ToFloat16().run(graph, PassContext())
    weight = graph.model.graph.initializers["w"].const_value
    assert isinstance(weight, ir.LazyTensor)
    graph.save(tmp_path / "half.onnx", external_data=True)
    x = np.ones((1, 64), np.float32)
    np.testing.assert_allclose(Session(tmp_path / "half.onnx").run({"x": x})["y"][0, :3], [190, 191, 192], rtol=1e-2)
