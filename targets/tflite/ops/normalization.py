"""Vectors brought to length 1."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.targets.tflite.layout import Sides
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.ops.softmax import along_last
from edgec.targets.tflite.rules import lowers

_SMALLEST = np.float32(np.finfo(np.float32).tiny)


def _sides(node: ir.Node) -> Sides:
    return along_last(node)


@lowers("LpNormalization", sides=_sides)
def lp_normalization(n: NodeLowering) -> None:
    """L2_NORMALIZATION along the last axis of at most four; else the norm is computed, and a norm of zero gives zeros.

    L2_NORMALIZATION takes 1e-6 for shorter vectors (tflite reference kernel).
    """
    x, y, axis = n.x(), n.y(), n.axis(int(n.attr("axis")))
    order = int(n.attr("p"))
    if order == 2 and axis == x.rank - 1 and x.rank <= 4:
        n.emit("L2_NORMALIZATION", [x], y, fused_activation_function="NONE")
        return
    shape = tuple(1 if a == axis else d for a, d in enumerate(x.shape))
    part = n.emit("ABS", [x], n.temp(x.shape)) if order == 1 else n.emit("MUL", [x, x], n.temp(x.shape))
    norm = n.emit("SUM", [part, n.ints([axis])], n.temp(shape), keep_dims=True)
    if order == 2:
        norm = n.emit("SQRT", [norm], n.temp(shape))
    norm = n.emit("MAXIMUM", [norm, n.constant(_SMALLEST)], n.temp(shape))
    n.emit("DIV", [x, norm], y, fused_activation_function="NONE")
