"""Arithmetic of two operands, broadcast."""

from __future__ import annotations

import numpy as np

from edgec.targets.tflite.model import Quant, Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import NUMBERS, OWN_SCALE, Quantised, follow, lowers

_ARITHMETIC = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL"}
SMALL = {"uint8": "int32", "int8": "int32", "int16": "int32", "uint16": "int32"}
"""Types computed in int32, in which nothing overflows that would not overflow in them; CAST wraps around as ONNX does."""

WIDE = {**SMALL, "uint32": "int64"}
"""The same for kernels that have int64."""


@lowers(*_ARITHMETIC, sides=follow, dtypes=NUMBERS, via=WIDE, quantised=OWN_SCALE, activation=True)
def arithmetic(n: NodeLowering) -> None:
    op, y = _ARITHMETIC[n.node.op_type], n.y()
    operands = [n.operand(0), n.operand(1)]
    if op != "MUL" and n.integer and n.builder.xnnpack:
        operands = [_coarse(n, t, y) for t in operands]
    # Without this, int16 kernels take scales that happen to be powers of two for an older form, and end the process.
    old_form = {"pot_scale_int16": False} if op != "MUL" and n.integer == "int16" else {}
    n.emit(op, operands, y, fused_activation_function=n.activation, **old_form)


def _coarse(n: NodeLowering, t: Tensor, y: Tensor) -> Tensor:
    """A constant whose scale is below 1/1024 of the output's, where XNNPACK takes no ADD, at twice that: same sums."""
    if t.data is None or t.quant is None or y.quant is None or not t.quant.per_tensor:
        return t
    least = 2 * y.quant.scale / np.float32(1024)
    return t if t.quant.scale[0] >= least[0] / 2 else n.builder.requantise(t, Quant.of(least))


@lowers("Div", sides=follow, dtypes=("float32", "int32"), via={**SMALL, "int64": "int32"}, activation=True)
def divide(n: NodeLowering) -> None:
    """LiteRT's int8 DIV gives garbage for some numerators (measured): no integer kernel here."""
    n.emit("DIV", [n.operand(0), n.operand(1)], n.y(), fused_activation_function=n.activation)


@lowers("Mod", sides=follow, dtypes=NUMBERS, via=WIDE)
def modulo(n: NodeLowering) -> None:
    """FLOOR_MOD has the sign of the divisor; with fmod it is that of the dividend: sign(a) (|a| mod |b|), exact."""
    a, b, y = n.operand(0), n.operand(1), n.y()
    if not n.attr("fmod", 0):
        n.emit("FLOOR_MOD", [a, b], y)
        return
    rest = n.emit("FLOOR_MOD", [magnitude(n, a), magnitude(n, b)], n.temp(y.shape, a.dtype))
    back = n.emit("NEG", [rest], n.temp(y.shape, a.dtype))
    n.emit("SELECT_V2", [negative(n, a), back, rest], y)


def magnitude(n: NodeLowering, x: Tensor) -> Tensor:
    """|x|, also of int64, which ABS does not take."""
    minus = n.emit("NEG", [x], n.temp(x.shape, x.dtype))
    return n.emit("MAXIMUM", [x, minus], n.temp(x.shape, x.dtype))


def negative(n: NodeLowering, x: Tensor) -> Tensor:
    """x < 0."""
    return n.emit("LESS", [x, n.constant(np.zeros((), x.dtype), x.dtype)], n.temp(x.shape, "bool"))


@lowers("Pow", sides=follow, dtypes=("float32", "int32"), via={"int64": "int32"})
def power(n: NodeLowering) -> None:
    """In the type of the base; where only the exponent is a float, in float and truncated, as ONNX does."""
    base, exponent, y = n.operand(0), n.operand(1), n.y()
    if base.dtype == "float32" or exponent.dtype != "float32":
        n.emit("POW", [base, n.cast(exponent, base.dtype)], y)
        return
    real = n.emit("POW", [n.cast(base, "float32"), exponent], n.temp(y.shape))
    n.cast(real, y.dtype, y)


_EXTREMES = {"Max": "MAXIMUM", "Min": "MINIMUM"}


@lowers(*_EXTREMES, sides=follow, dtypes=(*NUMBERS, "int16"), via={**WIDE}, quantised=Quantised("as-output"))
def extreme(n: NodeLowering) -> None:
    """Of any number of inputs, two at a time."""
    op, y, count = _EXTREMES[n.node.op_type], n.y(), len(n.node.inputs)
    found = n.operand(0)
    if count == 1:
        n.reshape(found, y.shape, y)
    for i in range(1, count):
        other = n.operand(i)
        shape = np.broadcast_shapes(found.shape, other.shape)
        found = n.emit(op, [found, other], y if i == count - 1 else n.temp(shape, y.dtype, y.quant))


@lowers("BitwiseXor", sides=follow, dtypes=("int8", "uint8", "int16", "uint16", "int32", "uint32"))
def bitwise_xor(n: NodeLowering) -> None:
    n.emit("BITWISE_XOR", [n.operand(0), n.operand(1)], n.y())


