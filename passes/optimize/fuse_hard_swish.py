"""x * relu6(x + 3) / 6, in every order, becomes HardSwish.

Source: ONNX operator definition of HardSwish (opset 14): x * max(0, min(1, x / 6 + 0.5)); Howard et al., "Searching for
MobileNetV3", 2019. Run `fuse-clip` and `fuse-hard-sigmoid` before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import attribute
from edgec.passes.optimize.matching import blocked, near
from edgec.pattern import Match, P, anyof, lit, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x = var("x")
_relu6 = P.Clip(anyof(P.Add(x, lit(3.0)), P.Sub(x, lit(-3.0))), lit(0.0), lit(6.0))
_sixth = lit(1 / 6)


@rule(P.Mul(x, P.HardSigmoid(x, as_="gate")))
def hard_swish(m: Match, rw: Rewriter) -> Result:
    alpha, beta = (attribute(m.node("gate"), k) for k in ("alpha", "beta"))
    if not (near(alpha, 1 / 6) and near(beta, 0.5)):
        return Reject(f"HardSigmoid has alpha {alpha:g} and beta {beta:g}; HardSwish is 1/6 and 0.5")
    return blocked(m, rw, 14) or rw.op("HardSwish", m.value("x"))


@rule(P.Div(P.Mul(x, _relu6), lit(6.0)))
def hard_swish_divided_last(m: Match, rw: Rewriter) -> Result:
    return blocked(m, rw, 14) or rw.op("HardSwish", m.value("x"))


@rule(P.Mul(P.Mul(x, _relu6), _sixth))
def hard_swish_scaled_last(m: Match, rw: Rewriter) -> Result:
    return blocked(m, rw, 14) or rw.op("HardSwish", m.value("x"))


@rule(P.Mul(anyof(P.Mul(x, _sixth), P.Div(x, lit(6.0))), _relu6))
def hard_swish_scaled_first(m: Match, rw: Rewriter) -> Result:
    return blocked(m, rw, 14) or rw.op("HardSwish", m.value("x"))


@dataclass(frozen=True)
class FuseHardSwish(RewritePass):
    """HardSwish, whatever its spelling, becomes one node."""

    name: ClassVar[str] = "fuse-hard-swish"
    rules: ClassVar[RuleSet] = RuleSet(
        [hard_swish, hard_swish_divided_last, hard_swish_scaled_last, hard_swish_scaled_first]
    )
