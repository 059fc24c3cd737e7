"""The rules run over a graph: which dimensions there are, how they are tied, what holds them in place."""

from __future__ import annotations

from edgec.graph import Graph, bodies, ir
from edgec.passes.prune.groups import (  # noqa: F401  importing them registers the rules
    blocks,
    convolution,
    elementwise,
    movement,
    normalization,
    pooling,
    products,
    recurrent,
    reductions,
    shapes,
)
from edgec.passes.prune.groups.dimensions import Dimensions
from edgec.passes.prune.groups.registry import TIES, Ties
from edgec.passes.prune.groups.reshaping import LATE


def analyse(graph: Graph) -> Dimensions:
    """Ties of all dimensions of the main graph. Linear in its size; no weight is read but small index lists."""
    dims = Dimensions()
    for values, reason in ((graph.inputs, "an input of the model"), (graph.outputs, "an output of the model")):
        for v in values:
            _pin(dims, v, f"{v.name} is {reason}")
    late = []
    for node in graph.model.graph:
        t = Ties(node, dims, graph.opset)
        if list(bodies(node)):
            t.pin_all("control flow")
            for body in bodies(node):
                read = [v for inner in body.all_nodes() for v in inner.inputs]
                for used in (*read, *body.outputs):
                    _pin(dims, used, f"{t.label}: read inside its body")
            continue
        rule = TIES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is None:
            name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            t.pin_all(f"no rule says how {name} follows a cut")
        elif any(v is not None and v.shape is None for v in (*node.inputs, *_used(node))):
            t.pin_all("the shape of one of its values is not known")
        elif node.op_type in LATE:
            late.append((t, rule))
        else:
            rule(t)
    for t, rule in late:
        rule(t)
    return dims


def _used(node: ir.Node) -> list[ir.Value]:
    """Outputs that have a name: optional ones that are left out do not."""
    return [v for v in node.outputs if v.name]


def _pin(dims: Dimensions, v: ir.Value | None, reason: str) -> None:
    if v is not None and v.shape is not None:
        for i in range(v.shape.rank()):
            dims.pin(dims.of(v, i), reason)
