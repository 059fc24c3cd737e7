"""Normalisation."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.program import Array, Value
from edgec.targets.coreml.rules import lowers


@lowers("LayerNormalization")
def layer_norm(n: NodeLowering) -> None:
    """Over the axes from `axis` on; scale and bias have their shape. Mean and inverse deviation by operations of their own,
    where they are asked for."""
    x, rank = n.x(0), len(n.dims())
    first = int(n.attr("axis", -1)) % rank
    sizes = [d for d in n.dims()[first:] if isinstance(d, int)]
    if len(sizes) != rank - first:
        n.refuse("over axes of open size", "fix them: --input-shape NAME=1x3x224x224")
    gamma, beta = (np.broadcast_to(n.const(i), sizes) if n.has(i) else None for i in (1, 2))
    n.result(
        n.emit(
            "layer_norm", x=x, axes=np.arange(first, rank, dtype=np.int32), epsilon=n.real(n.attr("epsilon")),
            gamma=None if gamma is None else np.ascontiguousarray(gamma),
            beta=None if beta is None else np.ascontiguousarray(beta), out_shape=n.out_dims(),
        )
    )  # fmt: skip
    if n.has_output(1) or n.has_output(2):
        _statistics(n, x, np.arange(first, rank, dtype=np.int32))


def _statistics(n: NodeLowering, x: Value, axes: Array) -> None:
    """Output 1: the mean; output 2: 1 / sqrt(variance + epsilon)."""
    mean = n.emit("reduce_mean", x=x, axes=axes, keep_dims=True, out_shape=n.out_dims(1))
    n.result(mean, 1)
    if not n.has_output(2):
        return
    centred = n.emit("sub", x=x, y=mean, out_shape=x.shape)
    square = n.emit("square", x=centred, out_shape=x.shape)
    variance = n.emit("reduce_mean", x=square, axes=axes, keep_dims=True, out_shape=n.out_dims(2))
    shifted = n.emit("add", x=variance, y=n.real(n.attr("epsilon")), out_shape=n.out_dims(2))
    root = n.emit("sqrt", x=shifted, out_shape=n.out_dims(2))
    n.result(n.emit("real_div", x=n.real(1), y=root, out_dtype=x.dtype, out_shape=n.out_dims(2)), 2)


@lowers("InstanceNormalization")
def instance_norm(n: NodeLowering) -> None:
    rank = len(n.dims())
    if rank not in (3, 4):
        n.refuse(f"over {rank - 2} spatial axes; MIL has it over 1 or 2")
    n.result(
        n.emit(
            "instance_norm", x=n.x(0), gamma=n.const(1), beta=n.const(2), epsilon=n.real(n.attr("epsilon")),
            out_shape=n.out_dims(),
        )
    )  # fmt: skip


@lowers("BatchNormalization")
def batch_norm(n: NodeLowering) -> None:
    """By stored statistics; most are folded into convolutions before."""
    if int(n.attr("training_mode", 0)):
        n.refuse("training_mode", "export the model for inference")
    if not 3 <= len(n.dims()) <= 5:
        n.refuse(f"of {len(n.dims())} axes; MIL has it for 3 to 5")
    n.result(
        n.emit(
            "batch_norm", x=n.x(0), gamma=n.const(1), beta=n.const(2), mean=n.const(3), variance=n.const(4),
            epsilon=n.real(n.attr("epsilon")), out_shape=n.out_dims(),
        )
    )  # fmt: skip


@lowers("LRN")
def local_response_norm(n: NodeLowering) -> None:
    """x / (bias + alpha / size * sum of squares over `size` channels)^beta: MIL divides alpha by the size, as ONNX does."""
    size = int(n.attr("size"))
    if size % 2 == 0:
        n.refuse(f"over {size} channels: which one more is on the left is not defined by MIL")
    n.result(
        n.emit(
            "local_response_norm", x=n.x(), size=size, alpha=n.real(n.attr("alpha")), beta=n.real(n.attr("beta")),
            k=n.real(n.attr("bias")), out_shape=n.out_dims(),
        )
    )  # fmt: skip
