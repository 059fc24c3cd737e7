"""Reductions over axes."""

from __future__ import annotations

from edgec.graph import attribute, constant, ir
from edgec.targets.tflite.layout import Sides
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.ops.elementwise import WIDE
from edgec.targets.tflite.rules import NUMBERS, OWN_SCALE, Quantised, follow_first, lowers, without


def _sides(node: ir.Node) -> Sides:
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    nothing = attribute(node, "noop_with_empty_axes") and (given is None or not given.size)
    if attribute(node, "keepdims") or nothing:
        return follow_first(node)
    rank = 0 if node.inputs[0] is None or node.inputs[0].shape is None else node.inputs[0].shape.rank()
    return without(node, range(rank) if given is None else [int(a) for a in given.reshape(-1)])


def axes_of(n: NodeLowering) -> list[int]:
    """The reduced axes of the ONNX value, all where none are given."""
    rank = len(n.shape())
    given = [int(a) % rank for a in n.const(1).reshape(-1)] if n.has(1) else list(n.attr("axes") or [])
    if not given and not n.attr("noop_with_empty_axes", 0):
        return list(range(rank))
    return given


def _reduce(n: NodeLowering, op: str) -> None:
    axes = axes_of(n)
    if not axes or not n.shape():
        n.reshape(n.x(), n.y().shape, n.y())
        return
    keep = bool(n.attr("keepdims"))
    x, at = (n.x(), n.axes(axes)) if keep else n.x_without(axes)
    n.emit(op, [x, n.ints(at)], n.y(), keep_dims=keep)


@lowers("ReduceMean", sides=_sides, dtypes=NUMBERS, quantised=OWN_SCALE)
def mean(n: NodeLowering) -> None:
    _reduce(n, "MEAN")


_SAME = {"ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN"}


@lowers(*_SAME, sides=_sides, dtypes=(*NUMBERS, "bool"), via=WIDE, quantised=Quantised("same", inputs=(0,)))
def extreme(n: NodeLowering) -> None:
    if n.dtype() == "bool":
        _reduce(n, "REDUCE_ANY" if n.node.op_type == "ReduceMax" else "REDUCE_ALL")
    else:
        _reduce(n, _SAME[n.node.op_type])


_FLOAT = {"ReduceSum": "SUM", "ReduceProd": "REDUCE_PROD"}


@lowers(*_FLOAT, sides=_sides, dtypes=NUMBERS)
def total(n: NodeLowering) -> None:
    """No integer kernel: LiteRT's reference SUM is wrong in int8 (measured)."""
    _reduce(n, _FLOAT[n.node.op_type])


@lowers("CumSum", sides=follow_first, dtypes=NUMBERS)
def cumulative_sum(n: NodeLowering) -> None:
    axis = n.axis(int(n.const(1).reshape(())))
    n.emit(
        "CUMSUM",
        [n.x(), n.ints(axis)],
        n.y(),
        exclusive=bool(n.attr("exclusive", 0)),
        reverse=bool(n.attr("reverse", 0)),
    )
