"""x * relu6(x + 3) / 6, in every order, becomes HardSwish; x * relu6(x + 3), without the sixth, HardSwish times 6.

The second keeps compilers that recognise HardSwish by its Clip from mistaking the one for the other, and is one node less.

Source: ONNX operator definition of HardSwish (opset 14): x * max(0, min(1, x / 6 + 0.5)); Howard et al., "Searching for
MobileNetV3", 2019. Run `fuse-clip` and `fuse-hard-sigmoid` before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import attribute, constant
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


@rule(P.Mul(x, _relu6, as_="product"))
def hard_swish_unscaled(m: Match, rw: Rewriter) -> Result:
    """Last: the spellings above, rooted in the node that reads this product, come first."""
    if why := blocked(m, rw, 14):
        return why
    users = m.root.outputs[0].uses()
    if len(users) == 1 and not m.root.outputs[0].is_graph_output():
        (use,) = users
        scale = next((v for v in use.node.inputs if v is not m.root.outputs[0]), None)
        data = constant(scale)
        if data is not None and data.size == 1 and _sixth_by(use.node.op_type, float(data.reshape(-1)[0])):
            return Reject("the node that reads it divides by 6: fused there")
    return rw.op("Mul", rw.op("HardSwish", m.value("x")), rw.scalar(6.0, m.value("x"), "six"))


def _sixth_by(op: str, number: float) -> bool:
    return (op == "Div" and number == 6) or (op == "Mul" and near(number, 1 / 6))


@dataclass(frozen=True)
class FuseHardSwish(RewritePass):
    """HardSwish, whatever its spelling, becomes one node."""

    name: ClassVar[str] = "fuse-hard-swish"
    rules: ClassVar[RuleSet] = RuleSet(
        [hard_swish, hard_swish_divided_last, hard_swish_scaled_last, hard_swish_scaled_first, hard_swish_unscaled]
    )
