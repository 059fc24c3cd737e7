"""exp(x) / sum(exp(x)), with or without the subtraction of the maximum, becomes Softmax.

Without the subtraction the spelled-out form overflows where Softmax does not; where it does not overflow both agree.
Source: ONNX operator definition of Softmax (opset 13).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import attribute
from edgec.passes.optimize.matching import is_float, reduction_axes
from edgec.pattern import Match, NodePattern, P, Term, rest, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, Rule, RuleSet, rule

x = var("x")
_below_maximum = P.Sub(x, P.ReduceMax(x, rest("max_axes"), as_="max"))


def _softmax(m: Match, rw: Rewriter) -> Result:
    value = m.value("x")
    if rw.opset < 13:
        return Reject("before opset 13 Softmax flattens its input")
    if not is_float(value) or value.shape is None:
        return Reject(f"{value.name} has no known rank, or is not a floating-point tensor")
    rank = value.shape.rank()
    reductions = [m.node(n) for n in ("max", "sum") if n in m.named]
    axes = {reduction_axes(n, rank) for n in reductions}
    if len(axes) != 1 or not all(attribute(n, "keepdims") for n in reductions):
        return Reject("the reductions do not run over the same axis, or do not keep it")
    (only,) = axes
    if only is None or len(only) != 1:
        return Reject(f"Softmax runs over one axis, the sum over {only}")
    return rw.op("Softmax", value, attrs={"axis": only[0]})


def _roots(exponent: Term) -> list[NodePattern]:
    e = P.Exp(exponent)
    total = P.ReduceSum(e, rest("sum_axes"), as_="sum")
    return [P.Div(e, total), P.Mul(e, P.Reciprocal(total))]


_RULES: list[Rule] = [
    rule(root, name=f"softmax-{i}")(_softmax) for i, root in enumerate([*_roots(_below_maximum), *_roots(x)], 1)
]


@dataclass(frozen=True)
class FuseSoftmax(RewritePass):
    """Spelled-out softmax over one axis becomes one node."""

    name: ClassVar[str] = "fuse-softmax"
    rules: ClassVar[RuleSet] = RuleSet(_RULES)
