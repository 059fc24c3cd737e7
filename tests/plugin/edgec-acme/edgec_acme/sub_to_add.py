"""A pass of this target: the device has no Sub, so `x - c` becomes `x + (-c)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.pattern import Match, P, const, var
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule


@rule(P.Sub(var("x"), const("c")))
def sub_to_add(m: Match, rw: Rewriter) -> Result:
    c = m.array("c")
    if c.dtype.kind != "f":
        return Reject("integers cannot always be negated")
    return rw.op("Add", m.value("x"), rw.const(-c, f"{m.value('c').name}.negated"))


@dataclass(frozen=True)
class SubToAdd(RewritePass):
    """Subtractions of constants become additions."""

    name: ClassVar[str] = "acme-a1-sub-to-add"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = RuleSet([sub_to_add])
