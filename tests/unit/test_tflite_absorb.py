"""Which nodes of a Q/DQ graph become integer kernels, what they take in, and why the others stay in float."""

from __future__ import annotations

import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.passes.prepare.constants_to_initializers import ConstantsToInitializers
from edgec.pipeline import PassManager
from edgec.targets.tflite import ops
from edgec.targets.tflite.absorb import Forms, absorb
from edgec.targets.tflite.lower import LoweredModel, LowerOptions, lower
from edgec.targets.tflite.rules import RULES

ops.load()

HEAD = '<ir_version: 10, opset_import: ["" : 24]> g '
CONSTANTS = """
    s = Constant<value = float {0.1}>() z = Constant<value = int8 {3}>()
    s2 = Constant<value = float {0.05}>() z2 = Constant<value = int8 {-128}>()
    wq = Constant<value = int8[2,2,1,1] {1, 2, 3, 4}>() ws = Constant<value = float[2] {0.5, 0.25}>()
    wz = Constant<value = int8[2] {0, 0}>() w = DequantizeLinear<axis=0>(wq, ws, wz)
"""


def graph(body: str, outputs: str = "float[1,2,4,4] y", inputs: str = "float[1,2,4,4] x") -> Graph:
    g = Graph.from_text(f"{HEAD}({inputs}) => ({outputs}) {{ {CONSTANTS} {body} }}")
    PassManager([ConstantsToInitializers()]).run(g)
    infer_shapes(g)
    g.remove_dead()
    return g


def named(g: Graph, op: str) -> ir.Node:
    return next(n for n in g.model.graph if n.op_type == op)


def forms(g: Graph) -> Forms:
    return absorb(g, RULES)


def ops_of(m: LoweredModel) -> list[str]:
    return [o.op for o in m.model.main.operators]


IN = "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)"
OUT = "yq = QuantizeLinear(a, s2, z2) y = DequantizeLinear(yq, s2, z2)"


def test_a_convolution_between_pairs_is_an_integer_kernel() -> None:
    g = graph(f"{IN} a = Conv(xd, w) {OUT}")
    assert forms(g).integer == {named(g, "Conv"): "int8"}
    m = lower(g, LowerOptions(io_layout="nhwc", io_dtype="integer"))
    assert ops_of(m) == ["CONV_2D"]
    conv = m.model.main.operators[0]
    assert [t.dtype for t in conv.inputs if t is not None] == ["int8", "int8", "int32"]
    assert conv.outputs[0].quant is not None
    assert conv.outputs[0].quant.zero_point.tolist() == [-128]


def test_the_activation_goes_into_the_kernel() -> None:
    g = graph(f"{IN} c = Conv(xd, w) a = Relu(c) {OUT}")
    found = forms(g)
    assert found.fused[named(g, "Conv")].activation == "RELU"
    assert found.inside == {named(g, "Relu")}
    assert found.integer == {named(g, "Conv"): "int8"}


def test_a_clip_that_the_stored_range_does_already_is_nothing() -> None:
    # Stored reals are -6.4 .. 6.35 at scale 0.05, zero point 0; the Clip's limits are wider.
    body = """lo = Constant<value = float {-10.0}>() hi = Constant<value = float {10.0}>() z0 = Constant<value = int8 {0}>()
        c = Conv(xd, w) a = Clip(c, lo, hi) yq = QuantizeLinear(a, s2, z0) y = DequantizeLinear(yq, s2, z0)"""
    g = graph(f"{IN} {body}")
    assert forms(g).fused[named(g, "Conv")].activation == "RANGE"
    assert ops_of(lower(g, LowerOptions("nhwc", "integer"))) == ["CONV_2D"]


def test_a_clip_narrower_than_the_stored_range_is_kept() -> None:
    body = """lo = Constant<value = float {-1.5}>() hi = Constant<value = float {2.0}>() z0 = Constant<value = int8 {0}>()
        c = Conv(xd, w) a = Clip(c, lo, hi) yq = QuantizeLinear(a, s2, z0) y = DequantizeLinear(yq, s2, z0)"""
    g = graph(f"{IN} {body}")
    found = forms(g)
    assert named(g, "Conv") not in found.fused
    assert "read in float" in found.why_float[named(g, "Conv")]
    assert {"MINIMUM", "MAXIMUM"} <= set(ops_of(lower(g)))


