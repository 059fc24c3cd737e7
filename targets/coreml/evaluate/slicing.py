"""Parts of tensors."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates

_FIRST, _LAST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
"""Limits of ONNX's Slice that stand for either end, whatever the size."""


@evaluates("slice_by_index")
def slice_by_index(o: OpReader) -> None:
    """x[begin : end : stride] as NumPy slices; an axis with `begin_mask` from its start (with a negative stride: its end),
    with `end_mask` to its end, with `squeeze_mask` the one element at `begin`, without the axis."""
    part = sliced(o, o.x(), o.mil().rank)
    gone = [i for i, mask in enumerate(_mask(o, "squeeze_mask", o.mil().rank)) if mask]
    o.move(o.emit("Squeeze", [part, o.const(gone)]) if gone else part)


def sliced(o: OpReader, x: ir.Value, rank: int) -> ir.Value:
    """`x` cut by begin, end, stride and the masks of the operation; axes of `squeeze_mask` stay, of size 1."""
    stride = list(o.ints("stride", [1] * rank))
    from_start, to_end, one = (_mask(o, name, rank) for name in ("begin_mask", "end_mask", "squeeze_mask"))
    stride = [1 if single else s for s, single in zip(stride, one, strict=True)]
    default_begin = [0 if s > 0 else _LAST for s in stride]
    default_end = [_LAST if s > 0 else _FIRST for s in stride]
    begin, end = o.integers("begin"), o.integers("end")
    known_begin, known_end = o.known("begin"), o.known("end")
    if known_begin is not None:
        begins = [d if m else int(b) for b, d, m in zip(known_begin, default_begin, from_start, strict=True)]
        begin = o.const(begins)
    elif any(from_start):
        begin = o.emit("Where", [o.const(np.asarray(from_start)), o.const(default_begin), begin])
    if known_end is not None:
        end = o.const([d if m else int(e) for e, d, m in zip(known_end, default_end, to_end, strict=True)])
    elif any(to_end):
        end = o.emit("Where", [o.const(np.asarray(to_end)), o.const(default_end), end])
    if any(one):
        after = o.emit("Add", [begin, o.const(np.int64(1))])
        after = o.emit("Where", [o.emit("Equal", [after, o.const(np.int64(0))]), o.const(np.int64(_LAST)), after])
        end = o.emit("Where", [o.const(np.asarray(one)), after, end])
    return o.emit("Slice", [x, begin, end, o.const(list(range(rank))), o.const(stride)])


def _mask(o: OpReader, name: str, rank: int) -> list[bool]:
    return [bool(m) for m in np.ravel(o.array(name, [False] * rank))]


@evaluates("slice_by_size")
def slice_by_size(o: OpReader) -> None:
    """`size` elements from `begin` on (negative: from the end); -1: all that follow."""
    begin, size = o.integers("begin"), o.integers("size")
    dims = o.emit("Shape", [o.x()])
    zero = o.const(np.int64(0))
    begin = o.emit("Where", [o.emit("Less", [begin, zero]), o.emit("Add", [begin, dims]), begin])
    all_that_follow = o.emit("Equal", [size, o.const(np.int64(-1))])
    end = o.emit("Where", [all_that_follow, dims, o.emit("Add", [begin, size])])
    o.move(o.emit("Slice", [o.x(), begin, end]))


@evaluates("slice_update")
def slice_update(o: OpReader) -> None:
    """x with `update` at the place `slice_by_index` would have read."""
    shape = o.shape()
    places = np.arange(int(np.prod(shape))).reshape(shape)
    where = o.emit("Reshape", [sliced(o, o.const(places), len(shape)), o.const([-1])])
    flat = o.emit("Reshape", [o.x(), o.const([-1])])
    written = o.emit("ScatterElements", [flat, where, o.emit("Reshape", [o.x("update"), o.const([-1])])], axis=0)
    o.move(o.emit("Reshape", [written, o.const(list(shape))]))


@evaluates("crop")
def crop(o: OpReader) -> None:
    """Without the rows and columns at the borders of the last two axes."""
    (top, bottom), (left, right) = o.ints("crop_height"), o.ints("crop_width")
    ends = [-behind if behind else _LAST for behind in (bottom, right)]
    o.move(o.emit("Slice", [o.x(), o.const([top, left]), o.const(ends), o.const([-2, -1])]))


@evaluates("sliding_windows")
def sliding_windows(o: OpReader) -> None:
    """Windows of `size` at every `stride` along `axis`: that axis becomes (windows, size)."""
    axis, size, stride = o.axis(), o.integer("size"), o.integer("stride", 1)
    length = o.dims()[axis]
    if not isinstance(length, int):
        o.unknown("the size of the axis is not fixed")
    starts = np.arange((length - size) // stride + 1) * stride
    o.move(o.emit("Gather", [o.x(), o.const(starts[:, None] + np.arange(size))], axis=axis))


@evaluates("reverse")
def reverse(o: OpReader) -> None:
    """Backwards along `axes`, or all."""
    axes = list(o.ints("axes", list(range(o.mil().rank))))
    if not axes:
        o.move(o.x())
        return
    limits = (o.const([limit] * len(axes)) for limit in (_LAST, _FIRST))
    o.move(o.emit("Slice", [o.x(), *limits, o.const(axes), o.const([-1] * len(axes))]))


@evaluates("reverse_sequence")
def reverse_sequence(o: OpReader) -> None:
    """The first lengths[i] elements of slice i (of `batch_axis`) backwards along `seq_axis`."""
    rank = o.mil().rank
    batch, sequence = o.axis("batch_axis", 0), o.axis("seq_axis", 0)
    if batch == sequence:
        o.unknown("the same axis for batch and sequence")
    there = [batch, sequence, *(a for a in range(rank) if a not in (batch, sequence))]
    turned = o.emit("Transpose", [o.x()], perm=there)
    back = o.emit("ReverseSequence", [turned, o.integers("lengths")], batch_axis=0, time_axis=1)
    o.move(o.emit("Transpose", [back], perm=[there.index(a) for a in range(rank)]))
