"""Normalisations, and softmax. A cut changes the mean and variance of those that average over channels: that is part of
what pruning loses."""

from __future__ import annotations

from edgec.passes.prune.groups.registry import Cut, Ties, resizes, ties


@ties("BatchNormalization", "InstanceNormalization")
def per_channel(t: Ties) -> None:
    x = t.input(0)
    t.same_but(x, t.output())
    for v in (*t.node.inputs[1:], *t.node.outputs[1:]):
        t.same(v, 0, x, 1)
    t.role(t.input(1), 0, "scales")
    if t.node.op_type == "InstanceNormalization":
        t.pin_axes(x, range(2, t.rank(x)), "it averages over this axis")


@ties("LayerNormalization", "RMSNormalization")
def layer_norm(t: Ties) -> None:
    x = t.input(0)
    t.same_but(x, t.output())
    for v in t.node.inputs[1:]:
        for i in range(1, t.rank(v) + 1):
            t.same(v, -i, x, -i)
    for v in t.node.outputs[1:]:
        t.same_but(v, x)  # the averaged axes have one element there


@ties("GroupNormalization")
def group_norm(t: Ties) -> None:
    """Cut alike in every group, so that each keeps the same size; of groups of one channel, whole groups go."""
    x, out = t.input(0), t.output()
    t.same_but(x, out)
    t.pin_axes(x, range(2, t.rank(x)), "it averages over this axis")
    groups, channels = t.attr("num_groups"), t.size(x, 1)
    for v in t.node.inputs[1:3]:
        if t.size(v, 0) == channels:
            t.same(v, 0, x, 1)
        else:
            t.pin(v, 0, "one scale a group")
    if 1 < groups < channels and out is not None:
        t.grouped(x, 1, t.dims.factor(out, channels // groups))


@resizes("GroupNormalization")
def resize_group_norm(cut: Cut) -> None:
    x = cut.node.inputs[0]
    if x is not None and x.shape is not None and cut.attr("num_groups") == x.shape[1]:
        cut.set_attr("num_groups", cut.size(x, 1) or 1)


@ties("Softmax", "LogSoftmax", "Hardmax")
def softmax(t: Ties) -> None:
    x = t.input(0)
    t.same_but(x, t.output())
    axis = t.attr("axis") if t.attr("axis") is not None else -1
    first = axis % t.rank(x) if t.rank(x) else 0
    axes = [first] if t.opset >= 13 else range(first, t.rank(x))
    t.pin_axes(x, axes, "it shares one sum over this axis")


@ties("LpNormalization", "MeanVarianceNormalization")
def over_axes(t: Ties) -> None:
    t.same_but(t.input(0), t.output())


@ties("QuantizeLinear", "DequantizeLinear")
def quantized(t: Ties) -> None:
    """Stored weights: scales and zero points along the axis go with it."""
    x, axis = t.input(0), t.attr("axis")
    if t.attr("block_size"):
        t.pin_all("one scale a block")
        return
    t.same_but(x, t.output())
    for v in t.node.inputs[1:]:
        if t.rank(v) == 1:
            t.same(v, 0, x, axis if axis is not None else 1)
