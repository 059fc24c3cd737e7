"""Powers with a small constant exponent become multiplications and roots: x^2 = x * x, x^3 = x * x * x, x^0.5 = sqrt x.

Measured: RKNN runs Pow on the CPU and Mul, Sqrt on the NPU. Source: ONNX operator definition of Pow. x^0.5 of -inf is
inf, sqrt of it NaN: the one value where they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.passes.optimize.matching import blocked, number, scalar
from edgec.pattern import Match, P, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x, exponent = var("x"), scalar("exponent")


@rule(P.Pow(x, exponent))
def pow_to_mul(m: Match, rw: Rewriter) -> Result:
    if why := blocked(m, rw, 7):
        return why
    value, power = m.value("x"), number(m, "exponent")
    if power == 0.5:
        return rw.op("Sqrt", value)
    if power == -0.5:
        return rw.op("Div", rw.scalar(1.0, value, "one"), rw.op("Sqrt", value))
    if power not in (2, 3, 4):
        return Reject(f"the exponent {power:g} has no short form")
    square = rw.op("Mul", value, value)
    if power == 2:
        return square
    return rw.op("Mul", square, value if power == 3 else square)


@dataclass(frozen=True)
class PowToMul(RewritePass):
    """No Pow with exponent 2, 3, 4, 0.5 or -0.5."""

    name: ClassVar[str] = "pow-to-mul"
    rules: ClassVar[RuleSet] = RuleSet([pow_to_mul])
