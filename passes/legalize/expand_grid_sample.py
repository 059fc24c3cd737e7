"""GridSample of images, nearest and bilinear, with one Gather a neighbour; AffineGrid as one MatMul.

Pixels become rows of [batch * height * width, channels]; their positions are computed in integers, so they are exact for images
of any size. Source: ONNX operator definitions of GridSample (opset 22) and AffineGrid (opset 20).
"""

from __future__ import annotations

import numpy as np

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.legalize.builders import first_input, reshape
from edgec.rewrite import Reject, Result, Rewriter


class _Sampler:
    def __init__(self, node: ir.Node, rw: Rewriter, x: ir.Value, shape: tuple[int, ...]) -> None:
        self.rw, self.shape = rw, shape
        self.corners, self.padding = attribute(node, "align_corners"), attribute(node, "padding_mode")
        batch, channels, height, width = shape
        pixels = rw.op("Transpose", x, attrs={"perm": [0, 2, 3, 1]})
        self.rows = reshape(rw, pixels, (batch * height * width, channels))

    def op(self, name: str, v: ir.Value, other: ir.Value | float) -> ir.Value:
        return self.rw.op(name, v, other if isinstance(other, ir.Value) else self.rw.scalar(other, v, "c"))

    def clip(self, v: ir.Value, size: int) -> ir.Value:
        return self.op("Min", self.op("Max", v, 0), size - 1)

    def pixel(self, v: ir.Value, size: int) -> ir.Value:
        """From [-1, 1] to positions in pixels, those outside brought in as the padding mode says."""
        if self.corners:
            at = self.op("Mul", self.op("Add", v, 1.0), (size - 1) / 2)
        else:
            at = self.op("Sub", self.op("Mul", self.op("Add", v, 1.0), size / 2), 0.5)
        if self.padding == "reflection":
            low, span = (0.0, size - 1) if self.corners else (-0.5, size)
            if span == 0:
                return self.op("Mul", at, 0.0)
            away = self.rw.op("Abs", self.op("Sub", at, low))
            period = self.op(
                "Sub", away, self.op("Mul", self.rw.op("Floor", self.op("Div", away, 2.0 * span)), 2.0 * span)
            )
            folded = self.op("Sub", period, self.op("Mul", self.rw.op("Relu", self.op("Sub", period, span)), 2.0))
            at = self.op("Add", folded, low)
        return at if self.padding == "zeros" else self.clip(at, size)

    def at(self, ys: ir.Value, xs: ir.Value) -> ir.Value:
        """The pixels at whole positions [batch, rows, columns]: [batch, rows, columns, channels]."""
        batch, _, height, width = self.shape
        rows, columns = (
            self.rw.op("Cast", self.clip(v, n), attrs={"to": int(ir.DataType.INT64)})
            for v, n in ((ys, height), (xs, width))
        )
        image = self.rw.const(np.arange(batch, dtype=np.int64).reshape(-1, 1, 1) * (height * width), "image")
        index = self.op("Add", self.op("Add", self.op("Mul", rows, width), columns), image)
        return self.rw.op("Gather", self.rows, index, attrs={"axis": 0})

    def inside(self, ys: ir.Value, xs: ir.Value) -> ir.Value | None:
        """1 where the position is in the image, 0 elsewhere; None where padding has brought all inside."""
        if self.padding != "zeros":
            return None
        factors = [
            self.rw.op("Cast", self.rw.op("Equal", v, self.clip(v, n)), attrs={"to": int(v.dtype or ir.DataType.FLOAT)})
            for v, n in ((ys, self.shape[2]), (xs, self.shape[3]))
        ]
        return self.op("Mul", factors[0], factors[1])

    def weighted(self, ys: ir.Value, xs: ir.Value, weight: ir.Value | None) -> ir.Value:
        inside = self.inside(ys, xs)
        factor = weight if inside is None else inside if weight is None else self.op("Mul", weight, inside)
        pixels = self.at(ys, xs)
        if factor is None:
            return pixels
        return self.op("Mul", pixels, self.rw.op("Unsqueeze", factor, self.rw.const(np.array([3], np.int64), "axis")))


def grid_sample(node: ir.Node, rw: Rewriter) -> Result:
    """Nearest: the pixel at the rounded position. Linear: four pixels, each with the area opposite to it."""
    x, grid, shape = first_input(node), node.inputs[1], static_shape(node.inputs[0])
    mode = attribute(node, "mode")
    if shape is None or grid is None or len(shape) != 4:
        return Reject("not an image of known size")
    if mode not in ("linear", "nearest"):
        return Reject(f"mode {mode} has sixteen neighbours")
    if x.dtype is None or not x.dtype.is_floating_point() or grid.dtype != x.dtype:
        return Reject("image and grid are not of one floating-point type")
    s = _Sampler(node, rw, x, shape)
    last = [rw.op("Gather", grid, rw.const(np.array(i, np.int64), "part"), attrs={"axis": 3}) for i in (0, 1)]
    xs, ys = s.pixel(last[0], shape[3]), s.pixel(last[1], shape[2])
    if mode == "nearest":
        total = s.weighted(rw.op("Round", ys), rw.op("Round", xs), None)
    else:
        top, left = rw.op("Floor", ys), rw.op("Floor", xs)
        down, right = s.op("Sub", ys, top), s.op("Sub", xs, left)
        bottom, further = s.op("Add", top, 1.0), s.op("Add", left, 1.0)
        up, back = s.op("Sub", bottom, ys), s.op("Sub", further, xs)
        total = s.weighted(top, left, s.op("Mul", up, back))
        for y, x_, weight in (
            (top, further, (up, right)),
            (bottom, left, (down, back)),
            (bottom, further, (down, right)),
        ):
            total = s.op("Add", total, s.weighted(y, x_, s.op("Mul", *weight)))
    return rw.op("Transpose", total, attrs={"perm": [0, 3, 1, 2]})


def affine_grid(node: ir.Node, rw: Rewriter) -> Result:
    """The constant grid of homogeneous positions times theta transposed."""
    theta, size = first_input(node), constant(node.inputs[1])
    if size is None or theta.dtype is None:
        return Reject("the size is not known at compile time")
    batch, _, *spatial = (int(d) for d in size)
    axes = []
    for n in spatial:
        if attribute(node, "align_corners"):
            axes.append(np.linspace(-1, 1, n) if n > 1 else np.array([-1.0]))
        else:
            axes.append((2 * np.arange(n) + 1) / n - 1)
    grid = np.stack([*reversed(np.meshgrid(*axes, indexing="ij")), np.ones(spatial)], axis=-1)
    flat = grid.reshape(-1, len(spatial) + 1).astype(theta.dtype.numpy())
    y = rw.op("MatMul", rw.const(flat, "grid"), rw.op("Transpose", theta, attrs={"perm": [0, 2, 1]}))
    return reshape(rw, y, (batch, *spatial, len(spatial)))
