"""GlobalAveragePool as depthwise convolutions over the whole image, which quantise like any other.

RKNN's compiler splits a GlobalAveragePool into two convolutions of its own. Between them lies a tensor that Q/DQ nodes can
say nothing of: its scale is made up, or the build ends with "Invalid w_par['dtype'] = float16". A convolution with weights
1/(H*W) has no such tensor, and its weights are all equal, so they quantise without error. Measured with rknn-toolkit2
2.5.0: 14.9 dB become 28.9 dB on a ResNet-20, and a layer is saved. Kernels above 16 and strides above 7 the compiler splits
as well, so larger images are averaged in steps: 64 in steps of 4, then the 16 that are left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

import numpy as np

from edgec.graph import ir, static_shape
from edgec.passes.optimize.matching import is_float
from edgec.pattern import Match, P, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

LARGEST_KERNEL, LARGEST_STRIDE = 16, 7

x = var("x")


@rule(P.GlobalAveragePool(x))
def global_pool_to_conv(m: Match, rw: Rewriter) -> Result:
    value = m.value("x")
    shape = static_shape(value)
    if shape is None or len(shape) != 4 or value.dtype is None or not is_float(value):
        return Reject("not a floating-point image of known size")
    channels, *size = shape[1:]
    strides = list(zip_longest(*map(_strides, size), fillvalue=1))
    rest = (size[0] // math.prod(s[0] for s in strides), size[1] // math.prod(s[1] for s in strides))
    if max(rest) > LARGEST_KERNEL:
        return Reject(f"of {size[0]}x{size[1]} no steps up to {LARGEST_STRIDE} leave {LARGEST_KERNEL} or less")
    name = m.root.outputs[0].name or "average"
    producer = value.producer()
    stored = producer is not None and producer.op_type == "DequantizeLinear"
    if stored and strides:
        return Reject("the image is quantised already, and nothing is known of the range between two steps")
    for kernel, stride in [*((s, s) for s in strides), (rest, (1, 1))]:
        weight = _average(rw, (channels, 1, *kernel), value.dtype, f"{name}.average", stored=stored)
        attrs = [
            ir.AttrInt64("group", channels),
            ir.AttrInt64s("kernel_shape", kernel),
            ir.AttrInt64s("strides", stride),
        ]
        value = rw.op("Conv", value, weight, attrs={a.name: a for a in attrs})
    return value


def _strides(size: int) -> list[int]:
    """Factors to take off `size` until one kernel covers the rest; ends early where there are none."""
    out: list[int] = []
    while size > LARGEST_KERNEL:
        factor = next((f for f in range(LARGEST_STRIDE, 1, -1) if size % f == 0), None)
        if factor is None:
            break
        out.append(factor)
        size //= factor
    return out


def _average(rw: Rewriter, shape: tuple[int, ...], dtype: ir.DataType, name: str, *, stored: bool) -> ir.Value:
    """Weights that are all one over the kernel's size. `stored`: as int8, with the zero point 0 TensorRT insists on."""
    share = 1 / (shape[2] * shape[3])
    if not stored:
        return rw.const(np.full(shape, share, dtype.numpy()), name)
    values = rw.const(np.full(shape, 127, np.int8), f"{name}_q")
    scale, zero = rw.const(np.asarray(share / 127, dtype.numpy()), f"{name}_scale"), rw.const(np.int8(0), f"{name}_zp")
    return rw.op("DequantizeLinear", values, scale, zero)


@dataclass(frozen=True)
class GlobalPoolToConv(RewritePass):
    """No GlobalAveragePool, but where a side is above 16 and steps of 2 to 7 leave more than that: 17, 34."""

    name: ClassVar[str] = "global-pool-to-conv"
    rules: ClassVar[RuleSet] = RuleSet([global_pool_to_conv])
