"""ReduceMax over the image becomes GlobalMaxPool, for accelerators that have pooling but not that reduction.

Measured: RKNN (rk3566, rk3588) runs ReduceMax on the CPU and GlobalMaxPool on the NPU. Exact: a maximum is a maximum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import attribute, static_shape
from edgec.passes.legalize.builders import reshape
from edgec.passes.optimize.matching import is_float, reduction_axes
from edgec.pattern import Match, P, rest, var
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x = var("x")


@rule(P.ReduceMax(x, rest("axes")))
def reduce_max_to_pool(m: Match, rw: Rewriter) -> Result:
    value = m.value("x")
    out = static_shape(m.root.outputs[0])
    if value.shape is None or value.shape.rank() != 4 or not is_float(value):
        return Reject("not a floating-point tensor of rank 4")
    if reduction_axes(m.root, 4) != (2, 3):
        return Reject("not the two axes of an image")
    pooled = rw.op("GlobalMaxPool", value)
    if attribute(m.root, "keepdims"):
        return pooled
    if out is None:
        return Reject("the shape of the result is not known at compile time")
    return reshape(rw, pooled, out)


@dataclass(frozen=True)
class ReduceMaxToPool(RewritePass):
    """No ReduceMax over the two image axes of a rank-4 tensor."""

    name: ClassVar[str] = "reduce-max-to-pool"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = RuleSet([reduce_max_to_pool])
