"""Resize as one constant matrix an axis (linear, cubic, antialiased), or one Gather an axis (nearest).

Every interpolation ONNX's Resize knows is separable and linear in the image, so with known sizes each axis is a matrix of
[output size, input size] whose rows hold the interpolation weights. That covers every mode, coordinate transformation,
region of interest and aspect policy for targets that can multiply matrices. Source of the formulas: the operator
definition of Resize (opset 19); where it leaves rounding open, what ONNX Runtime does: nearest positions in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, attribute, constant, ir, static_shape
from edgec.passes.legalize.builders import optional_input, reshape
from edgec.pattern import Match, P, rest
from edgec.pipeline import Pass, PassContext, PassResult, rewrite_result
from edgec.rewrite import Reject, Result, Rewriter, Rule, RuleSet

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Axis:
    """How one axis is resized. `scale` is the factor the node gives (or output / input); `roi` its part of the region."""

    index: int
    size: int
    out: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


def resize(node: ir.Node, rw: Rewriter) -> Result:
    """The resized image, one axis after the other, the axis that shrinks most first."""
    x = node.inputs[0]
    axes = resized_axes(node)
    if isinstance(axes, Reject):
        return axes
    assert x is not None  # resized_axes looked
    assert x.dtype is not None
    nearest = attribute(node, "mode") == "nearest"
    if not nearest and not x.dtype.is_floating_point():
        return Reject(f"interpolation of {x.dtype.name.lower()}: only nearest is exact on integers")
    y: ir.Value = x
    for axis in sorted(axes, key=lambda a: a.out / a.size):
        y = _gather(node, rw, y, axis) if nearest else _multiply(node, rw, y, axis)
    return _extrapolate(node, rw, y, axes, nearest)


def resized_axes(node: ir.Node) -> list[Axis] | Reject:
    """The axes whose size or content changes."""
    x = node.inputs[0]
    shape = static_shape(x)
    if shape is None or x is None or x.dtype is None:
        return Reject("the size of the image is not known at compile time")
    if 0 in shape:
        return Reject("the image is empty")
    rank = len(shape)
    axes = [a % rank for a in attribute(node, "axes") or range(rank)]
    sizes = _sizes(node, shape, axes)
    if isinstance(sizes, Reject):
        return sizes
    outs, scales = sizes
    if min(outs) < 1:
        return Reject("the result is empty")
    crop = attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize"
    rois = [(0.0, 1.0)] * len(axes)
    if crop:
        roi = constant(optional_input(node, 1))
        if roi is None:
            return Reject("the region of interest is not known at compile time")
        rois = [(float(roi[i]), float(roi[len(axes) + i])) for i in range(len(axes))]
    found = [Axis(a, shape[a], o, s, r) for a, o, s, r in zip(axes, outs, scales, rois, strict=True)]
    return [a for a in found if a.out != a.size or not math.isclose(a.scale, 1) or a.roi != (0, 1)]


def _sizes(node: ir.Node, shape: tuple[int, ...], axes: list[int]) -> tuple[list[int], list[float]] | Reject:
    """Output size and scale of each of the axes."""
    scales = optional_input(node, 2)
    if scales is not None and static_shape(scales) != (0,):
        data = constant(scales)
        if data is None:
            return Reject("the scales are not known at compile time")
        return [int(np.float32(shape[a]) * np.float32(s)) for a, s in zip(axes, data, strict=True)], data.tolist()
    data = constant(optional_input(node, 3))
    out_shape = static_shape(node.outputs[0])
    policy = attribute(node, "keep_aspect_ratio_policy")
    if data is None and (out_shape is None or policy != "stretch"):
        return Reject("the sizes are not known at compile time")
    wanted = [int(d) for d in data] if data is not None else [out_shape[a] for a in axes] if out_shape else []
    factors = [o / shape[a] for a, o in zip(axes, wanted, strict=True)]
    if policy == "stretch":
        return wanted, factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [int(factor * shape[a] + 0.5) for a in axes], [factor] * len(axes)


def positions(node: ir.Node, axis: Axis, dtype: type[np.floating[Any]]) -> Array:
    """Where in the input each output position lies, in pixels; computed in `dtype`."""
    mode = attribute(node, "coordinate_transformation_mode")
    at, scale, half = np.arange(axis.out, dtype=dtype), dtype(axis.scale), dtype(0.5)
    last = dtype(axis.size - 1)
    if mode == "align_corners":
        return np.asarray(at * last / dtype(axis.out - 1) if axis.out > 1 else np.zeros(1, dtype))
    if mode == "asymmetric":
        return np.asarray(at / scale)
    if mode == "tf_crop_and_resize":
        start, end = dtype(axis.roi[0]), dtype(axis.roi[1])
        if axis.out == 1:
            return np.full(1, half * (start + end) * last, dtype)
        return np.asarray(start * last + at * (end - start) * last / dtype(axis.out - 1))
    if mode == "pytorch_half_pixel" and axis.out == 1:
        return np.zeros(1, dtype)
    centred: Array = (at + half) / scale - half
    if mode == "half_pixel_symmetric":
        centred = centred + dtype(axis.size / 2 * (1 - axis.out / (axis.scale * axis.size)))
    return np.asarray(centred)


def outside(node: ir.Node, axis: Axis) -> Array:
    """Output positions that lie outside the image and get the extrapolation value."""
    if attribute(node, "coordinate_transformation_mode") != "tf_crop_and_resize":
        return np.zeros(axis.out, bool)
    at = positions(node, axis, np.float32)
    return (at < 0) | (at > axis.size - 1)


def _cubic(distance: Array, a: float) -> Array:
    """The cubic convolution kernel (Keys 1981)."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def weights(node: ir.Node, axis: Axis) -> Array:
    """The matrix [output size, input size] of one axis; rows outside the image are zero."""
    at = positions(node, axis, np.float64)
    cubic = attribute(node, "mode") == "cubic"
    support = 2 if cubic else 1
    squeeze = min(axis.scale, 1.0) if attribute(node, "antialias") else 1.0
    reach = math.ceil(support / squeeze) + 1
    base = np.floor(at).astype(np.int64)
    neighbours = base[:, None] + np.arange(-reach, reach + 1)[None, :]
    distance = (neighbours - at[:, None]) * squeeze
    share = _cubic(distance, attribute(node, "cubic_coeff_a")) if cubic else np.maximum(0, 1 - np.abs(distance))
    if squeeze != 1:
        share /= share.sum(axis=1, keepdims=True)
    if attribute(node, "exclude_outside"):
        share = np.where((neighbours < 0) | (neighbours >= axis.size), 0.0, share)
        total = share.sum(axis=1, keepdims=True)
        share /= np.where(total == 0, 1.0, total)
    matrix = np.zeros((axis.out, axis.size))
    rows = np.broadcast_to(np.arange(axis.out)[:, None], neighbours.shape)
    np.add.at(matrix, (rows, np.clip(neighbours, 0, axis.size - 1)), share)
    matrix[outside(node, axis)] = 0
    return matrix


