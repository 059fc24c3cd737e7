"""Placing elements by index: into a tensor there is, or among equal ones."""

from __future__ import annotations

import math

import numpy as np

from edgec.graph import attribute, ir, is_constant
from edgec.targets.tflite.model import Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.ops.gather import joined, wrapped_indices
from edgec.targets.tflite.rules import Quantised, lowers, raw

_DATA = ("float32", "int32", "int64", "bool", "uint8", "int16", "int8")


def _known(node: ir.Node) -> str | None:
    if attribute(node, "reduction") not in (None, "none"):
        return "it adds up or compares what it places"
    return None if is_constant(node.inputs[1]) else "its indices are computed"


_PLACED = Quantised("as-output", inputs=(0, 2), when=_known)


@lowers("ScatterND", sides=raw, dtypes=_DATA, quantised=_PLACED)
def scatter_nd(n: NodeLowering) -> None:
    """Updates are slices of x, at the coordinates in the last axis of the indices."""
    shape, depth = n.shape(), n.shape(1)[-1]
    _scatter(n, wrapped_indices(n, 1, shape[:depth]), depth)


@lowers("ScatterElements", sides=raw, dtypes=_DATA, quantised=_PLACED)
def scatter_elements(n: NodeLowering) -> None:
    """Updates are elements; their coordinates are their own but for one axis."""
    shape, where = n.shape(), n.shape(1)
    axis = int(n.attr("axis")) % len(shape)
    own = np.indices(where)
    if n.is_const(1):
        data = n.const(1).astype(np.int64)
        own[axis] = np.where(data < 0, data + shape[axis], data)
        _scatter(n, n.constant(np.moveaxis(own, 0, -1), "int32"), len(shape))
        return
    t = n.builder.tensor(n.value(1), None)
    at = n.emit("FLOOR_MOD", [t, n.constant(np.asarray(shape[axis], t.dtype), t.dtype)], n.temp(t.shape, t.dtype))
    at = n.reshape(at, (*where, 1))
    parts = [at if a == axis else n.constant(own[a][..., None].astype(t.dtype), t.dtype) for a in range(len(shape))]
    _scatter(n, joined(n, parts), len(shape))


def _scatter(n: NodeLowering, places: Tensor, depth: int) -> None:
    """Known places: one GATHER from x with the updates behind it. Computed ones: SCATTER_ND into zeros, and a choice."""
    x, updates, y, kind = n.x(0), n.x(2), n.y(), n.attr("reduction") or "none"
    rows, inner = math.prod(x.shape[:depth]), x.shape[depth:]
    flat = n.reshape(updates, (math.prod(updates.shape) // max(math.prod(inner), 1), *inner))
    if places.data is not None and kind == "none":
        at = np.atleast_1d(np.ravel_multi_index(tuple(places.data.reshape(-1, depth).T), x.shape[:depth]))
        source = np.arange(rows)
        source[at] = rows + np.arange(len(at))  # of two at one place the last stays, as in ONNX Runtime
        both = [n.reshape(x, (rows, *inner)), flat]
        shape = (rows + len(at), *inner)
        whole = n.emit("CONCATENATION", both, n.temp(shape, x.dtype, x.quant), axis=0)
        picked = n.temp((rows, *inner), x.dtype, x.quant)
        n.emit("GATHER", [whole, n.constant(source, "int32", hint="scatter")], picked, axis=0, batch_dims=0)
        n.result(picked)
        return
    if kind not in ("none", "add"):
        n.refuse(f"reduction {kind}", "none and add can be said")
    if x.dtype not in ("float32", "int32", "int64"):
        n.refuse(f"SCATTER_ND of {x.dtype} at computed places")
    places = n.cast(places, "int32")
    shape32 = n.ints(x.shape)
    placed = n.emit("SCATTER_ND", [places, updates, shape32], n.temp(x.shape, x.dtype))
    if kind == "add":
        n.emit("ADD", [x, placed], y, fused_activation_function="NONE")
        return
    ones = n.constant(np.ones(updates.shape, np.int32), "int32")
    counts = n.emit("SCATTER_ND", [places, ones, shape32], n.temp(x.shape, "int32"))
    taken = n.emit("GREATER", [counts, n.constant(np.int32(0), "int32")], n.temp(x.shape, "bool"))
    n.emit("SELECT_V2", [taken, placed, x], y)


@lowers(
    "OneHot", sides=raw, dtypes=("int32", "int64", "float32"), via={"int8": "int32", "uint8": "int32", "int16": "int32"}
)
def one_hot(n: NodeLowering) -> None:
    """Negative indices count from behind; those beyond either end are at no place (ONNX operator definition)."""
    depth, rank = int(n.const(1).reshape(-1)[0]), len(n.shape()) + 1
    axis = int(n.attr("axis")) % rank
    where = n.cast(n.x(0), "int32") if n.dtype() != "int64" else n.x(0)
    kind = where.dtype
    behind = n.emit("ADD", [where, n.constant(np.asarray(depth, kind), kind)], n.temp(where.shape, kind))
    below = n.emit("LESS", [where, n.constant(np.asarray(0, kind), kind)], n.temp(where.shape, "bool"))
    where = n.emit("SELECT_V2", [below, behind, where], n.temp(where.shape, kind))
    y = n.y()
    off, on = _off_and_on(n, y.dtype)
    n.emit("ONE_HOT", [n.cast(where, "int32"), n.ints(depth), on, off], y, axis=axis)


def _off_and_on(n: NodeLowering, dtype: str) -> tuple[Tensor, Tensor]:
    if n.is_const(2):
        data = n.const(2)
        return n.constant(data[0].astype(dtype), dtype), n.constant(data[1].astype(dtype), dtype)
    both = n.builder.tensor(n.value(2), None)
    parts = [n.emit("SLICE", [both, n.ints([i]), n.ints([1])], n.temp((1,), dtype)) for i in (0, 1)]
    return n.reshape(parts[0], ()), n.reshape(parts[1], ())
