"""Tests, booleans, bits and remainders in simpler ops, each after its ONNX operator definition."""

from __future__ import annotations

import numpy as np

from edgec.graph import attribute, constant, ir
from edgec.passes.legalize.builders import cast
from edgec.passes.legalize.builders import first_input as _x
from edgec.rewrite import Reject, Result, Rewriter


def is_nan(node: ir.Node, rw: Rewriter) -> Result:
    """Not equal to itself."""
    x = _x(node)
    return rw.op("Not", rw.op("Equal", x, x))


def is_inf(node: ir.Node, rw: Rewriter) -> Result:
    """Equal to infinity of the signs asked for."""
    x = _x(node)
    if x.dtype is None:
        return Reject("the type is not known")
    positive, negative = attribute(node, "detect_positive"), attribute(node, "detect_negative")
    if not positive and not negative:
        return rw.op("Equal", rw.op("Abs", x), rw.scalar(-1.0, x, "never"))
    value = rw.op("Abs", x) if positive and negative else x
    return rw.op("Equal", value, rw.scalar(np.inf if positive else -np.inf, x, "infinity"))


def logical_xor(node: ir.Node, rw: Rewriter) -> Result:
    """(a or b) and not (a and b)."""
    a, b = node.inputs
    return rw.op("And", rw.op("Or", a, b), rw.op("Not", rw.op("And", a, b)))


def _as_floats(node: ir.Node, rw: Rewriter) -> list[ir.Value]:
    return [cast(rw, v, ir.DataType.FLOAT) for v in node.inputs if v is not None]


def logical_and(node: ir.Node, rw: Rewriter) -> Result:
    """min(a, b) as numbers."""
    return rw.op("Cast", rw.op("Min", *_as_floats(node, rw)), attrs={"to": int(ir.DataType.BOOL)})


def logical_or(node: ir.Node, rw: Rewriter) -> Result:
    """max(a, b) as numbers."""
    return rw.op("Cast", rw.op("Max", *_as_floats(node, rw)), attrs={"to": int(ir.DataType.BOOL)})


def bitwise_not(node: ir.Node, rw: Rewriter) -> Result:
    """-1 - x in two's complement; the largest number - x of unsigned ones."""
    x = _x(node)
    if x.dtype is None:
        return Reject("the type is not known")
    kind = x.dtype.numpy()
    return rw.op("Sub", rw.const(np.asarray(np.iinfo(kind).max if kind.kind == "u" else -1, kind), "ones"), x)


def _low_mask(node: ir.Node) -> tuple[ir.Value, int] | None:
    """The operand and k, where the other is the constant 2^k - 1."""
    for a, b in (node.inputs, node.inputs[::-1]):
        data = constant(b)
        if a is not None and data is not None and data.size == 1 and int(data.reshape(-1)[0]) >= 0:
            mask = int(data.reshape(-1)[0])
            if mask & (mask + 1) == 0:
                return a, mask
    return None


def bitwise_and(node: ir.Node, rw: Rewriter) -> Result:
    """The remainder of a division by 2^k, where one operand is the constant 2^k - 1: exact in two's complement."""
    found = _low_mask(node)
    if found is None:
        return Reject("only with a constant of low bits alone (1, 3, 7 ...) is it arithmetic")
    x, mask = found
    if x.dtype is None or mask + 1 > np.iinfo(x.dtype.numpy()).max:
        return Reject("the mask covers all bits")
    return rw.op("Mod", x, rw.scalar(mask + 1, x, "modulus"))


def bitwise_or(node: ir.Node, rw: Rewriter) -> Result:
    """a + b - (a and b) is exact; the and must be one that can be expressed."""
    found = _low_mask(node)
    if found is None:
        return Reject("only with a constant of low bits alone (1, 3, 7 ...) is it arithmetic")
    x, mask = found
    if x.dtype is None or mask + 1 > np.iinfo(x.dtype.numpy()).max:
        return Reject("the mask covers all bits")
    low = rw.op("Mod", x, rw.scalar(mask + 1, x, "modulus"))
    return rw.op("Add", rw.op("Sub", x, low), rw.scalar(mask, x, "mask"))


def bit_shift(node: ir.Node, rw: Rewriter) -> Result:
    """A constant left shift is a multiplication by a power of two (which wraps around as the shift drops bits), a
    constant right shift of these unsigned numbers a division."""
    x, data = _x(node), constant(node.inputs[1])
    if data is None or x.dtype is None:
        return Reject("the number of bits is not known at compile time")
    kind = x.dtype.numpy()
    if (data >= 8 * kind.itemsize).any():
        return Reject("all bits are shifted out, which ONNX leaves undefined")
    factor = rw.const(np.left_shift(np.ones((), kind), data).astype(kind), "power_of_two")
    return rw.op("Mul" if attribute(node, "direction") == "LEFT" else "Div", x, factor)


def mod(node: ir.Node, rw: Rewriter) -> Result:
    """fmod=1: a - b * trunc(a / b), the remainder with the sign of the dividend. Of floats: |a| - |b| floor(|a| / |b|),
    good while the quotient is exact in the type (2^24 in float32); an infinite divisor leaves the dividend."""
    a, b = node.inputs
    if a is None or b is None or a.dtype is None:
        return Reject("the type is not known")
    if not attribute(node, "fmod"):
        return Reject("fmod=0 is what the other is spelled with")
    if not a.dtype.is_floating_point():  # Div of integers truncates
        return rw.op("Sub", a, rw.op("Mul", b, rw.op("Div", a, b)))
    size, by = rw.op("Abs", a), rw.op("Abs", b)
    rest = rw.op("Sub", size, rw.op("Mul", by, rw.op("Floor", rw.op("Div", size, by))))
    rest = rw.op("Where", rw.op("Less", rest, rw.scalar(0.0, a, "zero")), rw.op("Add", rest, by), rest)
    rest = rw.op("Where", rw.op("Equal", by, rw.scalar(np.inf, a, "infinity")), size, rest)
    return rw.op("Mul", rest, rw.op("Sign", a))
