"""Einsum in Transpose, Reshape, Mul, MatMul and ReduceSum, two operands at a time.

Every operand becomes a value with one axis a letter. Two operands are multiplied as one batched MatMul: letters in both
and still needed afterwards are its batch, letters in both and needed no more are summed by it, the rest are its rows and
columns. Source: ONNX operator definition of Einsum (opset 12). The ellipsis stands for letters of its own, aligned at the
right and broadcast. Not covered, and said so: a letter twice in one operand (a diagonal), and unknown sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgec.graph import attribute, ir, static_shape
from edgec.passes.legalize.builders import reduce_over, reshape
from edgec.rewrite import Reject, Result, Rewriter

Letters = tuple[str, ...]


@dataclass(frozen=True)
class Operand:
    """A value and the letter of each of its axes."""

    value: ir.Value
    letters: Letters

    @property
    def sizes(self) -> dict[str, int]:
        shape = static_shape(self.value)
        assert shape is not None  # einsum looked
        return dict(zip(self.letters, shape, strict=True))


def einsum(node: ir.Node, rw: Rewriter) -> Result:
    """The operands multiplied from the left, letters nobody needs any more summed as soon as they can be."""
    terms = _terms(node)
    if isinstance(terms, Reject):
        return terms
    operands, result = terms
    sizes = _sizes(operands)
    if isinstance(sizes, Reject):
        return sizes
    if missing := [c for c in result if c not in sizes]:
        return Reject(f"letter {missing[0]} of the result is in no operand")
    done, *left = operands
    while True:
        needed = {*result, *(c for o in left for c in o.letters)}
        done = _sum(rw, done, needed)
        if not left:
            break
        other = left.pop(0)
        needed = {*result, *(c for o in left for c in o.letters)}
        other = _sum(rw, other, needed | {*done.letters})
        done = _product(rw, _sum(rw, done, needed | {*other.letters}), other, needed)
    y = _arrange(rw, done, result)
    wanted = tuple(sizes[c] for c in result)
    if static_shape(y) != wanted:
        y = rw.op("Expand", y, rw.const(np.array(wanted, np.int64), "shape"))
    if y is node.inputs[0]:
        y = rw.op("Identity", y)
    return y


def _terms(node: ir.Node) -> tuple[list[Operand], Letters] | Reject:
    """Each operand with its letters, and those of the result."""
    equation = attribute(node, "equation")
    equation = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, right = equation.partition("->")
    operands: list[Operand] = []
    for text, v in zip(left.split(","), node.inputs, strict=True):
        shape = static_shape(v)
        if v is None or shape is None or v.dtype is None:
            return Reject("the sizes of the operands are not known at compile time")
        before, dots, after = text.partition("...")
        extra = len(shape) - len(before) - len(after)
        if extra < 0 or (extra and not dots):
            return Reject(f"{text} does not fit an operand of rank {len(shape)}")
        letters = (*before, *(f".{i}" for i in range(extra - 1, -1, -1)), *after)
        if len(set(letters)) < len(letters):
            return Reject(f"a letter stands twice in {text}")
        operands.append(Operand(v, letters))
    most = max((sum(c[0] == "." for c in o.letters) for o in operands), default=0)
    dotted = tuple(f".{i}" for i in range(most - 1, -1, -1))
    if not arrow:
        counts = [c for o in operands for c in o.letters if c[0] != "."]
        return operands, (*dotted, *sorted(c for c in set(counts) if counts.count(c) == 1))
    before, dots, after = right.partition("...")
    return operands, (*before, *(dotted if dots else ()), *after)


def _sizes(operands: list[Operand]) -> dict[str, int] | Reject:
    sizes: dict[str, int] = {}
    for o in operands:
        for c, n in o.sizes.items():
            if sizes.setdefault(c, n) != n:
                if 1 not in (n, sizes[c]):
                    return Reject(f"letter {c} is {sizes[c]} and {n}")
                sizes[c] = max(n, sizes[c])
    return sizes


def _sum(rw: Rewriter, o: Operand, needed: set[str]) -> Operand:
    axes = [i for i, c in enumerate(o.letters) if c not in needed]
    if not axes:
        return o
    kept = tuple(c for c in o.letters if c in needed)
    return Operand(reduce_over(rw, "ReduceSum", o.value, axes, keepdims=False), kept)


def _arrange(rw: Rewriter, o: Operand, letters: Letters) -> ir.Value:
    """The axes in another order; a letter the operand lacks becomes an axis of size 1."""
    kept = [c for c in letters if c in o.letters]
    perm = [o.letters.index(c) for c in kept]
    v = o.value if perm == sorted(perm) else rw.op("Transpose", o.value, attrs={"perm": perm})
    if len(kept) < len(letters):
        v = reshape(rw, v, tuple(o.sizes.get(c, 1) for c in letters))
    return v


def _product(rw: Rewriter, a: Operand, b: Operand, needed: set[str]) -> Operand:
    shared = [c for c in a.letters if c in b.letters]
    uneven = [c for c in shared if a.sizes[c] != b.sizes[c]]
    summed = [c for c in shared if c not in needed]
    assert a.value.dtype is not None  # _terms looked
    if not summed or uneven or not a.value.dtype.is_floating_point():  # MatMul of integers: few runtimes have it
        letters = (*a.letters, *(c for c in b.letters if c not in a.letters))
        return _sum(rw, Operand(rw.op("Mul", _arrange(rw, a, letters), _arrange(rw, b, letters)), letters), needed)
    batch = [c for c in shared if c in needed]
    rows = [c for c in a.letters if c not in shared]
    columns = [c for c in b.letters if c not in shared]
    left = _flat(rw, a, batch, rows, summed)
    right = _flat(rw, b, batch, summed, columns)
    y = rw.op("MatMul", left, right)
    letters = (*batch, *rows, *columns)
    shape = tuple({**a.sizes, **b.sizes}[c] for c in letters)
    return Operand(y if static_shape(y) == shape else reshape(rw, y, shape), letters)


def _flat(rw: Rewriter, o: Operand, batch: list[str], rows: list[str], columns: list[str]) -> ir.Value:
    """The operand as (*batch, rows, columns): batch letters stay axes, the others become one axis each."""
    v = _arrange(rw, o, (*batch, *rows, *columns))
    n = o.sizes
    shape = (*(n[c] for c in batch), math.prod(n[c] for c in rows), math.prod(n[c] for c in columns))
    return v if static_shape(v) == shape else reshape(rw, v, shape)
