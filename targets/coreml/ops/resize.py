"""Resize: the MIL operation whose sampling grid is ONNX's, position by position; else a product or a gather for each axis."""

from __future__ import annotations

import math

import numpy as np

from edgec.passes.legalize.resize_as_matmul import Axis, nearest_positions, outside, resized_axes, weights
from edgec.rewrite import Reject
from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.program import FLOATS, NUMPY, Array, Value
from edgec.targets.coreml.rules import NUMBERS, lowers

_GRID_MODES = ("UNALIGN_CORNERS", "STRICT_ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS")
_CLOSE = 1e-6
"""Interpolation weights are from 0 to 1."""


@lowers("Resize", dtypes=NUMBERS)
def resize(n: NodeLowering) -> None:
    axes = resized_axes(n.node)
    x, nearest = n.x(), n.attr("mode") == "nearest"
    if isinstance(axes, Reject) and not all(isinstance(d, int) for d in n.dims()):
        n.result(_by_factors(n))
        return
    if isinstance(axes, Reject):
        n.refuse(axes.reason, "fix the inputs: --input-shape NAME=1x3x224x224")
    if not axes:
        n.result(x)
        return
    if not nearest and x.dtype not in FLOATS:
        n.refuse("interpolation of integers", "only mode nearest is exact on integers")
    if nearest:
        repeats = _repeats(n, axes)
        if repeats is not None and x.dtype in FLOATS:
            height, width = repeats
            n.result(
                n.emit(
                    "upsample_nearest_neighbor", x=x, scale_factor_height=height, scale_factor_width=width,
                    out_shape=n.out_shape(),
                )
            )  # fmt: skip
            return
        for a in sorted(axes, key=lambda a: a.out / a.size):
            x = _picked(n, x, a.index, nearest_positions(n.node, a))
    elif (mode := _grid_mode(n, axes)) is not None:
        out = n.out_shape()
        n.result(
            n.emit(
                "resize_bilinear", x=x, target_size_height=out[-2], target_size_width=out[-1], sampling_mode=mode,
                out_shape=out,
            )
        )  # fmt: skip
        return
    else:
        for a in sorted(axes, key=lambda a: a.out / a.size):
            x = _product(n, x, a.index, weights(n.node, a))
    n.result(_extrapolated(n, x, axes))


def _by_factors(n: NodeLowering) -> Value:
    """Images of open size, height and width times whole numbers, where that is a repetition or MIL's interpolation."""
    hint = "fix the inputs: --input-shape NAME=1x3x224x224"
    if not n.is_const(2) or n.const(2).size != 4 or len(n.dims()) != 4 or n.attr("axes"):
        n.refuse("an image of open size is resized by constant scales of height and width only", hint)
    scales = n.const(2).astype(np.float64)
    if (scales[:2] != 1).any() or (scales < 1).any() or (scales != np.floor(scales)).any():
        n.refuse("an image of open size is resized by whole factors only", hint)
    height, width = (int(s) for s in scales[2:])
    mode, where, rounding = n.attr("mode"), n.attr("coordinate_transformation_mode"), n.attr("nearest_mode")
    centres = where in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
    repeats = (centres and str(rounding).startswith("round_prefer")) or (where == "asymmetric" and rounding == "floor")
    if mode == "nearest" and repeats:
        return n.emit(
            "upsample_nearest_neighbor", x=n.x(), scale_factor_height=height, scale_factor_width=width,
            out_shape=n.out_dims(),
        )  # fmt: skip
    if mode != "linear" or not centres:
        n.refuse(f"mode {mode}, {where}, of an image of open size", hint)
    n.since("iOS16", "half_pixel")
    return n.emit(
        "upsample_bilinear", x=n.x(), scale_factor_height=height, scale_factor_width=width, align_corners=False,
        half_pixel_centers=True, out_shape=n.out_dims(),
    )  # fmt: skip


def _repeats(n: NodeLowering, axes: list[Axis]) -> tuple[int, int] | None:
    """How often each row and each column is repeated, where that is all that nearest does."""
    shape, out = n.shape(), n.out_shape()
    if len(shape) != 4 or any(a.index < 2 for a in axes) or any(o % s for s, o in zip(shape[2:], out[2:], strict=True)):
        return None
    for a in axes:
        if outside(n.node, a).any() or not np.array_equal(
            nearest_positions(n.node, a), np.arange(a.out) // (a.out // a.size)
        ):
            return None
    return out[2] // shape[2], out[3] // shape[3]


