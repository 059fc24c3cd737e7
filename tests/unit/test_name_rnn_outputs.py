"""Recurrent nodes whose outputs have no name."""

from __future__ import annotations

from edgec.graph import Graph, ir
from edgec.passes.legalize.name_rnn_outputs import NameRnnOutputs
from edgec.pipeline import PassContext
from edgec.testing import assert_equivalent


def _gru() -> Graph:
    numbers = ",".join(str(i / 10) for i in range(12))
    return Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 24]>
g (float[3,1,2] x) => (float[3,1,1,2] y)
<float[1,6,2] w = {{{numbers}}}, float[1,6,2] r = {{{numbers}}}>
{{ y = GRU <hidden_size = 2> (x, w, r) }}""")


def test_an_empty_output_gets_a_name() -> None:
    before = _gru()
    before.model.graph[0].resize_outputs(2)
    before.model.graph[0].outputs[1].name = ""
    after = before.clone()
    assert NameRnnOutputs().run(after, PassContext()).changed
    assert all(v.name for v in after.model.graph[0].outputs)
    assert_equivalent(before, after)


def test_one_output_alone_stays() -> None:
    graph = _gru()
    assert not NameRnnOutputs().run(graph, PassContext()).changed
    assert isinstance(graph.model.graph[0], ir.Node)
    assert len(graph.model.graph[0].outputs) == 1
