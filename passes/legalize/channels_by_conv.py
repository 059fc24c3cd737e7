"""Channels picked, reordered or padded with zeros as a convolution of 1 x 1, for chips that move channels no other way.

A Gather along the channels, a Pad of channels with zeros, and the shuffle Reshape -> Transpose -> Reshape of ShuffleNet are
matrices of zeros and ones over the channels. As weights in symmetric int8 with one scale a channel these are exact: one is
127 steps. NVIDIA's list of operators for its DLA suggests such convolutions for Gather. Costs a multiplication for each pair
of channels, so pipelines choose it only where the alternative is another processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, ir, static_shape
from edgec.pattern import Match, P, const, opt, var
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

_MOST = 1 << 22
"""Weights above which the model would be more of them than anything else."""


def _image(value: ir.Value) -> tuple[int, ...] | None:
    """The shape of a float image N x C x H x W."""
    shape = static_shape(value)
    fits = shape is not None and len(shape) == 4 and value.dtype is not None and value.dtype.is_floating_point()
    return shape if fits else None


def _by_conv(m: Match, rw: Rewriter, source: list[int]) -> Result:
    """A convolution whose output channel i is channel `source[i]`, or zero where that is negative."""
    x = m.value("x")
    channels = x.shape[1] if x.shape is not None else None
    if not isinstance(channels, int) or x.dtype is None:
        return Reject("the number of channels is not known")
    if len(source) * channels > _MOST:
        return Reject(f"the matrix would have {len(source)} x {channels} elements")
    weight: npt.NDArray[Any] = np.zeros((len(source), channels, 1, 1), x.dtype.numpy())
    for i, channel in enumerate(source):
        if channel >= 0:
            weight[i, channel] = 1
    out = m.root.outputs[0]
    return rw.op("Conv", x, rw.const(weight, f"{out.name}.channels"), attrs={"kernel_shape": [1, 1]}, like=out)


@rule(P.Gather(var("x"), const("indices")))
def gather_channels(m: Match, rw: Rewriter) -> Result:
    shape = _image(m.value("x"))
    if shape is None or attribute(m.root, "axis") not in (1, -3):
        return Reject("not channels of an image of known size")
    indices = m.array("indices")
    if indices.ndim != 1 or (indices < -shape[1]).any() or (indices >= shape[1]).any():
        return Reject("the indices are no list of channels")
    return _by_conv(m, rw, [int(i) % shape[1] for i in indices])


@rule(P.Gather(P.Reshape(var("x"), const("split"), as_="split_up", shared_=True), const("index")))
def gather_part(m: Match, rw: Rewriter) -> Result:
    """Every k-th channel, or one block of them: Reshape to N x a x b x H x W and one index along a or b."""
    shape, axis = _image(m.value("x")), attribute(m.root, "axis")
    parts = static_shape(m.node("split_up").outputs[0])
    if shape is None or parts is None or len(parts) != 5 or (parts[0], *parts[3:]) != (shape[0], *shape[2:]):
        return Reject("no channels of an image of known size in groups")
    index = m.array("index")
    if index.ndim or axis not in (1, 2, -4, -3) or not -parts[axis] <= int(index) < parts[axis]:
        return Reject("not one index along the groups")
    groups = np.arange(shape[1]).reshape(parts[1], parts[2])
    along = groups[int(index), :] if axis % 5 == 1 else groups[:, int(index)]
    return _by_conv(m, rw, along.tolist())


@rule(P.Pad(var("x"), const("pads"), opt(const("value")), opt(const("axes"))))
def pad_channels(m: Match, rw: Rewriter) -> Result:
    shape = _image(m.value("x"))
    if shape is None or (attribute(m.root, "mode") or "constant") != "constant":
        return Reject("not an image of known size padded with a constant")
    if m.has("value") and m.array("value").any():
        return Reject("it is padded with something else than 0")
    pads, axes = m.array("pads").tolist(), m.array("axes").tolist() if m.has("axes") else [0, 1, 2, 3]
    around = {a % 4: (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
    before, after = around.get(1, (0, 0))
    if any(any(p) for a, p in around.items() if a != 1) or min(before, after) < 0 or not before + after:
        return Reject("not only channels are padded")
    return _by_conv(m, rw, [-1] * before + list(range(shape[1])) + [-1] * after)


@rule(P.Reshape(P.Transpose(P.Reshape(var("x"), const("split")), as_="swap"), const("join")))
def shuffle_channels(m: Match, rw: Rewriter) -> Result:
    """Reshape to N x g x C/g x H x W, the two in the middle swapped, and back."""
    shape, swap = _image(m.value("x")), m.node("swap")
    parts, back = static_shape(swap.inputs[0]), static_shape(m.root.outputs[0])
    if shape is None or parts is None or back != shape:
        return Reject("not an image of known size")
    if (
        len(parts) != 5
        or (parts[0], *parts[3:]) != (shape[0], *shape[2:])
        or attribute(swap, "perm") != (0, 2, 1, 3, 4)
    ):
        return Reject("no shuffle of channels")
    return _by_conv(m, rw, [int(i) for i in np.arange(shape[1]).reshape(parts[1], parts[2]).T.reshape(-1)])


@dataclass(frozen=True)
class ChannelsByConv(RewritePass):
    """No Gather, Pad or shuffle of channels."""

    name: ClassVar[str] = "channels-by-conv"
    contract: ClassVar[Contract] = "close"
    rules: ClassVar[RuleSet] = RuleSet([gather_channels, gather_part, pad_channels, shuffle_channels])
