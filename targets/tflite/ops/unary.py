"""Functions of one operand."""

from __future__ import annotations

import numpy as np

from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.ops.elementwise import SMALL
from edgec.targets.tflite.rules import OWN_SCALE, Quantised, follow_first, lowers

_FLOAT = {"Ceil": "CEIL", "Floor": "FLOOR", "Round": "ROUND", "Sin": "SIN", "Cos": "COS"}


@lowers(*_FLOAT, sides=follow_first)
def float_only(n: NodeLowering) -> None:
    n.emit(_FLOAT[n.node.op_type], [n.x()], n.y())


_TABLES = {"Exp": "EXP", "Log": "LOG", "Sqrt": "SQRT"}


@lowers(*_TABLES, sides=follow_first, quantised=Quantised(dtypes=frozenset({"int8"})))
def table(n: NodeLowering) -> None:
    """In int8 each is a table of 256 entries, exact; in int16 interpolated, several steps off (measured): float there."""
    n.emit(_TABLES[n.node.op_type], [n.x()], n.y())


@lowers("Abs", sides=follow_first, dtypes=("float32", "int32", "int64"), via=SMALL, quantised=OWN_SCALE)
def absolute(n: NodeLowering) -> None:
    if n.x().dtype == "int64":  # ABS does not take it
        minus = n.emit("NEG", [n.x()], n.temp(n.x().shape, "int64"))
        n.emit("MAXIMUM", [n.x(), minus], n.y())
        return
    n.emit("ABS", [n.x()], n.y())


@lowers("Neg", sides=follow_first, dtypes=("float32", "int32", "int64"), via=SMALL)
def negate(n: NodeLowering) -> None:
    n.emit("NEG", [n.x()], n.y())


@lowers("Sign", sides=follow_first, dtypes=("float32", "int32", "int64"), via=SMALL)
def sign(n: NodeLowering) -> None:
    x, y = n.x(), n.y()
    if x.dtype != "int64":
        n.emit("SIGN", [x], y)
        return
    one, less = (n.constant(np.asarray(v, np.int64), "int64") for v in (1, -1))
    top = n.emit("MINIMUM", [x, one], n.temp(x.shape, "int64"))
    n.emit("MAXIMUM", [top, less], y)


@lowers("Reciprocal", sides=follow_first)
def reciprocal(n: NodeLowering) -> None:
    n.emit("DIV", [n.constant(np.float32(1)), n.x()], n.y())


@lowers("IsNaN", sides=follow_first)
def is_nan(n: NodeLowering) -> None:
    """Only NaN differs from itself."""
    x = n.x()
    n.emit("NOT_EQUAL", [x, x], n.y())
