"""What only moves data: shapes, order, pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgec.graph import constant, ir
from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.program import NUMPY, Argument, Array, Dim, Value
from edgec.targets.coreml.rules import ANY, BOOL_AS_INT, NUMBERS, lowers

_INT32 = np.iinfo(np.int32)


@lowers("Transpose", dtypes=ANY)
def transpose(n: NodeLowering) -> None:
    perm = n.attr("perm") or list(range(len(n.dims())))[::-1]
    n.result(n.transpose(n.x(), [int(p) for p in perm]))


@lowers("Reshape", dtypes=ANY)
def reshape(n: NodeLowering) -> None:
    """To the sizes that are known. One open dimension is what is left; of more, those that stay are read from the input."""
    x, dims = n.x(0), n.out_dims()
    opened = sum(isinstance(d, str) for d in dims)
    if opened <= 1:
        sizes = [d if isinstance(d, int) else -1 for d in dims]
        n.result(
            n.emit("reshape", x=x, shape=np.asarray(sizes, np.int32), out_shape=dims) if opened else n.reshape(x, sizes)
        )
        return
    if not n.is_const(1):
        shape = n.x(1)
        if len(dims) != len(n.dims(0)) and _may_keep(n.value(1)):
            shape = _kept(n, shape, len(n.dims(0)), len(dims))
        n.result(n.emit("reshape", x=x, shape=shape, out_shape=dims))
        return
    parts: list[Argument] = []
    for i, (asked, d) in enumerate(zip(n.const(1).tolist(), dims, strict=True)):
        if isinstance(d, int) or asked != 0:
            parts.append(np.asarray([d if isinstance(d, int) else asked], np.int32))
        else:
            parts.append(n.size_of(x, i, n.dims(0)))
    n.result(_reshaped(n, parts))


def _reshaped(n: NodeLowering, parts: Sequence[Argument]) -> Value:
    """To a shape put together from int32 [1]."""
    if all(isinstance(p, np.ndarray) for p in parts):
        sizes = np.concatenate([np.asarray(p) for p in parts])
        return n.emit("reshape", x=n.x(0), shape=sizes, out_shape=n.out_dims())
    shape = n.emit("concat", values=parts, axis=0, interleave=False, out_dtype="int32", out_shape=(len(parts),))
    return n.emit("reshape", x=n.x(0), shape=shape, out_shape=n.out_dims())


def _may_keep(shape: ir.Value) -> bool:
    """Whether a computed shape is put together from parts one of which is the number 0."""
    producer = shape.producer()
    if producer is None or producer.op_type != "Concat":
        return False
    parts = [constant(v) for v in producer.inputs if v is not None]
    return any(p is not None and (np.asarray(p) == 0).any() for p in parts)


def _kept(n: NodeLowering, asked: Value, rank: int, to: int) -> Value:
    """ONNX counts what a 0 keeps from the front, MIL from the end: so it is put in here."""
    count = min(rank, to)
    sizes = n.emit("shape", x=n.x(0), out_dtype="int32", out_shape=(rank,))
    if count < rank:
        begin, end = np.zeros(1, np.int32), np.asarray([count], np.int32)
        sizes = n.emit("slice_by_index", x=sizes, begin=begin, end=end, out_shape=(count,))
    if count < to:
        more: list[Argument] = [sizes, np.ones(to - count, np.int32)]
        sizes = n.emit("concat", values=more, axis=0, interleave=False, out_dtype="int32", out_shape=(to,))
    zero = n.emit("equal", x=asked, y=np.zeros((), np.int32), out_dtype="bool", out_shape=(to,))
    return n.emit("select", cond=zero, a=sizes, b=asked, out_dtype="int32", out_shape=(to,))


@lowers("Flatten", dtypes=ANY)
def flatten(n: NodeLowering) -> None:
    axis, dims = int(n.attr("axis")), n.dims()
    axis = axis + len(dims) if axis < 0 else axis
    parts = [_product(dims[:axis]), _product(dims[axis:])]
    if parts.count(-1) > 1:
        rank = len(dims)
        whole = n.emit("shape", x=n.x(), out_dtype="int32", out_shape=(rank,))
        begin, end = np.asarray([axis], np.int32), np.asarray([rank], np.int32)
        rest = n.emit("slice_by_index", x=whole, begin=begin, end=end, out_shape=(rank - axis,))
        right = n.emit("reduce_prod", x=rest, axes=np.zeros(1, np.int32), keep_dims=True, out_shape=(1,))
        n.result(_reshaped(n, [np.asarray([-1], np.int32), right]))
        return
    n.result(n.emit("reshape", x=n.x(), shape=np.asarray(parts, np.int32), out_shape=n.out_dims()))


def _product(dims: tuple[Dim, ...]) -> int:
    """Number of elements, or -1 where it is open."""
    known = [d for d in dims if isinstance(d, int)]
    return math.prod(known) if len(known) == len(dims) else -1


@lowers("Squeeze", dtypes=ANY)
def squeeze(n: NodeLowering) -> None:
    dims = n.dims()
    axes = [int(a) % len(dims) for a in np.ravel(n.const(1))] if n.has(1) else [i for i, d in enumerate(dims) if d == 1]
    if not axes:
        n.result(n.x(0))
        return
    stay = [i for i in range(len(dims)) if i not in axes]
    opened = [i for i in stay if isinstance(dims[i], str)]
    if opened:  # MIL may not see that the others are 1
        left = np.asarray([-1], np.int32)
        n.result(_reshaped(n, [left if i == opened[-1] else n.size_of(n.x(0), i, dims) for i in stay]))
        return
    n.result(n.emit("squeeze", x=n.x(0), axes=np.asarray(sorted(axes), np.int32), out_shape=n.out_dims()))


@lowers("Unsqueeze", dtypes=ANY)
def unsqueeze(n: NodeLowering) -> None:
    rank = len(n.out_dims())
    axes = sorted(int(a) % rank for a in np.ravel(n.const(1)))
    n.result(n.emit("expand_dims", x=n.x(0), axes=np.asarray(axes, np.int32), out_shape=n.out_dims()))


@lowers("Concat", dtypes=ANY)
def concat(n: NodeLowering) -> None:
    values = [n.x(i) for i in range(len(n.node.inputs))]
    axis = int(n.attr("axis")) % len(n.dims())
    n.result(n.emit("concat", values=values, axis=axis, interleave=False, out_shape=n.out_dims()))


@lowers("Split", dtypes=ANY)
def split(n: NodeLowering) -> None:
    axis = int(n.attr("axis")) % len(n.dims())
    sizes = [n.out_dims(k)[axis] for k in range(len(n.node.outputs))]
    if not all(isinstance(d, int) for d in sizes):
        n.refuse("pieces of open size", "fix the inputs: --input-shape")
    outputs: list[tuple[tuple[Dim, ...] | None, str | None]] = [(n.out_dims(k), None) for k in range(len(sizes))]
    if len(sizes) == 1:
        n.result(n.x(0))
        return
    made = n.emit_many("split", outputs, x=n.x(0), split_sizes=np.asarray(sizes, np.int32), axis=axis)
    for k, v in enumerate(made):
        n.result(v, k)


@lowers("Slice", dtypes=ANY)
def cut(n: NodeLowering) -> None:
    """Where an axis is open, limits that reach its end are masked. Limits that are computed: of steps forward."""
    dims = n.dims()
    if not (n.is_const(1) and n.is_const(2)):
        n.result(_computed_slice(n))
        return
    starts, ends = ([int(v) for v in n.const(i)] for i in (1, 2))
    axes = [int(a) % len(dims) for a in n.const(3)] if n.has(3) else list(range(len(starts)))
    steps = [int(s) for s in n.const(4)] if n.has(4) else [1] * len(starts)
    begin, end, stride = np.zeros(len(dims), np.int32), np.zeros(len(dims), np.int32), np.ones(len(dims), np.int32)
    begin_mask, end_mask = np.ones(len(dims), np.bool_), np.ones(len(dims), np.bool_)
    for axis, start, stop, step in zip(axes, starts, ends, steps, strict=True):
        size = dims[axis]
        stride[axis] = step
        if isinstance(size, int):
            first, last, _ = slice(start, stop, step).indices(size)
            if first >= last if step > 0 else first <= last:
                n.refuse("an empty slice", "take the node out when the model is exported")
            begin[axis], begin_mask[axis] = first, False
            end[axis], end_mask[axis] = max(last, 0), last < 0
            continue
        if step < 0:
            n.refuse("a step backwards along an axis whose size is open", "fix the inputs: --input-shape")
        begin[axis], begin_mask[axis] = start, start == 0
        end[axis], end_mask[axis] = min(stop, _INT32.max), stop >= _INT32.max
    n.result(
        n.emit(
            "slice_by_index", x=n.x(0), begin=begin, end=end, stride=stride, begin_mask=begin_mask, end_mask=end_mask,
            out_shape=n.out_dims(),
        )
    )  # fmt: skip


def _wrap(n: NodeLowering, x: Value, amounts: Array) -> Value:
    """Padding that begins again at the other end, axis by axis: pieces of it in front and behind."""
    for axis in np.flatnonzero(amounts.any(axis=1)):
        sizes, pieces = [int(d) for d in x.known], []
        before, after = (int(a) for a in amounts[axis])
        if max(before, after) > sizes[axis]:
            n.refuse("mode 'wrap' by more than the size of the axis")
        for start, stop in ((sizes[axis] - before, sizes[axis]), (0, sizes[axis]), (0, after)):
            begin, end = np.zeros(len(sizes), np.int32), np.asarray(sizes, np.int32)
            begin[axis], end[axis] = start, stop
            shape = tuple((end - begin).tolist())
            if stop - start == sizes[axis]:
                pieces.append(x)
            elif stop > start:
                pieces.append(n.emit("slice_by_index", x=x, begin=begin, end=end, out_shape=shape))
        sizes[axis] += before + after
        x = n.emit("concat", values=pieces, axis=int(axis), interleave=False, out_dtype=x.dtype, out_shape=tuple(sizes))
    return x


def _computed_slice(n: NodeLowering) -> Value:
    """Limits computed at run time, as ONNX means them: from the end where negative, cut to the axis."""
    dims, x = n.dims(), n.x(0)
    rank = len(dims)
    count = n.dims(1)[0]
    if not isinstance(count, int):
        n.refuse("an unknown number of limits")
    axes = [int(a) % rank for a in n.const(3)] if n.has(3) else list(range(count))
    steps = [int(s) for s in n.const(4)] if n.has(4) else [1] * count
    if min(steps) < 1:
        n.refuse("computed limits of steps backwards", "a Slice forwards behind a reversal")
    begin_mask, end_mask, stride = np.ones(rank, np.bool_), np.ones(rank, np.bool_), np.ones(rank, np.int32)
    begin_mask[axes] = end_mask[axes] = False
    stride[axes] = steps
    limits: list[Argument] = []
    for i in (1, 2):
        given = n.x(i)
        parts: list[Argument] = [np.zeros(1, np.int32)] * rank
        for place, axis in enumerate(axes):
            where = np.asarray([place], np.int32)
            one = n.emit("gather", x=given, indices=where, axis=0, out_dtype="int32", out_shape=(1,))
            parts[axis] = _within(n, one, n.size_of(x, axis, dims))
        limits.append(n.emit("concat", values=parts, axis=0, interleave=False, out_dtype="int32", out_shape=(rank,)))
    return n.emit(
        "slice_by_index", x=x, begin=limits[0], end=limits[1], stride=stride, begin_mask=begin_mask, end_mask=end_mask,
    )  # fmt: skip


def _within(n: NodeLowering, at: Value, size: Argument) -> Value:
    """A limit of a slice from 0 to `size`; negative ones count from there."""
    zero = np.zeros((), np.int32)
    below = n.emit("less", x=at, y=zero, out_dtype="bool", out_shape=(1,))
    turned = n.emit("add", x=at, y=size, out_shape=(1,))
    at = n.emit("select", cond=below, a=turned, b=at, out_dtype="int32", out_shape=(1,))
    at = n.emit("minimum", x=at, y=size, out_shape=(1,))
    return n.emit("maximum", x=at, y=zero, out_shape=(1,))


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}


@lowers("Pad", via={"int32": "fp32", "bool": "fp32"})
def pad(n: NodeLowering) -> None:
    """Negative amounts cut off. MIL pads by reflection and replication the last two axes only."""
    mode, rank = n.attr("mode"), len(n.dims())
    if mode not in (*_MODES, "wrap"):
        n.refuse(f"mode {mode!r}", f"ONNX has {', '.join(_MODES)} and wrap")
    given = [int(p) for p in n.const(1)]
    axes = [int(a) % rank for a in n.const(3)] if n.has(3) else list(range(rank))
    amounts = np.zeros((rank, 2), np.int32)
    for i, a in enumerate(axes):
        amounts[a] = given[i], given[i + len(axes)]
    x = n.x(0)
    if (amounts < 0).any():
        sizes = np.asarray(n.shape())
        begin, end = np.maximum(-amounts[:, 0], 0), sizes - np.maximum(-amounts[:, 1], 0)
        x = n.emit(
            "slice_by_index",
            x=x,
            begin=begin.astype(np.int32),
            end=end.astype(np.int32),
            out_shape=tuple((end - begin).tolist()),
        )
        amounts = np.maximum(amounts, 0)
    if not amounts.any() or mode == "wrap":
        n.result(_wrap(n, x, amounts))
        return
    if mode != "constant" and (amounts[:-2].any() or rank < 2):
        n.refuse(f"mode {mode!r} on other than the last two axes", "a Transpose around it brings them there")
    value = n.const(2, default=0).reshape(()) if n.has(2) else np.zeros(())
    n.result(
        n.emit(
            "pad", x=x, pad=amounts.reshape(-1), mode=_MODES[mode], out_shape=n.out_dims(),
            constant_val=n.real(float(value), x),
        )
    )  # fmt: skip


@lowers("Tile", dtypes=ANY)
def tile(n: NodeLowering) -> None:
    n.result(n.emit("tile", x=n.x(0), reps=n.const(1).astype(np.int32), out_shape=n.out_dims()))


@lowers("Expand", dtypes=ANY)
def expand(n: NodeLowering) -> None:
    x, out = n.x(0), n.out_dims()
    if all(isinstance(d, int) for d in out):
        n.result(n.broadcast(x, n.out_shape()))
        return
    if x.dtype == "bool":
        ones = n.emit("fill", shape=n.x(1), value=np.asarray(True), out_dtype="bool")
        n.result(n.emit("logical_and", x=x, y=ones, out_shape=out))
    else:
        ones = n.emit("fill", shape=n.x(1), value=np.ones((), NUMPY[x.dtype]), out_dtype=x.dtype)
        n.result(n.emit("mul", x=x, y=ones, out_shape=out))


@lowers("DepthToSpace")
def depth_to_space(n: NodeLowering) -> None:
    """DCR is MIL's depth_to_space, CRD its pixel_shuffle."""
    size = int(n.attr("blocksize"))
    if n.attr("mode") == "CRD":
        n.result(n.emit("pixel_shuffle", x=n.x(), upscale_factor=size, out_shape=n.out_dims()))
    else:
        n.result(n.emit("depth_to_space", x=n.x(), block_size=size, out_shape=n.out_dims()))


