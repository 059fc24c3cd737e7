"""Pooling and resizing: channels pass through, spatial axes stay."""

from __future__ import annotations

import numpy as np

from edgec.passes.prune.groups.registry import Cut, Ties, resizes, ties


@ties(
    "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "MaxRoiPool", "GridSample"
)
def pooling(t: Ties) -> None:
    x, out = t.input(0), t.output()
    if t.node.op_type == "MaxRoiPool":
        t.pin_all("regions of interest")
        return
    if len(t.node.outputs) > 1:
        t.pin_all("its second output counts elements of the whole tensor")
        return
    for v in (x, out):
        t.pin_axes(v, range(2, t.rank(v)), "a spatial axis")
    for v in t.node.inputs[1:]:
        t.pin_axes(v, range(t.rank(v)), "sampling positions")
    t.same(x, 0, out, 0)
    t.same(x, 1, out, 1)


@ties("Resize", "Upsample")
def resize(t: Ties) -> None:
    """Axes whose size stays pass through."""
    x, out = t.input(0), t.output()
    for v in t.node.inputs[1:]:
        t.pin_axes(v, range(t.rank(v)), "sizes and scales")
    sizes = t.input(3)
    if sizes is not None and t.constant(3) is None:
        t.pin_all("sizes computed at run time")
        return
    for i in range(t.rank(x)):
        if t.size(x, i) and t.size(x, i) == t.size(out, i) and i < 2:
            t.same(x, i, out, i)
        else:
            t.pin(x, i, "it resizes this axis")
            t.pin(out, i, "it resizes this axis")


@resizes("Resize")
def resize_sizes(cut: Cut) -> None:
    sizes, out = cut.constant(3), cut.node.outputs[0]
    if sizes is None or not sizes.size or out.shape is None:
        return
    axes = cut.attr("axes") or range(len(sizes))
    new = [cut.size(out, a) or s for a, s in zip(axes, sizes.tolist(), strict=True)]
    if new != sizes.tolist():
        cut.set_input(3, np.asarray(new, sizes.dtype))
