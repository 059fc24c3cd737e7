"""Types and shapes of every value, by ONNX's rules and by evaluating shape arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.pipeline import Contract, Pass, PassContext, PassResult


@dataclass(frozen=True)
class InferShapes(Pass):
    """Only adds knowledge: declared types stay, and a dimension that is a number stays that number."""

    name: ClassVar[str] = "infer-shapes"
    contract: ClassVar[Contract] = "exact"
    establishes: ClassVar[frozenset[str]] = frozenset({"shapes-inferred"})

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        return PassResult(infer_shapes(graph))
