"""Sizes as rules need them where a dimension may be known or not: constants where it is, shape arithmetic where not."""

from __future__ import annotations

import numpy as np

from edgec.graph import constant, ir
from edgec.rewrite import Rewriter


def count(rw: Rewriter, v: ir.Value, axis: int) -> ir.Value:
    """The size of an axis as int64 [1]."""
    if v.shape is not None and isinstance(v.shape[axis], int):
        return rw.const(np.array([v.shape[axis]], np.int64), "size")
    return rw.op("Gather", rw.op("Shape", v), rw.const(np.array([axis], np.int64), "axis"))


def product(rw: Rewriter, *sizes: ir.Value, scalar: bool = False) -> ir.Value:
    """The product of sizes, as [1] or as a scalar."""
    known = [constant(s) for s in sizes]
    if all(k is not None for k in known):
        number = int(np.prod([int(np.asarray(k).reshape(())) for k in known]))
        return rw.const(np.int64(number) if scalar else np.array([number], np.int64), "size")
    out = sizes[0]
    for s in sizes[1:]:
        out = rw.op("Mul", out, s)
    return rw.op("Reshape", out, rw.const(np.zeros(0, np.int64), "scalar")) if scalar else out


def stack_shape(rw: Rewriter, first: ir.Value, *others: int) -> ir.Value:
    """[first, *others] as a shape."""
    tail = np.array(others, np.int64)
    known = constant(first)
    if known is not None:
        return rw.const(np.concatenate([known, tail]), "shape")
    return rw.op("Concat", first, rw.const(tail, "shape"), attrs={"axis": 0})


def unsqueeze(rw: Rewriter, v: ir.Value, axis: int) -> ir.Value:
    """A new axis of size 1."""
    if rw.opset < 13:
        return rw.op("Unsqueeze", v, attrs={"axes": [axis]})
    return rw.op("Unsqueeze", v, rw.const(np.array([axis], np.int64), "axis"))
