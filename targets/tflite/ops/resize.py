"""Resize, and blocks of pixels moved into channels and back."""

from __future__ import annotations

from edgec.graph import attribute, ir
from edgec.targets.tflite.layout import Sides
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import SAME_SCALE, last, lowers, raw

_LINEAR = {"half_pixel": (False, True), "align_corners": (True, False), "asymmetric": (False, False)}


def _image(node: ir.Node) -> Sides:
    rank = node.inputs[0].shape.rank() if node.inputs[0] is not None and node.inputs[0].shape is not None else 0
    return last(node) if rank == 4 else raw(node)


@lowers("Resize", sides=_image, quantised=SAME_SCALE)
def resize(n: NodeLowering) -> None:
    """Only what RESIZE_NEAREST_NEIGHBOR and RESIZE_BILINEAR compute exactly; resize-as-matmul says everything else."""
    shape, out = n.shape(), n.out_shape()
    if len(shape) != 4 or shape[:2] != out[:2]:
        n.refuse("other axes than height and width are resized", _HINT)
    if n.has(1) and n.const(1).size:
        n.refuse("a region of interest", _HINT)
    mode, place = n.attr("mode"), n.attr("coordinate_transformation_mode")
    if n.attr("antialias", 0):
        n.refuse("antialias", _HINT)
    if not _scales_fit(n, shape, out):
        n.refuse("scales that do not follow from the sizes", _HINT)
    x, y = n.x(), n.y()
    if mode == "nearest":
        corners, half = _nearest(n, place, shape, out)
        n.emit("RESIZE_NEAREST_NEIGHBOR", [x, n.ints(out[2:])], y, align_corners=corners, half_pixel_centers=half)
        return
    if mode != "linear":
        n.refuse(f"mode {mode}", _HINT)
    if place == "pytorch_half_pixel" and min(out[2:]) > 1:
        place = "half_pixel"
    if place not in _LINEAR:
        n.refuse(f"coordinate_transformation_mode {place}", _HINT)
    corners, half = _LINEAR[place]
    if corners and min(out[2:]) == 1:
        n.refuse("align_corners to a single element", _HINT)
    n.emit("RESIZE_BILINEAR", [x, n.ints(out[2:])], y, align_corners=corners, half_pixel_centers=half)


_HINT = "the pass resize-as-matmul says it with interpolation matrices"


def _scales_fit(n: NodeLowering, shape: tuple[int, ...], out: tuple[int, ...]) -> bool:
    """TFLite takes the scale from the sizes; ONNX may give another that leads to the same sizes."""
    if not n.has(2) or not n.const(2).size:
        return True
    scales = n.const(2).reshape(-1)
    return len(scales) == 4 and all(
        abs(o - s * f) < 1e-4 * max(o, 1) for s, o, f in zip(shape, out, scales, strict=True)
    )


def _nearest(n: NodeLowering, place: str, shape: tuple[int, ...], out: tuple[int, ...]) -> tuple[bool, bool]:
    """(align_corners, half_pixel_centers) that pick the elements ONNX picks, compared position by position."""
    from edgec.targets.reading.resizing import nearest_indices, tflite_nearest_indices

    for flags in ((False, False), (False, True), (True, False)):
        if all(
            nearest_indices(size, to, place, n.attr("nearest_mode")) == tflite_nearest_indices(size, to, *flags)
            for size, to in zip(shape[2:], out[2:], strict=True)
        ):
            return flags
    return n.refuse(f"nearest with {place} and {n.attr('nearest_mode')} picks other elements than TFLite can", _HINT)


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