@lowers("SpaceToDepth")
def space_to_depth(n: NodeLowering) -> None:
    n.result(n.emit("space_to_depth", x=n.x(), block_size=int(n.attr("blocksize")), out_shape=n.out_dims()))


@lowers("ReverseSequence", dtypes=ANY)
def reverse_sequence(n: NodeLowering) -> None:
    n.result(
        n.emit(
            "reverse_sequence", x=n.x(0), lengths=n.x(1), seq_axis=int(n.attr("time_axis")),
            batch_axis=int(n.attr("batch_axis")), out_shape=n.out_dims(),
        )
    )  # fmt: skip


@lowers("Trilu", dtypes=NUMBERS, via=BOOL_AS_INT)
def triangle(n: NodeLowering) -> None:
    """The upper or lower part of the last two axes, by a mask."""
    k = int(n.const(1, default=0).reshape(())) if n.has(1) else 0
    if not all(isinstance(d, int) for d in n.dims()):
        n.result(_band(n, k))
        return
    ones = np.ones(n.shape()[-2:], np.bool_)
    mask: Array = np.triu(ones, k) if int(n.attr("upper", 1)) else np.tril(ones, k)
    x = n.x(0)
    kept = np.broadcast_to(mask, n.shape())
    zero = np.zeros((), np.int32) if x.dtype == "int32" else n.real(0)
    n.result(n.emit("select", cond=np.ascontiguousarray(kept), a=x, b=zero, out_dtype=x.dtype, out_shape=n.out_dims()))


def _band(n: NodeLowering, k: int) -> Value:
    """The same of open sizes, where the main diagonal is kept: MIL's bands have it."""
    upper = bool(int(n.attr("upper", 1)))
    if (k > 0) if upper else (k < 0):
        n.refuse("a part without the main diagonal, of open size", "fix the inputs: --input-shape")
    return n.emit("band_part", x=n.x(0), lower=-k if upper else -1, upper=-1 if upper else k, out_shape=n.out_dims())