def _multiply(node: ir.Node, rw: Rewriter, x: ir.Value, axis: Axis) -> ir.Value:
    shape = static_shape(x)
    assert shape is not None  # resized_axes looked
    assert x.dtype is not None
    matrix = weights(node, axis).astype(x.dtype.numpy())
    hint = f"{node.outputs[0].name}.axis{axis.index}"
    if axis.index == len(shape) - 1 and len(shape) > 1:
        return rw.op("MatMul", x, rw.const(np.ascontiguousarray(matrix.T), hint))
    if axis.index == len(shape) - 2:
        return rw.op("MatMul", rw.const(matrix, hint), x)
    rows = math.prod(shape[axis.index + 1 :])
    flat = reshape(rw, x, (math.prod(shape[: axis.index]), axis.size, rows))
    y = rw.op("MatMul", rw.const(matrix, hint), flat)
    return reshape(rw, y, (*shape[: axis.index], axis.out, *shape[axis.index + 1 :]))


def nearest_positions(node: ir.Node, axis: Axis) -> Array:
    """The element of the input that each output position takes."""
    at = positions(node, axis, np.float32)
    match attribute(node, "nearest_mode"):
        case "floor":
            picked = np.floor(at)
        case "ceil":
            picked = np.ceil(at)
        case "round_prefer_ceil":
            picked = np.floor(at + np.float32(0.5))
        case _:
            picked = np.ceil(at - np.float32(0.5))
    return np.asarray(np.clip(picked.astype(np.int64), 0, axis.size - 1))


