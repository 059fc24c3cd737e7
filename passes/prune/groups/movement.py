"""Ops that move elements: joined, split, cut out, padded, picked."""

from __future__ import annotations

import numpy as np

from edgec.passes.prune.groups.dimensions import UNKNOWN
from edgec.passes.prune.groups.registry import Cut, Ties, resizes, ties


@ties("Transpose")
def transpose(t: Ties) -> None:
    rank = t.rank(t.input(0))
    for i, p in enumerate(t.attr("perm") or range(rank)[::-1]):
        t.same(t.output(), i, t.input(0), p)


@ties("Concat")
def concat(t: Ties) -> None:
    out = t.output()
    axis = t.attr("axis") % max(1, t.rank(out))
    offset = 0
    for v in t.node.inputs:
        for i in range(t.rank(v)):
            if i != axis:
                t.same(v, i, out, i)
        e = np.arange(t.size(v, axis), dtype=np.int64)
        if t.dim(out, axis) == UNKNOWN:
            t.pin(v, axis, "the size of what it joins is not known")
        elif len(e):
            t.dims.map(t.dim(v, axis), e, t.dim(out, axis), e + offset)
        offset += len(e)


@ties("Split")
def split(t: Ties) -> None:
    x = t.input(0)
    axis = (t.attr("axis") or 0) % max(1, t.rank(x))
    offset = 0
    for out in t.node.outputs:
        for i in range(t.rank(x)):
            if i != axis:
                t.same(x, i, out, i)
        e = np.arange(t.size(out, axis), dtype=np.int64)
        if not len(e):
            t.pin(x, axis, "the sizes it splits into are not known")
        else:
            t.dims.map(t.dim(x, axis), e + offset, t.dim(out, axis), e)
        offset += len(e)


@resizes("Split")
def resize_split(cut: Cut) -> None:
    x = cut.node.inputs[0]
    assert x is not None  # a Split has an input
    axis = (cut.attr("axis") or 0) % (x.shape.rank() if x.shape is not None else 1)
    if cut.kept(x, axis) is None:
        return
    cut.node.attributes.pop("num_outputs", None)
    cut.set_input(1, np.asarray([cut.size(out, axis) for out in cut.node.outputs], np.int64))


@ties("Slice")
def slicing(t: Ties) -> None:
    x, out = t.input(0), t.output()
    found = _slices(t)
    if found is None:
        t.pin_all("bounds computed at run time")
        return
    for i in range(t.rank(x)):
        start, end, step = found.get(i, (0, None, 1))
        if i not in found:
            t.same(x, i, out, i)
        elif not t.size(x, i):
            t.pin(out, i, "a slice of an axis of unknown size")
        elif step != 1:
            t.pin(x, i, "it takes every n-th element")
            t.pin(out, i, "it takes every n-th element")
        else:
            picked = np.arange(t.size(x, i), dtype=np.int64)[start:end]
            if len(picked) != t.size(out, i):
                t.pin_all("a slice beyond what inference knows")
                return
            t.dims.map(t.dim(x, i), picked, t.dim(out, i), np.arange(len(picked), dtype=np.int64))


def _slices(t: Ties | Cut) -> dict[int, tuple[int, int | None, int]] | None:
    """Axis -> start, end, step of a Slice whose bounds are constants."""
    x = t.node.inputs[0]
    rank = x.shape.rank() if x is not None and x.shape is not None else 0
    starts, ends, axes, steps = (t.constant(i) for i in range(1, 5))
    given = [i < len(t.node.inputs) and t.node.inputs[i] is not None for i in range(1, 5)]
    if starts is None or ends is None or (given[2] and axes is None) or (given[3] and steps is None):
        return None
    axes = list(range(len(starts))) if axes is None else [int(a) % rank for a in axes]
    steps = [1] * len(axes) if steps is None else [int(s) for s in steps]
    return {
        a: (int(start), int(end), step) for a, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }  # as numpy's slices: bounds beyond the ends are cut off


