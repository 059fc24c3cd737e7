"""Arithmetic of two operands, broadcast."""

from __future__ import annotations

from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import NUMBERS, OWN_SCALE, follow, lowers

_BINARY = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV"}


@lowers("Add", "Sub", "Mul", sides=follow, dtypes=NUMBERS, quantised=OWN_SCALE, activation=True)
def arithmetic(n: NodeLowering) -> None:
    n.emit(_BINARY[n.node.op_type], [n.operand(0), n.operand(1)], n.y(), fused_activation_function=n.activation)


@lowers("Div", sides=follow, dtypes=("float32", "int32"), activation=True)
def divide(n: NodeLowering) -> None:
    n.emit("DIV", [n.operand(0), n.operand(1)], n.y(), fused_activation_function=n.activation)


_UNARY = {"Relu": "RELU", "HardSwish": "HARD_SWISH"}


@lowers("Relu", "HardSwish", sides=follow, quantised=OWN_SCALE)
def unary(n: NodeLowering) -> None:
    n.emit(_UNARY[n.node.op_type], [n.x()], n.y())
