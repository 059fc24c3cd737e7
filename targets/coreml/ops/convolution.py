"""Convolutions."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.rules import lowers
from edgec.targets.reading.windows import window


@lowers("Conv")
def conv(n: NodeLowering) -> None:
    """MIL conv (iOS15): 1 to 3 spatial axes, weight [C_out, C_in / groups, *K], constant or (iOS15) computed."""
    spatial = n.shape()[2:]
    if not 1 <= len(spatial) <= 3:
        n.refuse(f"a convolution over {len(spatial)} axes; MIL has it over 1 to 3")
    w = window(n.node, spatial, n.shape(1)[2:])
    pad = [p for pair in zip(w.before, w.after, strict=True) for p in pair]
    n.result(
        n.emit(
            "conv", x=n.x(0), weight=n.x(1), bias=n.optional(2), strides=np.asarray(w.strides, np.int32),
            dilations=np.asarray(w.dilations, np.int32), groups=int(n.attr("group", 1)), pad_type="custom",
            pad=np.asarray(pad, np.int32), out_shape=n.out_shape(),
        )
    )  # fmt: skip
