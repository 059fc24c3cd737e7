"""Blocks of pixels to and from channels or samples, x [N, C, H, W]."""

from __future__ import annotations

from edgec.targets.coreml.evaluate.rules import OpReader, evaluates


@evaluates("depth_to_space")
def depth_to_space(o: OpReader) -> None:
    """Channels as (block row, block column, channel), TensorFlow's order."""
    o.move(o.emit("DepthToSpace", [o.x()], blocksize=o.integer("block_size"), mode="DCR"))


@evaluates("space_to_depth")
def space_to_depth(o: OpReader) -> None:
    """The way back."""
    o.move(o.emit("SpaceToDepth", [o.x()], blocksize=o.integer("block_size")))


@evaluates("pixel_shuffle")
def pixel_shuffle(o: OpReader) -> None:
    """Channels as (channel, block row, block column), PyTorch's order."""
    o.move(o.emit("DepthToSpace", [o.x()], blocksize=o.integer("upscale_factor"), mode="CRD"))


@evaluates("pixel_unshuffle")
def pixel_unshuffle(o: OpReader) -> None:
    """The way back."""
    n, c, h, w = o.shape()
    f = o.integer("downscale_factor")
    parts = o.emit("Reshape", [o.x(), o.const([n, c, h // f, f, w // f, f])])
    turned = o.emit("Transpose", [parts], perm=[0, 1, 3, 5, 2, 4])
    o.move(o.emit("Reshape", [turned, o.const([n, c * f * f, h // f, w // f])]))


@evaluates("space_to_batch")
def space_to_batch(o: OpReader) -> None:
    """Padded with zeros, each place in a block a sample of its own: samples as (block row, block column, sample)."""
    n, c, h, w = o.shape()
    (a, b), ((top, bottom), (left, right)) = o.ints("block_shape"), o.array("paddings").tolist()
    padded = o.emit("Pad", [o.x(), o.const([0, 0, top, left, 0, 0, bottom, right])])
    rows, columns = (h + top + bottom) // a, (w + left + right) // b
    parts = o.emit("Reshape", [padded, o.const([n, c, rows, a, columns, b])])
    turned = o.emit("Transpose", [parts], perm=[3, 5, 0, 1, 2, 4])
    o.move(o.emit("Reshape", [turned, o.const([a * b * n, c, rows, columns])]))


@evaluates("batch_to_space")
def batch_to_space(o: OpReader) -> None:
    """The way back; `crops` are cut off."""
    n, c, h, w = o.shape()
    (a, b), ((top, bottom), (left, right)) = o.ints("block_shape"), o.array("crops").tolist()
    parts = o.emit("Reshape", [o.x(), o.const([a, b, n // (a * b), c, h, w])])
    turned = o.emit("Transpose", [parts], perm=[2, 3, 4, 0, 5, 1])
    whole = o.emit("Reshape", [turned, o.const([n // (a * b), c, h * a, w * b])])
    ends = o.const([h * a - bottom, w * b - right])
    o.move(o.emit("Slice", [whole, o.const([top, left]), ends, o.const([2, 3])]))
