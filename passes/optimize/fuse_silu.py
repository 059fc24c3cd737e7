"""x * sigmoid(alpha x) becomes Swish, 1 / (1 + exp(-x)) becomes Sigmoid.

Source: ONNX operator definition of Swish (opset 24); Ramachandran et al., "Searching for Activation Functions", 2017.
alpha = 1 is SiLU, alpha = 1.702 the "quick" GELU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.passes.optimize.matching import blocked, number, scalar
from edgec.pattern import Match, P, lit, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Result, Rewriter, RuleSet, rule

x, alpha = var("x"), scalar("alpha")
_one_plus_exp = P.Add(P.Exp(P.Neg(x)), lit(1.0))


@rule(P.Mul(x, P.Sigmoid(x)))
def silu(m: Match, rw: Rewriter) -> Result:
    return blocked(m, rw, 24) or rw.op("Swish", m.value("x"), attrs={"alpha": 1.0})


@rule(P.Mul(x, P.Sigmoid(P.Mul(x, alpha))))
def swish(m: Match, rw: Rewriter) -> Result:
    return blocked(m, rw, 24) or rw.op("Swish", m.value("x"), attrs={"alpha": number(m, "alpha")})


@rule(P.Div(x, _one_plus_exp))
def silu_from_exp(m: Match, rw: Rewriter) -> Result:
    return blocked(m, rw, 24) or rw.op("Swish", m.value("x"), attrs={"alpha": 1.0})


@rule(P.Div(lit(1.0), _one_plus_exp))
def sigmoid_from_division(m: Match, rw: Rewriter) -> Result:
    return blocked(m, rw, 6) or rw.op("Sigmoid", m.value("x"))


@rule(P.Reciprocal(_one_plus_exp))
def sigmoid_from_reciprocal(m: Match, rw: Rewriter) -> Result:
    return blocked(m, rw, 6) or rw.op("Sigmoid", m.value("x"))


@dataclass(frozen=True)
class FuseSilu(RewritePass):
    """SiLU and Swish, whatever their spelling, become one Swish node."""

    name: ClassVar[str] = "fuse-silu"
    rules: ClassVar[RuleSet] = RuleSet([sigmoid_from_division, sigmoid_from_reciprocal, silu_from_exp, silu, swish])
