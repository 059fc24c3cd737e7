"""Element by element: arithmetic, comparison, logic, rounding, functions. Operands broadcast as NumPy's do."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates, is_float

_BINARY = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "pow": "Pow",
}

_MOVING_BINARY = {
    "maximum": "Max",
    "minimum": "Min",
    "equal": "Equal",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_xor": "Xor",
}
"""Exact in any precision: nothing to round."""

_UNARY = {
    "acos": "Acos",
    "asin": "Asin",
    "atan": "Atan",
    "atanh": "Atanh",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}

_MOVING_UNARY = {
    "abs": "Abs",
    "ceil": "Ceil",
    "floor": "Floor",
    "identity": "Identity",
    "logical_not": "Not",
    "round": "Round",
    "sign": "Sign",
}

_TYPES = {
    "fp16": ir.DataType.FLOAT,
    "fp32": ir.DataType.FLOAT,
    "int32": ir.DataType.INT64,
    "bool": ir.DataType.BOOL,
    "int8": ir.DataType.INT8,
    "uint8": ir.DataType.UINT8,
    "int16": ir.DataType.INT16,
    "uint16": ir.DataType.UINT16,
}


@evaluates(*_BINARY)
def binary(o: OpReader) -> None:
    o.give(o.emit(_BINARY[o.operation.op], [o.x("x"), o.x("y")]))


@evaluates(*_MOVING_BINARY)
def moving_binary(o: OpReader) -> None:
    o.move(o.emit(_MOVING_BINARY[o.operation.op], [o.x("x"), o.x("y")]))


@evaluates("not_equal")
def not_equal(o: OpReader) -> None:
    o.move(o.emit("Not", [o.emit("Equal", [o.x("x"), o.x("y")])]))


@evaluates(*_UNARY)
def unary(o: OpReader) -> None:
    o.give(o.emit(_UNARY[o.operation.op], [o.x()]))


@evaluates(*_MOVING_UNARY)
def moving_unary(o: OpReader) -> None:
    """`round` is to the nearest integer, halves to the even one (0.5 to 0)."""
    o.move(o.emit(_MOVING_UNARY[o.operation.op], [o.x()]))


@evaluates("real_div")
def real_div(o: OpReader) -> None:
    """x / y. Of integers the definition does not say how a negative quotient becomes int32, so only those of floats."""
    if not is_float(o.out):
        o.unknown("the quotient of integers; that of floor_div is defined")
    o.give(o.emit("Div", [o.x("x"), o.x("y")]))


@evaluates("floor_div")
def floor_div(o: OpReader) -> None:
    """x / y towards minus infinity."""
    x, y = o.x("x"), o.x("y")
    if is_float(o.out):
        o.give(o.emit("Floor", [o.emit("Div", [x, y])]))
    else:
        o.move(o.emit("Div", [o.emit("Sub", [x, o.emit("Mod", [x, y])]), y]))  # ONNX's Mod has the divisor's sign


@evaluates("mod")
def mod(o: OpReader) -> None:
    """x % y with the sign of y, as Python's."""
    x, y = o.x("x"), o.x("y")
    if not is_float(o.out):
        o.move(o.emit("Mod", [x, y]))
        return
    rest = o.emit("Mod", [x, y], fmod=1)
    zero = o.const(np.float32(0))
    against = o.emit("Less", [o.emit("Mul", [o.emit("Sign", [rest]), o.emit("Sign", [y])]), zero])
    o.give(o.emit("Where", [against, o.emit("Add", [rest, y]), rest]))


@evaluates("square")
def square(o: OpReader) -> None:
    o.give(o.emit("Mul", [o.x(), o.x()]))


@evaluates("exp2")
def exp2(o: OpReader) -> None:
    two = o.const(np.float32(2) if is_float(o.mil()) else np.int64(2))
    o.give(o.emit("Pow", [two, o.x()]))


@evaluates("inverse")
def inverse(o: OpReader) -> None:
    """1 / (x + epsilon)."""
    o.give(o.emit("Reciprocal", [_shifted(o, 1e-4)]))


@evaluates("log")
def log(o: OpReader) -> None:
    """log(x + epsilon)."""
    o.give(o.emit("Log", [_shifted(o, 1e-45)]))


@evaluates("rsqrt")
def rsqrt(o: OpReader) -> None:
    """1 / sqrt(x + epsilon)."""
    o.give(o.emit("Reciprocal", [o.emit("Sqrt", [_shifted(o, 1e-12)])]))


def _shifted(o: OpReader, epsilon: float) -> ir.Value:
    shift = o.number("epsilon", epsilon)
    return o.emit("Add", [o.x(), o.const(np.float32(shift))]) if shift else o.x()


@evaluates("clip")
def clip(o: OpReader) -> None:
    """min(max(x, alpha), beta)."""
    o.move(o.emit("Clip", [o.x(), o.x("alpha"), o.x("beta")]))


@evaluates("threshold")
def threshold(o: OpReader) -> None:
    """max(x, alpha)."""
    o.move(o.emit("Max", [o.x(), o.x("alpha")]))


@evaluates("cast")
def cast(o: OpReader) -> None:
    """To an integer: towards zero. Not zero is True. Beyond 16 or 8 bits integers wrap, as NumPy's do."""
    to = o.text("dtype")
    if to not in _TYPES:
        o.unknown(f"cast to {to}")
    v = o.emit("Cast", [o.x()], to=int(_TYPES[to]))
    if to in ("int16", "uint16"):  # int64 in the graph, as all integers of more than 8 bits
        v = o.emit("Cast", [v], to=int(ir.DataType.INT64))
    o.give(v)


@evaluates("select")
def select(o: OpReader) -> None:
    """a where cond, else b."""
    o.move(where(o, o.x("cond"), o.x("a"), o.x("b")))


def where(o: OpReader, cond: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """ONNX Runtime's Where takes no bools: those by logic."""
    if o.out.dtype != "bool":
        return o.emit("Where", [cond, a, b])
    return o.emit("Or", [o.emit("And", [cond, a]), o.emit("And", [o.emit("Not", [cond]), b])])
