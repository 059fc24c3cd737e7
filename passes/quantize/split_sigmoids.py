"""A Sigmoid that is half of a SiLU and has other readers: the SiLU gets a Sigmoid of its own.

x * sigmoid(x) can then be fused into one kernel, with one rounding, whatever else reads sigmoid(x). Before fuse-silu;
cse between the two would undo it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.passes.optimize.linear_ops import used_elsewhere
from edgec.pattern import Match, P, var
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x = var("x")


@rule(P.Mul(x, P.Sigmoid(x, as_="sigmoid", shared_=True), as_="product"))
def own_sigmoid(m: Match, rw: Rewriter) -> Result:
    if not used_elsewhere(m.node("sigmoid"), m.node("product")):
        return Reject("nothing else reads the Sigmoid")
    return rw.op("Mul", m.value("x"), rw.op("Sigmoid", m.value("x")))


@dataclass(frozen=True)
class SplitSigmoids(RewritePass):
    """No Sigmoid that x * sigmoid(x) reads has another reader."""

    name: ClassVar[str] = "split-sigmoids"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = RuleSet([own_sigmoid])
