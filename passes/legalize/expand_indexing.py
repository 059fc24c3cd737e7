"""Ops that pick, place and count elements, in Gather, GatherND, ScatterND, Where and constants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.legalize.builders import cast, reshape
from edgec.passes.legalize.builders import first_input as _x
from edgec.rewrite import Reject, Result, Rewriter

_LARGEST = 1 << 24
"""Elements above which a constant is not made for its shape alone."""


def trilu(node: ir.Node, rw: Rewriter) -> Result:
    """Where(constant triangle, x, 0)."""
    x, k = _x(node), 0
    shape = static_shape(x)
    if shape is None or x.dtype is None:
        return Reject("the size of the matrix is not known at compile time")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        data = constant(node.inputs[1])
        if data is None:
            return Reject("the diagonal is not known at compile time")
        k = int(np.asarray(data).reshape(-1)[0])
    keep = np.ones(shape[-2:], bool)
    keep = np.triu(keep, k) if attribute(node, "upper") else np.tril(keep, k)
    return rw.op("Where", rw.const(keep, "triangle"), x, rw.const(np.zeros((), x.dtype.numpy()), "zero"))


def eye_like(node: ir.Node, rw: Rewriter) -> Result:
    """The constant matrix."""
    x, shape, kind = _x(node), static_shape(node.inputs[0]), attribute(node, "dtype")
    if shape is None or x.dtype is None:
        return Reject("the size of the matrix is not known at compile time")
    dtype = ir.DataType(kind) if kind is not None else x.dtype
    return rw.const(np.eye(shape[0], shape[1], k=attribute(node, "k") or 0).astype(dtype.numpy()), "eye")


def shape_of(node: ir.Node, rw: Rewriter) -> Result:
    """The constant shape, or the part from `start` to `end`."""
    shape = static_shape(node.inputs[0])
    if shape is None:
        return Reject("the shape is not known at compile time")
    return rw.const(np.array(shape[attribute(node, "start") or 0 : attribute(node, "end")], np.int64), "shape")


def size(node: ir.Node, rw: Rewriter) -> Result:
    """The constant number of elements."""
    shape = static_shape(node.inputs[0])
    if shape is None:
        return Reject("the shape is not known at compile time")
    return rw.const(np.array(math.prod(shape), np.int64), "size")


def constant_of_shape(node: ir.Node, rw: Rewriter) -> Result:
    """The constant, or its one element expanded where it would be large."""
    shape = static_shape(node.outputs[0])
    data = constant(node.inputs[0])
    shape = tuple(int(d) for d in data) if data is not None else shape
    if shape is None:
        return Reject("the shape is not known at compile time")
    value = node.attributes.get("value")
    fill = value.as_tensor().numpy().reshape(-1)[0] if value is not None else np.float32(0)
    if math.prod(shape) > _LARGEST:
        return rw.op("Expand", rw.const(np.asarray(fill), "value"), rw.const(np.array(shape, np.int64), "shape"))
    return rw.const(np.full(shape, fill), "filled")


def _grid(shape: tuple[int, ...], axis: int) -> npt.NDArray[np.int64]:
    """Coordinates of every element, the last axis of the result naming the axis, 0 along `axis`."""
    grid = np.stack(np.meshgrid(*(np.arange(d) for d in shape), indexing="ij"), axis=-1).astype(np.int64)
    grid[..., axis] = 0
    return grid


def _coordinates(node: ir.Node, rw: Rewriter) -> ir.Value | Reject:
    """For every element of the indices, the full coordinates in the data: what GatherND and ScatterND take."""
    x, indices = _x(node), node.inputs[1]
    shape, index_shape = static_shape(x), static_shape(indices)
    if shape is None or index_shape is None or indices is None:
        return Reject("the shapes are not known at compile time")
    axis = attribute(node, "axis") % len(shape)
    if math.prod(index_shape) * len(shape) > _LARGEST:
        return Reject(f"the table of coordinates would have {math.prod(index_shape) * len(shape)} elements")
    grid = _grid(index_shape, axis)
    data = constant(indices)
    if data is not None:
        grid[..., axis] = np.where(data < 0, data + shape[axis], data)
        return rw.const(grid, "coordinates")
    picked = cast(rw, indices, ir.DataType.INT64)
    negative = rw.op("Less", picked, rw.scalar(0, picked, "zero"))
    picked = rw.op("Where", negative, rw.op("Add", picked, rw.scalar(shape[axis], picked, "length")), picked)
    picked = reshape(rw, picked, (*index_shape, 1))
    parts = []
    if axis:
        parts.append(rw.const(grid[..., :axis], "before"))
    parts.append(picked)
    if axis < len(shape) - 1:
        parts.append(rw.const(grid[..., axis + 1 :], "after"))
    return parts[0] if len(parts) == 1 else rw.op("Concat", *parts, attrs={"axis": -1})


def gather_elements(node: ir.Node, rw: Rewriter) -> Result:
    """GatherND at the coordinates of every element."""
    where = _coordinates(node, rw)
    return where if isinstance(where, Reject) else rw.op("GatherND", _x(node), where)


def scatter_elements(node: ir.Node, rw: Rewriter) -> Result:
    """ScatterND at the coordinates of every element, with the same reduction."""
    where = _coordinates(node, rw)
    if isinstance(where, Reject):
        return where
    return rw.op(
        "ScatterND", _x(node), where, node.inputs[2], attrs={"reduction": attribute(node, "reduction") or "none"}
    )


def compress(node: ir.Node, rw: Rewriter) -> Result:
    """Gather of the positions where the constant condition holds."""
    x, condition, axis = _x(node), constant(node.inputs[1]), node.attributes.get("axis")
    if condition is None:
        return Reject("the condition is not known at compile time")
    where = rw.const(np.flatnonzero(condition).astype(np.int64), "positions")
    if axis is None:
        return rw.op("Gather", reshape(rw, x, (-1,)), where, attrs={"axis": 0})
    return rw.op("Gather", x, where, attrs={"axis": axis.as_int()})


def reverse_sequence(node: ir.Node, rw: Rewriter) -> Result:
    """GatherND of constant positions: each sequence of the batch reversed up to its constant length."""
    x, lengths, shape = _x(node), constant(node.inputs[1]), static_shape(node.inputs[0])
    if lengths is None or shape is None:
        return Reject("the lengths or the shape are not known at compile time")
    time, batch = attribute(node, "time_axis"), attribute(node, "batch_axis")
    at: npt.NDArray[Any] = np.arange(shape[time])[:, None]
    source = np.where(at < lengths[None, :], lengths[None, :] - 1 - at, at)
    pairs = np.stack([source, np.broadcast_to(np.arange(shape[batch]), source.shape)], axis=-1)
    if time > batch:
        pairs = pairs.transpose(1, 0, 2)[..., ::-1]
    return rw.op("GatherND", x, rw.const(np.ascontiguousarray(pairs, np.int64), "positions"))


def center_crop_pad(node: ir.Node, rw: Rewriter) -> Result:
    """A Slice of the middle, and a Pad with zeros around it; the odd element goes to the end."""
    x, wanted, shape = _x(node), constant(node.inputs[1]), static_shape(node.inputs[0])
    if wanted is None or shape is None or x.dtype is None:
        return Reject("the shape or the target shape is not known at compile time")
    axes = [a % len(shape) for a in attribute(node, "axes") or range(len(shape))]
    starts, ends = [0] * len(shape), list(shape)
    pads = [0] * (2 * len(shape))
    for a, want in zip(axes, wanted, strict=True):
        have, want = shape[a], int(want)
        if want < have:
            starts[a] = (have - want) // 2
            ends[a] = starts[a] + want
        else:
            pads[a] = (want - have) // 2
            pads[len(shape) + a] = want - have - pads[a]
    y: ir.Value = x
    if starts != [0] * len(shape) or ends != list(shape):
        every = rw.const(np.arange(len(shape)), "axes")
        y = rw.op("Slice", y, rw.const(np.array(starts), "starts"), rw.const(np.array(ends), "ends"), every)
    if any(pads):
        y = rw.op("Pad", y, rw.const(np.array(pads, np.int64), "pads"), rw.scalar(0, x, "zero"))
    return rw.op("Identity", y) if y is x else y


def col2im(node: ir.Node, rw: Rewriter) -> Result:
    """Every element added where its block puts it: a ScatterND that adds, at constant positions, then the pads cut off."""
    x, shape = _x(node), static_shape(node.inputs[0])
    image, block = constant(node.inputs[1]), constant(node.inputs[2])
    if shape is None or image is None or block is None or x.dtype is None:
        return Reject("the shapes are not known at compile time")
    rank = len(image)
    strides, dilations = (attribute(node, k) or [1] * rank for k in ("strides", "dilations"))
    pads = attribute(node, "pads") or [0] * (2 * rank)
    padded = [int(image[i]) + pads[i] + pads[rank + i] for i in range(rank)]
    positions = np.zeros((1, 1), np.int64)  # [elements of a block, blocks]: rows of the padded image
    for i in range(rank):
        count = (padded[i] - dilations[i] * (int(block[i]) - 1) - 1) // strides[i] + 1
        along = np.arange(int(block[i]))[:, None] * dilations[i] + np.arange(count)[None, :] * strides[i]
        size = (positions.shape[0] * along.shape[0], positions.shape[1] * along.shape[1])
        positions = (positions[:, None, :, None] * padded[i] + along[None, :, None, :]).reshape(size)
    channels = shape[1] // positions.shape[0]
    columns = reshape(rw, x, (shape[0] * channels, positions.size))
    rows = rw.op("Transpose", columns, attrs={"perm": [1, 0]})
    zeros = rw.const(np.zeros((math.prod(padded), shape[0] * channels), x.dtype.numpy()), "zeros")
    summed = rw.op(
        "ScatterND", zeros, rw.const(positions.reshape(-1, 1), "positions"), rows, attrs={"reduction": "add"}
    )
    y = reshape(rw, rw.op("Transpose", summed, attrs={"perm": [1, 0]}), (shape[0], channels, *padded))
    if not any(pads):
        return y
    starts = np.array(pads[:rank], np.int64)
    axes = rw.const(np.arange(2, 2 + rank), "axes")
    return rw.op("Slice", y, rw.const(starts, "starts"), rw.const(starts + np.array(image, np.int64), "ends"), axes)


def cum_sum(node: ir.Node, rw: Rewriter) -> Result:
    """A product with a constant triangle of ones, along any axis, in either direction, with or without the element."""
    x, shape, axis = _x(node), static_shape(node.inputs[0]), constant(node.inputs[1])
    if shape is None or axis is None or x.dtype is None or not shape:
        return Reject("the length or the axis is not known at compile time")
    if not x.dtype.is_floating_point():
        return Reject("MatMul of integers: few runtimes have it")
    at = int(np.asarray(axis).reshape(-1)[0]) % len(shape)
    length = shape[at]
    if length * length > _LARGEST:
        return Reject(f"the triangle would have {length * length} elements")
    below = np.tri(length, k=-1 if attribute(node, "exclusive") else 0)
    triangle = (below.T if attribute(node, "reverse") else below).astype(x.dtype.numpy())
    flat = reshape(rw, x, (math.prod(shape[:at]), length, math.prod(shape[at + 1 :])))
    return reshape(rw, rw.op("MatMul", rw.const(triangle, "triangle"), flat), shape)


def det(node: ir.Node, rw: Rewriter) -> Result:
    """Of matrices up to 3 by 3, by the rule of Sarrus."""
    x, shape = _x(node), static_shape(node.inputs[0])
    if shape is None:
        return Reject("the size of the matrix is not known at compile time")
    n = shape[-1]
    if not 1 <= n <= 3:
        return Reject(f"a matrix of {n} by {n} needs an elimination with pivots")
    flat = reshape(rw, x, (*shape[:-2], n * n))
    e = [rw.op("Gather", flat, rw.const(np.array(i, np.int64), "element"), attrs={"axis": -1}) for i in range(n * n)]

    def minor(a: int, b: int, c: int, d: int) -> ir.Value:
        return rw.op("Sub", rw.op("Mul", e[a], e[d]), rw.op("Mul", e[b], e[c]))

    if n == 1:
        return e[0]
    if n == 2:
        return minor(0, 1, 2, 3)
    first, second = rw.op("Mul", e[0], minor(4, 5, 7, 8)), rw.op("Mul", e[1], minor(3, 5, 6, 8))
    return rw.op("Add", rw.op("Sub", first, second), rw.op("Mul", e[2], minor(3, 4, 6, 7)))