def _gather(node: ir.Node, rw: Rewriter, x: ir.Value, axis: Axis) -> ir.Value:
    indices = nearest_positions(node, axis)
    return rw.op("Gather", x, rw.const(indices, f"{node.outputs[0].name}.axis{axis.index}"), attrs={"axis": axis.index})


def _extrapolate(node: ir.Node, rw: Rewriter, y: ir.Value, axes: list[Axis], nearest: bool) -> ir.Value:
    """What lies outside the region gets the extrapolation value. Rows of matrices are zero there already."""
    shape, value = static_shape(y), attribute(node, "extrapolation_value")
    assert shape is not None  # resized_axes looked
    assert y.dtype is not None
    masked = np.zeros([1] * len(shape), bool)
    for axis in axes:
        along = [1] * len(shape)
        along[axis.index] = axis.out
        masked = masked | outside(node, axis).reshape(along)
    if not masked.any():
        return y
    if nearest:
        return rw.op("Where", rw.const(masked, "outside"), rw.const(np.asarray(value, y.dtype.numpy()), "value"), y)
    if not value:
        return y
    return rw.op("Add", y, rw.const((masked * value).astype(y.dtype.numpy()), "extrapolation"))


def spelling(node: ir.Node) -> str:
    """How `keep` names a Resize: `linear/half_pixel`, `nearest/asymmetric/floor`; with what it has besides appended.

    Appended, each after a `+`: `antialias`, `exclude_outside` (cubic only), `scale` where the scales are not exactly
    output size / input size, `axes` where others than the last two axes of four change.
    """
    mode = attribute(node, "mode")
    text = f"{mode}/{attribute(node, 'coordinate_transformation_mode')}"
    if mode == "nearest":
        text += f"/{attribute(node, 'nearest_mode')}"
    if attribute(node, "antialias"):
        text += "+antialias"
    if mode == "cubic" and attribute(node, "exclude_outside"):
        text += "+exclude_outside"
    axes = resized_axes(node)
    if isinstance(axes, Reject):
        return f"{text}+unknown"
    if any(not math.isclose(a.scale * a.size, a.out, rel_tol=1e-6) for a in axes):
        text += "+scale"
    shape = static_shape(node.inputs[0]) or ()
    if len(shape) != 4 or any(a.index < 2 for a in axes):
        text += "+axes"
    return text


@dataclass(frozen=True)
class ResizeAsMatMul(Pass):
    """No Resize, but those `keep` names (`linear/half_pixel`, `nearest/asymmetric/floor`) and those of unknown size."""

    keep: tuple[str, ...] = ()
    name: ClassVar[str] = "resize-as-matmul"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        def rewrite(m: Match, rw: Rewriter) -> Result:
            if (text := spelling(m.root)) in self.keep:
                return Reject(f"{text} is kept")
            return resize(m.root, rw)

        code = resize.__code__
        where = f"{code.co_filename}:{code.co_firstlineno}"
        return rewrite_result(
            RuleSet([Rule("resize-as-matmul", P.Resize(rest("inputs")), rewrite, where)]).apply(graph), ctx
        )
