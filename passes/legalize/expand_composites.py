"""Composite ops a target does not have, spelled with ops it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.diagnostics import error
from edgec.graph import Graph
from edgec.passes.legalize.expansions import ALTERNATIVES, EXPANSIONS, expansion_rule
from edgec.pipeline import Pass, PassContext, PassResult, rewrite_result
from edgec.rewrite import RuleSet


@dataclass(frozen=True)
class ExpandComposites(Pass):
    """Every node of the ops named is replaced by its expansion, where the expansion covers it.

    Raises:
        EdgecError: EC0370, `ops` names an op without an expansion.
    """

    ops: tuple[str, ...] = ("Gelu", "Swish", "Mish", "RMSNormalization", "Attention", "GroupNormalization")
    name: ClassVar[str] = "expand-composites"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        for op in self.ops:
            if op not in EXPANSIONS and op not in ALTERNATIVES:
                known = ", ".join(sorted({**EXPANSIONS, **ALTERNATIVES}))
                raise error("EC0370", f"there is no expansion of {op}", hint=f"expansions exist for: {known}")
        return rewrite_result(RuleSet(expansion_rule(op) for op in self.ops).apply(graph), ctx)
