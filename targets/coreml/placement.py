"""Which nodes Core ML will probably run on the Neural Engine: each node by the MIL operations that say it.

Nobody but Core ML on the device decides, so every answer is a prediction with a confidence (specs/ops/coreml.yaml).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgec.graph import Graph, ir
from edgec.passes.legalize.fold_preprocess import folded, strip
from edgec.placement import Placement, place
from edgec.specs.op_table import Decision, OpTable
from edgec.targets.coreml.lower import Attempt, attempt
from edgec.targets.coreml.program import Operation

if TYPE_CHECKING:
    from edgec.specs.conditions import Setting
    from edgec.specs.schema import TargetSpec

_WORST = {"impossible": 0, "fallback": 1, "either": 2, "accelerator": 3}
_LEAST_SURE = {"low": 0, "medium": 1, "high": 2, None: 3}


def predicted(graph: Graph, spec: TargetSpec, precision: str) -> Placement:
    """Of what the package computes: it does not have the way from the ONNX model's input to pixels.

    Impossible is what edgec's lowering refuses, with its reason.
    """
    graph = strip(graph)[0] if folded(graph) else graph
    name, _ = spec.precision(precision)
    judge = _Judge(attempt(graph), spec.table(name))
    return place(graph, spec, name, judge.decide)


class _Judge:
    def __init__(self, tried: Attempt, table: OpTable) -> None:
        self.tried, self.table = tried, table

    def decide(self, node: ir.Node, setting: Setting) -> Decision:
        """The worst of its operations; of equal ones the least sure."""
        if node in self.tried.refused:
            why, hint = self.tried.refused[node]
            return Decision("impossible", why, hint, None, "edgec's lowering to MIL")
        if node not in self.tried.written:
            return Decision("either", "it reads what cannot be said in MIL", None, None, "edgec's lowering to MIL")
        if _at_the_edge(node):
            evidence = "Core ML copies between the app's buffers and its own there in any case"
            return Decision("accelerator", None, None, None, evidence, confidence="low")
        found = [self._one(node, o, setting) for o in _computing(self.tried.written[node])]
        if not found:
            return Decision("accelerator", None, None, None, "nothing is left of it to compute", confidence="high")
        return min(found, key=lambda d: (_WORST[d.run], _LEAST_SURE[d.confidence]))

    def _one(self, node: ir.Node, operation: Operation, setting: Setting) -> Decision:
        found = self.table.decide(node, setting, f"mil::{operation.op}")
        return replace(found, reason=f"{found.reason} ({operation.op})") if not found.listed and found.reason else found


def _computing(operations: Sequence[Operation]) -> list[Operation]:
    """Without constants, compressed ones included."""
    return [o for o in operations if o.op != "const" and not o.op.startswith("constexpr_")]


def _at_the_edge(node: ir.Node) -> bool:
    """A Cast of an input or to an output of the model: the interface is float32, the inside float16."""
    x = node.inputs[0] if node.inputs else None
    return node.op_type == "Cast" and (
        (x is not None and x.is_graph_input()) or all(v.is_graph_output() for v in node.outputs)
    )
