"""Quantisation schemes: the built-in files are sound, files say what is wrong with them, and plans do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, constant, ir
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.passes.quantize.plan import Plan, make_plan
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext
from edgec.quantization.params import LIMITS, params_of_range
from edgec.runtime import Session
from edgec.samples import Samples
from edgec.specs.conditions import Setting
from edgec.specs.schema import TargetSpec, builtin_scheme, builtin_schemes, builtin_target, check_spec, load_spec
from edgec.specs.scheme import OpRule, QuantKind, Scheme

FOLDER = Path(__file__).resolve().parents[2] / "specs/quantization"
SETTING = Setting("int8", "", 24)
HEAD = '<ir_version: 10, opset_import: ["" : 24]>'

# --- the files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", builtin_schemes())
def test_a_built_in_scheme_is_sound(name: str) -> None:
    assert check_spec(FOLDER / f"{name}.yaml") == []
    scheme = builtin_scheme(name)
    assert scheme.name == name
    assert (scheme.activations is not None) == (scheme.mode == "static")
    for op, rules in scheme.ops.items():
        assert onnx.defs.has(op, ""), op
        for rule in rules:
            check_rule(scheme, op, rule)
    for op in (*scheme.float_ops, *scheme.exempt):
        assert onnx.defs.has(op, ""), op


def check_rule(scheme: Scheme, op: str, rule: OpRule) -> None:
    schema = onnx.defs.get_schema(op, 24)
    variadic = schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    used = [i for i in (*(rule.inputs if rule.inputs != "all" else ()), rule.weight, rule.bias) if i is not None]
    assert variadic or all(i < len(schema.inputs) for i in used), op
    kind = rule.weights or scheme.weights
    if rule.weight is not None:
        assert kind.per != "channel" or rule.axis is not None, f"{op}: no axis"
        assert kind.per != "block" or rule.block_axis is not None, f"{op}: no block axis"
        assert rule.weight not in (rule.inputs if rule.inputs != "all" else ()), op
    assert not (rule.share and rule.fixed), f"{op}: a shared scale cannot be prescribed"
    if rule.fixed is not None:
        stored = rule.activations or scheme.activations
        assert stored is not None
        low, high = LIMITS[stored.dtype]
        assert low <= rule.fixed.zero_point <= high, op
    if scheme.mode != "static":
        assert rule.inputs == () and rule.weight is not None, op  # noqa: PT018 (one thought)


@pytest.mark.parametrize("name", builtin_schemes())
def test_element_types_fit_the_opset_a_scheme_asks_for(name: str) -> None:
    scheme = builtin_scheme(name)
    needs = {"int4": 21, "uint4": 21, "int16": 21, "uint16": 21, "float8e4m3fn": 19}
    rules = [r for rs in scheme.ops.values() for r in rs]
    kinds = [k for k in (scheme.activations, scheme.weights, *(r.weights for r in rules)) if k is not None]
    least = max([needs.get(k.dtype, 13) for k in kinds] + [21 if k.per == "block" else 13 for k in kinds])
    assert scheme.opset >= least


def test_children_replace_and_remove_rules() -> None:
    parent, child = builtin_scheme("tflite-int8"), builtin_scheme("tflite-int16x8")
    assert "Elu" in parent.ops
    assert "Elu" not in child.ops
    assert child.ops["Conv"] == parent.ops["Conv"]
    assert child.ops["Sigmoid"] != parent.ops["Sigmoid"]
    assert child.units == parent.units


SCHEME = """\
schema_version: 1
name: acme-int8
description: a test
activations: {dtype: int8, symmetric: true}
weights: {dtype: int8, symmetric: true, per: channel}
units: rknn
ops:
  Conv: [{inputs: [0], weight: 1, axis: 0, bias: 2}]
