"""Positions of extremes, and the k largest."""

from __future__ import annotations

import numpy as np

from edgec.graph import attribute, ir
from edgec.targets.tflite.layout import Sides
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import Quantised, follow_first, lowers, raw, without


def _sides(node: ir.Node) -> Sides:
    return follow_first(node) if attribute(node, "keepdims") else without(node, [int(attribute(node, "axis"))])


_ARGS = {"ArgMax": "ARG_MAX", "ArgMin": "ARG_MIN"}


@lowers(
    *_ARGS,
    sides=_sides,
    dtypes=("float32", "int32", "uint8"),
    via={"bool": "int32"},
    quantised=Quantised(dtypes=frozenset({"int8"})),
)
def position(n: NodeLowering) -> None:
    """ARG_MAX takes the first of equal extremes; the last of them is the first from behind."""
    onnx_axis, y = int(n.attr("axis")), n.y()
    x, at = (n.x(), n.axes([onnx_axis])) if n.attr("keepdims") else n.x_without([onnx_axis])
    axis = at[0]
    shape = tuple(d for a, d in enumerate(x.shape) if a != axis)
    last = bool(n.attr("select_last_index", 0))
    if last:
        x = n.emit("REVERSE_V2", [x, n.ints([axis])], n.temp(x.shape, x.dtype, x.quant))
    out = y if shape == y.shape and not last else n.temp(shape, "int64", hint=f"{y.name}_squeezed")
    n.emit(_ARGS[n.node.op_type], [x, n.ints(axis)], out, output_type="INT64")
    if last:
        end = n.constant(np.asarray(x.shape[axis] - 1, np.int64), "int64")
        out = n.emit("SUB", [end, out], y if shape == y.shape else n.temp(shape, "int64"))
    if out is not y:
        n.reshape(out, y.shape, y)


@lowers("TopK", sides=raw, dtypes=("float32", "int32", "int64"))
def top_k(n: NodeLowering) -> None:
    """TOPK_V2 takes the largest of the last axis, in order; the smallest are the largest of the negated."""
    x, k = n.x(), int(n.const(1).reshape(()))
    axis = int(n.attr("axis")) % x.rank
    if not n.attr("largest", 1):
        x = n.emit("NEG", [x], n.temp(x.shape, x.dtype))
    perm = [a for a in range(x.rank) if a != axis] + [axis]
    back = sorted(range(x.rank), key=lambda a: perm[a])
    x = n.transpose(x, perm)
    shape = (*x.shape[:-1], k)
    values, places = n.temp(shape, x.dtype, hint="top_values"), n.temp(shape, "int32", hint="top_indices")
    n.emit("TOPK_V2", [x, n.ints(np.int32(k))], [values, places])
    if not n.attr("largest", 1):
        values = n.emit("NEG", [values], n.temp(shape, x.dtype))
    n.alias(n.transpose(values, back), 0)
    n.alias(n.transpose(n.cast(places, "int64"), back), 1)