def test_an_output_read_in_float_too_leaves_the_node_in_float() -> None:
    g = graph(f"{IN} a = Conv(xd, w) {OUT} b = Relu(a)", outputs="float[1,2,4,4] y, float[1,2,4,4] b")
    found = forms(g)
    assert not found.integer
    assert "read in float" in found.why_float[named(g, "Conv")]
    assert "DEQUANTIZE" in ops_of(lower(g))


def test_a_pooling_keeps_its_scale_and_is_rescaled_behind() -> None:
    g = graph(f"{IN} a = MaxPool<kernel_shape=[1,1]>(xd) {OUT}")
    m = lower(g, LowerOptions("nhwc", "integer"))
    assert ops_of(m) == ["MAX_POOL_2D", "QUANTIZE"]
    pool = m.model.main.operators[0]
    assert pool.inputs[0] is not None
    assert pool.inputs[0].quant is not None
    assert pool.inputs[0].quant.same(pool.outputs[0].quant)


def test_a_sigmoid_has_the_scale_its_kernel_has() -> None:
    g = graph(f"{IN} a = Sigmoid(xd) {OUT}")
    m = lower(g, LowerOptions("nhwc", "integer"))
    assert ops_of(m) == ["LOGISTIC", "QUANTIZE"]
    quant = m.model.main.operators[0].outputs[0].quant
    assert quant is not None
    assert (float(quant.scale[0]), int(quant.zero_point[0])) == (1 / 256, -128)


def test_concatenated_values_are_rescaled_to_the_output() -> None:
    body = f"{IN} b = Relu(xd) bq = QuantizeLinear(b, s2, z2) bd = DequantizeLinear(bq, s2, z2) a = Concat<axis=1>(xd, bd) {OUT}"
    g = graph(body, outputs="float[1,4,4,4] y")
    m = lower(g, LowerOptions("nhwc", "integer"))
    assert ops_of(m) == ["RELU", "QUANTIZE", "CONCATENATION"]
    concat = m.model.main.operators[-1]
    assert all(t is not None and t.quant is not None and t.quant.same(concat.outputs[0].quant) for t in concat.inputs)


def test_a_second_quantisation_is_one_rescaling() -> None:
    g = graph(f"{IN} q2 = QuantizeLinear(xd, s2, z2) y = DequantizeLinear(q2, s2, z2)")
    assert ops_of(lower(g, LowerOptions("nhwc", "integer"))) == ["QUANTIZE"]


def test_per_channel_activations_stay_in_float() -> None:
    body = """sc = Constant<value = float[2] {0.1, 0.2}>() zc = Constant<value = int8[2] {0, 0}>()
        xq = QuantizeLinear<axis=1>(x, sc, zc) xd = DequantizeLinear<axis=1>(xq, sc, zc) a = Relu(xd)"""
    g = graph(f"{body} {OUT}")
    assert "for each channel" in forms(g).why_float[named(g, "Relu")]


def test_an_op_without_integer_kernel_says_so() -> None:
    g = graph(f"{IN} a = Sin(xd) {OUT}")
    assert forms(g).why_float[named(g, "Sin")] == "Sin has no integer kernel"
    assert ops_of(lower(g)) == ["QUANTIZE", "DEQUANTIZE", "SIN", "QUANTIZE", "DEQUANTIZE"]


def test_names_of_the_model_survive() -> None:
    g = graph(f"{IN} a = Conv(xd, w) {OUT}")
    m = lower(g)
    assert [t.name for t in m.model.main.inputs] == ["x"]
    assert [t.name for t in m.model.main.outputs] == ["y"]
    assert "a" in {t.name for t in m.model.main.tensors()}


def test_a_product_of_two_activations_takes_in_neither_bias_nor_activation() -> None:
    """BATCH_MATMUL has neither: the ADD and the RELU stay."""
    text = """(float[2,3,4] a, float[2,4,5] b) => (float[2,3,5] y, float[2,3,5] z) <float[5] c = {1,2,3,4,5}>
        { p = MatMul(a, b) y = Add(p, c) q = MatMul(a, b) z = Relu(q) }"""
    g = Graph.from_text(HEAD + text)
    infer_shapes(g)
    assert ops_of(lower(g)) == ["BATCH_MATMUL", "ADD", "BATCH_MATMUL", "RELU"]


