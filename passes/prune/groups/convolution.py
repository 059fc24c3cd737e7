"""Conv and ConvTranspose, grouped and depthwise too.

A depthwise convolution is cut by groups: channel, filter and output channels of a group go together, `group` shrinks. Any
other grouped convolution is cut alike in every group: the n-th channel of all groups goes, `group` stays.
"""

from __future__ import annotations

from edgec.graph import ir
from edgec.passes.prune.groups.registry import Cut, Ties, resizes, ties

_SPATIAL = "a spatial axis"


@ties("Conv", "ConvTranspose")
def convolution(t: Ties) -> None:
    x, w, b, out = t.input(0), t.input(1), t.input(2), t.output()
    for v in (x, w, out):
        t.pin_axes(v, range(2, t.rank(v)), _SPATIAL)
    group = t.attr("group") or 1
    t.same(x, 0, out, 0)
    t.same(b, 0, out, 1)
    if group == 1:
        into, of = (0, 1) if t.node.op_type == "ConvTranspose" else (1, 0)
        t.same(x, 1, w, into)
        t.same(w, of, out, 1)
        t.role(w, of, "writes")
        t.role(w, into, "reads")
        return
    outputs = t.size(out, 1) // group
    if t.size(x, 1) == group:
        _by_group(t, x, w, out, group, outputs)
    else:
        _alike(t, x, w, out, group, outputs)
    t.role(w, 0, "writes")


def _by_group(t: Ties, x: ir.Value | None, w: ir.Value | None, out: ir.Value | None, group: int, outputs: int) -> None:
    """One input channel a group."""
    transposed = t.node.op_type == "ConvTranspose"
    if outputs == 1:
        t.same(x, 1, w, 0)
        t.same(w, 0, out, 1)
        return
    assert out is not None  # a Conv has an output
    hub = t.dims.factor(out, group)
    t.grouped(x, 1, hub)
    t.grouped(w, 0, hub, 1 if transposed else outputs)
    t.grouped(out, 1, hub, outputs)
    if transposed:
        t.pin(w, 1, "the outputs of a group stay together")
    else:
        t.same(w, 0, out, 1)


def _alike(t: Ties, x: ir.Value | None, w: ir.Value | None, out: ir.Value | None, group: int, outputs: int) -> None:
    """The same channels of every group."""
    assert out is not None  # a Conv has an output
    inputs = t.size(x, 1) // group
    hub_in = t.dims.factor(out, inputs)
    t.grouped(x, 1, hub_in)
    if t.node.op_type == "ConvTranspose":
        t.same(x, 1, w, 0)
        if outputs > 1:
            hub_out = t.dims.factor(out, outputs)
            t.grouped(w, 1, hub_out)
            t.grouped(out, 1, hub_out)
        else:
            t.pin(out, 1, "every group has one output channel")
        return
    t.grouped(w, 1, hub_in)
    t.same(w, 0, out, 1)
    if outputs > 1:
        t.grouped(out, 1, t.dims.factor(out, outputs))
    else:
        t.pin(out, 1, "every group has one output channel")


@resizes("Conv", "ConvTranspose")
def resize_convolution(cut: Cut) -> None:
    x, out = cut.node.inputs[0], cut.node.outputs[0]
    group = cut.attr("group") or 1
    if group == 1 or x is None or x.shape is None:
        return
    if x.shape[1] == group and cut.kept(x, 1) is not None:
        cut.set_attr("group", cut.size(x, 1) or 1)
    assert out.shape is not None  # else nothing was tied
