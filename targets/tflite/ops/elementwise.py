"""Arithmetic of two operands, broadcast."""

from __future__ import annotations

from edgec.graph import ir
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import NUMBERS, OWN_SCALE, Quantised, follow, lowers

_ARITHMETIC = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL"}
_SMALL = {"uint8": "int32", "int8": "int32", "int16": "int32", "uint16": "int32"}
"""Types computed in int32, in which nothing overflows that would not overflow in them; CAST wraps around as ONNX does."""


@lowers(*_ARITHMETIC, sides=follow, dtypes=NUMBERS, via=_SMALL, quantised=OWN_SCALE, activation=True)
def arithmetic(n: NodeLowering) -> None:
    op = _ARITHMETIC[n.node.op_type]
    n.emit(op, [n.operand(0), n.operand(1)], n.y(), fused_activation_function=n.activation)


@lowers("Div", sides=follow, dtypes=("float32", "int32"), via={**_SMALL, "int64": "int32"}, activation=True)
def divide(n: NodeLowering) -> None:
    """LiteRT's int8 DIV gives garbage for some numerators (measured): no integer kernel here."""
    n.emit("DIV", [n.operand(0), n.operand(1)], n.y(), fused_activation_function=n.activation)


@lowers("Mod", sides=follow, dtypes=NUMBERS, via=_SMALL)
def modulo(n: NodeLowering) -> None:
    if n.attr("fmod", 0):
        n.refuse("FLOOR_MOD has the sign of the divisor, fmod that of the dividend", "expand-composites{ops=[Mod]}")
    n.emit("FLOOR_MOD", [n.operand(0), n.operand(1)], n.y())


@lowers("Pow", sides=follow, dtypes=("float32", "int32"), via={"int64": "int32"})
def power(n: NodeLowering) -> None:
    base, exponent = n.operand(0), n.operand(1)
    n.emit("POW", [base, n.cast(exponent, base.dtype)], n.y())


def _two(node: ir.Node) -> str | None:
    return None if len(node.inputs) == 2 else "it has other than two inputs"


_EXTREMES = {"Max": "MAXIMUM", "Min": "MINIMUM"}


@lowers(
    *_EXTREMES, sides=follow, dtypes=(*NUMBERS, "int16"), via={"uint8": "int32", "int8": "int32"},
    quantised=Quantised("as-output", when=_two),
)  # fmt: skip
def extreme(n: NodeLowering) -> None:
    if len(n.node.inputs) != 2:
        n.refuse(f"{n.node.op_type} of {len(n.node.inputs)} inputs", f"expand-composites{{ops=[{n.node.op_type}]}}")
    n.emit(_EXTREMES[n.node.op_type], [n.operand(0), n.operand(1)], n.y())