def test_one_refusal_is_told_also_where_a_fused_kernel_reads_it() -> None:
    text = """(float[1,1,4] x) => (float[1,2,4] y)
        <float[2,1,1] w = {1, 1}> { p = Conv(x, w) q = Add(p, p) r = Relu(q) y = Tanh(r) }"""
    g = Graph.from_text(HEAD + text)
    infer_shapes(g)
    with pytest.raises(EdgecError) as e:
        lower(g)
    assert [d.code for d in e.value.diagnostics] == ["EC0641"]


def test_from_one_stored_type_to_another_is_one_quantize() -> None:
    body = """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) w2 = Constant<value = float {0.001}>()
        z16 = Constant<value = int16 {0}>() p = QuantizeLinear(d, w2, z16) y = DequantizeLinear(p, w2, z16)"""
    operators = lower(graph(body)).model.main.operators
    assert [(o.op, o.outputs[0].dtype) for o in operators] == [
        ("QUANTIZE", "int8"),
        ("QUANTIZE", "int16"),
        ("DEQUANTIZE", "float32"),
    ]


def test_an_output_that_is_integer_in_the_model_is_no_quantised_float() -> None:
    """Its numbers are the model's own: nothing is to be multiplied by the scale again."""
    m = lower(graph(f"{IN} a = Relu(xd) y = QuantizeLinear(a, s2, z2)", "int8[1,2,4,4] y"))
    assert [(p.tensor.dtype, p.quant) for p in m.outputs] == [("int8", None)]


def test_a_convolution_over_one_axis_stays_in_integers_through_the_pipeline() -> None:
    """conv1d-to-2d adds the axis to stored integers: that tensor has the scale of its Q/DQ."""
    from edgec.pipeline import PassContext
    from edgec.plugins import Registry
    from edgec.recipe import build_passes
    from edgec.specs.schema import builtin_pipeline

    w = "w3 = Constant<value = int8[2,2,1] {1, 2, 3, 4}>() w1 = DequantizeLinear<axis=0>(w3, ws, wz)"
    body = f"{IN} {w} a = Conv(xd, w1) {OUT}"
    g = graph(body, "float[1,2,8] y", "float[1,2,8] x")
    PassManager(build_passes(builtin_pipeline("tflite-fp32").steps, Registry().passes())).run(g, PassContext())
    m = lower(g)
    conv = next(o for o in m.model.main.operators if o.op == "CONV_2D")
    assert [t.dtype for t in conv.inputs if t is not None] == ["int8", "int8", "int32"]


def test_an_output_of_far_finer_steps_than_its_inputs_is_computed_in_float() -> None:
    """LiteRT refuses such a product and dies at such a sum; PyTorch gives values that are always zero a scale of 1.2e-7."""
    out = """tiny = Constant<value = float {1.0e-7}>() zt = Constant<value = int8 {0}>()
        yq = QuantizeLinear(a, tiny, zt) y = DequantizeLinear(yq, tiny, zt)"""
    for op in ("Conv", "Add"):
        g = graph(f"{IN} a = {op}({'xd, w' if op == 'Conv' else 'xd, xd'}) {out}")
        assert "too small" in forms(g).why_float[named(g, op)]


def test_padding_is_filled_at_the_scale_of_the_output() -> None:
    """The fill 2 is outside what the input's scale 0.01 can say (-1.31 to 1.24)."""
    body = """s1 = Constant<value = float {0.01}>() q = QuantizeLinear(x, s1, z) d = DequantizeLinear(q, s1, z)
        amounts = Constant<value = int64[8] {0, 0, 1, 0, 0, 0, 0, 0}>() two = Constant<value = float {2.0}>()
        a = Pad(d, amounts, two) yq = QuantizeLinear(a, s, z) y = DequantizeLinear(yq, s, z)"""
    operators = lower(graph(body, "float[1,2,5,4] y")).model.main.operators
    fill = next(o for o in operators if o.op == "PADV2").inputs[2]
    assert fill is not None
    assert fill.data is not None
    assert int(fill.data) == 23
