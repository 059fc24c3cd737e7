"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.program import Dim
from edgec.targets.coreml.rules import lowers


@lowers("Conv")
def conv(n: NodeLowering) -> None:
    """MIL conv (iOS15): 1 to 3 spatial axes, weight [C_out, C_in / groups, *K], constant or (iOS15) computed."""
    w = n.window(n.shape(1)[2:])
    pad = [p for pair in zip(w.before, w.after, strict=True) for p in pair]
    n.result(
        n.emit(
            "conv", x=n.x(0), weight=n.x(1), bias=n.optional(2), strides=np.asarray(w.strides, np.int32),
            dilations=np.asarray(w.dilations, np.int32), groups=int(n.attr("group", 1)), pad_type="custom",
            pad=np.asarray(pad, np.int32), out_shape=n.out_dims(),
        )
    )  # fmt: skip


@lowers("ConvTranspose")
def conv_transpose(n: NodeLowering) -> None:
    """What is cut off the full result makes output_padding: less of it behind. Weights are constants in MIL."""
    if not n.is_const(1):
        n.refuse("weights that are computed")
    spatial, weight = n.dims()[2:], n.shape(1)
    if not 1 <= len(spatial) <= 3:
        n.refuse(f"over {len(spatial)} axes; MIL has it over 1 to 3")
    strides = n.attr("strides") or [1] * len(spatial)
    dilations = n.attr("dilations") or [1] * len(spatial)
    before, after = _cut_off(n, spatial, weight[2:], strides, dilations)
    if min(*before, *after) < 0:
        n.refuse("padding that adds instead of cutting off", "output_padding of at most the padding")
    n.result(
        n.emit(
            "conv_transpose", x=n.x(0), weight=n.x(1), bias=n.optional(2), strides=np.asarray(strides, np.int32),
            dilations=np.asarray(dilations, np.int32), groups=int(n.attr("group", 1)), pad_type="custom",
            pad=np.asarray([p for pair in zip(before, after, strict=True) for p in pair], np.int32),
            out_shape=n.out_dims(),
        )
    )  # fmt: skip


def _cut_off(
    n: NodeLowering, spatial: Sequence[Dim], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What is cut off the full result in front and behind, whatever pads, auto_pad and output_padding said."""
    auto, given = n.attr("auto_pad", "NOTSET"), n.attr("pads")
    extra = n.attr("output_padding") or [0] * len(spatial)
    if not n.attr("output_shape") and auto not in ("SAME_UPPER", "SAME_LOWER"):
        pads = [int(p) for p in given or [0] * (2 * len(spatial))]
        return pads[: len(spatial)], [p - e for p, e in zip(pads[len(spatial) :], extra, strict=True)]
    sizes = n.out_shape()[2:]
    full = [(d - 1) * s + (k - 1) * a + 1 for d, s, k, a in zip(n.spatial(), strides, kernel, dilations, strict=True)]
    totals = [f + e - o for f, e, o in zip(full, extra, sizes, strict=True)]
    before = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals]
    return before, [f - o - b for f, o, b in zip(full, sizes, before, strict=True)]
