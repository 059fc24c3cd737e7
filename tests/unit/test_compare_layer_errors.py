"""Own against inherited error: each figure against a computation by hand, and the names quantisers leave behind."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.layer_errors import LayerErrors, layer_errors
from edgec.layer_plot import layer_plot
from edgec.samples import generated_samples

HEAD = '<ir_version: 8, opset_import: ["" : 13]> g (float[1,4] x) => (float[1,4] y)'
W = np.array([[0.5, -0.2, 0.1, 0.3], [0.2, 0.4, -0.6, 0.1], [-0.3, 0.2, 0.7, 0.2], [0.1, 0.1, 0.2, -0.9]], np.float32)
NUMBERS = ",".join(map(str, W.ravel()))
FLOAT = f"{HEAD} <float[4,4] w = {{{NUMBERS}}}> {{ a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }}"

S = {"x": 0.05, "b": 0.04, "y": 0.03, "w": 0.13}
WEIGHTS = ",".join(str(round(v / S["w"])) for v in W.ravel())
QUANTISED = f"""{HEAD}
    <int8[4,4] wq = {{{WEIGHTS}}}, int8 z = {{0}}, float sw = {{{S["w"]}}},
     float sx = {{{S["x"]}}}, float sb = {{{S["b"]}}}, float sy = {{{S["y"]}}}>
    {{
        x_q = QuantizeLinear(x, sx, z)
        x_dq = DequantizeLinear(x_q, sx, z)
        w_dq = DequantizeLinear(wq, sw, z)
        a = MatMul(x_dq, w_dq)
        b = Relu(a)
        b_q = QuantizeLinear(b, sb, z)
        b_dq = DequantizeLinear(b_q, sb, z)
        y_float = MatMul(b_dq, w_dq)
        y_q = QuantizeLinear(y_float, sy, z)
        y = DequantizeLinear(y_q, sy, z)
    }}"""


def feeds(count: int = 6) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.uniform(-3, 3, (1, 4)).astype(np.float32)} for _ in range(count)]


def fake(v: np.ndarray, scale: float) -> np.ndarray:
    return np.clip(np.rint(v / np.float32(scale)), -128, 127) * scale


def db(pairs: list[tuple[np.ndarray, np.ndarray]], signal: list[np.ndarray]) -> float:
    noise = sum(float(((p - q) ** 2).sum()) for p, q in pairs)
    return 10 * math.log10(sum(float((s**2).sum()) for s in signal) / noise)


def test_figures_against_a_computation_by_hand() -> None:
    found = layer_errors(Graph.from_text(FLOAT), Graph.from_text(QUANTISED), feeds())
    assert [e.name for e in found.layers] == ["x", "a", "b", "y"]
    assert [e.op_type for e in found.layers] == ["input", "MatMul", "Relu", "MatMul"]
    by = {e.name: e for e in found.layers}
    wq = np.rint(W / S["w"]) * np.float32(S["w"])
    x = [f["x"] for f in feeds()]
    a, b = [v @ W for v in x], [np.maximum(v @ W, 0) for v in x]
    y = [v @ W for v in b]
    xq = [fake(v, S["x"]) for v in x]
    aq = [v @ wq for v in xq]
    bq = [fake(np.maximum(v, 0), S["b"]) for v in aq]
    yq = [fake(v @ wq, S["y"]) for v in bq]
    own_y = [fake(v @ wq, S["y"]) for v in b]
    close = pytest.approx
    assert by["x"].own_db == close(db(list(zip(x, xq, strict=True)), x), abs=0.01)
    assert by["x"].inherited_db == math.inf
    assert by["a"].own_db == close(db([(v @ wq, r) for v, r in zip(x, a, strict=True)], a), abs=0.01)
    assert by["a"].kernel_db is None
    assert by["b"].own_db == close(db([(fake(r, S["b"]), r) for r in b], b), abs=0.01)
    assert by["b"].kernel_db == math.inf
    assert by["b"].cause == "output range"
    assert by["b"].total_db == close(db(list(zip(bq, b, strict=True)), b), abs=0.01)
    assert by["y"].own_db == close(db(list(zip(own_y, y, strict=True)), y), abs=0.01)
    assert by["y"].kernel_db == close(db([(v @ wq, r) for v, r in zip(b, y, strict=True)], y), abs=0.01)
    assert by["y"].inherited_db == close(db(list(zip(yq, own_y, strict=True)), y), abs=0.01)
    assert by["y"].total_db == close(db(list(zip(yq, y, strict=True)), y), abs=0.01)
    dot = sum(float((p * q).sum()) for p, q in zip(y, yq, strict=True))
    norms = math.sqrt(sum(float((p**2).sum()) for p in y) * sum(float((q**2).sum()) for q in yq))
    assert by["y"].cosine == close(dot / norms, abs=1e-5)
    assert found.born is found.by_own_error()[0]


def test_the_culprit_is_named_not_its_victims() -> None:
    """One weight is spoilt: all layers behind it are wrong, one has made the error."""
    head = '<ir_version: 8, opset_import: ["" : 13]> g (float[1,4] x) => (float[1,4] d)'
    body = "{{ a = MatMul(x, w) b = MatMul(a, {second}) c = Relu(b) d = MatMul(c, w) }}"
    spoilt = ",".join(map(str, (W * 1.2).ravel()))
    weights = f"<float[4,4] w = {{{NUMBERS}}}, float[4,4] w2 = {{{spoilt}}}>"
    good = Graph.from_text(f"{head} {weights} {body.format(second='w')}")
    bad = Graph.from_text(f"{head} {weights} {body.format(second='w2')}")
    found = layer_errors(good, bad, feeds())
    assert [e.name for e in found.by_own_error()] == ["b"]
    assert found.born is not None
    assert found.born.inherited_db == math.inf
    assert not found.born.inherits_more
    assert found.born.cause == "computation"
    by = {e.name: e for e in found.layers}
    assert by["d"].inherits_more
    assert by["d"].total_db == pytest.approx(by["d"].inherited_db)
    assert by["a"].total_db == math.inf


def test_equal_models_have_no_error() -> None:
    found = layer_errors(Graph.from_text(FLOAT), Graph.from_text(FLOAT), feeds(2))
    assert found.born is None
    assert found.table() == []
    assert all(e.cosine == 1 for e in found.layers)


def test_two_quantised_models_and_two_quantizers_of_one_value() -> None:
    """A value with Q/DQ under the same names in both models; and one that two readers quantise differently: the second
    rounding belongs to its reader."""
    same = layer_errors(Graph.from_text(QUANTISED), Graph.from_text(QUANTISED), feeds(2))
    assert same.born is None
    assert {"x_dq", "b_dq", "y"} <= {e.name for e in same.layers}
    head = '<ir_version: 8, opset_import: ["" : 13]> g (float[1,4] x) => (float[1,4] p, float[1,4] q)'
    plain = Graph.from_text(f"{head} {{ a = Neg(x) p = Relu(a) q = Abs(a) }}")
    twice = Graph.from_text(
        f"""{head} <int8 z = {{0}}, float s1 = {{0.03}}, float s2 = {{0.5}}>
        {{ a = Neg(x) a1 = QuantizeLinear(a, s1, z) d1 = DequantizeLinear(a1, s1, z) p = Relu(d1)
           a2 = QuantizeLinear(a, s2, z) d2 = DequantizeLinear(a2, s2, z) q = Abs(d2) }}"""
    )
    by = {e.name: e for e in layer_errors(plain, twice, feeds()).layers}
    assert by["p"].own_db == math.inf
    a = [-f["x"] for f in feeds()]
    assert by["q"].own_db == pytest.approx(db([(fake(v, 0.5), v) for v in a], a), abs=0.01)


def test_half_precision_masks_and_dynamic_shapes() -> None:
    head = '<ir_version: 8, opset_import: ["" : 13]> g (float[N,4] x) => (float[N,4] y)'
    full = Graph.from_text(
        f"{head} <float low = {{-3.4e38}}, float k = {{0.1}}> {{ a = Mul(x, k) m = Add(a, low) y = Neg(a) }}"
    )
    half = Graph.from_text(
        f"{head} <float low = {{-3.4e38}}, float k = {{0.1}}> "
        "{ h = Cast<to=10>(x) j = Cast<to=10>(k) a = Mul(h, j) f = Cast<to=1>(a) m = Add(f, low) n = Neg(a) y = Cast<to=1>(n) }"
    )
    by = {e.name: e for e in layer_errors(full, half, feeds()).layers}
    assert by["a"].total_db > 60  # ONNX Runtime on a CPU rounds half precision less than its nodes say
    assert by["m"].total_db > 100
    assert by["y"].total_db > 60
    assert all(math.isfinite(e.cosine) for e in by.values())


def test_nan_is_not_finite_rather_than_nothing() -> None:
    head = '<ir_version: 8, opset_import: ["" : 13]> g (float[1,4] x) => (float[1,4] y)'
    good = Graph.from_text(f"{head} {{ a = Abs(x) y = Sqrt(a) }}")
    bad = Graph.from_text(f"{head} {{ a = Neg(x) y = Sqrt(a) }}")
    by = {e.name: e for e in layer_errors(good, bad, feeds()).layers}
    assert by["y"].total_db == -math.inf
    assert by["y"].own_db == math.inf
    assert json.dumps(layer_errors(good, bad, feeds()).to_json(), allow_nan=False)


def test_subgraphs_travel_with_their_layer() -> None:
    head = '<ir_version: 8, opset_import: ["" : 13]> g (float[1,4] x) => (float[1,4] y)'
    text = (
        head + " <float k = {%s}, bool c = {1}> { a = Neg(x) y = If(c) <"
        "then_branch = t () => (float[1,4] u) { s = Mul(a, k) u = Relu(s) }, "
        "else_branch = e () => (float[1,4] v) { v = Neg(a) }> }"
    )
    found = layer_errors(Graph.from_text(text % "2.0"), Graph.from_text(text % "2.2"), feeds())
    assert [e.name for e in found.by_own_error()] == ["y"]
    assert found.by_own_error()[0].own_db == pytest.approx(20, abs=0.01)


def test_shapes_and_types_that_differ_are_skipped_and_said() -> None:
    head = '<ir_version: 8, opset_import: ["" : 13]> g (float[1,4] x) => (float[1] y)'
    a = Graph.from_text(head + "{ p = Neg(x) k = Shape(p) y = ReduceSum<keepdims=0>(p) }".replace("k = Shape(p) ", ""))
    b = Graph.from_text(head + "{ p = Transpose(x) y = ReduceSum<keepdims=0>(p) }")
    found = layer_errors(a, b, feeds(1))
    assert [e.name for e in found.layers] == ["y"]
    assert "shape" in found.skipped["p"]


def test_samples_are_read_once_and_one_at_a_time() -> None:
    alive: list[int] = []

    def stream() -> Iterator[dict[str, np.ndarray]]:
        for i, f in enumerate(feeds(4)):
            alive.append(i)
            yield f

    heard: list[str] = []
    found = layer_errors(Graph.from_text(FLOAT), Graph.from_text(QUANTISED), stream(), progress=heard.append)
    assert found.samples == 4
    assert alive == [0, 1, 2, 3]
    assert len(heard) == 4


def test_neither_graph_is_changed() -> None:
    a, b = Graph.from_text(FLOAT), Graph.from_text(QUANTISED)
    before = a.fingerprint(), b.fingerprint()
    layer_errors(a, b, generated_samples(a, 1))
    assert (a.fingerprint(), b.fingerprint()) == before


@pytest.mark.parametrize(("samples", "code"), [([], "EC0834"), (feeds(1), "EC0833")])
def test_what_cannot_be_compared(samples: list[dict[str, np.ndarray]], code: str) -> None:
    other = Graph.from_text(FLOAT.replace("y", "out").replace("a =", "p =").replace("(a)", "(p)").replace("b", "q"))
    with pytest.raises(EdgecError, match=code):
        layer_errors(Graph.from_text(FLOAT), other, samples)


def test_table_and_plot() -> None:
    found = layer_errors(Graph.from_text(FLOAT), Graph.from_text(QUANTISED), feeds())
    rows = found.table()
    assert all(len(row) == len(LayerErrors.COLUMNS) for row in rows)
    assert [float(r[2]) for r in rows] == sorted(float(r[2]) for r in rows)
    assert len(found.table(1)) == 1
    root = ET.fromstring(layer_plot(found, "a < b & c"))
    assert root.tag.endswith("svg")
    titles = [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert [t.split(" ")[0] for t in titles] == [e.name for e in found.layers]
    own = next(t for t in titles if t.startswith("y "))
    db_said = re.search(r"own ([\d.]+) dB", own)
    assert db_said is not None
    assert float(db_said[1]) == pytest.approx(found.layers[-1].own_db, abs=0.06)
    ET.fromstring(layer_plot(layer_errors(Graph.from_text(FLOAT), Graph.from_text(FLOAT), feeds(1)), "nothing"))
