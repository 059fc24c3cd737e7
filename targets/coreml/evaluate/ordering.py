"""Sorting. Of equal elements the first comes first; the definitions leave open which."""

from __future__ import annotations

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates


@evaluates("topk")
def topk(o: OpReader) -> None:
    """The k largest (`ascending`: smallest) along `axis`, in order, and (iOS16: unless told not to) where they are."""
    values, indices = _sorted(o, o.integer("k", 1), descending=not o.flag("ascending"))
    o.move(*(values, indices)[: len(o.operation.outputs)])


@evaluates("argsort")
def argsort(o: OpReader) -> None:
    """Where the sorted elements are, the largest first unless `ascending`."""
    o.move(_sorted(o, -1, descending=not o.flag("ascending"))[1])


def _sorted(o: OpReader, k: int, *, descending: bool) -> tuple[ir.Value, ir.Value]:
    """`k` -1: all."""
    axis = o.axis("axis", -1)
    count = o.const([k]) if k != -1 else o.emit("Gather", [o.emit("Shape", [o.x()]), o.const([axis])])
    values, indices = o.emit_many("TopK", [o.x(), count], 2, axis=axis, largest=int(descending), sorted=1)
    return values, indices
