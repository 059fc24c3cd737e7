"""GlobalAveragePool as depthwise convolutions over the whole image, which quantise like any other.

RKNN's compiler splits a GlobalAveragePool into two convolutions of its own. Between them lies a tensor that Q/DQ nodes can
say nothing of: its scale is made up, or the build ends with "Invalid w_par['dtype'] = float16". A convolution with weights
1/(H*W) has no such tensor, and its weights are all equal, so they quantise without error. Measured with rknn-toolkit2
2.5.0: 14.9 dB become 28.9 dB on a ResNet-20, and a layer is saved. Kernels above 16 the compiler splits as well, so
larger images are averaged in steps: 20 as 10 by 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

import numpy as np

from edgec.graph import ir, static_shape
from edgec.passes.optimize.matching import is_float
from edgec.pattern import Match, P, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

LARGEST_KERNEL = 16

x = var("x")


@rule(P.GlobalAveragePool(x))
def global_pool_to_conv(m: Match, rw: Rewriter) -> Result:
    value = m.value("x")
    shape = static_shape(value)
    if shape is None or len(shape) != 4 or value.dtype is None or not is_float(value):
        return Reject("not a floating-point image of known size")
    channels, height, width = shape[1:]
    steps = list(zip_longest(kernels(height), kernels(width), fillvalue=1))
    if any(max(k) > LARGEST_KERNEL for k in steps):
        return Reject(f"{height}x{width} has a prime factor above {LARGEST_KERNEL}")
    name = m.root.outputs[0].name or "average"
    producer = value.producer()
    stored = producer is not None and producer.op_type == "DequantizeLinear"
    if stored and len(steps) > 1:
        return Reject("the image is quantised already, and nothing is known of the range between two steps")
    for kernel in steps:
        weight = _average(rw, (channels, 1, *kernel), value.dtype, f"{name}.average", stored=stored)
        attrs = [
            ir.AttrInt64("group", channels),
            ir.AttrInt64s("kernel_shape", kernel),
            ir.AttrInt64s("strides", kernel),
        ]
        value = rw.op("Conv", value, weight, attrs={a.name: a for a in attrs})
    return value


def _average(rw: Rewriter, shape: tuple[int, ...], dtype: ir.DataType, name: str, *, stored: bool) -> ir.Value:
    """Weights that are all one over the kernel's size. `stored`: as int8, largest value and zero point -1."""
    share = 1 / (shape[2] * shape[3])
    if not stored:
        return rw.const(np.full(shape, share, dtype.numpy()), name)
    values = rw.const(np.full(shape, 127, np.int8), f"{name}_q")
    scale, zero = rw.const(np.asarray(share / 128, dtype.numpy()), f"{name}_scale"), rw.const(np.int8(-1), f"{name}_zp")
    return rw.op("DequantizeLinear", values, scale, zero)


def kernels(size: int) -> list[int]:
    """Factors of `size`, each as large as a kernel may be; one of them larger where there is no such factor."""
    out: list[int] = []
    while size > LARGEST_KERNEL:
        factor = next((f for f in range(LARGEST_KERNEL, 1, -1) if size % f == 0), size)
        out.append(factor)
        size //= factor
    return [*out, size] if size > 1 or not out else out


@dataclass(frozen=True)
class GlobalPoolToConv(RewritePass):
    """No GlobalAveragePool over images whose sides have no prime factor above 16."""

    name: ClassVar[str] = "global-pool-to-conv"
    rules: ClassVar[RuleSet] = RuleSet([global_pool_to_conv])
