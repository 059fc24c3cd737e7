"""Reductions: a reduced axis may lose elements, its sum then has fewer terms; the others pass through."""

from __future__ import annotations

from edgec.passes.prune.groups.registry import Ties, ties

_COUNTING = ("ArgMax", "ArgMin")


@ties("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
      "ReduceSum", "ReduceSumSquare", *_COUNTING)  # fmt: skip
def reduction(t: Ties) -> None:
    x, out = t.input(0), t.output()
    rank = t.rank(x)
    if t.node.op_type in _COUNTING:
        axes = [t.attr("axis") % rank]
        t.pin_axes(x, axes, "its result counts along this axis")
    else:
        given = t.constant(1) if t.input(1) is not None else t.attr("axes")
        if given is None and t.input(1) is not None:
            t.pin_all("axes computed at run time")
            return
        found = [] if given is None else [int(a) % rank for a in given]
        axes = found or ([] if t.attr("noop_with_empty_axes") else list(range(rank)))
    keep = t.attr("keepdims") != 0
    left = 0
    for i in range(rank):
        if i not in axes:
            t.same(x, i, out, i if keep else left)
            left += 1