evidence: Acme manual, page 7
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_units_of_an_op_table(tmp_path: Path) -> None:
    scheme = load_spec(Scheme, write(tmp_path / "s.yaml", SCHEME))
    assert scheme.units == builtin_target("rk3588").op_table.units


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("per: channel", "per: block", 5, "`block` goes with `per: block`"),
        ("dtype: int8, symmetric: true}", "dtype: int3, symmetric: true}", 4, "input should be 'int4'"),
        ("weight: 1", "weigth: 1", 8, "extra inputs are not permitted"),
        ("units: rknn", "units: rkn", 6, "there is no op table called 'rkn'"),
        ("evidence: Acme manual, page 7\n", "", 1, "evidence: field required"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, old: str, new: str, line: int, what: str) -> None:
    path = write(tmp_path / "s.yaml", SCHEME.replace(old, new))
    found = [(d.location.line, d.message) for d in check_spec(path)]
    assert any(n == line and what in m for n, m in found), found


def test_a_target_names_a_scheme_or_writes_it_out(tmp_path: Path) -> None:
    text = """\
extends: x86-64
schema_version: 1
name: acme
precisions:
  int8: {weights: int8, activations: int8, pipeline: onnxruntime, calibration: true, quantization: QQ, evidence: x}
  fp32: {weights: float32, activations: float32, pipeline: onnxruntime, evidence: x}
"""
    builtin = write(tmp_path / "a.yaml", text.replace("QQ", "tflite-int8"))
    assert load_spec(TargetSpec, builtin).precisions["int8"].quantization == builtin_scheme("tflite-int8")
    write(tmp_path / "mine.yaml", SCHEME)
    mine = load_spec(TargetSpec, write(tmp_path / "b.yaml", text.replace("QQ", "mine.yaml"))).precisions["int8"]
    assert mine.quantization is not None
    assert mine.quantization.name == "acme-int8"
    missing = check_spec(write(tmp_path / "c.yaml", text.replace("QQ", "tflite-in8")))
    assert [d.code for d in missing if "tflite-in8" in d.message] == ["EC0505"]


def test_no_scheme_of_that_name() -> None:
    with pytest.raises(EdgecError, match="tflite-in8") as caught:
        builtin_scheme("tflite-in8")
    assert caught.value.diagnostics[0].code == "EC0770"
    assert caught.value.diagnostics[0].hint == "did you mean 'tflite-int8'?"


# --- zero points that must not be 0 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_zero_points_avoid_zero_and_ranges_stay_covered(dtype: Any) -> None:
    kind = QuantKind(dtype=dtype, symmetric=False, nonzero=True)
    rng = np.random.default_rng(0)
    low, high = -rng.uniform(0, 2, 500), rng.uniform(0, 2, 500)
    low[:100] = -high[:100]  # these would get 0
    low[100:200] = 0  # and so would these in uint8
    p = params_of_range(low, high, kind, 0)
    assert (p.zero_point != 0).all()
    a, b = p.range()
    assert (a <= low + 0.51 * p.scale).all()
    assert (b >= high - 0.51 * p.scale).all()


# --- what plans make of the rules ------------------------------------------------------------------------------------


def graph(shape: str, body: str, weights: str, out: str = "float[1,4,8,8] y") -> Graph:
    g = Graph.from_text(f"{HEAD} g ({shape} x) => ({out}) <{weights}> {{ {body} }}")
    InferShapes().run(g, PassContext())
    return g


def numbers(count: int, seed: int) -> str:
    return ", ".join(f"{v:.4f}" for v in np.random.default_rng(seed).normal(size=count))


def weight(name: str, shape: str, count: int, seed: int = 0) -> str:
    return f"float[{shape}] {name} = {{{numbers(count, seed)}}}"


W = weight("w", "4,4,1,1", 16) + ", " + weight("v", "4,4,1,1", 16, 1)


def plan(g: Graph, scheme: str) -> Plan:
    return make_plan(g, builtin_scheme(scheme), SETTING)


def tensorrt(body: str) -> Plan:
    """The plan of float[1,16,8,8] x -> y, with weights wide enough for int8: w, v of 16 channels, z of 48 to 16."""
    weights = [weight("w", "16,16,1,1", 256), weight("v", "16,16,1,1", 256, 1), weight("z", "16,48,1,1", 768)]
    ones = f"float[16] n = {{{', '.join(['1'] * 16)}}}"
    out = "float[1,16,8,8] y" + (", float[1,16,8,8] z2" if "z2 =" in body else "")
    return plan(graph("float[1,16,8,8]", body, ", ".join([*weights, ones]), out), "tensorrt-int8")


