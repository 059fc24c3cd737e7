"""Calls of the model's own functions replaced by their bodies, nested calls included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.diagnostics import error
from edgec.graph import Graph, ir
from edgec.pipeline import Contract, Pass, PassContext, PassResult

MAX_NODES = 1_000_000
"""Functions that call functions grow exponentially; a model that would pass this is refused, not expanded."""


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Node and value names of the inlined bodies are made unique; functions nobody calls are dropped.

    Raises:
        EdgecError: EC0301, a call cannot be inlined, or the result would exceed a million nodes.
    """

    name: ClassVar[str] = "inline-functions"
    contract: ClassVar[Contract] = "exact"
    establishes: ClassVar[frozenset[str]] = frozenset({"no-functions"})

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        from onnx_ir.passes.common import InlinePass

        model = graph.model
        if not model.functions:
            return PassResult(False)
        _refuse_explosion(model)
        _one_opset(graph, ctx)
        calls = sum(1 for n in graph.nodes() if n.op_identifier() in model.functions)
        interface = [v.name for v in graph.outputs]
        try:
            InlinePass()(model)
        except (ValueError, RuntimeError, ir.passes.PassError) as e:
            raise error("EC0301", f"cannot inline the model's functions: {e.__cause__ or e}") from None
        model.functions.clear()
        for v, name in zip(graph.outputs, interface, strict=True):
            v.name = name
        return PassResult(True, {"inlined": calls})


def _refuse_explosion(model: ir.Model) -> None:
    """Count the nodes inlining would make, without making them. `load` has refused recursion."""
    sizes: dict[ir.OperatorIdentifier, int] = {}

    def size(nodes: ir.Graph | ir.Function) -> int:
        total = 0
        for n in ir.traversal.RecursiveGraphIterator(nodes):
            key = n.op_identifier()
            if key in model.functions and key not in sizes:
                sizes[key] = size(model.functions[key])
            total += sizes.get(key, 1)
        return total

    try:
        total = size(model.graph)
    except RecursionError:
        raise error("EC0301", "the model's functions call themselves") from None
    if total > MAX_NODES:
        raise error(
            "EC0301", f"inlining the model's functions would make {total:,} nodes", hint=f"the limit is {MAX_NODES:,}"
        )


def _one_opset(graph: Graph, ctx: PassContext) -> None:
    """Functions may be written in another opset than the graph; all are brought to the newest of them first."""
    from edgec.passes.prepare.upgrade_opset import upgrade

    opsets = [graph.opset, *(f.opset_imports[""] for f in graph.model.functions.values() if "" in f.opset_imports)]
    if len(set(opsets)) > 1:
        upgrade(graph, max(opsets), ctx)
