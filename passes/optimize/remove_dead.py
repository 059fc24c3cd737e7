"""What nobody reads: nodes, weights, optional outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import Graph, ir
from edgec.pipeline import Contract, Pass, PassContext, PassResult

_TRAILING = {"MaxPool", "Dropout", "BatchNormalization", "LayerNormalization", "LSTM", "GRU", "RNN", "Unique"}
"""Ops whose outputs after the first are optional; those of Split, TopK, If and Loop are not."""


@dataclass(frozen=True)
class RemoveDead(Pass):
    """Model inputs stay, used or not: they are the interface."""

    name: ClassVar[str] = "remove-dead"
    contract: ClassVar[Contract] = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        weights = _weights(graph)
        nodes = graph.remove_dead()
        outputs = sum(_drop_outputs(n) for n in graph.nodes() if n.op_type in _TRAILING and n.domain == "")
        counts = {"nodes": nodes, "weights": weights - _weights(graph), "optional outputs": outputs}
        return PassResult(any(counts.values()), {k: n for k, n in counts.items() if n})


def _weights(graph: Graph) -> int:
    return sum(len(g.initializers) for g in graph.graphs() if isinstance(g, ir.Graph))


def _drop_outputs(node: ir.Node) -> int:
    """Cut unused outputs off the end."""
    keep = len(node.outputs)
    while keep > 1 and not (node.outputs[keep - 1].uses() or node.outputs[keep - 1].is_graph_output()):
        keep -= 1
    dropped = len(node.outputs) - keep
    if dropped:
        node.resize_outputs(keep)
    return dropped
