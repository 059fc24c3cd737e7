"""clip(alpha x + beta, 0, 1), in every spelling, becomes HardSigmoid(alpha, beta).

`s * clip(a x + b, 0, h)` with `s h = 1` is HardSigmoid(s a, s b): relu6(x + 3) / 6 has alpha 1/6 and beta 0.5.
Source: ONNX operator definition of HardSigmoid. Run `fuse-clip` before: limits spelled with Min, Max or Relu.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.passes.optimize.matching import blocked, near, number, one_float, scalar
from edgec.pattern import Match, P, Var, anyof, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x, b = var("x"), scalar("b")
a, s = (Var(n, constant=True, check=one_float, where=lambda v: bool(v.all())) for n in "as")  # they may divide
low, high = scalar("low"), scalar("high")


_line = anyof(
    P.Add(P.Mul(x, a), b),
    P.Add(P.Div(x, a), b),
    P.Mul(P.Add(x, b), a),
    P.Div(P.Add(x, b), a),
    P.Add(x, b),
    P.Sub(x, b),
    as_="line",
)
_clip = P.Clip(_line, low, high)


def slope_and_offset(m: Match) -> tuple[float, float]:
    """(a, b) of the straight line a x + b that `_line` matched."""
    offset, slope = number(m, "b"), number(m, "a") if m.has("a") else 1.0
    match m.choice("line"):
        case 0:
            return slope, offset
        case 1:
            return 1 / slope, offset
        case 2:
            return slope, slope * offset
        case 3:
            return 1 / slope, offset / slope
        case 4:
            return 1.0, offset
        case _:
            return 1.0, -offset


def _hard_sigmoid(m: Match, rw: Rewriter, scale: float) -> Result:
    if why := blocked(m, rw, 6):
        return why
    lower, upper = number(m, "low") * scale, number(m, "high") * scale
    if not (near(lower, 0) and near(upper, 1)):
        return Reject(f"the result lies in {lower:g}..{upper:g}, not in 0..1")
    slope, offset = slope_and_offset(m)
    return rw.op("HardSigmoid", m.value("x"), attrs={"alpha": slope * scale, "beta": offset * scale})


@rule(P.Clip(_line, low, high))
def hard_sigmoid(m: Match, rw: Rewriter) -> Result:
    return _hard_sigmoid(m, rw, 1.0)


@rule(P.Mul(_clip, s))
def hard_sigmoid_scaled(m: Match, rw: Rewriter) -> Result:
    return _hard_sigmoid(m, rw, number(m, "s"))


@rule(P.Div(_clip, s))
def hard_sigmoid_divided(m: Match, rw: Rewriter) -> Result:
    return _hard_sigmoid(m, rw, 1 / number(m, "s"))


@dataclass(frozen=True)
class FuseHardSigmoid(RewritePass):
    """Every straight line clipped to 0..1 becomes one HardSigmoid node."""

    name: ClassVar[str] = "fuse-hard-sigmoid"
    rules: ClassVar[RuleSet] = RuleSet([hard_sigmoid, hard_sigmoid_scaled, hard_sigmoid_divided])
