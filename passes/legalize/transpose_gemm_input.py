"""Gemm with transA as a Transpose before a Gemm without: integer kernels take their activations as they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import attribute, is_constant
from edgec.pattern import Match, P, opt, var
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

a, b, c = var("a"), var("b"), opt(var("c"))


@rule(P.Gemm(a, b, c))
def transpose_gemm_input(m: Match, rw: Rewriter) -> Result:
    node = m.root
    if not attribute(node, "transA"):
        return Reject("transA is 0")
    if is_constant(m.value("a")) or not is_constant(m.value("b")):
        return Reject("it is no product of an activation and a weight")
    turned = rw.op("Transpose", m.value("a"), attrs={"perm": [1, 0]})
    attrs = {k: v for k, v in node.attributes.items() if k != "transA"}
    inputs = [turned, m.value("b"), *([m.value("c")] if m.has("c") else [])]
    return rw.op("Gemm", *inputs, attrs=attrs)


@dataclass(frozen=True)
class TransposeGemmInput(RewritePass):
    """No Gemm of an activation and a weight has transA. Before `quantize`: matmul-add-to-gemm would undo it."""

    name: ClassVar[str] = "transpose-gemm-input"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = RuleSet([transpose_gemm_input])
