"""fold-constants: what ONNX text cannot say: notes, sizes, weights on disk, large graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgec.graph import Graph, ir
from edgec.passes.optimize.fold_constants import FoldConstants
from edgec.pipeline import PassContext

HEAD = '<ir_version: 10, opset_import: ["" : 24]> '


def fold(graph: Graph, **options: int) -> PassContext:
    ctx = PassContext()
    FoldConstants(**options).run(graph, ctx)
    return ctx


def test_a_node_that_cannot_run_stays_with_a_note() -> None:
    g = Graph.from_text(
        HEAD + "g (float[2] x) => (float[2] y) <float[2] w = {1,2}, int64 i = {7}> { a = Gather(w, i) y = Add(x, a) }"
    )
    ctx = fold(g)
    assert g.op_counts() == {"Gather": 1, "Add": 1}
    (note,) = ctx.diagnostics
    assert note.code == "EC0350"
    assert "Gather" in note.message


def test_one_bad_node_does_not_keep_the_others() -> None:
    text = "g (float[2] x) => (float[2] y) <float[2] w = {1,2}, int64[2] v = {1,7}, float[2] u = {4,9}>"
    g = Graph.from_text(HEAD + text + "{ a = GatherElements(w, v) b = Sqrt(u) c = Exp(b) d = Add(x, c) y = Mul(d, a) }")
    ctx = fold(g)
    assert g.op_counts() == {"GatherElements": 1, "Add": 1, "Mul": 1}
    assert [d.code for d in ctx.diagnostics] == ["EC0350"]


@pytest.mark.parametrize("op", ["ConstantOfShape(n)", "Expand(one, n)", "Tile(one, n)", "RandomNormalLike(one)"])
def test_a_huge_result_is_never_allocated(op: str) -> None:
    text = f"g (float[1] x) => (float[m] y) <int64[1] n = {{4000000000000}}, float[1] one = {{1}}> {{ a = {op} y = Add(x, a) }}"
    g = Graph.from_text(HEAD + text)
    fold(g)
    assert len(list(g.nodes())) == 2


def test_refused_sizes_have_a_reason() -> None:
    text = "g (float[1] x) => (float[m] y) <int64[1] n = {400}> { a = ConstantOfShape(n) y = Add(x, a) }"
    g = Graph.from_text(HEAD + text)
    ctx = fold(g, max_bytes=100)
    (reason,) = ctx.rejections["fold-constants"].values()
    assert "1600 bytes" in reason


def test_weights_on_disk_that_are_not_folded_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    g = Graph.from_text(
        HEAD
        + "g (float[1024] x) => (float[1024] y) <float[1] k = {2}> { a = Sqrt(k) b = Add(x, a) y = Add(b, w) }".replace(
            "<float[1] k = {2}>", "<float[1] k = {2}, float[1024] w = {" + ",".join(["1"] * 1024) + "}>"
        )
    )
    ir.save(g.model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=64)
    loaded = Graph(ir.load(tmp_path / "m.onnx"))
    read: list[str] = []
    original = ir.ExternalTensor.numpy

    def spy(self: ir.ExternalTensor) -> object:
        read.append(self.name or "")
        return original(self)

    monkeypatch.setattr(ir.ExternalTensor, "numpy", spy)
    fold(loaded)
    assert loaded.op_counts() == {"Add": 2}
    assert read == []


def test_ten_thousand_nodes_fold_in_one_walk() -> None:
    """Shape arithmetic repeated through a large graph: everything goes, and nothing recurses."""
    g = Graph.from_text(
        HEAD + "g (float[2,3] x) => (float[a,b] y) <int64[1] z = {0}> { s = Shape(x) y = Reshape(x, s) }"
    )
    main = g.model.graph
    shape, reshape = list(main)
    last = shape.outputs[0]
    zero = main.initializers["z"]
    nodes = []
    for i in range(10_000):
        n = ir.node("Add", [last, zero])
        n.outputs[0].name = f"t{i}"
        nodes.append(n)
        last = n.outputs[0]
    main.insert_after(shape, nodes)
    reshape.replace_input_with(1, last)
    fold(g)
    assert g.op_counts() == {"Reshape": 1}
    np.testing.assert_array_equal(next(g.nodes()).inputs[1].const_value.numpy(), [2, 3])  # type: ignore[union-attr]
