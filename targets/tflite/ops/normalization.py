"""Vectors brought to length 1, or to mean 0 and variance 1."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.targets.tflite.layout import Sides
from edgec.targets.tflite.model import Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.ops.softmax import along_last
from edgec.targets.tflite.rules import lowers, raw

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


@lowers("LayerNormalization", sides=raw)
def layer_normalization(n: NodeLowering) -> None:
    """(x - mean) / sqrt(variance + epsilon), scaled and shifted; in float, whatever is quantised around it."""
    x, axes = n.x(), _normalised_axes(n)
    shape = tuple(1 if a in axes else d for a, d in enumerate(x.shape))
    mean = n.emit("MEAN", [x, n.ints(axes)], n.temp(shape), keep_dims=True)
    centred = n.emit("SUB", [x, mean], n.temp(x.shape), fused_activation_function="NONE")
    inverse = _inverse_deviation(n, centred, axes)
    _scaled(n, centred, inverse)
    if n.has_output(1):
        n.result(mean, 1)
    if n.has_output(2):
        n.result(inverse, 2)


@lowers("RMSNormalization", sides=raw)
def rms_normalization(n: NodeLowering) -> None:
    """x / sqrt(mean square + epsilon), scaled."""
    x = n.x()
    _scaled(n, x, _inverse_deviation(n, x, _normalised_axes(n)))


def _normalised_axes(n: NodeLowering) -> list[int]:
    rank = len(n.shape())
    return list(range(int(n.attr("axis")) % rank, rank))


def _inverse_deviation(n: NodeLowering, x: Tensor, axes: list[int]) -> Tensor:
    """1 / sqrt(mean of the squares + epsilon)."""
    shape = tuple(1 if a in axes else d for a, d in enumerate(x.shape))
    square = n.emit("MUL", [x, x], n.temp(x.shape), fused_activation_function="NONE")
    mean = n.emit("MEAN", [square, n.ints(axes)], n.temp(shape), keep_dims=True)
    epsilon = n.constant(np.float32(n.attr("epsilon")))
    safe = n.emit("ADD", [mean, epsilon], n.temp(shape), fused_activation_function="NONE")
    return n.emit("RSQRT", [safe], n.temp(shape))


def _scaled(n: NodeLowering, x: Tensor, factor: Tensor) -> None:
    """x times factor, times input 1, plus input 2, as output 0."""
    y, steps = n.y(), [("MUL", factor)]
    steps += [(op, n.x(i)) for op, i in (("MUL", 1), ("ADD", 2)) if n.has(i)]
    for k, (op, other) in enumerate(steps):
        out = y if k == len(steps) - 1 else n.temp(x.shape)
        x = n.emit(op, [x, other], out, fused_activation_function="NONE")
