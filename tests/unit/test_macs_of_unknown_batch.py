"""Costs of layers whose batch is unknown: those of one sample."""

from edgec.graph import Graph
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.pipeline import PassContext
from edgec.placement import macs


def _conv(batch: str, height: str = "8") -> int:
    graph = Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 21]>
    g (float[{batch},2,{height},8] x, float[4,2,3,3] w) => (float[{batch},4,h,6] y) {{ y = Conv(x, w) }}""")
    InferShapes().run(graph, PassContext())
    (node,) = graph.nodes()
    return macs(node, batch=1)


def test_an_unknown_batch_counts_as_one() -> None:
    assert _conv("N") == _conv("1") == 4 * 6 * 6 * 2 * 9
    assert _conv("3") == 3 * _conv("1")


def test_another_unknown_dimension_is_not_guessed() -> None:
    assert _conv("N", "H") == 0
