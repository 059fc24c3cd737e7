"""Reading by index. Indices count from the end where they are negative."""

from __future__ import annotations

from edgec.targets.coreml.evaluate.rules import OpReader, evaluates


@evaluates("gather")
def gather(o: OpReader) -> None:
    """x[:axis] + indices[batch_dims:] + x[axis + 1:], the first `batch_dims` axes of both running together."""
    axis, batch = o.axis("axis", 0), o.integer("batch_dims", 0)
    if not batch:
        o.move(o.emit("Gather", [o.x(), o.integers("indices")], axis=axis))
        return
    rank, picked = o.mil().rank, o.mil("indices").rank - batch
    between = axis - batch
    front = [*range(batch), axis, *range(batch, axis), *range(axis + 1, rank)]
    x = o.emit("Transpose", [o.x(), ], perm=front)  # fmt: skip
    rows = o.emit("Unsqueeze", [o.integers("indices"), o.const([-1])])
    v = o.emit("GatherND", [x, rows], batch_dims=batch)  # [*batch, *picked, *between, *behind]
    total = batch + picked + rank - batch - 1
    back = [
        *range(batch), *range(batch + picked, batch + picked + between), *range(batch, batch + picked),
        *range(batch + picked + between, total),
    ]  # fmt: skip
    o.move(o.emit("Transpose", [v], perm=back))


@evaluates("gather_along_axis")
def gather_along_axis(o: OpReader) -> None:
    """NumPy's take_along_axis."""
    o.move(o.emit("GatherElements", [o.x(), o.integers("indices")], axis=o.axis("axis", 0)))


@evaluates("gather_nd")
def gather_nd(o: OpReader) -> None:
    """The slices of x that the last axis of `indices` points to."""
    o.move(o.emit("GatherND", [o.x(), o.integers("indices")], batch_dims=o.integer("batch_dims", 0)))


@evaluates("non_zero")
def non_zero(o: OpReader) -> None:
    """Where x is not zero: one row of indices each, in order."""
    o.move(o.emit("Transpose", [o.emit("NonZero", [o.x()])], perm=[1, 0]))