@resizes("Slice")
def resize_slice(cut: Cut) -> None:
    x = cut.node.inputs[0]
    found = _slices(cut)
    if found is None or x is None or x.shape is None:
        return
    changed = False
    for axis, (start, end, step) in found.items():
        kept, size = cut.kept(x, axis), x.shape[axis]
        if kept is None or not isinstance(size, int):
            continue
        picked = np.arange(size)[start:end]
        inside = np.flatnonzero(np.isin(kept, picked))
        found[axis] = (int(inside[0]), int(inside[-1]) + 1, step) if len(inside) else (0, 0, step)
        changed = True
    if changed:
        bounds = np.asarray([(a, *b) for a, b in found.items()], np.int64)
        for i, column in ((1, 1), (2, 2), (3, 0), (4, 3)):
            cut.set_input(i, bounds[:, column])


@ties("Pad")
def pad(t: Ties) -> None:
    """Channels may be padded: what is added can be cut too."""
    x, out = t.input(0), t.output()
    rank = t.rank(x)
    for v in t.node.inputs[1:]:
        t.pin_axes(v, range(t.rank(v)), "how much it pads")
    amounts = _pads(t, rank)
    if amounts is None:
        t.pin_all("padding computed at run time")
        return
    mode = t.attr("mode")
    for i, (before, after) in enumerate(amounts):
        if before == 0 and after == 0:
            t.same(x, i, out, i)
        elif mode not in ("constant", b"constant") or min(before, after) < 0 or not t.size(x, i):
            t.pin(x, i, "it pads this axis")
            t.pin(out, i, "it pads this axis")
        else:
            e = np.arange(t.size(x, i), dtype=np.int64)
            t.dims.map(t.dim(x, i), e, t.dim(out, i), e + before)


def _pads(t: Ties | Cut, rank: int) -> list[tuple[int, int]] | None:
    """(before, after) of every axis."""
    if len(t.node.inputs) < 2:
        pads, axes = t.attr("pads"), None
    else:
        pads, axes = t.constant(1), t.constant(3)
        if len(t.node.inputs) > 3 and t.node.inputs[3] is not None and axes is None:
            return None
    if pads is None:
        return None
    names = list(range(rank)) if axes is None else [int(a) % rank for a in axes]
    out = [(0, 0)] * rank
    for i, a in enumerate(names):
        out[a] = int(pads[i]), int(pads[i + len(names)])
    return out


@resizes("Pad")
def resize_pad(cut: Cut) -> None:
    x, out = cut.node.inputs[0], cut.node.outputs[0]
    if x is None or x.shape is None:
        return
    rank = x.shape.rank()
    amounts = _pads(cut, rank)
    if amounts is None or len(cut.node.inputs) < 2:
        return
    new = list(amounts)
    for axis, (before, after) in enumerate(amounts):
        kept, size = cut.kept(out, axis), x.shape[axis]
        if kept is not None and (before or after) and isinstance(size, int):
            new[axis] = int((kept < before).sum()), int((kept >= before + size).sum())
    if new != amounts:
        cut.set_input(1, np.asarray([*(b for b, _ in new), *(a for _, a in new)], np.int64))
        if len(cut.node.inputs) > 3:
            cut.node.replace_input_with(3, None)


@ties("Gather")
def gather(t: Ties) -> None:
    """Along a list of constant indices elements go with what they were; a table of vectors is cut across."""
    x, indices, out = t.input(0), t.input(1), t.output()
    rank, k = t.rank(x), t.rank(indices)
    axis = (t.attr("axis") or 0) % max(1, rank)
    for i in range(rank):
        if i != axis:
            t.same(x, i, out, i if i < axis else i + k - 1)
    picked = t.constant(1)
    for i in range(k):
        t.pin(indices, i, "indices")
    if picked is None:
        t.pin(x, axis, "elements picked at run time")
        t.pin_axes(out, range(axis, axis + k), "elements picked at run time")
        if x is not None and x.producer() is None and rank == 2 and axis == 0:
            t.role(x, 1, "writes")  # an embedding
    elif not t.size(x, axis):
        t.pin_axes(out, range(axis, axis + k), "elements of an axis of unknown size")
    elif k == 1:
        at = np.asarray(picked, np.int64) % t.size(x, axis)
        t.dims.map(t.dim(x, axis), at, t.dim(out, axis), np.arange(len(at), dtype=np.int64))
    else:
        t.pin(x, axis, "it picks elements by their place")
        t.pin_axes(out, range(axis, axis + k), "it picks elements by their place")


