"""Activations, by the formulas of their definitions. Of several ONNX nodes only the result is rounded in fp16."""

from __future__ import annotations

import math

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates

_PLAIN = {"sigmoid": "Sigmoid", "softplus": "Softplus", "softsign": "Softsign"}


@evaluates(*_PLAIN)
def plain(o: OpReader) -> None:
    o.give(o.emit(_PLAIN[o.operation.op], [o.x()]))


@evaluates("relu")
def relu(o: OpReader) -> None:
    o.move(o.emit("Relu", [o.x()]))


@evaluates("relu6")
def relu6(o: OpReader) -> None:
    o.move(o.emit("Clip", [o.x(), o.const(np.float32(0)), o.const(np.float32(6))]))


@evaluates("silu")
def silu(o: OpReader) -> None:
    """x * sigmoid(x)."""
    o.give(o.emit("Mul", [o.x(), o.emit("Sigmoid", [o.x()])]))


@evaluates("softmax")
def softmax(o: OpReader) -> None:
    o.give(o.emit("Softmax", [o.x()], axis=o.integer("axis", -1)))


@evaluates("gelu")
def gelu(o: OpReader) -> None:
    """EXACT: x/2 (1 + erf(x / sqrt 2)); TANH_APPROXIMATION: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)));
    SIGMOID_APPROXIMATION: x sigmoid(1.702 x)."""
    x, mode = o.x(), o.text("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        o.give(o.emit("Mul", [x, o.emit("Sigmoid", [_times(o, x, 1.702)])]))
        return
    if mode == "EXACT":
        inner = o.emit("Erf", [_times(o, x, 1 / math.sqrt(2))])
    elif mode == "TANH_APPROXIMATION":
        cube = o.emit("Mul", [o.emit("Mul", [x, x]), x])
        inner = o.emit("Tanh", [_times(o, o.emit("Add", [x, _times(o, cube, 0.044715)]), math.sqrt(2 / math.pi))])
    else:
        o.unknown(f"mode {mode}")
    o.give(o.emit("Mul", [_times(o, x, 0.5), _plus(o, inner, 1)]))


@evaluates("leaky_relu")
def leaky_relu(o: OpReader) -> None:
    """x, or alpha x below zero; alpha of any sign."""
    o.give(o.emit("LeakyRelu", [o.x()], alpha=o.number("alpha")))


@evaluates("prelu")
def prelu(o: OpReader) -> None:
    """x, or alpha_c x below zero; alpha by channel, axis 1."""
    o.give(o.emit("PRelu", [o.x(), _by_channel(o, "alpha")]))


@evaluates("elu")
def elu(o: OpReader) -> None:
    """x, or alpha (e^x - 1) below zero."""
    o.give(o.emit("Elu", [o.x()], alpha=o.number("alpha")))


@evaluates("thresholded_relu")
def thresholded_relu(o: OpReader) -> None:
    """x where x >= alpha, else 0. ONNX's ThresholdedRelu has x > alpha."""
    x, alpha = o.x(), o.const(np.float32(o.number("alpha")))
    o.move(o.emit("Where", [o.emit("GreaterOrEqual", [x, alpha]), x, o.const(np.float32(0))]))


@evaluates("clamped_relu")
def clamped_relu(o: OpReader) -> None:
    """min(beta, x), and min(beta, alpha x) below zero."""
    leaky = o.emit("LeakyRelu", [o.x()], alpha=o.number("alpha"))
    o.give(o.emit("Min", [leaky, o.const(np.float32(o.number("beta")))]))


@evaluates("linear_activation")
def linear_activation(o: OpReader) -> None:
    """alpha x + beta."""
    o.give(_plus(o, _times(o, o.x(), o.number("alpha")), o.number("beta")))


@evaluates("scaled_tanh")
def scaled_tanh(o: OpReader) -> None:
    """alpha tanh(beta x)."""
    o.give(_times(o, o.emit("Tanh", [_times(o, o.x(), o.number("beta"))]), o.number("alpha")))


@evaluates("sigmoid_hard")
def sigmoid_hard(o: OpReader) -> None:
    """min(max(alpha x + beta, 0), 1)."""
    line = _plus(o, _times(o, o.x(), o.number("alpha")), o.number("beta"))
    o.give(o.emit("Clip", [line, o.const(np.float32(0)), o.const(np.float32(1))]))


@evaluates("softplus_parametric")
def softplus_parametric(o: OpReader) -> None:
    """alpha_c log(1 + e^(beta_c x)); alpha and beta by channel, axis 1."""
    inner = o.emit("Softplus", [o.emit("Mul", [o.x(), _by_channel(o, "beta")])])
    o.give(o.emit("Mul", [_by_channel(o, "alpha"), inner]))


def _by_channel(o: OpReader, name: str) -> ir.Value:
    values = o.array(name)
    return o.const(values.reshape(-1, *[1] * (o.mil().rank - 2)))


def _times(o: OpReader, v: ir.Value, factor: float) -> ir.Value:
    return o.emit("Mul", [v, o.const(np.float32(factor))])


def _plus(o: OpReader, v: ir.Value, number: float) -> ir.Value:
    return o.emit("Add", [v, o.const(np.float32(number))])
