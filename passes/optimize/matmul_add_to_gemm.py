"""MatMul and its bias as one Gemm, and Gemms with less around them.

Gemm is a rank-2 op: a MatMul of more axes stays a MatMul and an Add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.optimize.linear_ops import used_elsewhere
from edgec.passes.optimize.same_shape import rank
from edgec.pattern import Match, P, const, opt, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

a, b, c = var("a"), var("b"), var("c")
_FLOAT = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


def _is_bias(value: ir.Value, columns: object) -> bool:
    """Broadcast over rows, not the other way round: a scalar or one number a column."""
    shape = static_shape(value)
    return shape is not None and (
        shape in ((), (1,), (1, 1)) or (shape[-1:] == (columns,) and shape[:-1] in ((), (1,)))
    )


@rule(P.Add(P.MatMul(a, b, as_="matmul", shared_=True), c))
def matmul_add_to_gemm(m: Match, rw: Rewriter) -> Result:
    left, right = m.value("a"), m.value("b")
    if used_elsewhere(m.node("matmul"), m.root):
        return Reject("the product is used elsewhere too")
    if rank(left) != 2 or rank(right) != 2:
        return Reject("it is not a product of two matrices")
    if left.dtype not in _FLOAT:
        return Reject("the type is not floating point")
    assert right.shape is not None  # its rank is known
    if not _is_bias(m.value("c"), right.shape[1]):
        return Reject("what is added is not one number a column")
    return rw.op("Gemm", left, right, m.value("c"))


@rule(P.Add(P.Gemm(a, b, as_="gemm", shared_=True), c))
def gemm_add(m: Match, rw: Rewriter) -> Result:
    gemm, right = m.node("gemm"), m.value("b")
    if used_elsewhere(gemm, m.root):
        return Reject("the product is used elsewhere too")
    if right.shape is None or not _is_bias(m.value("c"), right.shape[0 if attribute(gemm, "transB") else 1]):
        return Reject("what is added is not one number a column")
    attrs = {k: v for k, v in gemm.attributes.items() if k != "beta"}
    return rw.op("Gemm", m.value("a"), right, m.value("c"), attrs=attrs)


def _transposed(m: Match, rw: Rewriter, which: int) -> Result:
    perm = m.node("t").attributes.get("perm")
    if perm is not None and list(perm.as_ints()) != [1, 0]:
        return Reject("the Transpose does not swap two axes")
    flag = ("transA", "transB")[which]
    attrs = {k: v for k, v in m.root.attributes.items() if k != flag}
    inputs = list(m.root.inputs)
    inputs[which] = m.value("a" if which == 0 else "b")
    return rw.op("Gemm", *inputs, attrs={**attrs, flag: 1 - int(attribute(m.root, flag))})


@rule(P.Gemm(P.Transpose(a, as_="t", shared_=True), b, opt(c)))
def gemm_of_transposed_a(m: Match, rw: Rewriter) -> Result:
    return _transposed(m, rw, 0)


@rule(P.Gemm(a, P.Transpose(b, as_="t", shared_=True), opt(c)))
def gemm_of_transposed_b(m: Match, rw: Rewriter) -> Result:
    return _transposed(m, rw, 1)


@rule(P.Gemm(a, const("w"), opt(c), where_=lambda n: attribute(n, "alpha") != 1 or attribute(n, "beta") != 1))
def gemm_factors_into_weights(m: Match, rw: Rewriter) -> Result:
    """alpha into a constant B, beta into a constant C."""
    if m.value("a").dtype not in _FLOAT:
        return Reject("the type is not floating point")
    alpha, beta = (float(attribute(m.root, k)) for k in ("alpha", "beta"))
    attrs = dict(m.root.attributes.items())
    right, bias = m.value("w"), m.get("c")
    done = False
    if alpha != 1:
        data = m.array("w")
        right = rw.const((data.astype(np.float64) * alpha).astype(data.dtype), f"{right.name}.scaled")
        attrs.pop("alpha", None)
        done = True
    data_c = constant(bias)
    if beta != 1 and bias is not None and data_c is not None:
        bias = rw.const((data_c.astype(np.float64) * beta).astype(data_c.dtype), f"{bias.name}.scaled")
        attrs.pop("beta", None)
        done = True
    elif beta != 1 and bias is None:
        attrs.pop("beta", None)
        done = True
    return rw.op("Gemm", m.value("a"), right, bias, attrs=attrs) if done else Reject("C is not constant")


@rule(P.Gemm(a, b, const("c", lambda v: not v.any())))
def gemm_without_zero_bias(m: Match, rw: Rewriter) -> Result:
    return rw.op("Gemm", m.value("a"), m.value("b"), attrs=m.root.attributes)


@dataclass(frozen=True)
class MatMulAddToGemm(RewritePass):
    name: ClassVar[str] = "matmul-add-to-gemm"
    rules: ClassVar[RuleSet] = RuleSet(
        [
            matmul_add_to_gemm,
            gemm_add,
            gemm_of_transposed_a,
            gemm_of_transposed_b,
            gemm_factors_into_weights,
            gemm_without_zero_bias,
        ]
    )
