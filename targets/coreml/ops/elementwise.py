"""Functions of two operands, element by element, broadcast as NumPy does."""

from __future__ import annotations

from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.rules import NUMBERS, lowers

_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul"}


@lowers(*_BINARY, dtypes=NUMBERS)
def binary(n: NodeLowering) -> None:
    n.result(n.emit(_BINARY[n.node.op_type], x=n.x(0), y=n.x(1), out_shape=n.out_dims()))


@lowers("Relu")
def relu(n: NodeLowering) -> None:
    n.result(n.emit("relu", x=n.x(), out_shape=n.out_dims()))


@lowers("Cast", dtypes=(*NUMBERS, "bool"))
def cast(n: NodeLowering) -> None:
    n.result(n.cast(n.x(), n.out_dtype()))
