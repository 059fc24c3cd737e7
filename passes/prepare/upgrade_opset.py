"""The model brought to one recent opset by our own steps (`opset_steps`): nothing is dropped, no weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from edgec.diagnostics import Location, error
from edgec.graph import IR_OPSET, Graph, ir
from edgec.infer import infer_shapes
from edgec.passes.prepare.opset_steps import STEPS, Up
from edgec.pipeline import Contract, Pass, PassContext, PassResult

_IR_VERSION = {**dict.fromkeys(range(1, 21), 9), 21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13, 27: 13, 28: 14}
"""Opset -> the IR version it came out with (onnx/docs/Versioning.md)."""


@dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Brings the default domain to opset `to`.

    A model newer than that is relabelled if none of its operators means anything else there; otherwise it stays at
    its opset, with a note (EC0306). Other domains are left alone.

    Raises:
        EdgecError: EC0304 names the node that cannot be expressed in the newer opset.
    """

    to: int = IR_OPSET

    name: ClassVar[str] = "upgrade-opset"
    contract: ClassVar[Contract] = "close"
    establishes: ClassVar[frozenset[str]] = frozenset({"opset-current"})

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        before = graph.opset
        steps = upgrade(graph, self.to, ctx)
        return PassResult(bool(steps) or graph.opset != before, {"steps": steps} if steps else {})


def upgrade(graph: Graph, to: int, ctx: PassContext) -> int:
    """Bring the graph and its functions to opset `to`. Returns how many steps were applied to nodes."""
    import onnx

    if not 1 <= to <= onnx.defs.onnx_opset_version():
        raise error("EC0307", f"there is no opset {to}", hint=f"1 to {onnx.defs.onnx_opset_version()} exist")
    work: list[tuple[ir.Node, int]] = []
    roots: list[ir.Graph | ir.Function] = [graph.model.graph, *graph.model.functions.values()]
    for root in roots:
        if "" not in root.opset_imports and isinstance(root, ir.Function):
            continue
        at = root.opset_imports.get("", graph.opset)
        nodes = [n for n in ir.traversal.RecursiveGraphIterator(root) if n.domain in ("", "ai.onnx")]
        if at > to and not _relabel(nodes, at, to, graph, ctx):
            return 0
        work += [(n, at) for n in nodes if _next(n.op_type, at, to)]
    if work:
        infer_shapes(graph)  # some steps need ranks and types
    steps = 0
    while work:
        node, at = work.pop()
        while version := _next(node.op_type, at, to):
            up = Up(graph, node, version)
            STEPS[node.op_type, version](up)
            work += [(n, version) for n in up.made]
            at, steps = version, steps + 1
    for root in roots:
        if "" in root.opset_imports or isinstance(root, ir.Graph):
            root.opset_imports[""] = to
    graph.model.ir_version = max(graph.model.ir_version or 0, _IR_VERSION.get(to, 9))
    return steps


@lru_cache(maxsize=1024)
def _next(op_type: str, at: int, to: int) -> int | None:
    """The next version above `at`, up to `to`, that has a step for the operator."""
    return min((v for op, v in STEPS if op == op_type and at < v <= to), default=None)


def _relabel(nodes: list[ir.Node], at: int, to: int, graph: Graph, ctx: PassContext) -> bool:
    for n in nodes:
        why = _differs(n, at, to)
        if why:
            message = f"the model stays at opset {at}: {n.op_type} {why} in opset {to}"
            ctx.diagnostics.note("EC0306", message, Location(graph.source, node=n.name))
            return False
    return True


def _differs(n: ir.Node, at: int, to: int) -> str | None:
    """Why the node does not mean the same at the older opset `to`; None if it does."""
    import onnx

    try:
        new = onnx.defs.get_schema(n.op_type, at, "")
    except onnx.defs.SchemaError:
        return None  # an operator nobody knows is as unknown at either opset
    try:
        old = onnx.defs.get_schema(n.op_type, to, "")
    except onnx.defs.SchemaError:
        return "does not exist"
    if old.since_version == new.since_version:
        return None
    for name in n.attributes:
        if name not in old.attributes:
            return f"has no attribute {name}"
    if len(n.inputs) > old.max_input or len(n.outputs) > old.max_output:
        return "takes fewer inputs or gives fewer outputs"
    for i, v in enumerate(n.inputs):
        if v is None or v.dtype is None or not old.inputs:
            continue
        formal = old.inputs[min(i, len(old.inputs) - 1)]
        if f"tensor({v.dtype.name.lower()})" not in formal.types and isinstance(v.type, ir.TensorType):
            return f"does not take {v.dtype.name.lower()}"
    return None