@lowers("BitwiseNot", sides=follow, dtypes=("int8", "uint8", "int16", "uint16", "int32", "uint32"))
def bitwise_not(n: NodeLowering) -> None:
    """All bits turned: exclusive or with all ones."""
    x = n.operand(0)
    ones = np.iinfo(x.dtype).max if x.dtype.startswith("u") else -1
    n.emit("BITWISE_XOR", [x, n.constant(np.asarray(ones, x.dtype), x.dtype)], n.y())


@lowers("BitwiseAnd", "BitwiseOr", sides=follow, dtypes=("int8", "uint8", "int16", "uint16", "int32"))
def bitwise_and_or(n: NodeLowering) -> None:
    """a and b = (a + b - (a xor b)) / 2, a or b = (a + b + (a xor b)) / 2: exact in integers twice as wide.

    The wide numbers are int32 for 8 and 16 bits; of 32 bits, both halves are done apart.
    """
    a, b, y = n.operand(0), n.operand(1), n.y()
    join = "SUB" if n.node.op_type == "BitwiseAnd" else "ADD"
    if y.dtype != "int32":
        n.cast(_half_sum(n, n.cast(a, "int32"), n.cast(b, "int32"), join, y.shape), y.dtype, y)
        return
    low_bits = n.constant(np.int32(1 << 16), "int32")
    halves = []
    for t in (a, b):
        high = n.emit("RIGHT_SHIFT", [t, _filled(n, 16, t)], n.temp(t.shape, "int32"))
        halves.append((n.emit("FLOOR_MOD", [t, low_bits], n.temp(t.shape, "int32")), high))
    low, high = (_half_sum(n, halves[0][k], halves[1][k], join, y.shape) for k in (0, 1))
    raised = n.emit("MUL", [high, low_bits], n.temp(y.shape, "int32"))
    n.emit("ADD", [raised, low], y, fused_activation_function="NONE")


def _filled(n: NodeLowering, value: int, like: Tensor) -> Tensor:
    return n.constant(np.full(like.shape, value, np.int32), "int32")


def _half_sum(n: NodeLowering, a: Tensor, b: Tensor, join: str, shape: tuple[int, ...]) -> Tensor:
    """(a + b -+ (a xor b)) / 2 in int32, which is always whole."""
    plus = n.emit("ADD", [a, b], n.temp(shape, "int32"), fused_activation_function="NONE")
    differing = n.emit("BITWISE_XOR", [a, b], n.temp(shape, "int32"))
    twice = n.emit(join, [plus, differing], n.temp(shape, "int32"), fused_activation_function="NONE")
    return n.emit("DIV", [twice, n.constant(np.int32(2), "int32")], n.temp(shape, "int32"))


_BITS = {"uint8": 8, "int8": 8, "uint16": 16, "int16": 16, "uint32": 32, "int32": 32, "int64": 64}


@lowers("BitShift", sides=follow, dtypes=tuple(_BITS))
def bit_shift(n: NodeLowering) -> None:
    """RIGHT_SHIFT; to the left a product with a power of two, whose high bits CAST cuts off.

    By as many bits as there are, or a negative number of them, nothing but the sign is left (ONNX operator definition).
    """
    x, by, y = n.operand(0), n.operand(1), n.y()
    width = _BITS[x.dtype]
    if n.attr("direction") == "RIGHT":
        if x.dtype == "int64":
            n.refuse("RIGHT_SHIFT has no int64 kernel")
        if x.dtype.startswith("u"):
            n.emit("RIGHT_SHIFT", [x, by], y)
            return
        most = n.constant(np.asarray(width - 1, np.int32), "int32")
        clipped = n.emit("MINIMUM", [_distance(n, by, width - 1), most], n.temp(by.shape, "int32"))
        n.emit("RIGHT_SHIFT", [x, n.cast(clipped, x.dtype)], y)
        return
    distance = _distance(n, by, width)
    clipped = n.emit("MINIMUM", [distance, n.constant(np.asarray(width, np.int32), "int32")], n.temp(by.shape, "int32"))
    powers = n.constant(
        [(1 << k) - (1 << 64 if k == 63 else 0) for k in range(width)] + [0], "int64", hint="powers_of_two"
    )
    factor = n.emit("GATHER", [powers, clipped], n.temp(by.shape, "int64"), axis=0, batch_dims=0)
    product = n.emit("MUL", [n.cast(x, "int64"), factor], n.temp(y.shape, "int64"))
    n.cast(product, y.dtype, y if y.dtype != "int64" else None)
    if y.dtype == "int64":
        n.alias(product)


def _distance(n: NodeLowering, by: Tensor, beyond: int) -> Tensor:
    """How far to shift, in int32; `beyond` where it is negative."""
    steps = n.cast(by, "int32")
    if by.dtype.startswith("u"):
        return steps
    far = n.constant(np.asarray(beyond, np.int32), "int32")
    return n.emit("SELECT_V2", [negative(n, steps), far, steps], n.temp(by.shape, "int32"))
