"""Shapes: nothing here changes a number."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.evaluate.rules import OpReader, evaluates
from edgec.targets.coreml.program import Value


@evaluates("reshape")
def reshape(o: OpReader) -> None:
    """-1 is what remains. 0 is the dimension of x at the same place counted from the end, 1 where x has none there (before
    iOS17 both have the same rank). A computed shape of another rank holds none: if it does, ONNX Runtime refuses the sample."""
    if o.known("shape") is None:
        same = o.mil("shape").known == (o.mil().rank,)
        o.move(o.emit("Reshape", [o.x(), o.integers("shape")], allowzero=0 if same else 1))
        return
    shape, dims = o.ints("shape"), o.dims()
    if len(shape) == len(dims):
        o.move(o.emit("Reshape", [o.x(), o.const(shape)]))
        return
    sizes = []
    for back, size in enumerate(reversed(shape), 1):
        inherited = size if size else dims[-back] if back <= len(dims) else 1
        if not isinstance(inherited, int):
            o.unknown("a 0 for a dimension that is not fixed")
        sizes.append(inherited)
    o.move(o.emit("Reshape", [o.x(), o.const(sizes[::-1])]))


@evaluates("reshape_like")
def reshape_like(o: OpReader) -> None:
    """To the dimensions [begin, end) of each reference one after the other; `end_masks`: to its last."""
    parts = []
    begins, ends, masks = (o.numbers(name) for name in ("begins", "ends", "end_masks"))
    for v, begin, end, mask in zip(o.list("ref_tensors"), begins, ends, masks, strict=True):
        shape = o.emit("Shape", [v])
        stop = np.iinfo(np.int64).max if mask else int(end)
        parts.append(o.emit("Slice", [shape, o.const([int(begin)]), o.const([stop])]))
    o.move(o.emit("Reshape", [o.x(), o.emit("Concat", parts, axis=0)], allowzero=1))


@evaluates("transpose")
def transpose(o: OpReader) -> None:
    rank = o.mil().rank
    o.move(o.emit("Transpose", [o.x()], perm=[p % rank for p in o.ints("perm")]))


@evaluates("expand_dims")
def expand_dims(o: OpReader) -> None:
    """New axes of size 1, where `axes` are those of the result."""
    o.move(o.emit("Unsqueeze", [o.x(), o.const(list(o.ints("axes")))]))


@evaluates("squeeze")
def squeeze(o: OpReader) -> None:
    """Without the axes of size 1, all or those of `axes`; others among these stay, as PyTorch does."""
    dims = o.dims()
    axes = {a % len(dims) for a in o.ints("axes")} if o.has("axes") else set(range(len(dims)))
    gone = sorted(a for a in axes if dims[a] == 1)
    o.move(o.emit("Squeeze", [o.x(), o.const(gone)]) if gone else o.x())


@evaluates("flatten2d")
def flatten2d(o: OpReader) -> None:
    """The axes before `axis` as one, those from it on as another."""
    o.move(o.emit("Flatten", [o.x()], axis=o.integer("axis", 1)))


@evaluates("concat")
def concat(o: OpReader) -> None:
    """Along `axis`; scalars to a vector. `interleave`: the first of each, then the second of each ..."""
    values = o.list("values")
    rank = _ranks(o)
    if rank == 0:
        o.move(o.emit("Concat", [o.emit("Unsqueeze", [v, o.const([0])]) for v in values], axis=0))
        return
    axis = o.axis(rank=rank)
    if not o.flag("interleave"):
        o.move(o.emit("Concat", values, axis=axis))
        return
    side_by_side = [o.emit("Unsqueeze", [v, o.const([axis + 1])]) for v in values]
    out = [d if isinstance(d, int) else -1 for d in o.out.known]
    if out.count(-1) > 1:
        o.unknown("interleaved values of several open dimensions")
    o.move(o.emit("Reshape", [o.emit("Concat", side_by_side, axis=axis + 1), o.const(out)]))


@evaluates("stack")
def stack(o: OpReader) -> None:
    """Along a new axis."""
    axis = o.axis(rank=_ranks(o) + 1)
    new = [o.emit("Unsqueeze", [v, o.const([axis])]) for v in o.list("values")]
    o.move(o.emit("Concat", new, axis=axis))


def _ranks(o: OpReader) -> int:
    first = o.listed("values")[0]
    return first.rank if isinstance(first, Value) else np.ndim(np.asarray(first))


@evaluates("split")
def split(o: OpReader) -> None:
    """Into `split_sizes`, or `num_splits` of the same size."""
    count, axis = len(o.operation.outputs), o.axis()
    if o.has("split_sizes"):
        o.move(*o.emit_many("Split", [o.x(), o.const(list(o.ints("split_sizes")))], count, axis=axis))
    else:
        o.move(*o.emit_many("Split", [o.x()], count, axis=axis, num_outputs=count))


@evaluates("shape")
def shape(o: OpReader) -> None:
    o.move(o.emit("Shape", [o.x()]))


@evaluates("tile")
def tile(o: OpReader) -> None:
    """Repeated reps[i] times along axis i."""
    o.move(o.emit("Tile", [o.x(), o.integers("reps")]))
