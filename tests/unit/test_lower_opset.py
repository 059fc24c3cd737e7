"""What lower-opset refuses, and how it says so."""

from __future__ import annotations

import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.passes.legalize.expand_composites import ExpandComposites
from edgec.passes.legalize.lower_opset import LowerOpset
from edgec.pipeline import PassContext


def _graph(body: str, inputs: str = "float[1,2,4,4] x", outputs: str = "float[1,2,4,4] y", weights: str = "") -> Graph:
    return Graph.from_text(
        f'<ir_version: 10, opset_import: ["" : 24]> g ({inputs}) => ({outputs}) {weights} {{ {body} }}'
    )


def _codes(graph: Graph, to: int) -> list[str]:
    with pytest.raises(EdgecError) as caught:
        LowerOpset(to).run(graph, PassContext())
    return [d.code for d in caught.value.diagnostics]


def test_every_node_without_an_equivalent_is_named() -> None:
    graph = _graph("a = BitwiseXor(x, x)  b = BitwiseXor(a, x)  y = Abs(b)", "int32[4] x", "int32[4] y")
    assert _codes(graph, 17) == ["EC0371", "EC0371"]


@pytest.mark.parametrize(
    "body",
    [
        'y = Resize <antialias = 1, mode = "linear"> (x, , scales)',
        'y = Resize <mode = "linear", keep_aspect_ratio_policy = "not_larger"> (x, , , sizes)',
        'y = Pad <mode = "wrap"> (x, pads)',
        "y = ReduceMean <noop_with_empty_axes = 1> (x)",
    ],
)
def test_a_feature_the_older_op_lacks_is_refused(body: str) -> None:
    weights = "<float[4] scales = {1,1,1,1}, int64[4] sizes = {1,2,4,4}, int64[8] pads = {0,0,0,0,0,0,0,0}>"
    assert _codes(_graph(body, weights=weights), 17) == ["EC0372"]


def test_a_type_the_older_op_does_not_take_is_refused() -> None:
    assert _codes(_graph("y = Round(x)", "bfloat16[4] x", "bfloat16[4] y"), 19) == ["EC0372"]


def test_a_very_old_opset_is_refused() -> None:
    assert _codes(_graph("y = Relu(x)"), 9) == ["EC0373"]


def test_a_model_already_older_stays() -> None:
    graph = Graph.from_text('<ir_version: 8, opset_import: ["" : 13]> g (float[4] x) => (float[4] y) { y = Relu(x) }')
    assert not LowerOpset(19).run(graph, PassContext()).changed
    assert graph.opset == 13


def test_expand_composites_names_the_expansions_there_are() -> None:
    with pytest.raises(EdgecError, match="Gelu"):
        ExpandComposites(ops=("Conv",)).run(_graph("y = Relu(x)"), PassContext())
