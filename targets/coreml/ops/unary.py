"""Functions of one operand."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.rules import NUMBERS, lowers

_SAME = {
    "Acos": "acos", "Asin": "asin", "Atan": "atan", "Atanh": "atanh", "Ceil": "ceil", "Cos": "cos", "Cosh": "cosh",
    "Erf": "erf", "Exp": "exp", "Floor": "floor", "Round": "round", "Sin": "sin", "Sinh": "sinh", "Sqrt": "sqrt",
    "Tan": "tan",
}  # fmt: skip


@lowers(*_SAME)
def same(n: NodeLowering) -> None:
    n.result(n.emit(_SAME[n.node.op_type], x=n.x(), out_shape=n.out_dims()))


@lowers("Abs", "Sign", dtypes=NUMBERS, wraps=True)
def of_integers_too(n: NodeLowering) -> None:
    n.result(n.emit(n.node.op_type.lower(), x=n.x(), out_shape=n.out_dims()))


@lowers("Neg", dtypes=NUMBERS, wraps=True)
def negate(n: NodeLowering) -> None:
    x = n.x()
    minus = -1 if x.dtype == "int32" else n.real(-1)
    n.result(n.emit("mul", x=x, y=minus, out_shape=x.shape))


@lowers("BitwiseNot", dtypes=("int32",), wraps=True)
def bitwise_not(n: NodeLowering) -> None:
    """-1 - x in two's complement."""
    if n.value(0).dtype in (ir.DataType.UINT32, ir.DataType.UINT64):
        n.refuse("unsigned integers of 32 and 64 bits, which int32 does not hold")
    n.result(n.emit("sub", x=np.asarray(-1, np.int32), y=n.x(), out_dtype="int32", out_shape=n.out_dims()))


@lowers("Log")
def log(n: NodeLowering) -> None:
    """MIL adds an epsilon to what it takes the logarithm of, 1e-45 unless told: none is wanted."""
    n.result(n.emit("log", x=n.x(), epsilon=n.real(0), out_shape=n.out_dims()))


@lowers("Reciprocal")
def reciprocal(n: NodeLowering) -> None:
    """MIL's inverse adds an epsilon; a division does not."""
    n.result(n.emit("real_div", x=n.real(1), y=n.x(), out_dtype=n.x().dtype, out_shape=n.out_dims()))


@lowers("IsNaN")
def is_nan(n: NodeLowering) -> None:
    """Only NaN differs from itself."""
    x = n.x()
    n.result(n.emit("not_equal", x=x, y=x, out_dtype="bool", out_shape=x.shape))
