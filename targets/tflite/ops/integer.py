"""Products of integers with integer results, which TFLite has no operators for: computed in float32."""

from __future__ import annotations

import math

import numpy as np

from edgec.targets.reading.windows import window
from edgec.targets.tflite.model import Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.ops.convolution import pad_input
from edgec.targets.tflite.rules import last, lowers, raw

_EXACT = 2**24
"""Whole numbers up to which float32 has them all."""


def _real(n: NodeLowering, x: Tensor, zero: int) -> Tensor:
    """x - zero point, as floats."""
    if not n.has(zero):
        return n.cast(x, "float32")
    offset = n.cast(n.builder.tensor(n.value(zero), None), "float32")
    return n.emit("SUB", [n.cast(x, "float32"), offset], n.temp(x.shape), fused_activation_function="NONE")


def _check_exact(n: NodeLowering, terms: int) -> None:
    if terms * 255 * 255 > _EXACT:
        n.refuse(
            f"sums of {terms} products of bytes do not fit float32 exactly",
            "with its scale behind it the pass qoperator-to-qdq makes it a quantised layer",
        )


@lowers("MatMulInteger", sides=raw, dtypes=("int8", "uint8"))
def matmul_integer(n: NodeLowering) -> None:
    _check_exact(n, n.shape(0)[-1])
    for i in (2, 3):
        if n.has(i) and math.prod(n.shape(i)) != 1:
            n.refuse("a zero point for each row or column")
    a, b, y = _real(n, n.x(0), 2), _real(n, n.x(1), 3), n.y()
    if min(a.rank, b.rank) < 2:
        n.refuse("a product with a vector", "a Reshape to a matrix says the same")
    n.cast(n.emit("BATCH_MATMUL", [a, b], n.temp(y.shape)), "int32", y)


@lowers("ConvInteger", sides=last, dtypes=("int8", "uint8"))
def conv_integer(n: NodeLowering) -> None:
    shape, weight = n.shape(0), n.shape(1)
    if len(shape) != 4 or not n.is_const(1) or not (n.is_const(3) or not n.has(3)):
        n.refuse("a convolution of integers that is not over images, or whose weights are computed")
    _check_exact(n, math.prod(weight[1:]))
    w = window(n.node, shape[2:], weight[2:])
    x, padding = pad_input(n, _real(n, n.x(0), 2), w, shape[2:])
    zero = np.asarray(n.const(3, 0), np.float32).reshape(-1, *(1,) * 3)
    filters = n.constant((n.const(1).astype(np.float32) - zero).transpose(0, 2, 3, 1), hint=n.value(1).name)
    bias, y = n.constant(np.zeros(weight[0], np.float32)), n.y()
    product = n.emit(
        "CONV_2D", [x, filters, bias], n.temp(y.shape), padding=padding, stride_h=w.strides[0], stride_w=w.strides[1],
        dilation_h_factor=w.dilations[0], dilation_w_factor=w.dilations[1], fused_activation_function="NONE",
    )  # fmt: skip
    n.cast(product, "int32", y)
