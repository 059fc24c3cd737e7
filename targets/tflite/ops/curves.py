"""Activation functions TFLite has no operator for, in a few that it has; in float, whatever is quantised around them."""

from __future__ import annotations

import numpy as np

from edgec.targets.tflite.model import Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import follow_first, lowers

_FAR = 20.0
"""exp(20) + 2 is exp(20) in float32, and its square is finite."""


def _number(n: NodeLowering, value: float) -> Tensor:
    return n.constant(np.float32(value))


@lowers("Softplus", sides=follow_first)
def softplus(n: NodeLowering) -> None:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)), which never overflows."""
    x = n.x()
    size = n.emit("NEG", [n.emit("ABS", [x], n.temp(x.shape))], n.temp(x.shape))
    below = n.emit("ADD", [n.emit("EXP", [size], n.temp(x.shape)), _number(n, 1)], n.temp(x.shape))
    rest = n.emit("LOG", [below], n.temp(x.shape))
    n.emit("ADD", [n.emit("RELU", [x], n.temp(x.shape)), rest], n.y())


@lowers("Mish", sides=follow_first)
def mish(n: NodeLowering) -> None:
    """x tanh(log(1 + e)) with e = exp(x), which is x e (e + 2) / (e (e + 2) + 2)."""
    x = n.x()
    e = n.emit("EXP", [n.emit("MINIMUM", [x, _number(n, _FAR)], n.temp(x.shape))], n.temp(x.shape))
    product = n.emit("MUL", [e, n.emit("ADD", [e, _number(n, 2)], n.temp(x.shape))], n.temp(x.shape))
    share = n.emit("DIV", [product, n.emit("ADD", [product, _number(n, 2)], n.temp(x.shape))], n.temp(x.shape))
    n.emit("MUL", [x, share], n.y())


@lowers("Selu", sides=follow_first)
def selu(n: NodeLowering) -> None:
    """gamma x above zero, gamma alpha (exp(x) - 1) below."""
    x, gamma = n.x(), float(n.attr("gamma"))
    above = n.emit("MUL", [n.emit("RELU", [x], n.temp(x.shape)), _number(n, gamma)], n.temp(x.shape))
    curve = n.emit("ELU", [n.emit("MINIMUM", [x, _number(n, 0)], n.temp(x.shape))], n.temp(x.shape))
    below = n.emit("MUL", [curve, _number(n, gamma * float(n.attr("alpha")))], n.temp(x.shape))
    n.emit("ADD", [above, below], n.y())


@lowers("Celu", sides=follow_first)
def celu(n: NodeLowering) -> None:
    """alpha ELU(x / alpha)."""
    x, alpha = n.x(), float(n.attr("alpha"))
    if alpha == 1:
        n.emit("ELU", [x], n.y())
        return
    curve = n.emit("ELU", [n.emit("MUL", [x, _number(n, 1 / alpha)], n.temp(x.shape))], n.temp(x.shape))
    n.emit("MUL", [curve, _number(n, alpha)], n.y())


@lowers("Softsign", sides=follow_first)
def softsign(n: NodeLowering) -> None:
    x = n.x()
    size = n.emit("ADD", [n.emit("ABS", [x], n.temp(x.shape)), _number(n, 1)], n.temp(x.shape))
    n.emit("DIV", [x, size], n.y())


@lowers("ThresholdedRelu", sides=follow_first)
def thresholded_relu(n: NodeLowering) -> None:
    x = n.x()
    above = n.emit("GREATER", [x, _number(n, float(n.attr("alpha")))], n.temp(x.shape, "bool"))
    n.emit("SELECT_V2", [above, x, _number(n, 0)], n.y())


@lowers("Shrink", sides=follow_first)
def shrink(n: NodeLowering) -> None:
    """Zero between -lambd and lambd; what is beyond comes closer by bias."""
    x, limit, bias = n.x(), float(n.attr("lambd")), float(n.attr("bias"))
    above = n.emit("GREATER", [x, _number(n, limit)], n.temp(x.shape, "bool"))
    below = n.emit("LESS", [x, _number(n, -limit)], n.temp(x.shape, "bool"))
    lower = n.emit("SUB", [x, _number(n, bias)], n.temp(x.shape))
    higher = n.emit("ADD", [x, _number(n, bias)], n.temp(x.shape))
    rest = n.emit("SELECT_V2", [below, higher, _number(n, 0)], n.temp(x.shape))
    n.emit("SELECT_V2", [above, lower, rest], n.y())
