"""Picking and placing elements by index."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgec.graph import attribute, ir
from edgec.targets.tflite.layout import Sides
from edgec.targets.tflite.model import Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import Quantised, follow_first, lowers, raw, without

_DATA = ("float32", "int32", "int64", "bool", "uint8", "int16", "int8")


def indices(n: NodeLowering, i: int, size: int) -> Tensor:
    """Indices counted from the front: ONNX lets them be negative, TFLite does not."""
    if n.is_const(i):
        data = n.const(i).astype(np.int64)
        return n.constant(np.where(data < 0, data + size, data), "int32", hint=n.value(i).name)
    t = n.builder.tensor(n.value(i), None)
    wrapped = n.temp(t.shape, t.dtype, hint=f"{t.name}_wrapped")
    return n.emit("FLOOR_MOD", [t, n.constant(np.asarray(size, t.dtype), t.dtype)], wrapped)


def _sides(node: ir.Node) -> Sides:
    """A list of indices leaves the axes where they are; a single one takes its axis away."""
    rank = node.inputs[1].shape.rank() if node.inputs[1] is not None and node.inputs[1].shape is not None else 0
    if rank == 0:
        return without(node, [int(attribute(node, "axis"))])
    return follow_first(node) if rank == 1 else raw(node)


@lowers("Gather", sides=_sides, dtypes=_DATA, quantised=Quantised("same", inputs=(0,)))
def gather(n: NodeLowering) -> None:
    axis = int(n.attr("axis")) % len(n.shape())
    x, at = n.x_without([axis]) if not n.shape(1) else (n.x(), [n.axis(axis)])
    if (run := _run(n, n.shape()[axis])) is not None:
        start, count = run
        if (
            count == 1
            and x.rank > 1
            and at[0] == x.rank - 1
            and x.shape[-1] < x.shape[-2]
            and math.prod(x.shape[:-1]) > 64
        ):
            # One number of every few (a channel shuffle): with the axis in front, each is one block of memory.
            x, at = n.builder.in_front(x), [0]
        begin, size = [0] * x.rank, list(x.shape)
        begin[at[0]], size[at[0]] = start, count
        out = n.y() if n.y().shape == tuple(size) else n.temp(size, x.dtype, x.quant, hint=f"{n.y().name}_part")
        part = n.emit("SLICE", [x, n.ints(begin), n.ints(size)], out)
        if part is not n.y():
            n.reshape(part, n.y().shape, n.y())
        return
    n.emit("GATHER", [x, indices(n, 1, n.shape()[axis])], n.y(), axis=at[0], batch_dims=0)


def _run(n: NodeLowering, size: int) -> tuple[int, int] | None:
    """First index and count where the indices are constant and follow each other: a SLICE, which delegates take."""
    if not n.is_const(1):
        return None
    places = n.const(1).reshape(-1).astype(np.int64) % size
    if not places.size or (np.diff(places) != 1).any():
        return None
    return int(places[0]), len(places)


@lowers("GatherND", sides=raw, dtypes=_DATA, quantised=Quantised("same", inputs=(0,)))
def gather_nd(n: NodeLowering) -> None:
    """Batches become leading indices of their own."""
    shape, batch, depth = n.shape(), int(n.attr("batch_dims", 0)), n.shape(1)[-1]
    places = wrapped_indices(n, 1, shape[batch : batch + depth])
    if batch:
        at = np.indices(places.shape[:-1])[:batch]
        places = joined(n, [*(n.constant(a[..., None].astype(places.dtype), places.dtype) for a in at), places])
    n.emit("GATHER_ND", [n.x(), places], n.y())


def wrapped_indices(n: NodeLowering, i: int, sizes: Sequence[int]) -> Tensor:
    """Coordinates in the last axis of input `i`, each counted from the front of an axis of its size."""
    limits = np.asarray(sizes)
    if n.is_const(i):
        data = n.const(i).astype(np.int64)
        return n.constant(np.where(data < 0, data + limits, data), "int32", hint=n.value(i).name)
    t = n.builder.tensor(n.value(i), None)
    divisor = n.constant(limits.astype(t.dtype), t.dtype)
    return n.emit("FLOOR_MOD", [t, divisor], n.temp(t.shape, t.dtype, hint=f"{t.name}_wrapped"))


def joined(n: NodeLowering, parts: Sequence[Tensor]) -> Tensor:
    """Coordinates side by side in the last axis."""
    if len(parts) == 1:
        return parts[0]
    if all(p.data is not None for p in parts):
        return n.constant(np.concatenate([p.data for p in parts if p.data is not None], -1), parts[0].dtype)
    shape = (*parts[0].shape[:-1], sum(p.shape[-1] for p in parts))
    return n.emit("CONCATENATION", list(parts), n.temp(shape, parts[0].dtype), axis=len(shape) - 1)
