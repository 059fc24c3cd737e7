"""Sampling an image [N, C, H, W] at points that are computed: crops, warps, affine maps. All of it is ONNX's GridSample."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates
from edgec.targets.coreml.program import Value

_PADDING = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}
_BOXES = {
    "CORNERS_HEIGHT_FIRST": (0, 1, 2, 3),
    "CORNERS_WIDTH_FIRST": (1, 0, 3, 2),
    "CENTER_SIZE_HEIGHT_FIRST": (0, 1, 2, 3),
    "CENTER_SIZE_WIDTH_FIRST": (1, 0, 3, 2),
}
"""Where the four numbers y, x, y, x stand."""


@evaluates("resample")
def resample(o: OpReader) -> None:
    """x at `coordinates` [N, H2, W2, (x, y)].

    Outside: constant, the image is surrounded by `padding_value`; border; reflection about the centres of the outer pixels;
    symmetric about their edges. Nearest: halves to the even pixel, where the definition says nothing.
    """
    modes = {"bilinear": "linear", "nearest": "nearest"}
    mode, padding = o.text("sampling_mode"), o.text("padding_mode")
    if mode not in modes or padding not in _PADDING:
        o.unknown(f"{mode} with {padding}")
    points = o.x("coordinates")
    if o.mil("coordinates").dtype not in ("fp16", "fp32"):
        points = o.emit("Cast", [points], to=int(ir.DataType.FLOAT))
    sizes = np.asarray(o.shape()[:1:-1], np.float64)  # W, H: as the coordinates are
    # ONNX's grid, either about centres or about edges, from that of the operation
    about_edges = padding == "symmetric"
    scale, shift = _to_onnx(o.text("coordinates_mode"), o.flag("align_corners"), sizes, about_edges)
    grid = o.emit("Add", [o.emit("Mul", [points, o.const(scale)]), o.const(shift)])
    x, value = o.x(), o.number("padding_value", 0.0) if padding == "constant" else 0.0
    if value:
        x = o.emit("Sub", [x, o.const(np.float32(value))])
    v = o.emit(
        "GridSample", [x, grid], mode=modes[mode], padding_mode=_PADDING[padding], align_corners=int(not about_edges)
    )
    o.give(o.emit("Add", [v, o.const(np.float32(value))]) if value else v)


def _to_onnx(
    mode: str, corners: bool, sizes: np.ndarray[tuple[int], np.dtype[np.float64]], about_edges: bool
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """(scale, shift) from coordinates to ONNX's; in between are pixels, p = a c + b."""
    one = np.ones_like(sizes)
    if mode == "unnormalized":
        a, b = one, 0 * one
    else:
        reach, start = (sizes - 1, 0 * one) if corners else (sizes, -0.5 * one)
        # of c from 0 to 1: p = start + c reach; from -1 to 1: c = (c' + 1) / 2
        a, b = (reach, start) if mode == "normalized_zero_to_one" else (reach / 2, start + reach / 2)
    if about_edges:  # g = (2 p + 1) / size - 1
        return 2 * a / sizes, (2 * b + 1) / sizes - 1
    span = np.maximum(sizes - 1, 1)  # g = 2 p / (size - 1) - 1
    return 2 * a / span, 2 * b / span - 1


@evaluates("affine")
def affine(o: OpReader) -> None:
    """x at (a0 x + a1 y + a2, b0 x + b1 y + b2), both sides from -1 to 1 between the centres of the outer pixels; zero
    outside."""
    if not o.flag("align_corners", True) or o.text("coordinates_mode") != "normalized_minus_one_to_one":
        o.unknown("coordinates that are not aligned to the corners")
    if o.text("padding_mode") != "constant" or o.number("padding_value", 0.0) or o.text("sampling_mode") != "bilinear":
        o.unknown("padding other than zeros")
    batch, channels = o.shape()[:2]
    size = o.const([batch, channels, o.integer("output_height"), o.integer("output_width")])
    theta = o.emit("Reshape", [o.x("transform_matrix"), o.const([-1, 2, 3])])
    theta = o.emit("Expand", [theta, o.const([batch, 2, 3])])
    grid = o.emit("AffineGrid", [theta, size], align_corners=1)
    o.give(o.emit("GridSample", [o.x(), grid], mode="linear", padding_mode="zeros", align_corners=1))


