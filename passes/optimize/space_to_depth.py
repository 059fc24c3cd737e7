"""Blocks of pixels to channels and back, however spelled, become SpaceToDepth and DepthToSpace.

Spelling: Reshape, Transpose, Reshape through six axes (SpaceToDepth and both orders of DepthToSpace).
Source: ONNX operator definitions of DepthToSpace (modes DCR and CRD) and SpaceToDepth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import static_shape
from edgec.passes.optimize.transpose_rules import permutation
from edgec.pattern import Match, P, const, var
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x = var("x")


@rule(P.Reshape(P.Transpose(P.Reshape(x, const("split"), as_="first"), as_="move"), const("join"), as_="last"))
def blocks_from_reshapes(m: Match, rw: Rewriter) -> Result:
    """(n, c, h, w) seen through six axes; which axes meet says which op it is."""
    shape, six = static_shape(m.value("x")), static_shape(m.node("first").outputs[0])
    out, perm = static_shape(m.root.outputs[0]), permutation(m.node("move"))
    if shape is None or six is None or out is None or perm is None:
        return Reject("the shapes are not known at compile time")
    if len(shape) != 4 or len(six) != 6 or len(out) != 4 or shape[0] != six[0] or out[0] != shape[0]:
        return Reject("not a rank-4 tensor seen through six axes")
    n, c, h, w = shape
    if perm == (0, 3, 4, 1, 5, 2) and six[1] == six[2] and six == (n, six[1], six[1], c // six[1] ** 2, h, w):
        block, op, mode = six[1], "DepthToSpace", "DCR"
    elif perm == (0, 1, 4, 2, 5, 3) and six[2] == six[3] and six == (n, c // six[2] ** 2, six[2], six[2], h, w):
        block, op, mode = six[2], "DepthToSpace", "CRD"
    elif perm == (0, 3, 5, 1, 2, 4) and six[3] == six[5] and six == (n, c, h // six[3], six[3], w // six[3], six[3]):
        block, op, mode = six[3], "SpaceToDepth", ""
    else:
        return Reject("another order of axes")
    big = op == "DepthToSpace"
    wanted = (n, c // block**2, h * block, w * block) if big else (n, c * block**2, h // block, w // block)
    if out != wanted:
        return Reject("the last Reshape joins other axes")
    attrs: dict[str, object] = {"blocksize": block}
    if mode:
        attrs["mode"] = mode
    return rw.op(op, m.value("x"), attrs=attrs)


@dataclass(frozen=True)
class SpaceToDepth(RewritePass):
    """Reshape, Transpose, Reshape that moves blocks of pixels becomes one node."""

    name: ClassVar[str] = "space-to-depth"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = RuleSet([blocks_from_reshapes])
