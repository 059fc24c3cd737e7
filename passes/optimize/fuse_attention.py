"""softmax(Q K^T * scale [+ mask]) V becomes one Attention node, for targets that run it as one kernel.

Source: ONNX operator definition of Attention (opset 23); Vaswani et al., "Attention Is All You Need", 2017. Not part of
the default pipeline: most targets know the spelled-out form better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import ir, static_shape
from edgec.passes.optimize.matching import is_float, number, scalar
from edgec.passes.optimize.transpose_rules import permutation
from edgec.pattern import AnyOf, Match, NodePattern, P, anyof, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, Rule, RuleSet, rule

q, k, v, mask = var("q"), var("k"), var("v"), var("mask")
_scores = P.MatMul(q, P.Transpose(k, as_="turn"))
_scaled = anyof(P.Mul(_scores, scalar("scale")), P.Div(_scores, scalar("divisor")), _scores)
_left = anyof(P.Mul(q, scalar("scale")), P.Div(q, scalar("divisor")))
_scaled_first = P.MatMul(_left, P.Transpose(k, as_="turn"))


def _attention(m: Match, rw: Rewriter) -> Result:
    if rw.opset < 23:
        return Reject(f"Attention exists from opset 23, the model is written in opset {rw.opset}")
    shapes = [static_shape(m.value(n)) for n in ("q", "k", "v")]
    if any(s is None or len(s) != 4 for s in shapes) or not is_float(m.value("q")):
        return Reject("Q, K and V are not floating-point tensors of four known dimensions")
    qs, ks, vs = (s for s in shapes if s is not None)
    if permutation(m.node("turn")) != (0, 1, 3, 2) or qs[:2] != ks[:2] or ks[:3] != vs[:3]:
        return Reject("K is not transposed in its last two axes, or the heads differ")
    if m.has("divisor") and number(m, "divisor") == 0:
        return Reject("the scores are divided by zero")
    scale = number(m, "scale") if m.has("scale") else 1 / number(m, "divisor") if m.has("divisor") else 1.0
    inputs = [m.value("q"), m.value("k"), m.value("v")]
    if m.has("mask"):
        if why := _unfit(m.value("mask"), (qs[0], qs[1], qs[2], ks[2])):
            return Reject(why)
        inputs.append(m.value("mask"))
    return rw.op("Attention", *inputs, attrs={"scale": scale})


def _unfit(mask: ir.Value, scores: tuple[int, ...]) -> str:
    """Why the summand cannot be Attention's mask."""
    shape = static_shape(mask)
    if shape is None or len(shape) < 2 or np.broadcast_shapes(shape, scores) != scores:
        return "the summand does not broadcast to the scores"
    return "" if shape[-1] == scores[-1] else "the summand is not as wide as the keys"


def _rules() -> list[Rule]:
    scores: list[NodePattern | AnyOf] = [_scaled, _scaled_first]
    inner = [t for s in scores for t in (P.Add(s, mask), s)]  # with a mask first: it is the longer match
    roots = [P.MatMul(P.Softmax(t, axis=lambda a: a in (-1, 3)), v) for t in inner]
    return [rule(root, name=f"attention-{i}")(_attention) for i, root in enumerate(roots, 1)]


@dataclass(frozen=True)
class FuseAttention(RewritePass):
    """Scaled dot-product attention over four-dimensional Q, K, V becomes one node."""

    name: ClassVar[str] = "fuse-attention"
    rules: ClassVar[RuleSet] = RuleSet(_rules())
