"""TFLite's ops that take one scale for all, beside ops whose output scale is prescribed: what is stored how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.graph import Graph, ir
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.passes.quantize.plan import Plan, make_plan
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext
from edgec.quantization.lint import lint
from edgec.quantization.pairs import Linear, is_linear, read_through, written_to
from edgec.runtime import Session
from edgec.samples import Samples
from edgec.specs.conditions import Setting
from edgec.specs.schema import builtin_scheme

SETTING = Setting("int8", "", 24)
SCHEMES = {"tflite-int8": (1 / 256, -128), "tflite-int16x8": (1 / 32768, 0)}
HEAD = '<ir_version: 10, opset_import: ["" : 24]>'
RNG = np.random.default_rng(7)


def graph(body: str, out: str = "float[1,8,8,8] y", weights: str = "") -> Graph:
    """From float[1,4,8,8] x; `c` is a convolution of x that reaches far beyond 1, `s` its sigmoid."""
    w = ", ".join(f"{v:.4f}" for v in RNG.normal(size=16) * 4)
    given = f"float[4,4,1,1] w = {{{w}}}{', ' if weights else ''}{weights}"
    text = f"{HEAD} g (float[1,4,8,8] x) => ({out}) <{given}> {{ c = Conv(x, w) s = Sigmoid(c) {body} }}"
    g = Graph.from_text(text)
    InferShapes().run(g, PassContext())
    return g


def plan(g: Graph, scheme: str = "tflite-int8") -> Plan:
    return make_plan(g, builtin_scheme(scheme), SETTING)


def quantised(g: Graph, scheme: str) -> tuple[Graph, list[float]]:
    """The graph in Q/DQ and the signal-to-noise ratio of each output, in dB. The linter has nothing to say about it."""
    x = np.random.default_rng(3).normal(size=(8, 4, 8, 8)).astype(np.float32)
    samples = Samples(lambda: iter([{"x": x[i : i + 1]} for i in range(8)]), describe="a test")
    q = g.clone()
    Quantize(scheme=scheme, method="minmax", hazards=False).run(q, PassContext(calibration=samples))
    q.verify()
    # A score beside a wider value does lose steps ("range"): that is for the hazard passes, which are off here.
    assert [f.rule for f in lint(q, builtin_scheme(scheme), SETTING) if f.rule != "range"] == []
    feeds = {"x": x[:1]}
    want, have = Session(g).run(feeds), Session(q).run(feeds)
    return q, [decibels(want[k], have[k]) for k in want]


def decibels(want: Any, have: Any) -> float:
    noise = float(np.square(want - have).mean())
    return float(10 * np.log10(np.square(want).mean() / max(noise, 1e-30)))


def stored(q: Graph, name: str) -> tuple[float, int]:
    """Scale and zero point of the pair right after what computes `name`, or after its float twin of an output."""
    value = next(
        v
        for n in q.nodes()
        if not is_linear(n)
        for v in n.outputs
        if v.name in (name, f"{name}_float") and written_to(v, q.opset)
    )
    return parameters(written_to(value, q.opset)[0])


def parameters(lin: Linear | None) -> tuple[float, int]:
    assert lin is not None
    assert lin.scale is not None
    assert lin.zero is not None
    return float(lin.scale), int(lin.zero)


def node_of(q: Graph, op: str) -> ir.Node:
    return next(n for n in q.nodes() if n.op_type == op)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("op", ["Concat<axis=1>(s, c)", "Concat<axis=1>(c, s)"])
def test_concat_stores_the_sigmoid_again_in_its_own_scale(scheme: str, op: str) -> None:
    q, db = quantised(graph(f"y = {op}"), scheme)
    assert stored(q, "s") == pytest.approx(SCHEMES[scheme])
    concat = node_of(q, "Concat")
    read = [read_through(v, q.opset) for v in concat.inputs]
    assert {parameters(lin) for lin in read} == {stored(q, "y")} == {stored(q, "c")}
    assert min(db) > 30


def test_the_second_pair_follows_the_first_directly() -> None:
    """Q -> DQ -> Q -> DQ: the DQ and Q in the middle are one op of the target."""
    q, _ = quantised(graph("y = Concat<axis=1>(s, c)"), "tflite-int8")
    again = read_through(node_of(q, "Concat").inputs[0], q.opset)
    assert again is not None
    second = again.stored.producer()
    assert second is not None
    first = second.inputs[0].producer()  # type: ignore[union-attr]
    assert [n.op_type for n in (first, second)] == ["DequantizeLinear", "QuantizeLinear"]  # type: ignore[union-attr]
    assert parameters(Linear(first, q.opset)) == pytest.approx((1 / 256, -128))  # type: ignore[arg-type]


def test_two_readers_share_the_second_pair() -> None:
    body = "d = Concat<axis=1>(s, c) e = Max(s, c) f = Concat<axis=1>(e, s) a = Add(d, f) y = Relu(a)"
    q, db = quantised(graph(body), "tflite-int8")
    rescaled = [n for n in q.nodes() if n.op_type == "QuantizeLinear" and is_linear(n.inputs[0].producer())]  # type: ignore[union-attr]
    assert len(rescaled) == 1
    assert min(db) > 25


COPIES = {
    "MaxPool<kernel_shape=[2,2], strides=[2,2]>": "float[1,4,4,4] y",
    "AveragePool<kernel_shape=[2,2], strides=[2,2]>": "float[1,4,4,4] y",
    "Transpose<perm=[0,2,3,1]>": "float[1,8,8,4] y",
    "Flatten": "float[1,256] y",
    "DepthToSpace<blocksize=2>": "float[1,1,16,16] y",
}


@pytest.mark.parametrize(
    ("op", "scheme"), [(op, s) for op in COPIES for s in SCHEMES if op.split("<")[0] in builtin_scheme(s).ops]
)
def test_copies_of_a_sigmoid_keep_its_scale(op: str, scheme: str) -> None:
    q, db = quantised(graph(f"y = {op}(s)", COPIES[op]), scheme)
    assert stored(q, "y") == stored(q, "s") == pytest.approx(SCHEMES[scheme])
    assert min(db) > 30


WITH_CONSTANTS = {
    "Reshape(s, k)": ("float[1,16,16] y", "int64[3] k = {1, 16, 16}"),
    "Slice(s, b, e, a)": ("float[1,4,4,8] y", "int64[1] b = {2}, int64[1] e = {6}, int64[1] a = {2}"),
    "Gather<axis=2>(s, b)": ("float[1,4,2,8] y", "int64[2] b = {5, 0}"),
    'Resize<mode="linear">(s, , k)': ("float[1,4,16,16] y", "float[4] k = {1, 1, 2, 2}"),
    "Pad(s, k)": ("float[1,4,10,10] y", "int64[8] k = {0, 0, 1, 1, 0, 0, 1, 1}"),
    "Pad(s, k, v)": ("float[1,4,10,10] y", "int64[8] k = {0, 0, 1, 1, 0, 0, 1, 1}, float v = {0.5}"),
    "Max(s, v)": ("float[1,4,8,8] y", "float v = {0.5}"),
}


@pytest.mark.parametrize("op", WITH_CONSTANTS)
def test_copies_with_constants_keep_the_prescribed_scale_where_it_reaches(op: str) -> None:
    q, db = quantised(graph(f"y = {op}", *WITH_CONSTANTS[op]), "tflite-int8")
    assert stored(q, "y") == stored(q, "s") == pytest.approx((1 / 256, -128))
    assert not plan(graph(f"y = {op}", *WITH_CONSTANTS[op])).rescaled
    assert min(db) > 30


@pytest.mark.parametrize("op", ["Pad(s, k, v)", "Max(s, v)", "Concat<axis=1>(s, u)"])
def test_constants_outside_of_the_prescribed_scale_get_a_wider_one(op: str) -> None:
    """Padding with -3, or the larger of a sigmoid and 1.5: 1/256 ends at 1."""
    outs = {"Pad": "float[1,4,10,10] y", "Max": "float[1,4,8,8] y", "Con": "float[1,5,8,8] y"}
    value = {"Pad": "-3", "Max": "1.5", "Con": "-2"}[op[:3]]
    weights = f"int64[8] k = {{0, 0, 1, 1, 0, 0, 1, 1}}, float v = {{{value}}}"
    weights += f", float[1,1,8,8] u = {{{', '.join([value] * 64)}}}"
    q, db = quantised(graph(f"y = {op}", outs[op[:3]], weights), "tflite-int8")
    assert stored(q, "s") == pytest.approx((1 / 256, -128))
    assert stored(q, "y")[0] > 1.4 / 256
    assert min(db) > 30


def test_a_constant_of_a_shared_scale_is_stored_in_it() -> None:
    numbers = ", ".join(f"{v:.3f}" for v in RNG.normal(size=64))
    q, db = quantised(
        graph("y = Concat<axis=1>(c, u)", "float[1,5,8,8] y", f"float[1,1,8,8] u = {{{numbers}}}"), "tflite-int8"
    )
    read = [read_through(v, q.opset) for v in node_of(q, "Concat").inputs]
    assert {parameters(lin) for lin in read} == {stored(q, "y")}
    assert min(db) > 30


def test_two_prescribed_scales_meet_in_a_third() -> None:
    q, db = quantised(graph("t = Tanh(c) y = Concat<axis=1>(s, t)"), "tflite-int8")
    assert stored(q, "s") == pytest.approx((1 / 256, -128))
    assert stored(q, "t") == pytest.approx((1 / 128, 0))
    read = [parameters(read_through(v, q.opset)) for v in node_of(q, "Concat").inputs]
    assert len({*read, stored(q, "y")}) == 1
    assert min(db) > 30


def test_a_chain_of_copies_ends_where_other_ranges_come_in() -> None:
    body = "m = MaxPool<kernel_shape=[1,1]>(s) t = Transpose<perm=[0,1,3,2]>(m) p, q = Split<axis=1, num_outputs=2>(t) "
    body += "r = Concat<axis=1>(q, p) d = Concat<axis=1>(r, c) y = Transpose<perm=[0,1,3,2]>(d)"
    p = plan(graph(body))
    assert ["s", "m", "t", "p", "q", "r"] in p.groups
    assert ["c", "d", "y"] in p.groups
    assert [(r.value, r.like) for r in p.rescaled] == [("r", "d")]
    q, db = quantised(graph(body), "tflite-int8")
    assert stored(q, "r") == pytest.approx((1 / 256, -128))
    assert stored(q, "y") == stored(q, "c") == stored(q, "d")
    assert min(db) > 30


def test_a_softmax_seen_from_outside_keeps_its_scale_and_its_name() -> None:
    body = "k = Softmax(c) z = Flatten(k) y = Concat<axis=1>(k, c)"
    q, db = quantised(graph(body, "float[1,8,8,8] y, float[1,4,8,8] k, float[1,256] z"), "tflite-int8")
    assert [v.name for v in q.outputs] == ["y", "k", "z"]
    assert stored(q, "k") == stored(q, "z") == pytest.approx((1 / 256, -128))
    assert stored(q, "y") == stored(q, "c")
    assert min(db) > 20


def test_ranges_known_without_data_are_widened_by_what_comes_in() -> None:
    """QNN's sigmoid is 0..1 without calibration; padded with -3 it is not."""
    g = graph(
        "p = Pad(s, k, v) y = Relu(p)", "float[1,4,10,10] y", "int64[8] k = {0, 0, 1, 1, 0, 0, 1, 1}, float v = {-3}"
    )
    p = make_plan(g, builtin_scheme("qnn-int8"), SETTING)
    assert {n: p.activations[n].range for n in ("s", "p")} == {"s": (-3.0, 1.0), "p": (-3.0, 1.0)}