def uses(p: Plan) -> dict[str, set[str]]:
    """Value -> op types that read it stored."""
    return {name: {n.op_type for n, _ in site.uses or ()} for name, site in p.activations.items()}


def test_tensorrt_stores_the_skip_input_only() -> None:
    p = tensorrt("r = Relu(x) c = Conv(r, w) d = Conv(c, v) a = Add(d, r) y = Relu(a)")
    assert uses(p) == {"r": {"Conv", "Add"}, "c": {"Conv"}}


def test_tensorrt_adds_inside_the_kernel_that_runs_last() -> None:
    assert uses(tensorrt("c = Conv(x, w) d = Conv(x, v) y = Add(c, d)")) == {"x": {"Conv"}, "c": {"Add"}}


@pytest.mark.parametrize(
    ("end", "stored"),
    [
        ("y = Add(d, r)", set()),
        ("y = Add(r, d)", set()),
        ("e = BatchNormalization(d, n, n, n, n) y = Add(e, r)", set()),
        ("e = Relu(d) y = Add(e, r)", {"e"}),
        ("e = HardSwish(d) y = Add(r, e)", {"e"}),
        ("s = Sigmoid(d) e = Mul(d, s) y = Add(e, r)", {"e"}),
    ],
)
def test_tensorrt_stores_both_inputs_of_an_addition_behind_an_activation(end: str, stored: set[str]) -> None:
    """TensorRT adds inside a convolution, not inside an activation."""
    p = tensorrt(f"r = Relu(x) c = Conv(r, w) d = Conv(c, v) {end}")
    assert uses(p) == {"r": {"Conv", "Add"}, "c": {"Conv"}, **{v: {"Add"} for v in stored}}


def test_tensorrt_ops_that_move_data_read_the_pair_of_another_reader() -> None:
    """A value that is stored for a convolution is not written in float too; in the tail it is."""
    body = "r = Relu(x) c = Conv(r, w) m = MaxPool<kernel_shape=[1,1]>(r) u = Concat<axis=1>(c, m, r) d = Conv(u, z)"
    p = tensorrt(f"{body} t = Transpose<perm=[0,1,3,2]>(r) y = Add(d, t)")
    assert uses(p) == {"r": {"Conv", "MaxPool", "Concat", "Transpose"}, "u": {"Conv"}, "t": {"Add"}}
    assert ["c", "r", "u"] not in p.groups
    assert ["r", "u"] in p.groups, "the inputs of a Concat that are stored share its scale"
    assert ["t"] in p.groups
    p = tensorrt("s = Sigmoid(x) c = Conv(s, w) d = Conv(c, v) e = Relu(d) u = Concat<axis=1>(s, s, e) y = Conv(u, z)")
    assert {"s", "u"} == {n for g in p.groups for n in g if "u" in g}
    assert p.activations["u"].range is None, "0..1 is not all that the Concat reads"
    p = tensorrt("r = Relu(x) y = Conv(r, w) z2 = Transpose<perm=[0,1,3,2]>(r)")
    assert uses(p) == {"r": {"Conv"}}


NO_KERNEL = {
    "wide enough": ([16, 16, 3, 3], 1, False, True),
    "first layer": ([8, 3, 3, 3], 1, True, True),
    "narrow, a multiple of 8 inside": ([8, 8, 3, 3], 1, False, False),
    "few in, many out": ([16, 8, 3, 3], 1, False, True),
    "few in, many out, not square": ([16, 8, 3, 1], 1, False, False),
    "no multiple of 8": ([20, 10, 3, 3], 1, False, False),
    "one axis, no multiple of 8": ([258, 1, 3], 1, True, False),
    "depthwise": ([24, 1, 3, 3], 24, False, True),
    "depthwise 5x5": ([24, 1, 5, 5], 24, False, True),
    "depthwise, no multiple of 8": ([20, 1, 3, 3], 20, False, False),
    "depthwise 1x1": ([24, 1, 1, 1], 24, False, False),
    "grouped and wide": ([32, 16, 1, 1], 2, False, True),
}