@evaluates("crop_resize")
def crop_resize(o: OpReader) -> None:
    """Boxes of images, resized. iOS17: boxes [R, 4] and the image of each; before: roi [R, 1, 4 or 5, 1, 1], of every image or
    of the one its first number says.

    Points are at start + i (end - start) / (out - 1), or in the middle where out is 1 and the mode ALIGN_CORNERS; points
    outside the image are `pad_value`, as in TensorFlow. Of the other modes neither the definition nor coremltools' tests show
    how they lie in a box.
    """
    mode, order = o.text("sampling_mode", "DEFAULT"), o.text("box_coordinate_mode", "CORNERS_HEIGHT_FIRST")
    if mode not in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS") or order not in _BOXES:
        o.unknown(f"sampling_mode {mode} of {order}")
    batch, _, height, width = o.shape()
    old = o.has("roi")
    boxes, image, count = _old_boxes(o, batch) if old else _boxes(o)
    corners = o.emit("Gather", [boxes, o.const(list(_BOXES[order]))], axis=1)
    first, second = o.emit_many("Split", [corners], 2, axis=1, num_outputs=2)
    if order.startswith("CENTER"):
        half = o.emit("Mul", [second, o.const(np.float32(0.5))])
        first, second = o.emit("Sub", [first, half]), o.emit("Add", [first, half])
    factor = np.full(2, o.number("spatial_scale", 1.0), np.float32)
    if o.flag("normalized_coordinates"):
        factor = factor * np.asarray([height - 1, width - 1], np.float32)
    first, second = (o.emit("Mul", [v, o.const(factor)]) for v in (first, second))
    target = o.integer("target_height", 1), o.integer("target_width", 1)
    rows, columns = (_points(o, first, second, i, size, mode) for i, size in enumerate(target))
    shape = o.const([count, *target, 1])
    y = o.emit("Expand", [o.emit("Reshape", [rows, o.const([count, -1, 1, 1])]), shape])
    x = o.emit("Expand", [o.emit("Reshape", [columns, o.const([count, 1, -1, 1])]), shape])
    pixels = o.emit("Concat", [x, y], axis=-1)
    spans = np.asarray([max(width - 1, 1), max(height - 1, 1)], np.float32)
    grid = o.emit("Sub", [o.emit("Mul", [pixels, o.const(2 / spans)]), o.const(np.float32(1))])
    images = o.emit("Gather", [o.x(), image], axis=0)
    v = o.emit("GridSample", [images, grid], mode="linear", padding_mode="border", align_corners=1)
    limits = np.asarray([width - 1, height - 1], np.float32)
    beyond = o.emit(
        "Or", [o.emit("Less", [pixels, o.const(np.float32(0))]), o.emit("Greater", [pixels, o.const(limits)])]
    )
    either = o.emit("ReduceMax", [o.emit("Cast", [beyond], to=int(ir.DataType.FLOAT)), o.const([-1])], keepdims=0)
    outside = o.emit("Unsqueeze", [o.emit("Cast", [either], to=int(ir.DataType.BOOL)), o.const([1])])
    v = o.emit("Where", [outside, o.const(np.float32(o.number("pad_value", 0.0))), v])
    o.give(o.emit("Reshape", [v, o.const([int(d) for d in o.out.known])]) if old else v)


def _boxes(o: OpReader) -> tuple[ir.Value, ir.Value, int]:
    found = o.known("boxes")
    if found is None:
        boxes, count = o.x("boxes"), o.shape("boxes")[0]
        if o.mil("boxes").dtype not in ("fp16", "fp32"):
            boxes = o.emit("Cast", [boxes], to=int(ir.DataType.FLOAT))
    else:
        boxes, count = o.const(found.astype(np.float32)), len(found)
    return boxes, o.integers("box_indices") if o.has("box_indices") else o.const(np.arange(count)), count


def _old_boxes(o: OpReader, batch: int) -> tuple[ir.Value, ir.Value, int]:
    """As the new ones: each box of four numbers for every image in turn."""
    roi = o.operation.inputs["roi"]
    shape = o.shape("roi") if isinstance(roi, Value) else o.array("roi").shape
    count, numbers = shape[0], shape[2]
    flat = o.emit("Reshape", [o.x("roi"), o.const([count, numbers])])
    if numbers == 4:
        each = o.emit("Gather", [flat, o.const(np.repeat(np.arange(count), batch))], axis=0)
        return each, o.const(np.tile(np.arange(batch), count)), count * batch
    image, boxes = o.emit_many("Split", [flat, o.const([1, 4])], 2, axis=1)
    image = o.emit("Cast", [o.emit("Reshape", [image, o.const([-1])])], to=int(ir.DataType.INT64))
    return boxes, image, count


def _points(o: OpReader, first: ir.Value, second: ir.Value, column: int, out: int, mode: str) -> ir.Value:
    """[boxes, out] from the corners [boxes, 2]."""
    start, end = (o.emit("Gather", [v, o.const([column])], axis=1) for v in (first, second))
    alone = 0.5 if mode == "ALIGN_CORNERS" else 0.0
    share = np.arange(out)[None] / (out - 1) if out > 1 else np.asarray([[alone]])
    reach = o.emit("Sub", [end, start])
    return o.emit("Add", [start, o.emit("Mul", [reach, o.const(share)])])
