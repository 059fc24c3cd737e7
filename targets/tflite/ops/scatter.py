"""Placing elements by index: into a tensor there is, or among equal ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgec.graph import attribute, ir, is_constant
from edgec.targets.tflite.model import Array, Tensor
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
        _replace(n, n.reshape(x, (rows, *inner)), _flat_places(places.data, x.shape[:depth]), flat)
        return
    if kind not in ("none", "add"):
        _combine_known(n, x, places, flat, depth)
        return
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


_COMBINED = {"mul": "MUL", "max": "MAXIMUM", "min": "MINIMUM"}


def _combine_known(n: NodeLowering, x: Tensor, places: Tensor, updates: Tensor, depth: int) -> None:
    """What is at known, different places is picked, combined with the updates, and put back."""
    kind = str(n.attr("reduction"))
    if places.data is None:
        n.refuse(f"reduction {kind} at computed places", "none and add can be said, or constant indices")
    at = _flat_places(places.data, x.shape[:depth])
    if len(np.unique(at)) != len(at):
        n.refuse(f"reduction {kind} with several updates at one place", "only add can be said with these")
    if x.dtype not in ("float32", "int32", "int64"):
        n.refuse(f"reduction {kind} of {x.dtype}")
    rows = n.reshape(x, (math.prod(x.shape[:depth]), *x.shape[depth:]))
    old = n.emit("GATHER", [rows, n.constant(at, "int32")], n.temp(updates.shape, x.dtype), axis=0, batch_dims=0)
    _replace(n, rows, at, n.emit(_COMBINED[kind], [old, updates], n.temp(updates.shape, x.dtype)))


def _flat_places(coordinates: Array, sizes: Sequence[int]) -> Array:
    """Positions along the flattened leading axes."""
    flat = np.ravel_multi_index(tuple(coordinates.reshape(-1, len(sizes)).T), tuple(sizes))
    return np.atleast_1d(np.asarray(flat))


def _replace(n: NodeLowering, rows: Tensor, at: Array, new: Tensor) -> None:
    """Output 0: the rows, `new` in place of those at `at`; one GATHER from both."""
    source = np.arange(rows.shape[0])
    source[at] = rows.shape[0] + np.arange(len(at))  # of two at one place the last stays, as in ONNX Runtime
    both = n.temp((rows.shape[0] + len(at), *rows.shape[1:]), rows.dtype, rows.quant)
    whole = n.emit("CONCATENATION", [rows, new], both, axis=0)
    picked = n.temp(rows.shape, rows.dtype, rows.quant)
    n.emit("GATHER", [whole, n.constant(source, "int32", hint="scatter")], picked, axis=0, batch_dims=0)
    n.result(picked)


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
