"""Resize, and blocks of pixels moved into channels and back."""

from __future__ import annotations

import math

import numpy as np

from edgec.graph import attribute, ir, static_shape
from edgec.passes.legalize.resize_as_matmul import Axis, nearest_positions, resized_axes
from edgec.passes.legalize.resize_as_matmul import outside as outside_region
from edgec.passes.legalize.resize_as_matmul import weights as matrix_of
from edgec.rewrite import Reject
from edgec.targets.reading.resizing import tflite_nearest_indices
from edgec.targets.tflite.layout import Sides
from edgec.targets.tflite.model import Array, Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import SAME_SCALE, Quantised, last, lowers, raw

_LINEAR = {"half_pixel": (False, True), "align_corners": (True, False), "asymmetric": (False, False)}
_FLAGS = ((False, False), (False, True), (True, False))


def _image(node: ir.Node) -> Sides:
    rank = node.inputs[0].shape.rank() if node.inputs[0] is not None and node.inputs[0].shape is not None else 0
    return last(node) if rank == 4 else raw(node)


def _kernel(node: ir.Node) -> tuple[bool, bool] | str:
    """(align_corners, half_pixel_centers) with which TFLite's kernel computes what ONNX says; else why it does not."""
    shape, out = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    mode, place = attribute(node, "mode"), attribute(node, "coordinate_transformation_mode")
    axes = resized_axes(node)
    if shape is None or out is None or isinstance(axes, Reject):
        return axes.reason if isinstance(axes, Reject) else "its size is not known"
    if len(shape) != 4 or shape[:2] != out[:2] or any(a.index < 2 for a in axes):
        return "other axes than height and width are resized"
    if mode == "nearest" and place != "tf_crop_and_resize":
        return _nearest(node, axes, shape, out)
    if mode != "linear" or place == "tf_crop_and_resize" or attribute(node, "antialias"):
        return f"TFLite has no {mode} interpolation by {place}{' with antialias' * bool(attribute(node, 'antialias'))}"
    if any(abs(a.out - a.size * a.scale) >= 1e-4 * max(a.out, 1) for a in axes):
        return "its scales do not follow from the sizes"
    if place == "pytorch_half_pixel" and min(out[2:]) > 1:
        place = "half_pixel"
    if place not in _LINEAR or (place == "align_corners" and min(out[2:]) == 1):
        return f"TFLite has no linear interpolation by {place}"
    return _LINEAR[place]


def _nearest(node: ir.Node, axes: list[Axis], shape: tuple[int, ...], out: tuple[int, ...]) -> tuple[bool, bool] | str:
    """The flags that pick the elements ONNX picks, compared position by position."""
    wanted = {a.index: nearest_positions(node, a).tolist() for a in axes}
    for flags in _FLAGS:
        picked = {a: tflite_nearest_indices(shape[a], out[a], *flags) for a in (2, 3)}
        if all(wanted.get(a, list(range(shape[a]))) == picked[a] for a in (2, 3)):
            return flags
    return "TFLite's nearest neighbours are others"


def _no_kernel(node: ir.Node) -> str | None:
    found = _kernel(node)
    return found if isinstance(found, str) else None


@lowers("Resize", sides=_image, quantised=Quantised("same", inputs=(0,), when=_no_kernel))
def resize(n: NodeLowering) -> None:
    """RESIZE_NEAREST_NEIGHBOR and RESIZE_BILINEAR where they compute exactly this; else a GATHER or a product with a
    constant matrix for each axis."""
    flags = _kernel(n.node)
    x, y, out = n.x(), n.y(), n.out_shape()
    if not isinstance(flags, str):
        op = "RESIZE_NEAREST_NEIGHBOR" if n.attr("mode") == "nearest" else "RESIZE_BILINEAR"
        n.emit(op, [x, n.ints(out[2:])], y, align_corners=flags[0], half_pixel_centers=flags[1])
        return
    axes = resized_axes(n.node)
    if isinstance(axes, Reject):
        n.refuse(axes.reason)
    nearest = n.attr("mode") == "nearest"
    for a in sorted(axes, key=lambda a: a.out / a.size):
        at = n.axis(a.index)
        x = _picked(n, x, at, nearest_positions(n.node, a)) if nearest else _product(n, x, at, matrix_of(n.node, a))
    n.result(_extrapolated(n, x, axes))


def _picked(n: NodeLowering, x: Tensor, axis: int, places: Array) -> Tensor:
    out = n.temp((*x.shape[:axis], len(places), *x.shape[axis + 1 :]), x.dtype)
    return n.emit("GATHER", [x, n.constant(places, "int32", hint="nearest")], out, axis=axis, batch_dims=0)


def _product(n: NodeLowering, x: Tensor, axis: int, matrix: Array) -> Tensor:
    """The matrix [output size, input size] times one axis of x."""
    rows, size = matrix.shape
    shape = (*x.shape[:axis], rows, *x.shape[axis + 1 :])
    if axis == x.rank - 1:
        flat = n.reshape(x, (math.prod(x.shape[:axis]), size))
        weights, bias = n.constant(matrix, hint="interpolation"), n.constant(np.zeros(rows, np.float32))
        return n.reshape(n.emit("FULLY_CONNECTED", [flat, weights, bias], n.temp((flat.shape[0], rows))), shape)
    before, after = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    flat = n.reshape(x, (before, size, after))
    weights = n.constant(
        np.broadcast_to(matrix, (before, rows, size)) if before > 1 else matrix[None], hint="interpolation"
    )
    return n.reshape(n.emit("BATCH_MATMUL", [weights, flat], n.temp((before, rows, after))), shape)


def _extrapolated(n: NodeLowering, x: Tensor, axes: list[Axis]) -> Tensor:
    """What lies outside the region of interest has the extrapolation value."""
    outside = np.zeros([1] * x.rank, bool)
    for a in axes:
        along = [1] * x.rank
        along[n.axis(a.index)] = a.out
        outside = outside | outside_region(n.node, a).reshape(along)
    if not outside.any():
        return x
    mask = n.constant(np.broadcast_to(outside, x.shape), "bool", hint="outside")
    value = n.constant(np.asarray(n.attr("extrapolation_value"), x.dtype), x.dtype)
    return n.emit("SELECT_V2", [mask, value, x], n.temp(x.shape, x.dtype))


@lowers("DepthToSpace", sides=last, quantised=SAME_SCALE)
def depth_to_space(n: NodeLowering) -> None:
    block = int(n.attr("blocksize"))
    x, y = n.x(), n.y()
    batch, height, width, channels = x.shape
    if n.attr("mode") == "DCR" and n.integer != "int16":
        n.emit("DEPTH_TO_SPACE", [x], y, block_size=block)
        return
    inner = channels // block**2
    crd = n.attr("mode") == "CRD"
    split = (batch, height, width, inner, block, block) if crd else (batch, height, width, block, block, inner)
    order = (0, 1, 4, 2, 5, 3) if crd else (0, 1, 3, 2, 4, 5)
    n.reshape(n.transpose(n.reshape(x, split), order), y.shape, y)


@lowers("SpaceToDepth", sides=last, quantised=SAME_SCALE)
def space_to_depth(n: NodeLowering) -> None:
    block = int(attribute(n.node, "blocksize"))
    x, y = n.x(), n.y()
    if n.integer != "int16":
        n.emit("SPACE_TO_DEPTH", [x], y, block_size=block)
        return
    batch, height, width, channels = x.shape
    split = (batch, height // block, block, width // block, block, channels)
    n.reshape(n.transpose(n.reshape(x, split), (0, 1, 3, 2, 4, 5)), y.shape, y)