@pytest.mark.parametrize("case", NO_KERNEL)
def test_tensorrt_leaves_convolutions_without_a_kernel_in_float(case: str) -> None:
    shape, group, first, stored = NO_KERNEL[case]
    image = [1, shape[1] * group, *[8] * (len(shape) - 2)]
    x, out = "x" if first else "r", f"float[{','.join(['1', *'N' * (len(shape) - 1)])}] y"
    body = f"r = Relu(x) y = Conv<group={group}>({x}, w)"
    shapes = [",".join(map(str, s)) for s in (image, shape)]
    p = plan(graph(f"float[{shapes[0]}]", body, weight("w", shapes[1], int(np.prod(shape))), out), "tensorrt-int8")
    assert bool(p.weights) == stored
    assert len(p.kept) == (not stored)
    assert all("kernel" in reason for reason in p.kept.values())


PRODUCTS = {
    "matrix times matrix": ("float[16,32]", "Gemm(x, w)", "32,16", "16,16", True),
    "matrix times vector": ("float[1,32]", "Gemm(x, w)", "32,16", "1,16", False),
    "a batch that is not fixed": ("float[N,32]", "Gemm(x, w)", "32,16", "N,16", True),
    "few columns": ("float[16,32]", "Gemm<transB=1>(x, w)", "8,32", "16,8", False),
    "few to sum up": ("float[16,8]", "MatMul(x, w)", "8,32", "16,32", False),
    "a sequence": ("float[1,16,32]", "MatMul(x, w)", "32,16", "1,16,16", True),
    "a sequence of one": ("float[16,1,32]", "MatMul(x, w)", "32,16", "16,1,16", False),
    "times a vector": ("float[16,32]", "MatMul(x, w)", "32", "16", False),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_tensorrt_leaves_small_products_in_float(case: str) -> None:
    x, op, shape, out, stored = PRODUCTS[case]
    count = int(np.prod([int(d) for d in shape.split(",")]))
    p = plan(graph(x, f"y = {op}", weight("w", shape, count), f"float[{out}] y"), "tensorrt-int8")
    assert (len(p.weights), len(p.kept)) == ((1, 0) if stored else (0, 1))


def test_tensorrt_leaves_an_addition_after_no_kernel_alone() -> None:
    g = graph("float[1,4,8,8]", "r = Relu(x) s = Sigmoid(x) y = Add(r, s)", "")
    assert plan(g, "tensorrt-int8").activations == {}


def test_prescribed_scales_reach_copies_and_stop_at_other_ranges() -> None:
    body = "c = Conv(x, w) s = Sigmoid(c) t = Transpose<perm=[0,1,3,2]>(s) u = Concat<axis=1>(t, c) y = Conv(u, z)"
    weights = W + ", " + weight("z", "4,8,1,1", 32)
    p = plan(graph("float[1,4,8,8]", body, weights), "tflite-int8")
    assert ["s", "t"] in p.groups
    assert ["c", "u"] in p.groups
    assert [(r.node.op_type, r.input, r.value, r.like) for r in p.rescaled] == [("Concat", 0, "t", "u")]


def test_concat_of_free_inputs_shares_one_scale() -> None:
    body = "c = Conv(x, w) d = Conv(x, v) u = Concat<axis=1>(c, d) y = Conv(u, z)"
    p = plan(graph("float[1,4,8,8]", body, W + ", " + weight("z", "4,8,1,1", 32)), "tflite-int8")
    assert ["c", "d", "u"] in p.groups


def test_ops_that_must_stay_in_float_write_no_integers() -> None:
    """RKNN computes an int8 Sqrt on the CPU: the convolution after it stays in float, and says why."""
    g = graph("float[1,4,8,8]", "c = Conv(x, w) s = Sqrt(c) y = Conv(s, v)", W)
    p = plan(g, "rknn-int8")
    assert list(p.activations) == ["x", "c"]
    assert list(p.kept.values()) == ["reads s, and Sqrt must not be stored on both sides"]


def test_composites_read_stored_values_everywhere() -> None:
    """Both ends of x * sigmoid(x) get the stored x; nothing inside is stored."""
    g = graph("float[1,4,8,8]", "c = Conv(x, w) s = Sigmoid(c) m = Mul(c, s) y = Conv(m, v)", W)
    p = plan(g, "rknn-int8")
    assert list(p.activations) == ["x", "c", "m", "y"]


# --- what is inserted ------------------------------------------------------------------------------------------------


def quantised(g: Graph, scheme: str, x: Any) -> tuple[Graph, float]:
    """The graph after `quantize`, and the decibels its output keeps."""
    want = Session(g).run({"x": x})
    q = g.clone()
    samples = Samples(lambda: iter([{"x": x}]), describe="a test")
    Quantize(scheme=scheme, method="minmax").run(q, PassContext(calibration=samples))
    q.verify()
    got = Session(q).run({"x": x})
    (a,), (b,) = want.values(), got.values()
    noise = float(((a.astype(np.float64) - b.astype(np.float64)) ** 2).sum())
    return q, 10 * float(np.log10(float((a.astype(np.float64) ** 2).sum()) / noise))


def data(*shape: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(5).normal(size=shape).astype(dtype)


def int32_biases(g: Graph) -> list[tuple[int, ...]]:
    """Shapes of stored biases."""
    return [
        np.shape(constant(n.inputs[0]))
        for n in g.nodes()
        if n.op_type == "DequantizeLinear" and n.inputs[0] is not None and n.inputs[0].dtype is ir.DataType.INT32
    ]


@pytest.mark.parametrize(
    ("bias", "stored"),
    [
        ("float[6] b", [(6,)]),
        ("float[1,6] b", [(6,)]),
        ("float[1] b", [(6,)]),
        ("float[3,6] b", []),
        ("float[3,1] b", []),
    ],
)
def test_biases_of_gemm_in_any_shape(bias: str, stored: list[tuple[int, ...]]) -> None:
    count = int(np.prod([int(d) for d in bias[6 : bias.index("]")].split(",")]))
    weights = f"{weight('w', '5,6', 30)}, {bias} = {{{numbers(count, 3)}}}"
    q, db = quantised(graph("float[3,5]", "y = Gemm(x, w, b)", weights, "float[3,6] y"), "tflite-int8", data(3, 5))
    assert int32_biases(q) == stored
    assert db > 30


def test_grouped_transposed_convolution() -> None:
    """Two groups share the weight's scales: the bias has one scale for each of the four channels."""
    weights = f"{weight('w', '4,2,2,2', 32)}, {weight('b', '4', 4, 3)}"
    g = graph("float[1,4,3,3]", "y = ConvTranspose<group=2>(x, w, b)", weights, "float[1,4,4,4] y")
    q, db = quantised(g, "qnn-int8", data(1, 4, 3, 3))
    assert int32_biases(q) == [(4,)]
    assert db > 30


def test_a_huge_bias_fits_into_int32() -> None:
    weights = f"{weight('w', '4,4,1,1', 16)}, float[4] b = {{1e7, -3.0, 0.5, 2e6}}"
    g = graph("float[1,4,8,8]", "y = Conv(x, w, b)", weights)
    small = g.model.graph.initializers["w"]
    small.const_value = ir.tensor(np.asarray(constant(small)) * np.float32(1e-6), name="w")
    q, db = quantised(g, "tflite-int8", data(1, 4, 8, 8))
    assert int32_biases(q) == [(4,)]
    assert db > 30


def test_half_precision_has_scales_of_its_own_type() -> None:
    g = Graph.from_text(
        f"{HEAD} g (float16[1,16,8,8] x) => (float16[1,8,8,8] y) <float16[8,16,1,1] w = {{{', '.join(['1'] * 128)}}}> "
        "{ y = Conv(x, w) }"
    )
    w = g.model.graph.initializers["w"]
    w.const_value = ir.tensor(data(8, 16, 1, 1, dtype=np.float16), name="w")
    InferShapes().run(g, PassContext())
    q, db = quantised(g, "tensorrt-int8", data(1, 16, 8, 8, dtype=np.float16))
    scales = {n.inputs[1].dtype for n in q.nodes() if n.op_type == "QuantizeLinear" and n.inputs[1] is not None}
    assert scales == {ir.DataType.FLOAT16}
    assert db > 30