@resizes("Gather")
def resize_gather(cut: Cut) -> None:
    x, out = cut.node.inputs[0], cut.node.outputs[0]
    if x is None or x.shape is None:
        return
    axis = (cut.attr("axis") or 0) % x.shape.rank()
    indices, kept, size = cut.constant(1), cut.kept(x, axis), x.shape[axis]
    if indices is None or indices.ndim != 1 or not isinstance(size, int):
        return
    stay = cut.kept(out, axis)
    if kept is None and stay is None:
        return
    if kept is None:
        kept = np.arange(size, dtype=np.int64)
    left = indices % size if stay is None else (indices % size)[stay]
    cut.set_input(1, np.searchsorted(kept, left).astype(indices.dtype))


@ties("Squeeze", "Unsqueeze")
def squeeze(t: Ties) -> None:
    x, out = t.input(0), t.output()
    small, large = (x, out) if t.node.op_type == "Unsqueeze" else (out, x)
    given = t.constant(1) if t.input(1) is not None else t.attr("axes")
    if given is None and (t.input(1) is not None or t.node.op_type == "Unsqueeze"):
        t.pin_all("axes computed at run time")
        return
    rank = t.rank(large)
    gone = {int(a) % rank for a in given} if given is not None else {i for i in range(rank) if t.size(large, i) == 1}
    if rank - len(gone) != t.rank(small):
        t.pin_all("axes inference does not know")
        return
    for j, i in enumerate(i for i in range(rank) if i not in gone):
        t.same(large, i, small, j)


@resizes("Squeeze")
def resize_squeeze(cut: Cut) -> None:
    """Without axes it takes all of size one, which a cut may make more of."""
    x, out = cut.node.inputs[0], cut.node.outputs[0]
    if (len(cut.node.inputs) > 1 and cut.node.inputs[1] is not None) or x is None or x.shape is None:
        return
    if any(cut.size(out, i) == 1 for i in range(out.shape.rank() if out.shape is not None else 0)):
        cut.set_input(1, np.asarray([i for i, d in enumerate(x.shape) if d == 1], np.int64))


@ties("Expand")
def expand(t: Ties) -> None:
    x, out = t.input(0), t.output()
    if t.constant(1) is None and any(not t.size(out, i) for i in range(t.rank(out))):
        t.pin_all("a shape computed at run time")
        return
    for i in range(1, t.rank(x) + 1):
        t.same(x, -i, out, -i)


@resizes("Expand")
def resize_expand(cut: Cut) -> None:
    out = cut.node.outputs[0]
    shape = cut.constant(1)
    rank = out.shape.rank() if out.shape is not None else 0
    old = [None] * rank if shape is None else [1] * (rank - len(shape)) + [int(d) for d in shape]
    new = [1 if old[i] == 1 else cut.size(out, i) for i in range(rank)]
    if None in new or new == old:
        return
    cut.set_input(1, np.asarray(new, np.int64))


@ties("Tile")
def tile(t: Ties) -> None:
    x, out, repeats = t.input(0), t.output(), t.constant(1)
    if repeats is None:
        t.pin_all("repeats computed at run time")
        return
    for i, n in enumerate(repeats.tolist()):
        size = t.size(x, i)
        if n == 1:
            t.same(x, i, out, i)
        elif size and out is not None and t.size(out, i) == size * n:
            e = np.arange(size * n, dtype=np.int64)
            t.dims.map(t.dim(x, i), e % size, t.dim(out, i), e)
        else:
            t.pin(x, i, "it repeats this axis")
            t.pin(out, i, "it repeats this axis")
