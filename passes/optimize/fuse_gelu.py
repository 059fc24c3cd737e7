"""x * 0.5 * (1 + erf(x / sqrt 2)) and its tanh approximation, in every order, become Gelu.

Source: ONNX operator definition of Gelu (opset 20); Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016:
tanh form = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from edgec.passes.optimize.matching import blocked
from edgec.pattern import Match, NodePattern, P, Term, anyof, lit, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Result, Rewriter, Rule, RuleSet, rule

x = var("x")
half, one, two = lit(0.5), lit(1.0), lit(2.0)

_erf = P.Erf(anyof(P.Div(x, lit(math.sqrt(2))), P.Mul(x, lit(math.sqrt(0.5)))))

_square = anyof(P.Mul(x, x), P.Pow(x, two))
_cube = anyof(P.Pow(x, lit(3.0)), P.Mul(x, _square))
_scale, _cubic = lit(math.sqrt(2 / math.pi)), lit(0.044715)
_polynomial = P.Add(x, anyof(P.Mul(_cube, _cubic), P.Mul(P.Mul(x, _cubic), _square), P.Mul(x, P.Mul(_square, _cubic))))
_factor = P.Add(P.Mul(_square, _cubic), one)
_tanh = P.Tanh(
    anyof(
        P.Mul(_polynomial, _scale),
        P.Mul(P.Mul(x, _scale), _factor),
        P.Mul(x, P.Mul(_factor, _scale)),
        P.Mul(P.Mul(x, _factor), _scale),
    )
)


def _halved(term: Term) -> Term:
    return anyof(P.Mul(term, half), P.Div(term, two))


def _orders(gate: NodePattern) -> list[NodePattern]:
    """The ways to multiply x, one half and 1 + gate."""
    cdf = P.Add(gate, one)
    return [
        P.Mul(P.Mul(x, cdf), half),
        P.Div(P.Mul(x, cdf), two),
        P.Mul(x, _halved(cdf)),
        P.Mul(_halved(x), cdf),
        P.Mul(x, P.Add(P.Mul(gate, half), half)),
    ]


def _rules(name: str, gate: NodePattern, approximate: str) -> list[Rule]:
    def rewrite(m: Match, rw: Rewriter) -> Result:
        return blocked(m, rw, 20) or rw.op("Gelu", m.value("x"), attrs={"approximate": approximate})

    return [rule(p, name=f"{name}-{i}")(rewrite) for i, p in enumerate(_orders(gate), 1)]


@dataclass(frozen=True)
class FuseGelu(RewritePass):
    """GELU, exact or with tanh, whatever its spelling, becomes one node."""

    name: ClassVar[str] = "fuse-gelu"
    rules: ClassVar[RuleSet] = RuleSet([*_rules("gelu-erf", _erf, "none"), *_rules("gelu-tanh", _tanh, "tanh")])
