"""Reductions over axes."""

from __future__ import annotations

from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import OWN_SCALE, follow_first, lowers


@lowers("GlobalAveragePool", sides=follow_first, quantised=OWN_SCALE)
def global_average_pool(n: NodeLowering) -> None:
    axes = n.axes(range(2, len(n.shape())))
    n.emit("MEAN", [n.x(), n.ints(axes)], n.y(), keep_dims=True)
