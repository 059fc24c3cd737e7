"""Reshape and Flatten: where axes are split or merged, one of their factors can be cut and the others stay.

Which one depends on what else holds axes in place, so these rules run after all others: heads of an attention first, then
the largest factor that is free.
"""

from __future__ import annotations

import math

import numpy as np

from edgec.graph import ir
from edgec.passes.prune.groups.factors import Factors, Span, common_factors
from edgec.passes.prune.groups.registry import Cut, Ties, resizes, ties

LATE = frozenset({"Reshape", "Flatten"})
"""Ops whose rules run once all others have."""


@ties("Reshape", "Flatten")
def reshape(t: Ties) -> None:
    x, out = t.input(0), t.output()
    if x is None or out is None or x.shape is None or out.shape is None:
        return
    rest = _aligned(t, x, out)
    if t.node.op_type == "Reshape" and _open(out) > 1 and t.constant(1) is None:
        t.pin_all("a shape with several sizes computed at run time")
        return
    before, after = ({i: t.size(v, i) for i in axes} for v, axes in zip((x, out), rest, strict=True))
    if not before and not after:
        return
    found = common_factors(before, after) if all(before.values()) and all(after.values()) else None
    if found is None:
        for v, axes in ((x, before), (out, after)):
            t.pin_axes(v, axes, "its axes have no common factors")
        return
    for start, end in found.blocks():
        spans = [(x, s) for s in found.before if start <= s.start < end]
        spans += [(out, s) for s in found.after if start <= s.start < end]
        _tie_block(t, found, range(start, end), spans)


def _open(out: ir.Value) -> int:
    return sum(1 for d in out.shape or () if not isinstance(d, int))


def _aligned(t: Ties, x: ir.Value, out: ir.Value) -> tuple[list[int], list[int]]:
    """Tie leading and trailing axes that are the same on both sides. Returns the axes between."""
    a, b = list(range(t.rank(x))), list(range(t.rank(out)))
    for end in (0, -1):
        while a and b and _same_size(x, a[end], out, b[end], leading=end == 0):
            t.same(x, a.pop(end), out, b.pop(end))
    a = [i for i in a if x.shape is not None and x.shape[i] != 1]
    b = [i for i in b if out.shape is not None and out.shape[i] != 1]
    return a, b


def _same_size(x: ir.Value, i: int, out: ir.Value, j: int, *, leading: bool) -> bool:
    assert x.shape is not None  # the caller looked
    assert out.shape is not None
    p, q = x.shape[i], out.shape[j]
    if isinstance(p, int) or isinstance(q, int):
        return p == q
    if p.value is not None and p.value == q.value:
        return True
    rest = [*x.shape[1:]], [*out.shape[1:]]
    known = all(isinstance(d, int) for d in (*rest[0], *rest[1]))
    return leading and i == j == 0 and known and math.prod(rest[0]) == math.prod(rest[1])


def _tie_block(t: Ties, found: Factors, block: range, spans: list[tuple[ir.Value, Span]]) -> None:
    if len(block) == 1:
        (v, a), (u, b) = spans
        t.same(v, a.axis, u, b.axis)
        return
    reason = "it splits or merges this axis, which can be cut by another factor"
    free = [
        f
        for f in block
        if not any(t.dims.is_pinned(t.dim(v, s.axis)) for v, s in spans if s.start <= f < s.end) and found.sizes[f] > 1
    ]
    if not free:
        for v, s in spans:
            t.pin(v, s.axis, "it merges this axis with one that stays")
        return
    chosen = min(free, key=lambda f: (not _is_heads(t, f, spans), -found.sizes[f], f))
    owner = t.output()
    assert owner is not None  # the caller looked
    hub = t.dims.factor(owner, found.sizes[chosen])
    for v, s in spans:
        if s.start <= chosen < s.end:
            t.grouped(v, s.axis, hub, found.stride(s, chosen))
        else:
            t.pin(v, s.axis, reason)


def _is_heads(t: Ties, factor: int, spans: list[tuple[ir.Value, Span]]) -> bool:
    whole = [(v, s) for v, s in spans if (s.start, s.end) == (factor, factor + 1)]
    return any(t.dims.is_heads(t.dim(v, s.axis)) for v, s in whole)


@resizes("Reshape")
def resize_reshape(cut: Cut) -> None:
    """The target in numbers, a size computed at run time as -1."""
    out = cut.node.outputs[0]
    rank = out.shape.rank() if out.shape is not None else 0
    if all(cut.kept(out, i) is None for i in range(rank)):
        return
    given = cut.constant(1)
    sizes = [cut.size(out, i) for i in range(rank)]
    if sum(1 for s in sizes if s is None) > 1 and given is not None:
        new = [int(g) if s is None else s for g, s in zip(given, sizes, strict=True)]
    else:
        new = [-1 if s is None else s for s in sizes]
    cut.set_input(1, np.asarray(new, np.int64))
