"""MatMul, Gemm, Einsum and the Attention op: what sums over an axis reads it, what the weight adds is written."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.passes.prune.groups.registry import Cut, Ties, resizes, ties


@ties("MatMul")
def matmul(t: Ties) -> None:
    a, b, out = t.input(0), t.input(1), t.output()
    ra, rb = t.rank(a), t.rank(b)
    t.same(a, -1, b, -2 if rb > 1 else -1)
    if ra > 1:
        t.same(a, -2, out, -2 if rb > 1 else -1)
    if rb > 1:
        t.same(b, -1, out, -1)
    for v, rank in ((a, ra), (b, rb)):
        for i in range(3, rank + 1):
            t.same(v, -i, out, -i if min(ra, rb) > 1 else 1 - i)
    if min(ra, rb) > 2:  # both computed: products of heads
        for i in range(3, min(ra, rb) + 1):
            t.dims.mark_heads(t.dim(out, -i))
    if rb > 1:
        t.role(b, -1, "writes")
        t.role(b, -2, "reads")
    if ra > 1 and t.constant(0) is not None:
        t.role(a, -2, "writes")
        t.role(a, -1, "reads")


@ties("Gemm")
def gemm(t: Ties) -> None:
    a, b, c, out = t.input(0), t.input(1), t.input(2), t.output()
    rows, inner = (1, 0) if t.attr("transA") else (0, 1)
    into, of = (1, 0) if t.attr("transB") else (0, 1)
    t.same(a, rows, out, 0)
    t.same(a, inner, b, into)
    t.same(b, of, out, 1)
    for i in range(1, t.rank(c) + 1):
        t.same(c, -i, out, -i)
    t.role(b, of, "writes")
    t.role(b, into, "reads")


@ties("Einsum")
def einsum(t: Ties) -> None:
    equation = str(t.attr("equation")).replace(" ", "")
    if "..." in equation or "->" not in equation:
        t.pin_all("an equation with ... or without ->")
        return
    left, _, right = equation.partition("->")
    terms = [*zip(left.split(","), t.node.inputs, strict=True), (right, t.output())]
    seen: dict[str, tuple[ir.Value | None, int]] = {}
    for letters, v in terms:
        for i, letter in enumerate(letters):
            if letter in seen:
                t.same(v, i, *seen[letter])
            elif t.size(v, i) != 1:
                seen[letter] = v, i
    for letters, v in terms[:-1]:
        others = "".join(x for x, u in terms[:-1] if u is not v)
        for i, letter in enumerate(letters):
            if v is not None and v.producer() is None and letter not in others and letter in right:
                t.role(v, i, "writes")
            elif v is not None and v.producer() is None and letter not in right:
                t.role(v, i, "reads")


@ties("Attention")
def attention(t: Ties) -> None:
    """Whole heads, with shared keys and values whole sets of them. The size of a head sets the scale: it stays."""
    q, k, v, out = t.input(0), t.input(1), t.input(2), t.output()
    rest = (*t.node.inputs[3:], *t.node.outputs[1:])
    for u in rest:
        t.pin_axes(u, range(t.rank(u)), "masks and caches keep their shape")
    if out is None or any(rest) or None in (q, k, v):
        t.pin_all("with a mask or a cache")
        return
    if t.rank(q) == 4:
        heads, shared, axis = t.size(q, 1), t.size(k, 1), 1
        t.pin_axes(q, (2, 3), "positions, and the size of a head")
        t.pin_axes(k, (2, 3), "positions, and the size of a head")
        t.pin_axes(v, (2,), "positions")
        t.same(v, 3, out, 3)
    else:
        heads, shared, axis = t.attr("q_num_heads") or 0, t.attr("kv_num_heads") or 0, 2
        for u in (q, k, v, out):
            t.pin_axes(u, (1,), "positions")
    if shared < 2 or not heads or any(t.size(u, axis) == 0 for u in (q, k, v, out)):
        t.pin_all("one head, or an unknown number of them")
        return
    hub = t.dims.factor(out, shared)
    for u in (q, k, v, out):
        t.grouped(u, axis, hub, t.size(u, axis) // shared)


@resizes("Attention")
def resize_attention(cut: Cut) -> None:
    q, k = cut.node.inputs[0], cut.node.inputs[1]
    for name, u in (("q_num_heads", q), ("kv_num_heads", k)):
        heads = cut.attr(name)
        kept = cut.kept(u, 2)
        if heads and kept is not None and u is not None and u.shape is not None and isinstance(u.shape[2], int):
            width = u.shape[2] // heads
            cut.set_attr(name, len(np.unique(kept // width)))
