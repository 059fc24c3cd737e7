"""Normalisation. Statistics are computed in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates


@evaluates("batch_norm")
def batch_norm(o: OpReader) -> None:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, by channel (axis 1)."""
    mean = o.array("mean")
    given = [o.array("gamma", np.ones_like(mean)), o.array("beta", np.zeros_like(mean)), mean, o.array("variance")]
    epsilon = o.number("epsilon", 1e-5)
    o.give(o.emit("BatchNormalization", [o.x(), *(o.const(a) for a in given)], epsilon=epsilon))


@evaluates("instance_norm")
def instance_norm(o: OpReader) -> None:
    """The same with the mean and variance of each sample and channel over its spatial axes."""
    channels = o.dims()[1]
    if not isinstance(channels, int):
        o.unknown("the number of channels is not fixed")
    gamma, beta = o.array("gamma", np.ones(channels)), o.array("beta", np.zeros(channels))
    epsilon = o.number("epsilon", 1e-5)
    o.give(o.emit("InstanceNormalization", [o.x(), o.const(gamma), o.const(beta)], epsilon=epsilon))


@evaluates("layer_norm")
def layer_norm(o: OpReader) -> None:
    """gamma (x - E[x]) / sqrt(Var[x] + epsilon) + beta over `axes`; gamma and beta have the shape of those axes."""
    rank = o.mil().rank
    axes = sorted(a % rank for a in o.ints("axes", list(range(rank))))
    epsilon = o.number("epsilon", 1e-5)
    scaled = o.has("gamma")
    if axes == list(range(axes[0], rank)) and scaled:
        given = [o.x(), o.x("gamma"), *([o.x("beta")] if o.has("beta") else [])]
        o.give(o.emit("LayerNormalization", given, axis=axes[0], epsilon=epsilon))
        return
    x, over = o.x(), o.const(axes)
    centred = o.emit("Sub", [x, o.emit("ReduceMean", [x, over])])
    variance = o.emit("ReduceMean", [o.emit("Mul", [centred, centred]), over])
    deviation = o.emit("Sqrt", [o.emit("Add", [variance, o.const(np.float32(epsilon))])])
    v = o.emit("Div", [centred, deviation])
    if scaled:
        v = o.emit("Mul", [v, _along(o, "gamma", axes, rank)])
    if o.has("beta"):
        v = o.emit("Add", [v, _along(o, "beta", axes, rank)])
    o.give(v)


def _along(o: OpReader, name: str, axes: Sequence[int], rank: int) -> ir.Value:
    values = o.array(name)
    sizes = iter(values.shape)
    return o.const(values.reshape([next(sizes) if i in axes else 1 for i in range(rank)]))


@evaluates("l2_norm")
def l2_norm(o: OpReader) -> None:
    """x / sqrt(sum of x^2 + epsilon) over the last three axes."""
    x = o.x()
    total = o.emit("ReduceSumSquare", [x, o.const([-3, -2, -1])])
    shifted = o.emit("Add", [total, o.const(np.float32(o.number("epsilon", 1e-6)))])
    o.give(o.emit("Div", [x, o.emit("Sqrt", [shifted])]))


@evaluates("local_response_norm")
def local_response_norm(o: OpReader) -> None:
    """x / (k + alpha / size sum of x_j^2)^beta over `size` neighbouring channels, as many before as after it.

    Where the size is even, the definition does not say on which side there is one more.
    """
    size = o.integer("size")
    if size % 2 == 0:
        o.unknown("an even number of neighbours")
    x = o.x()
    image = o.emit("Unsqueeze", [o.emit("Reshape", [o.emit("Mul", [x, x]), o.const([0, 0, -1])]), o.const([1])])
    half = size // 2
    mean = o.emit(
        "AveragePool", [image], kernel_shape=[size, 1], pads=[half, 0, half, 0], strides=[1, 1], count_include_pad=1
    )
    spread = o.emit("Reshape", [o.emit("Squeeze", [mean, o.const([1])]), o.emit("Shape", [x])])
    base = o.emit("Add", [o.emit("Mul", [spread, _real(o, "alpha", 1e-4)]), _real(o, "k", 1.0)])
    o.give(o.emit("Div", [x, o.emit("Pow", [base, _real(o, "beta", 0.75)])]))


def _real(o: OpReader, name: str, default: float) -> ir.Value:
    return o.const(np.float32(o.number(name, default)))
