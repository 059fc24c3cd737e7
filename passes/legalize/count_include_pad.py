"""AveragePool counts its padding: what accelerators can do, without changing the numbers.

Where nothing is padded the attribute says nothing and is set. Where something is padded, the sum over the window is the
average with padding times the window size; one constant factor for each output position, window size / real positions,
turns it into the average without. Measured: RKNN runs AveragePool with count_include_pad=0 on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, ir, static_shape
from edgec.pattern import Match, P, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x = var("x")
_LARGEST_FACTOR = 1 << 20
"""Elements of the factor map above which a multiplication by it would cost more than it brings."""


@rule(P.AveragePool(x, count_include_pad=0))
def count_padding(m: Match, rw: Rewriter) -> Result:
    pool, value = m.root, m.value("x")
    if (attribute(pool, "auto_pad") or "NOTSET") not in ("NOTSET", "VALID"):
        return Reject("auto_pad: make the pads explicit first")
    if attribute(pool, "ceil_mode"):
        return Reject("ceil_mode: windows may leave the padded image, where definitions differ")
    kernel = tuple(attribute(pool, "kernel_shape"))
    pads = tuple(attribute(pool, "pads") or (0,) * (2 * len(kernel)))
    attrs = {**pool.attributes, "count_include_pad": ir.AttrInt64("count_include_pad", 1)}
    if not any(pads):
        return rw.op("AveragePool", value, attrs=attrs)
    shape, out = static_shape(value), static_shape(pool.outputs[0])
    if shape is None or out is None or value.dtype is None:
        return Reject("the image size is not known at compile time")
    factor = _factor(pool, shape[2:], out[2:], kernel, pads)
    if not np.isfinite(factor).all():
        return Reject("a window lies in the padding altogether")
    if factor.size > _LARGEST_FACTOR:
        return Reject(f"the factor map would have {factor.size} elements")
    averages = rw.op("AveragePool", value, attrs=attrs)
    return rw.op("Mul", averages, rw.const(factor.astype(value.dtype.numpy()), f"{pool.outputs[0].name}.factor"))


def _factor(
    pool: ir.Node, image: tuple[int, ...], out: tuple[int, ...], kernel: tuple[int, ...], pads: tuple[int, ...]
) -> npt.NDArray[Any]:
    """window size / positions inside the image, for every output position: (1, 1, *out)."""
    n = len(kernel)
    strides, dilations = attribute(pool, "strides") or (1,) * n, attribute(pool, "dilations") or (1,) * n
    counts = np.ones((), np.float64)
    for i in range(n):
        first = np.arange(out[i])[:, None] * strides[i] - pads[i]
        position = first + np.arange(kernel[i])[None, :] * dilations[i]
        inside = ((position >= 0) & (position < image[i])).sum(axis=1)
        counts = np.multiply.outer(counts, inside)
    with np.errstate(divide="ignore"):
        factor = float(np.prod(kernel)) / counts
    return factor.reshape(1, 1, *out)


@dataclass(frozen=True)
class CountIncludePad(RewritePass):
    """No AveragePool leaves its padding out of the count, where the pads are known."""

    name: ClassVar[str] = "count-include-pad"
    rules: ClassVar[RuleSet] = RuleSet([count_padding])
