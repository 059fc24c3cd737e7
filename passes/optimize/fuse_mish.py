"""x * tanh(softplus(x)) becomes Mish; log(1 + exp(x)) becomes Softplus.

Source: ONNX operator definitions of Mish (opset 18) and Softplus; Misra, "Mish", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.passes.optimize.matching import blocked
from edgec.pattern import Match, P, lit, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Result, Rewriter, RuleSet, rule

x = var("x")


@rule(P.Log(P.Add(P.Exp(x), lit(1.0))))
def softplus(m: Match, rw: Rewriter) -> Result:
    return blocked(m, rw, 1) or rw.op("Softplus", m.value("x"))


@rule(P.Mul(x, P.Tanh(P.Softplus(x))))
def mish(m: Match, rw: Rewriter) -> Result:
    return blocked(m, rw, 18) or rw.op("Mish", m.value("x"))


@dataclass(frozen=True)
class FuseMish(RewritePass):
    """Mish, whatever its spelling, becomes one node."""

    name: ClassVar[str] = "fuse-mish"
    rules: ClassVar[RuleSet] = RuleSet([softplus, mish])
