"""Comparisons, logic, and choosing by them."""

from __future__ import annotations

from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.ops.elementwise import WIDE
from edgec.targets.tflite.rules import NUMBERS, Quantised, follow, lowers

_COMPARE = {
    "Equal": "EQUAL",
    "Less": "LESS",
    "LessOrEqual": "LESS_EQUAL",
    "Greater": "GREATER",
    "GreaterOrEqual": "GREATER_EQUAL",
}


@lowers("Less", "LessOrEqual", "Greater", "GreaterOrEqual", sides=follow, dtypes=NUMBERS, via=WIDE)
def compare(n: NodeLowering) -> None:
    n.emit(_COMPARE[n.node.op_type], [n.operand(0), n.operand(1)], n.y())


@lowers("Equal", sides=follow, dtypes=(*NUMBERS, "bool"), via=WIDE)
def equal(n: NodeLowering) -> None:
    n.emit("EQUAL", [n.operand(0), n.operand(1)], n.y())


@lowers("And", "Or", sides=follow, dtypes=("bool",))
def logical(n: NodeLowering) -> None:
    n.emit(f"LOGICAL_{n.node.op_type.upper()}", [n.operand(0), n.operand(1)], n.y())


@lowers("Xor", sides=follow, dtypes=("bool",))
def exclusive_or(n: NodeLowering) -> None:
    n.emit("NOT_EQUAL", [n.operand(0), n.operand(1)], n.y())


@lowers("Not", sides=follow, dtypes=("bool",))
def negation(n: NodeLowering) -> None:
    n.emit("LOGICAL_NOT", [n.x()], n.y())


@lowers("Where", sides=follow, dtypes=("bool",), quantised=Quantised("as-output", inputs=(1, 2)))
def where(n: NodeLowering) -> None:
    n.emit("SELECT_V2", [n.operand(0), n.operand(1), n.operand(2)], n.y())
