"""Resizing along the last axes, by the grids of sampling points of the definitions.

A grid says for every place of the output where in the input it lies. Linear: between the two neighbours. Nearest: the one at
or below, but of `resize` the one nearest to the point, as coremltools' own tests have it. Fixed sizes are computed from those
formulas; sizes known at run time only through ONNX's Resize, where it has the same grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates
from edgec.targets.coreml.program import Array

_RESIZE = {"STRICT_ALIGN_CORNERS": "align_corners", "UNALIGN_CORNERS": "half_pixel", "DEFAULT": "asymmetric"}
"""Sampling modes that ONNX's Resize has."""


def grid(mode: str, size: int, out: int) -> Array:
    """Sampling points in [0, size - 1] for `out` places, float64.

    Raises:
        KeyError: no such mode.
    """
    i = np.arange(out, dtype=np.float64)
    if mode == "ALIGN_CORNERS" and out == 1:
        return np.asarray([(size - 1) / 2])
    delta = max(1, size - 1) / out
    points = {
        "STRICT_ALIGN_CORNERS": i * ((size - 1) / max(out - 1, 1)),
        "ALIGN_CORNERS": i * ((size - 1) / max(out - 1, 1)),
        "DEFAULT": i * (size / out),
        "OFFSET_CORNERS": 0.5 * delta + i * delta,
        "UNALIGN_CORNERS": (i + 0.5) * (size / out) - 0.5,
    }[mode]
    return np.clip(points, 0, size - 1)


@evaluates("resize_bilinear")
def resize_bilinear(o: OpReader) -> None:
    sizes = o.integer("target_size_height", 1), o.integer("target_size_width", 1)
    _linear(o, sizes, o.text("sampling_mode", "DEFAULT"))


@evaluates("upsample_bilinear")
def upsample_bilinear(o: OpReader) -> None:
    """The scale is computed anew from the sizes, floor(size factor). align_corners: both ends lie on each other; else
    (iOS16: unless half_pixel_centers is told False) pixels are squares with centres."""
    corners = o.flag("align_corners", True)
    centres = o.flag("half_pixel_centers", not corners)
    if corners and centres:
        o.unknown("corners and centres aligned at once")
    mode = "STRICT_ALIGN_CORNERS" if corners else "UNALIGN_CORNERS" if centres else "DEFAULT"
    _linear(o, _scaled(o), mode)


@evaluates("resize_nearest_neighbor")
def resize_nearest_neighbor(o: OpReader) -> None:
    """The pixel at floor(i size / new size). (The definition names no grid; this is TensorFlow's operation of the same
    name, whose translation it is.)"""
    _nearest(o, (o.integer("target_size_height"), o.integer("target_size_width")))


@evaluates("upsample_nearest_neighbor")
def upsample_nearest_neighbor(o: OpReader) -> None:
    """The same to floor(size factor)."""
    _nearest(o, _scaled(o))


@evaluates("resize")
def resize(o: OpReader) -> None:
    """The last `resized_dims` axes to the last numbers of `shape` (0: as it is), linear or nearest (iOS17).

    Nearest takes the pixel nearest to the point; points in the middle between two are not evaluated.
    """
    known, count = o.known("shape"), o.integer("resized_dims")
    if known is None:
        _to_computed(o, count)
        return
    dims = o.dims()
    sizes = [int(s) for s in known[len(known) - count :]]
    sizes_now = [s or d for s, d in zip(sizes, dims[len(dims) - count :], strict=True)]
    if not all(isinstance(s, int) for s in sizes_now):
        o.unknown("sizes that are not fixed")
    fixed, mode = [int(s) for s in sizes_now], o.text("sampling_mode", "DEFAULT")
    if o.text("interpolation_mode", "LINEAR") == "LINEAR":
        _linear(o, fixed, mode)
    else:
        _rounded(o, fixed, mode)


def _rounded(o: OpReader, sizes: Sequence[int], mode: str) -> None:
    v, rank = o.x(), o.mil().rank
    for axis, out in enumerate(sizes, rank - len(sizes)):
        size = o.dims()[axis]
        if size == out:
            continue
        try:
            points = grid(mode, int(size), out)
        except KeyError:
            o.unknown(f"sampling_mode {mode}")
        if np.any(np.isclose(points % 1, 0.5, atol=1e-6)):
            o.unknown("points in the middle between two pixels")
        v = o.emit("Gather", [v, o.const(np.rint(points).astype(np.int64))], axis=axis)
    o.move(v)


