"""Transposes move towards the outputs, through ops that do not mind the order of axes, and cancel where they meet.

Channels-last exports (TensorFlow, Keras) come with a pair of Transposes around every convolution. The move is tried on a
copy, and kept only if fewer bytes are transposed afterwards: a pass that never makes a model worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import Graph, static_shape
from edgec.passes.optimize.transpose_rules import RAISE, SINK
from edgec.pipeline import Pass, PassContext, PassResult, rewrite_result
from edgec.rewrite import RewriteStats

_UNKNOWN_SIZE = 1 << 16


def transposed_elements(graph: Graph) -> tuple[int, int]:
    """How many elements all Transposes move, and how many Transposes there are; a guess where shapes are not known."""
    shapes = [static_shape(n.outputs[0]) for n in graph.nodes() if n.op_type == "Transpose" and n.domain == ""]
    return sum(_UNKNOWN_SIZE if s is None else math.prod(s) for s in shapes), len(shapes)


@dataclass(frozen=True)
class SinkTransposes(Pass):
    """Fewer elements are transposed than before, and no more Transposes are left; else nothing changes."""

    name: ClassVar[str] = "sink-transposes"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        elements, count = transposed_elements(graph)
        if count == 0:
            return PassResult(False)
        trial = graph.clone()
        _sink(trial)
        new_elements, new_count = transposed_elements(trial)
        if new_count > count or (new_elements, new_count) >= (elements, count):
            ctx.rejections.setdefault("sink-transposes", {})[graph.model.graph.name or "graph"] = (
                f"{new_count} Transposes of {new_elements} elements instead of {count} of {elements}"
            )
            return PassResult(False)
        return rewrite_result(_sink(graph), ctx)


def _sink(graph: Graph) -> RewriteStats:
    """Down as far as they go, and those stuck behind Q/DQ back in front of the pair."""
    stats = SINK.apply(graph)
    raised = RAISE.apply(graph)
    stats.applied.update(raised.applied)
    for name, why in raised.rejected.items():
        stats.rejected[name].update(why)
    return stats
