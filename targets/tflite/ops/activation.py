"""Activation functions."""

from __future__ import annotations

import math

import numpy as np

from edgec.graph import attribute, constant, ir, static_shape
from edgec.targets.tflite.absorb import clip_limits
from edgec.targets.tflite.layout import Side, Sides
from edgec.targets.tflite.model import Quant, Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.ops.elementwise import WIDE
from edgec.targets.tflite.rules import NUMBERS, OWN_SCALE, Quantised, follow_first, lowers

_INT8 = frozenset({"int8"})


@lowers("Relu", sides=follow_first, quantised=OWN_SCALE)
def relu(n: NodeLowering) -> None:
    n.emit("RELU", [n.x()], n.y())


@lowers("HardSwish", sides=follow_first, quantised=Quantised(dtypes=_INT8))
def hard_swish(n: NodeLowering) -> None:
    """XNNPACK takes no int8 HARD_SWISH, and LiteRT's own kernel is 10 times slower than these three (measured)."""
    x = n.x()
    if n.integer is None or not n.builder.xnnpack:
        n.emit("HARD_SWISH", [x], n.y())
        return
    gate = n.temp(x.shape, quant=Quant.of(1 / 255, -128), hint=f"{n.y().name}_gate")  # all of 0..1, and nothing else
    _hard_sigmoid_in_integers(n, x, 1 / 6, 0.5, gate)
    n.emit("MUL", [x, gate], n.y())


@lowers("LeakyRelu", sides=follow_first, quantised=OWN_SCALE)
def leaky_relu(n: NodeLowering) -> None:
    n.emit("LEAKY_RELU", [n.x()], n.y(), alpha=float(n.attr("alpha")))


@lowers("Gelu", sides=follow_first, quantised=OWN_SCALE)
def gelu(n: NodeLowering) -> None:
    n.emit("GELU", [n.x()], n.y(), approximate=n.attr("approximate") == "tanh")


@lowers("Elu", sides=follow_first)
def elu(n: NodeLowering) -> None:
    """No integer kernel: the reference kernels have none (measured). Another alpha than 1 scales the negative half."""
    x, alpha = n.x(), float(n.attr("alpha"))
    if alpha == 1.0:
        n.emit("ELU", [x], n.y())
        return
    curve = n.emit("ELU", [x], n.temp(x.shape))
    scaled = n.emit("MUL", [curve, n.constant(np.float32(alpha))], n.temp(x.shape))
    above = n.emit("GREATER", [x, n.constant(np.float32(0))], n.temp(x.shape, "bool"))
    n.emit("SELECT_V2", [above, x, scaled], n.y())


_PROBABILITY = {"int8": (1 / 256, -128), "int16": (1 / 32768, 0)}
"""TFLite 8-bit quantization specification: LOGISTIC and SOFTMAX."""


@lowers("Sigmoid", sides=follow_first, quantised=Quantised(fixed=_PROBABILITY))
def sigmoid(n: NodeLowering) -> None:
    n.emit("LOGISTIC", [n.x()], n.y())


@lowers("Tanh", sides=follow_first, quantised=Quantised(fixed={"int8": (1 / 128, 0), "int16": (1 / 32768, 0)}))
def tanh(n: NodeLowering) -> None:
    n.emit("TANH", [n.x()], n.y())


def _slope_above_zero(node: ir.Node) -> str | None:
    return None if float(attribute(node, "alpha")) > 0 else "its slope alpha is not positive"


@lowers("HardSigmoid", sides=follow_first, quantised=Quantised(dtypes=_INT8, when=_slope_above_zero))
def hard_sigmoid(n: NodeLowering) -> None:
    """RELU6(6 (alpha x + beta)) / 6: one kernel more than HARD_SWISH, which the fusing pass prefers."""
    x, y = n.x(), n.y()
    if n.integer:
        _hard_sigmoid_in_integers(n, x, float(n.attr("alpha")), float(n.attr("beta")), y)
        return
    scaled = n.emit("MUL", [x, n.constant(np.float32(6 * n.attr("alpha")))], n.temp(x.shape))
    shifted = n.emit(
        "ADD", [scaled, n.constant(np.float32(6 * n.attr("beta")))], n.temp(x.shape), fused_activation_function="RELU6"
    )
    n.emit("MUL", [shifted, n.constant(np.float32(1 / 6))], y)


def _hard_sigmoid_in_integers(n: NodeLowering, x: Tensor, alpha: float, beta: float, y: Tensor) -> None:
    """MUL, whose output has the very integers of `x`, then ADD: the range of `y` bounds it, where it does not MINIMUM."""
    assert x.quant is not None  # of an integer kernel
    assert y.quant is not None
    scaled = n.temp(x.shape, quant=Quant.of(x.quant.scale * np.float32(alpha), x.quant.zero_point))
    n.emit("MUL", [x, _whole(n, alpha)], scaled)
    scale, zero = float(y.quant.scale[0]), int(y.quant.zero_point[0])
    one = round(1 / scale) + zero
    out = n.temp(x.shape, quant=y.quant) if one < 127 else y
    n.emit("ADD", [scaled, _whole(n, beta)], out, fused_activation_function="RELU" if zero > -128 else "NONE")
    if out is not y:
        n.emit("MINIMUM", [out, n.constant(np.asarray(one), "int8", quant=y.quant)], y)


