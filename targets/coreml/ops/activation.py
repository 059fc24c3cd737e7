"""Activation functions."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.rules import lowers

_SAME = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Softplus": "softplus", "Softsign": "softsign", "Tanh": "tanh",
}  # fmt: skip


@lowers(*_SAME)
def same(n: NodeLowering) -> None:
    n.result(n.emit(_SAME[n.node.op_type], x=n.x(), out_shape=n.out_dims()))


_WITH_ALPHA = {"Elu": "elu", "LeakyRelu": "leaky_relu"}


@lowers(*_WITH_ALPHA)
def with_alpha(n: NodeLowering) -> None:
    n.result(n.emit(_WITH_ALPHA[n.node.op_type], x=n.x(), alpha=n.real(n.attr("alpha")), out_shape=n.out_dims()))


@lowers("ThresholdedRelu")
def thresholded_relu(n: NodeLowering) -> None:
    """MIL's keeps what equals alpha, ONNX's does not: x where it is greater, by a select."""
    x, alpha = n.x(), n.real(n.attr("alpha"))
    above = n.emit("greater", x=x, y=alpha, out_dtype="bool", out_shape=x.shape)
    n.result(n.emit("select", cond=above, a=x, b=n.real(0), out_dtype=x.dtype, out_shape=x.shape))


@lowers("HardSigmoid")
def hard_sigmoid(n: NodeLowering) -> None:
    alpha, beta = n.real(n.attr("alpha")), n.real(n.attr("beta"))
    n.result(n.emit("sigmoid_hard", x=n.x(), alpha=alpha, beta=beta, out_shape=n.out_dims()))


@lowers("HardSwish")
def hard_swish(n: NodeLowering) -> None:
    """x * max(0, min(1, x / 6 + 1/2)), ONNX's definition."""
    x = n.x()
    gate = n.emit("sigmoid_hard", x=x, alpha=n.real(1 / 6), beta=n.real(0.5), out_shape=x.shape)
    n.result(n.emit("mul", x=x, y=gate, out_shape=x.shape))


@lowers("Swish")
def swish(n: NodeLowering) -> None:
    x, alpha = n.x(), float(n.attr("alpha", 1.0))
    if alpha == 1:
        n.result(n.emit("silu", x=x, out_shape=x.shape))
        return
    gate = n.emit("sigmoid", x=n.emit("mul", x=x, y=n.real(alpha), out_shape=x.shape), out_shape=x.shape)
    n.result(n.emit("mul", x=x, y=gate, out_shape=x.shape))


@lowers("Mish")
def mish(n: NodeLowering) -> None:
    x = n.x()
    n.result(n.emit("mul", x=x, y=n.emit("tanh", x=n.emit("softplus", x=x)), out_shape=x.shape))


@lowers("Gelu")
def gelu(n: NodeLowering) -> None:
    mode = "TANH_APPROXIMATION" if n.attr("approximate") == "tanh" else "EXACT"
    n.result(n.emit("gelu", x=n.x(), mode=mode, out_shape=n.out_dims()))


@lowers("PRelu")
def prelu(n: NodeLowering) -> None:
    """MIL's has one slope a channel, of tensors with 3 axes and more; other slopes as max(x, 0) + slope * min(x, 0)."""
    x, dims = n.x(0), n.dims(0)
    if n.is_const(1) and len(dims) >= 3 and isinstance(dims[1], int):
        slope = n.const(1)
        wide = slope.reshape((1,) * (len(dims) - slope.ndim) + slope.shape) if slope.ndim <= len(dims) else slope
        if wide.shape == (1, dims[1], *(1,) * (len(dims) - 2)) or wide.size == 1:
            alpha = np.ascontiguousarray(np.broadcast_to(wide.reshape(-1), (dims[1],)))
            n.result(n.emit("prelu", x=x, alpha=alpha, out_shape=x.shape))
            return
    above = n.emit("relu", x=x, out_shape=x.shape)
    below = n.emit("mul", x=n.emit("minimum", x=x, y=n.real(0), out_shape=x.shape), y=n.x(1), out_shape=n.out_dims())
    n.result(n.emit("add", x=above, y=below, out_shape=n.out_dims()))


@lowers("Celu")
def celu(n: NodeLowering) -> None:
    """alpha * ELU(x / alpha)."""
    x, alpha = n.x(), float(n.attr("alpha"))
    scaled = x if alpha == 1 else n.emit("mul", x=x, y=n.real(1 / alpha), out_shape=x.shape)
    curve = n.emit("elu", x=scaled, alpha=n.real(1), out_shape=x.shape)
    n.result(curve if alpha == 1 else n.emit("mul", x=curve, y=n.real(alpha), out_shape=x.shape))


@lowers("Selu")
def selu(n: NodeLowering) -> None:
    """gamma * ELU(x, alpha)."""
    x = n.x()
    curve = n.emit("elu", x=x, alpha=n.real(n.attr("alpha")), out_shape=x.shape)
    n.result(n.emit("mul", x=curve, y=n.real(n.attr("gamma")), out_shape=x.shape))


@lowers("Softmax")
def softmax(n: NodeLowering) -> None:
    n.result(n.emit("softmax", x=n.x(), axis=int(n.attr("axis")), out_shape=n.out_dims()))


@lowers("LogSoftmax")
def log_softmax(n: NodeLowering) -> None:
    """y - log(sum(exp(y))) of y = x - max(x): small numbers, which keep their digits in fp16 too."""
    x, axis = n.x(), np.asarray([int(n.attr("axis"))], np.int32)
    below = n.emit("sub", x=x, y=n.emit("reduce_max", x=x, axes=axis, keep_dims=True), out_shape=x.shape)
    total = n.emit("reduce_log_sum_exp", x=below, axes=axis, keep_dims=True)
    n.result(n.emit("sub", x=below, y=total, out_shape=n.out_dims()))
