"""Session: any value as an output, weights by address, clear errors, the fallback."""

from __future__ import annotations

import numpy as np
import pytest

from edgec import runtime
from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.runtime import Session
from edgec.samples import generated_samples

HEAD = '<ir_version: 10, opset_import: ["" : 24, "com.acme" : 1]>\n'
CHAIN = HEAD + "g (float[1,2] x) => (float[1,2] y) { a = Relu(x) b = Neg(a) y = Exp(b) }"
ADD = HEAD + "g (float[N,2] x, float[M,2] z) => (float[K,2] y) { named = Neg(x) y = Add(named, z) }"


def test_runs_graphs_bytes_and_files(tmp_path):
    graph = Graph.from_text(CHAIN)
    graph.save(tmp_path / "m.onnx")
    feeds = {"x": np.array([[1, -1]], np.float32), "unknown": np.zeros(1)}
    for model in (graph, graph.to_bytes(), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        got = Session(model).run(feeds)
        np.testing.assert_allclose(got["y"], [[np.exp(-1), 1]], rtol=1e-6)
    assert "optimiser off" in Session(graph).describe
    assert "optimiser on" in Session(graph, optimise=True, threads=1).describe


def test_inner_values_on_demand_without_touching_the_graph():
    graph = Graph.from_text(CHAIN)
    before = graph.to_bytes()
    feeds = {"x": np.array([[1, -1]], np.float32)}
    assert list(Session(graph, all_values=True).run(feeds)) == ["y", "a", "b"]
    assert list(Session(graph, all_values=["b"]).run(feeds)) == ["y", "b"]
    assert list(Session(graph.to_bytes(), all_values=["a", "y"]).run(feeds)) == ["y", "a"]
    assert graph.to_bytes() == before
    with pytest.raises(EdgecError, match=r"EC0811.*'c'"):
        Session(graph, all_values=["c"])


def weighty(rows: int = 64) -> Graph:
    import onnx

    w = np.random.default_rng(0).standard_normal((rows, 32)).astype(np.float32)
    proto = onnx.parser.parse_model(
        f"{HEAD} g (float[1,{rows}] x) => (float[1,32] y) {{ m = MatMul(x, w) t = Mul(m, s) y = Add(t, v) }}"
    )
    for name, array in (("v", w[:1] * 0), ("w", w), ("s", w[:1] * 0 + 1)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return Graph.from_proto(proto)


def test_large_weights_go_by_address_and_the_graph_keeps_its_bytes():
    graph = weighty()
    before = graph.to_bytes()
    w = graph.model.graph.initializers["w"].const_value.numpy()
    x = np.ones((1, 64), np.float32)
    np.testing.assert_allclose(Session(graph).run({"x": x})["y"], x @ w, rtol=1e-5)
    assert graph.to_bytes() == before


def test_very_large_weights_go_through_a_folder_that_is_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "INLINE_LIMIT", 100)
    monkeypatch.setattr(runtime.tempfile, "tempdir", str(tmp_path))
    graph = weighty()
    session = Session(graph, all_values=True)
    assert sorted(p.suffix for p in tmp_path.glob("edgec-run-*/*")) == [".data", ".onnx"]
    w = graph.model.graph.initializers["w"].const_value.numpy()
    np.testing.assert_allclose(
        session.run({"x": np.ones((1, 64), np.float32)})["m"], w.sum(0, keepdims=True), rtol=1e-5
    )
    del session
    assert not list(tmp_path.iterdir())


def test_run_all_is_lazy():
    graph = Graph.from_text(CHAIN)
    results = Session(graph).run_all(generated_samples(graph, 3))
    assert next(results)["y"].shape == (1, 2)
    assert len(list(results)) == 2


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("g (float[1,2] x) => (float[1,2] y) { y = com.acme.Foo(x) }", "y"),
        ("g (float[1,2] x, float[3] z) => (float[1,2] y) { y = Add(x, z) }", "y"),
        ("g (float[1,2] x) => (bfloat16[1,2] y) { t = Cast<to=16>(x) y = Mul(t, t) }", "y"),
    ],
)
def test_models_that_cannot_be_loaded_name_the_node(text, node):
    with pytest.raises(EdgecError) as e:
        Session(Graph.from_text(HEAD + text))
    (d,) = e.value.diagnostics
    assert d.code == "EC0810"
    assert d.location.node == node


def test_failures_while_running_name_the_node():
    with pytest.raises(EdgecError) as e:
        Session(Graph.from_text(ADD)).run({"x": np.ones((2, 2), np.float32), "z": np.ones((3, 2), np.float32)})
    assert e.value.diagnostics[0].code == "EC0810"
    assert e.value.diagnostics[0].location.node == "y"


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "no value for input 'x'"),
        ({"x": np.ones((1, 3), np.float32)}, r"not float32\[1, 3\]"),
        ({"x": np.ones(2, np.float32)}, r"not float32\[2\]"),
        ({"x": np.ones((1, 2))}, "not float64"),
    ],
)
def test_feeds_are_checked(feeds, message):
    with pytest.raises(EdgecError, match=f"EC0811.*{message}"):
        Session(Graph.from_text(CHAIN)).run(feeds)


@pytest.mark.parametrize("model", [b"", b"garbage", "/no/such/file.onnx"])
def test_garbage(model):
    with pytest.raises(EdgecError, match="EC0810"):
        Session(model)


def test_fallback_to_the_reference_evaluator_is_said():
    graph = Graph.from_text(
        HEAD + "g (float[1,2] x) => (float[1,2] y) { t = Cast<to=16>(x) u = Mul(t, t) y = Cast<to=1>(u) }"
    )
    session = Session(graph, fallback=True)
    assert session.describe.startswith("ONNX reference evaluator (ONNX Runtime cannot load the model: ")
    np.testing.assert_allclose(session.run({"x": np.array([[2, 3]], np.float32)})["y"], [[4, 9]])
    with pytest.raises(EdgecError, match=r"EC0810.*neither"):
        Session(Graph.from_text(HEAD + "g (float[1] x) => (float[1] y) { y = com.acme.Foo(x) }"), fallback=True)


def test_a_float16_bias_between_qdq_is_not_lost_to_the_optimiser() -> None:
    """ONNX Runtime 1.31 would store it in steps of 1e-4 x 1e-4, which float16 does not have."""
    small, step, bias = (int(np.float16(v).view(np.uint16)) for v in (1e-4, 0.05, 1.5))  # the text form takes bits
    graph = Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 21]> g (float16[1,1,2,2] x) => (float16[1,1,2,2] y)
        <float16 s = {{{small}}}, float16 t = {{{step}}}, int8 z = {{0}}, int8[1,1,1,1] w = {{100}}, float16[1] b = {{{bias}}}> {{
            q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  k = DequantizeLinear(w, s, z)
            c = Conv(d, k, b)  r = QuantizeLinear(c, t, z)  y = DequantizeLinear(r, t, z) }}""")
    x = {"x": np.zeros((1, 1, 2, 2), np.float16)}
    want = Session(graph).run(x)["y"]
    assert np.allclose(want, 1.5, atol=0.05)
    assert np.array_equal(Session(graph, optimise=True).run(x)["y"], want)
