"""An If whose condition is not known as both branches and a Where for each output.

Both branches are computed, so both must be safe to: no random numbers, no computed indices, no division of integers, no nested If, Loop or Scan, and
outputs of equal, known shape and type. Costs what both branches cost; in exchange nothing depends on control flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import bodies, ir, is_constant, static_shape
from edgec.passes.legalize.builders import reshape
from edgec.passes.legalize.inline_body import copy_body
from edgec.pattern import Match, P, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

_UNSAFE = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)

_INDEXING = frozenset({"Gather", "GatherND", "GatherElements", "ScatterND", "ScatterElements", "OneHot"})

condition = var("condition")


def _is_float(v: ir.Value | None) -> bool:
    return v is not None and v.dtype is not None and v.dtype.is_floating_point()


def _uncovered(body: ir.Graph) -> str:
    for n in body:
        if n.op_type in _UNSAFE:
            return f"{n.op_type} may run only in the branch taken"
        if n.op_type in _INDEXING and not is_constant(n.inputs[1]):
            return f"the indices of {n.op_type} may be out of range where the branch is not taken"
        if n.op_type in ("Div", "Mod") and not _is_float(n.inputs[0]) and not is_constant(n.inputs[1]):
            return f"{n.op_type} of integers may divide by zero where the branch is not taken"
        if any(True for _ in bodies(n)):
            return f"a branch holds {n.op_type}, which has a body of its own"
    return ""


@rule(P.If(condition))
def if_to_where(m: Match, rw: Rewriter) -> Result:
    node = m.root
    branches = [node.attributes[b].as_graph() for b in ("then_branch", "else_branch")]
    if why := next((w for b in branches if (w := _uncovered(b))), ""):
        return Reject(why)
    for then, other in zip(branches[0].outputs, branches[1].outputs, strict=True):
        shape = static_shape(then)
        if shape is None or shape != static_shape(other) or then.dtype is None or then.dtype != other.dtype:
            return Reject(f"{then.name} and {other.name} are not of one known shape and type")
    then_values, else_values = (copy_body(rw, b, {}) for b in branches)
    chosen = m.value("condition")
    if chosen.shape is None or chosen.shape.rank() != 0:
        chosen = reshape(rw, chosen, ())
    return [rw.op("Where", chosen, a, b) for a, b in zip(then_values, else_values, strict=True)]


@dataclass(frozen=True)
class IfToWhere(RewritePass):
    """No If whose branches are free of side effects and give the same known shapes."""

    name: ClassVar[str] = "if-to-where"
    rules: ClassVar[RuleSet] = RuleSet([if_to_where])
