"""Softmax and LogSoftmax: along the last stored axis."""

from __future__ import annotations

from edgec.graph import attribute, ir
from edgec.targets.tflite.layout import Side, Sides
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import Quantised, lowers

_PROBABILITY = {"int8": (1 / 256, -128), "int16": (1 / 32768, 0)}


def along_last(node: ir.Node) -> Sides:
    """Channels last where the axis is the channels', else raw."""
    rank = node.inputs[0].shape.rank() if node.inputs[0] is not None and node.inputs[0].shape is not None else 0
    side = Side.LAST if rank >= 3 and int(attribute(node, "axis")) % rank == 1 else Side.RAW
    return Sides([side], [side])


def _apply(n: NodeLowering, op: str, **options: float) -> None:
    x, y = n.x(), n.y()
    axis = n.axis(int(n.attr("axis")))
    if axis == x.rank - 1:
        n.emit(op, [x], y, **options)
        return
    perm = [a for a in range(x.rank) if a != axis] + [axis]
    turned = n.transpose(x, perm)
    done = n.emit(op, [turned], n.temp(turned.shape, y.dtype, y.quant), **options)
    n.transpose(done, sorted(range(x.rank), key=lambda a: perm[a]), y)


@lowers("Softmax", sides=along_last, quantised=Quantised(fixed=_PROBABILITY))
def softmax(n: NodeLowering) -> None:
    _apply(n, "SOFTMAX", beta=1.0)


@lowers(
    "LogSoftmax", sides=along_last, quantised=Quantised(fixed={"int8": (16 / 256, 127)}, dtypes=frozenset({"int8"}))
)
def log_softmax(n: NodeLowering) -> None:
    _apply(n, "LOG_SOFTMAX")