def _to_computed(o: OpReader, count: int) -> None:
    """To sizes that the program computes."""
    how = o.text("interpolation_mode", "LINEAR")
    nearest, mode, rank = how != "LINEAR", o.text("sampling_mode", "DEFAULT"), o.mil().rank
    told, length = o.integers("shape"), o.shape("shape")[0]
    told = o.emit("Slice", [told, o.const([length - count]), o.const([length])])
    dims = o.emit("Slice", [o.emit("Shape", [o.x()]), o.const([rank - count]), o.const([rank])])
    new = o.emit("Where", [o.emit("Equal", [told, o.const(np.int64(0))]), dims, told])
    _by_onnx(o, new, count, mode, "round_prefer_floor" if nearest else None)


_Sizes = Sequence["int | float"]
"""A new size, or (a float) the factor to it where the present one is not fixed."""


def _scaled(o: OpReader) -> _Sizes:
    dims = o.dims()[-2:]
    factors = o.number("scale_factor_height", 1), o.number("scale_factor_width", 1)
    return [math.floor(d * f) if isinstance(d, int) else float(f) for d, f in zip(dims, factors, strict=True)]


def _linear(o: OpReader, sizes: _Sizes, mode: str) -> None:
    dims = o.dims()[-len(sizes) :]
    if not all(isinstance(d, int) and isinstance(s, int) for d, s in zip(dims, sizes, strict=True)):
        _at_run_time(o, sizes, "linear", mode)
        return
    v, rank = o.x(), o.mil().rank
    for axis, (size, out) in enumerate(zip(dims, sizes, strict=True), rank - len(sizes)):
        v = _linear_axis(o, v, axis - rank, int(size), int(out), mode)
    o.give(v)


def _linear_axis(o: OpReader, v: ir.Value, axis: int, size: int, out: int, mode: str) -> ir.Value:
    try:
        points = grid(mode, size, out)
    except KeyError:
        o.unknown(f"sampling_mode {mode}")
    below = np.floor(points).astype(np.int64)
    share = (points - below).astype(np.float32).reshape(-1, *[1] * (-axis - 1))
    if out == size and not share.any() and np.array_equal(below, np.arange(size)):
        return v
    low = o.emit("Gather", [v, o.const(below)], axis=axis)
    if not share.any():
        return low
    high = o.emit("Gather", [v, o.const(np.minimum(below + 1, size - 1))], axis=axis)
    near, far = o.emit("Mul", [low, o.const(1 - share)]), o.emit("Mul", [high, o.const(share)])
    return o.emit("Add", [near, far])


def _nearest(o: OpReader, sizes: _Sizes) -> None:
    dims, rank = o.dims()[-len(sizes) :], o.mil().rank
    if not all(isinstance(d, int) and isinstance(s, int) for d, s in zip(dims, sizes, strict=True)):
        _at_run_time(o, sizes, "nearest", "DEFAULT")
        return
    v = o.x()
    for axis, (size, out) in enumerate(zip(dims, sizes, strict=True), rank - len(sizes)):
        if size != out:
            places = np.arange(int(out)) * int(size) // int(out)
            v = o.emit("Gather", [v, o.const(places)], axis=axis)
    o.move(v)


def _at_run_time(o: OpReader, sizes: _Sizes, how: str, mode: str) -> None:
    """Sizes floor(size factor) computed in the graph, then ONNX's Resize to them."""
    rank = o.mil().rank
    present = o.emit("Slice", [o.emit("Shape", [o.x()]), o.const([rank - len(sizes)]), o.const([rank])])
    factors = np.asarray([s if isinstance(s, float) else 1.0 for s in sizes], np.float32)
    real = o.emit("Cast", [present], to=int(ir.DataType.FLOAT))
    grown = o.emit("Cast", [o.emit("Floor", [o.emit("Mul", [real, o.const(factors)])])], to=int(ir.DataType.INT64))
    told = np.asarray([s if isinstance(s, int) else 0 for s in sizes])
    new = o.emit("Where", [o.const(told > 0), o.const(told), grown])
    _by_onnx(o, new, len(sizes), mode, "floor" if how == "nearest" else None)


def _by_onnx(o: OpReader, sizes: ir.Value, count: int, mode: str, rounding: str | None) -> None:
    """`rounding`: of nearest neighbours; None: linear."""
    if mode not in _RESIZE:
        o.unknown(f"sampling_mode {mode} of sizes that are not fixed")
    rank = o.mil().rank
    v = o.emit(
        "Resize", [o.x(), None, None, sizes], axes=list(range(rank - count, rank)),
        mode="nearest" if rounding else "linear", nearest_mode=rounding, coordinate_transformation_mode=_RESIZE[mode],
    )  # fmt: skip
    o.move(v) if rounding else o.give(v)