def _whole(n: NodeLowering, value: float) -> Tensor:
    """A number as an int8 constant that is exact: 127 or -127 steps."""
    stored = 127 if value >= 0 else -127
    return n.constant(np.asarray(stored), "int8", quant=Quant.of(abs(value) / 127) if value else Quant.of(1.0, 127))


def _slopes(node: ir.Node) -> Sides:
    """Slopes for each channel broadcast along the spatial axes: any storage, the slopes are turned with it."""
    return Sides([Side.FOLLOW, Side.RAW], [Side.FOLLOW])


def _slope_shape(node: ir.Node) -> str | None:
    x, slopes = static_shape(node.inputs[0]), static_shape(node.inputs[1])
    if x is None or slopes is None:
        return "its slopes have no fixed shape"
    return "its slopes differ over the batch" if len(x) == 1 or (len(slopes) == len(x) and slopes[0] != 1) else None


@lowers("PRelu", sides=_slopes, quantised=Quantised(inputs=(0, 1), dtypes=_INT8, when=_slope_shape))
def prelu(n: NodeLowering) -> None:
    """PRELU takes slopes that are alike for the whole batch; others are multiplied to what is below zero."""
    x, slopes = n.x(), n.operand(1)
    if slopes.rank == x.rank and slopes.shape[0] == 1:
        slopes = n.reshape(slopes, slopes.shape[1:])
    if slopes.rank < x.rank - 1:
        slopes = n.reshape(slopes, (1,) * (x.rank - 1 - slopes.rank) + slopes.shape)
    if x.rank > 1 and slopes.rank == x.rank - 1:
        n.emit("PRELU", [x, slopes], n.y())
        return
    if n.integer:
        n.refuse("slopes for each element of the batch")
    zero = n.constant(np.float32(0))
    below = n.emit("MINIMUM", [x, zero], n.temp(x.shape))
    scaled = n.emit("MUL", [below, slopes], n.temp(x.shape))
    n.emit("ADD", [n.emit("RELU", [x], n.temp(x.shape)), scaled], n.y())


_NAMED = {(0.0, math.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1", (0.0, 1.0): "RELU_0_TO_1"}


@lowers("Clip", sides=follow_first, dtypes=NUMBERS, via=WIDE, quantised=Quantised(inputs=(0,)))
def clip(n: NodeLowering) -> None:
    limits = clip_limits(n.node)
    x = n.x()
    if n.integer:
        _clip_integers(n, x, limits)
        return
    if limits in _NAMED and x.dtype == "float32":
        n.emit(_NAMED[limits], [x], n.y())
        return
    steps = [(op, i) for op, i in (("MAXIMUM", 1), ("MINIMUM", 2)) if n.has(i) and _limits_something(n, i)]
    if not steps:
        n.alias(x) if n.builder.is_written(x) else n.reshape(x, x.shape, n.y())
    for k, (op, i) in enumerate(steps):
        out = n.y() if k == len(steps) - 1 else n.temp(x.shape, x.dtype)
        x = n.emit(op, [x, n.cast(n.builder.tensor(n.value(i), None), x.dtype)], out)


def _limits_something(n: NodeLowering, i: int) -> bool:
    data = constant(n.value(i))
    return data is None or bool(np.isfinite(data).all())


def _clip_integers(n: NodeLowering, x: Tensor, limits: tuple[float, float] | None) -> None:
    """Rescaled to the output's scale, then bounded in it: its own range is a bound already."""
    if limits is None:
        n.refuse("its limits are computed at run time")
    y = n.y()
    assert y.quant is not None  # of an integer kernel
    scale, zero = float(y.quant.scale[0]), int(y.quant.zero_point[0])
    top = 127 if n.integer == "int8" else 32767
    low, high = (max(min(round(v / scale) + zero, top), -top - 1) if math.isfinite(v) else e for v, e in zip(limits, (-top - 1, top), strict=True))  # fmt: skip
    steps = [(op, v) for op, v, e in (("MAXIMUM", low, -top - 1), ("MINIMUM", high, top)) if v != e]
    t = n.builder.requantise(x, y.quant, y.name if not steps else None)
    for k, (op, v) in enumerate(steps):
        bound = n.constant(np.asarray(v), str(n.integer), quant=y.quant)
        t = n.emit(op, [t, bound], y if k == len(steps) - 1 else n.temp(x.shape, n.integer, y.quant))
    if not steps:
        n.alias(t)
