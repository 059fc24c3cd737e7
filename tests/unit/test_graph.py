"""Graph: copies, names, dead code, fingerprints, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, attribute, constant, ir, is_constant, static_shape
from edgec.testing import assert_equivalent, random_inputs, run

TEXT = """<ir_version: 10, opset_import: ["" : 24]>
g (float[N,4] x, bool c) => (float[N,2] y, float[N,4] z)
<float[4,2] w = {1,2,3,4,5,6,7,8}, float[2] b = {0.5,-0.5}, float[2] unused = {1,1}>
{
  m = MatMul (x, w)
  y = Add (m, b)
  r = Relu (x)
  z = If (c) <then_branch = t () => (float[N,4] p) { p = Exp (r) },
              else_branch = e () => (float[N,4] q) <float[1] k = {2}> { q = Mul (r, k) }>
}"""


@pytest.fixture
def graph() -> Graph:
    return Graph.from_text(TEXT)


def test_reading(graph: Graph) -> None:
    assert [v.name for v in graph.inputs] == ["x", "c"]
    assert [v.name for v in graph.outputs] == ["y", "z"]
    assert graph.opset == 24
    assert [g.name for g in graph.graphs()] == ["g", "t", "e"]
    assert graph.op_counts() == {"MatMul": 1, "Add": 1, "Relu": 1, "If": 1, "Exp": 1, "Mul": 1}
    assert graph.weight_bytes() == 4 * (8 + 2 + 2 + 1)


def test_ops_of_other_domains_are_told_apart() -> None:
    g = Graph.from_text(
        '<ir_version: 10, opset_import: ["" : 24, "a.b" : 1]> g (float[1] x) => (float[1] y) { y = a.b.Relu (x) }'
    )
    assert g.op_counts() == {"a.b::Relu": 1}


def test_a_clone_is_independent_and_shares_weights(graph: Graph) -> None:
    graph.facts = frozenset({"known"})
    other = graph.clone()
    assert other.facts == {"known"}
    assert other.fingerprint() == graph.fingerprint()
    before = graph.fingerprint()
    other.outputs[0].name = "renamed"
    for n in list(other.nodes()):
        if n.op_type == "Relu":
            n.outputs[0].replace_all_uses_with(other.inputs[0])
    other.remove_dead()
    assert graph.fingerprint() == before
    assert other.fingerprint() != before
    ours, theirs = (g.model.graph.initializers["w"].const_value for g in (graph, other))
    assert ours is not None
    assert ours is theirs


def test_branches_of_a_clone_read_the_clone(graph: Graph) -> None:
    other = graph.clone()
    theirs = set(other.model.graph.all_nodes())
    for n in theirs:
        for v in n.inputs:
            assert v is None or v.producer() is None or v.producer() in theirs


def test_fresh_names_are_new_everywhere(graph: Graph) -> None:
    taken = {"x", "m", "w", "p", "q", "k"}
    made = [graph.fresh(hint) for hint in [*sorted(taken), "x", "new", "new"]]
    assert len(set(made)) == len(made)
    assert not taken & set(made)
    assert made[-2:] == ["new", "new.1"]


def test_text_bytes_and_protobuf_round_trips(graph: Graph) -> None:
    for other in (
        Graph.from_text(graph.to_text()),
        Graph.from_proto(graph.to_proto()),
        Graph.from_proto(onnx.load_model_from_string(graph.to_bytes())),
    ):
        assert other.fingerprint() == graph.fingerprint()
    assert graph.to_bytes() == graph.clone().to_bytes()


# --- fingerprint -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [("{1,2,3,4,5,6,7,8}", "{1,2,3,4,5,6,7,9}"), ("Relu (x)", "Abs (x)"), ("float[N,4] x", "float[M,4] x"),
     ("{2}", "{3}"), ("y = Add (m, b)", "y = Add (b, m)"), ("Exp (r)", "Log (r)"), ("b = {0.5", "bb = {0.5")],
)  # fmt: skip
def test_fingerprints_see_every_change(old: str, new: str) -> None:
    changed = TEXT.replace(old, new)
    if old.startswith("b ="):
        changed = changed.replace("(m, b)", "(m, bb)")
    assert changed != TEXT
    assert Graph.from_text(changed).fingerprint() != Graph.from_text(TEXT).fingerprint()


def test_fingerprints_see_the_middle_of_large_attribute_tensors() -> None:
    def made(value: float) -> str:
        data = np.zeros(5000, np.float32)
        data[2500] = value
        node = onnx.helper.make_node("Constant", [], ["y"], value=onnx.numpy_helper.from_array(data))
        info = onnx.helper.make_tensor_value_info("y", 1, [5000])
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [info]))
        return Graph.from_proto(model).fingerprint()

    assert made(1.0) == made(1.0)
    assert made(1.0) != made(2.0)


def test_fingerprints_of_strings_are_of_their_text() -> None:
    def made(text: str) -> str:
        weight = onnx.helper.make_tensor("w", onnx.TensorProto.STRING, [1], [text.encode()])
        info = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.STRING, [1])
        node = onnx.helper.make_node("Identity", ["w"], ["y"])
        return Graph.from_proto(
            onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [info], [weight]))
        ).fingerprint()

    assert made("a" * 50) == made("a" * 50)
    assert made("a") != made("b")


# --- dead code ---------------------------------------------------------------------------------------------------------


def test_dead_weights_go_first_time(graph: Graph) -> None:
    assert graph.remove_dead() == 0
    assert sorted(graph.model.graph.initializers) == ["b", "w"]


def test_dead_chains_go_at_once() -> None:
    body = "v0 = Neg (x) " + " ".join(f"v{i} = Neg (v{i - 1})" for i in range(1, 500)) + " y = Abs (x)"
    g = Graph.from_text(f'<ir_version: 10, opset_import: ["" : 24]> g (float[1] x) => (float[1] y) {{ {body} }}')
    assert g.remove_dead() == 500
    assert g.op_counts() == {"Abs": 1}


def test_dead_branches_take_what_only_they_read(graph: Graph) -> None:
    """Nodes and weights of the outer graph that only a removed If used."""
    graph.model.graph.outputs.pop(1)
    graph.remove_dead()
    assert graph.op_counts() == {"MatMul": 1, "Add": 1}
    assert [v.name for v in graph.inputs] == ["x", "c"]
    graph.verify()


def test_dead_nodes_inside_branches_go() -> None:
    text = TEXT.replace("p = Exp (r)", "d = Abs (r) p = Exp (r)")
    g = Graph.from_text(text)
    assert g.remove_dead() == 1
    assert "Abs" not in g.op_counts()


def test_a_node_with_one_used_output_stays() -> None:
    g = Graph.from_text(
        '<ir_version: 10, opset_import: ["" : 24]> g (float[4] x) => (float[2] b) { a, b = Split <num_outputs = 2> (x) }'
    )
    assert g.remove_dead() == 0


def test_verify_names_what_is_wrong(graph: Graph) -> None:
    node = next(n for n in graph.nodes() if n.op_type == "MatMul")
    node.replace_input_with(1, graph.model.graph.initializers["b"])
    graph.outputs[0].shape = ir.Shape([7, 7, 7])
    with pytest.raises(EdgecError, match="EC0305"):
        graph.verify()


# --- files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("external", [False, True])
def test_save_and_load(graph: Graph, tmp_path: Path, external: bool) -> None:
    files = graph.save(tmp_path / "m.onnx", external_data=external)
    assert [f.name for f in files] == ["m.onnx", "m.onnx.data"][: 1 + external]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f.name for f in files]
    again = Graph.load(tmp_path / "m.onnx")
    assert again.fingerprint() == graph.fingerprint()
    assert_equivalent(graph, again, rtol=0, atol=0)


def test_saving_over_the_file_the_weights_are_read_from(tmp_path: Path) -> None:
    """The weights are memory-mapped from the very file that is replaced."""
    data = np.arange(4096, dtype=np.float32)
    weight = onnx.numpy_helper.from_array(data, "w")
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    infos = [onnx.helper.make_tensor_value_info(n, 1, [4096]) for n in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", infos[:1], infos[1:], [weight]))
    path = tmp_path / "m.onnx"
    Graph.from_proto(model).save(path, external_data=True)
    for _ in range(2):
        g = Graph.load(path)
        g.save(path, external_data=True)
    again = constant(Graph.load(path).model.graph.initializers["w"])
    assert again is not None
    np.testing.assert_array_equal(again, data)


def test_a_failed_save_leaves_the_old_file(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        graph.save(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


# --- helpers of rules ----------------------------------------------------------------------------------------------------


def test_constants_shapes_attributes(graph: Graph) -> None:
    w, x = graph.model.graph.initializers["w"], graph.inputs[0]
    assert is_constant(w)
    assert constant(w) is not None
    assert not is_constant(x)
    assert constant(x) is None
    assert constant(None) is None
    assert static_shape(w) == (4, 2)
    assert static_shape(x) is None
    assert static_shape(None) is None


def test_an_initializer_that_is_an_input_is_no_constant() -> None:
    g = Graph.from_text(
        '<ir_version: 3, opset_import: ["" : 13]> g (float[1] x, float[1] w) => (float[1] y) <float[1] w = {1}> { y = Add (x, w) }'
    )
    w = next(v for v in g.inputs if v.name == "w")
    assert not is_constant(w)
    assert constant(w) is None


def test_attributes_have_the_defaults_of_the_schema() -> None:
    g = Graph.from_text(
        '<ir_version: 10, opset_import: ["" : 24]> g (float[1,4] x) => (float[1,4] y) { a = Softmax (x) y = LeakyRelu <alpha = 0.3> (a) }'
    )
    softmax, leaky = g.nodes()
    assert attribute(softmax, "axis") == -1
    assert attribute(softmax, "axis", 11) == 1
    assert attribute(leaky, "alpha") == pytest.approx(0.3)
    assert attribute(leaky, "nothing") is None


def test_random_inputs_follow_types_and_seeds(graph: Graph) -> None:
    a, b, c = random_inputs(graph), random_inputs(graph), random_inputs(graph, seed=1, free_dim=5)
    assert a["x"].shape == (2, 4)
    assert c["x"].shape == (5, 4)
    assert a["c"].dtype == bool
    assert all((a[k] == b[k]).all() for k in a)
    assert not np.array_equal(a["x"], random_inputs(graph, seed=1)["x"])
    assert [o.shape for o in run(graph, a)] == [(2, 2), (2, 4)]


def test_ten_thousand_nodes() -> None:
    body = "v0 = Neg (x) " + " ".join(f"v{i} = Neg (v{i - 1})" for i in range(1, 10_000)) + " y = Abs (v9999)"
    g = Graph.from_text(f'<ir_version: 10, opset_import: ["" : 24]> g (float[1] x) => (float[1] y) {{ {body} }}')
    other = g.clone()
    assert other.fingerprint() == g.fingerprint()
    assert [other.fresh("v1"), other.fresh("v1")] == ["v1.1", "v1.2"]
    other.model.graph.outputs.pop(0)
    other.model.graph.outputs.append(other.inputs[0])
    assert other.remove_dead() == 10_001