def _grid_mode(n: NodeLowering, axes: list[Axis]) -> str | None:
    """The sampling mode of resize_bilinear that has ONNX's interpolation weights on both axes."""
    shape, out = n.shape(), n.out_shape()
    if n.attr("mode") != "linear" or len(shape) < 3 or any(a.index < len(shape) - 2 for a in axes):
        return None
    if any(outside(n.node, a).any() for a in axes):
        return None
    wanted = {a.index: weights(n.node, a) for a in axes}
    for mode in _GRID_MODES:
        if mode == "UNALIGN_CORNERS" and not n.builder.at_least("iOS16"):
            continue
        if all(_same(mode, wanted.get(i), shape[i], out[i]) for i in (len(shape) - 2, len(shape) - 1)):
            return mode
    return None


def _same(mode: str, wanted: Array | None, size: int, to: int) -> bool:
    if wanted is None and to != size:
        return False
    grid = _grid(mode, size, to)
    low = np.floor(grid).astype(np.int64)
    share = grid - low
    matrix = np.zeros((to, size))
    np.add.at(matrix, (np.arange(to), low), 1 - share)
    np.add.at(matrix, (np.arange(to), np.minimum(low + 1, size - 1)), share)
    return np.allclose(matrix, np.eye(size) if wanted is None else wanted, rtol=0, atol=_CLOSE)


def _grid(mode: str, size: int, to: int) -> Array:
    """Where the samples lie, by coremltools' definition of resize_bilinear (its notes on `sampling_mode`)."""
    i = np.arange(to, dtype=np.float64)
    if mode == "UNALIGN_CORNERS":
        at = i * (size / to) + 0.5 * (size / to) - 0.5
    elif mode == "STRICT_ALIGN_CORNERS":
        at = i * ((size - 1) / (to - 1)) if to > 1 else np.zeros(1)
    elif mode == "DEFAULT":
        at = i * ((size - size / to) / (to - 1)) if to > 1 else np.zeros(1)
    else:
        delta = max(1, size - 1) / to
        at = 0.5 * delta + i * delta
    return np.clip(at, 0, size - 1)


def _picked(n: NodeLowering, x: Value, axis: int, places: Array) -> Value:
    shape = (*x.known[:axis], len(places), *x.known[axis + 1 :])
    return n.emit("gather", x=x, indices=places.astype(np.int32), axis=axis, out_shape=shape)


def _product(n: NodeLowering, x: Value, axis: int, matrix: Array) -> Value:
    """The matrix [output size, input size] times one axis of x."""
    sizes = [int(d) for d in x.known]
    shape = (*sizes[:axis], len(matrix), *sizes[axis + 1 :])
    kind = NUMPY[x.dtype]
    if axis == x.rank - 1:
        across = n.constant(np.ascontiguousarray(matrix.T).astype(kind), "interpolation")
        return n.emit("matmul", x=x, y=across, out_shape=shape)
    down = n.constant(matrix.astype(kind), "interpolation")
    if axis == x.rank - 2:
        return n.emit("matmul", x=down, y=x, out_shape=shape, out_dtype=x.dtype)
    flat = n.reshape(x, (math.prod(sizes[:axis]), sizes[axis], math.prod(sizes[axis + 1 :])))
    product = n.emit("matmul", x=down, y=flat, out_shape=(flat.known[0], len(matrix), flat.known[2]), out_dtype=x.dtype)
    return n.reshape(product, shape)


def _extrapolated(n: NodeLowering, x: Value, axes: list[Axis]) -> Value:
    """What lies outside the region of interest has the extrapolation value."""
    rank = x.rank
    away = np.zeros([1] * rank, np.bool_)
    for a in axes:
        along = [1] * rank
        along[a.index] = a.out
        away = away | outside(n.node, a).reshape(along)
    if not away.any():
        return x
    mask = np.ascontiguousarray(np.broadcast_to(away, [int(d) for d in x.known]))
    value = np.asarray(n.attr("extrapolation_value"), NUMPY[x.dtype])
    return n.emit("select", cond=mask, a=value, b=x, out_dtype=x.dtype, out_shape=x.shape)
