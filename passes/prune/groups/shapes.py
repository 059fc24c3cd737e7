"""Ops that read or make shapes."""

from __future__ import annotations

import numpy as np

from edgec.graph import constant, ir
from edgec.passes.prune.groups.registry import Ties, ties


@ties("Shape", "Size")
def shape_of(t: Ties) -> None:
    """What is computed with a size holds it in place; sizes nobody picks are free."""
    x, rank = t.input(0), t.rank(t.input(0))
    if t.node.op_type == "Size":
        t.pin_axes(x, range(rank), "its size is computed with")
        return
    start, end = t.attr("start") or 0, t.attr("end")
    axes = list(range(rank))[start : rank if end is None else end]
    for i in _read(t.node.outputs[0], len(axes)):
        t.pin(x, axes[i], "its size is computed with")


def _read(sizes: ir.Value, count: int) -> list[int]:
    """The places of a shape that nodes look at."""
    if sizes.is_graph_output():
        return list(range(count))
    out: set[int] = set()
    for node, _ in sizes.uses():
        picked = None
        if node.op_type == "Gather":
            picked = constant(node.inputs[1])
        elif node.op_type == "Slice":
            bounds = [constant(v) for v in node.inputs[1:]]
            if all(b is not None and b.size == 1 for b in bounds):
                first, last, *more = (int(b.reshape(-1)[0]) for b in bounds if b is not None)
                picked = np.arange(count)[first : last : more[1] if len(more) > 1 else 1]
        if picked is None:
            return list(range(count))
        out.update(int(i) % count for i in np.atleast_1d(picked).reshape(-1))
    return sorted(out)


@ties("ConstantOfShape")
def constant_of_shape(t: Ties) -> None:
    if t.constant(0) is None:
        t.pin_all("a shape computed at run time")
