"""BatchNormalization folded away: y = scale * (x - mean) / sqrt(variance + epsilon) + bias = k * x + shift.

* after Conv, ConvTranspose, Gemm or MatMul, into its weight and bias;
* before Conv, Gemm or MatMul: k into the weight, shift into the bias. A padded Conv takes it only where shift is zero:
  the zeros it pads with would have to become -shift/k;
* after another BatchNormalization, into one.

What is left stands alone (before a Relu, say). It stays one node, unless `standalone` asks for a Mul and an Add: for targets
without BatchNormalization.

`bn-folded` then means: no BatchNormalization is left that could be folded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, attribute, ir
from edgec.passes.optimize.linear_ops import LINEAR, Linear, used_elsewhere
from edgec.passes.optimize.same_shape import rank
from edgec.pattern import Match, P, const, opt, var
from edgec.pipeline import Pass, PassContext, PassResult, rewrite_result
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

Vector = npt.NDArray[np.float64]

_STATS = ("scale", "bias", "mean", "variance")
x, w, b = var("x"), var("w"), opt(var("b"))
stats = [const(n) for n in _STATS]
inner_stats = [const(f"inner_{n}") for n in _STATS]


def _affine(m: Match, node: ir.Node, prefix: str = "") -> tuple[Vector, Vector] | Reject:
    """k and shift of a BatchNormalization."""
    if attribute(node, "training_mode") or sum(1 for v in node.outputs if v.uses() or v.is_graph_output()) > 1:
        return Reject("BatchNormalization is in training mode")
    scale, bias, mean, variance = (m.array(prefix + n).astype(np.float64) for n in _STATS)
    spread = variance + float(attribute(node, "epsilon"))
    if not (spread > 0).all():
        return Reject("variance + epsilon is not positive everywhere")
    k = scale / np.sqrt(spread)
    shift = bias - mean * k
    if not (np.isfinite(k).all() and np.isfinite(shift).all()):
        return Reject("scale, bias or mean is not finite")
    return k, shift


@rule(P.BatchNormalization(P.op(*LINEAR)(x, w, b, as_="linear", shared_=True), *stats, as_="bn"))
def fold_bn_into_producer(m: Match, rw: Rewriter) -> Result:
    bn, node = m.node("bn"), m.node("linear")
    if used_elsewhere(node, bn):
        return Reject(f"the output of {node.op_type} is used elsewhere too")
    linear = Linear.of(node)
    if isinstance(linear, Reject):
        return linear
    if linear.out_axis == -1 and rank(linear.x) != 2:
        return Reject("the channels of MatMul are not axis 1")
    affine = _affine(m, bn)
    if isinstance(affine, Reject):
        return affine
    k, shift = affine
    old = linear.bias if linear.bias is not None else np.zeros(linear.out_channels)
    return linear.rebuild(rw, linear.x, linear.scaled_outputs(k), old * k + shift)


@rule(P.op("Conv", "Gemm", "MatMul")(P.BatchNormalization(x, *stats, as_="bn", shared_=True), w, b, as_="linear"))
def fold_bn_into_consumer(m: Match, rw: Rewriter) -> Result:
    bn, node = m.node("bn"), m.node("linear")
    if used_elsewhere(bn, node):
        return Reject("the output of BatchNormalization is used elsewhere too")
    linear = Linear.of(node)
    if isinstance(linear, Reject):
        return linear
    if node.op_type != "Conv" and rank(m.value("x")) != 2:
        return Reject(f"the channels of {node.op_type} are not axis 1")
    affine = _affine(m, bn)
    if isinstance(affine, Reject):
        return affine
    k, shift = affine
    if linear.padded and shift.any():
        return Reject("the Conv pads with zeros, which the shift of BatchNormalization would have to move")
    bias = linear.bias
    if shift.any():
        bias = linear.response(shift) + (bias if bias is not None else 0.0)
    return linear.rebuild(rw, m.value("x"), linear.scaled_inputs(k), bias)


@rule(P.BatchNormalization(P.BatchNormalization(x, *inner_stats, as_="inner", shared_=True), *stats, as_="bn"))
def merge_bns(m: Match, rw: Rewriter) -> Result:
    inner, outer = m.node("inner"), m.node("bn")
    if used_elsewhere(inner, outer):
        return Reject("the output of the first BatchNormalization is used elsewhere too")
    first, second = _affine(m, inner, "inner_"), _affine(m, outer)
    for a in (first, second):
        if isinstance(a, Reject):
            return a
    assert not isinstance(first, Reject)
    assert not isinstance(second, Reject)
    k, shift = first[0] * second[0], first[1] * second[0] + second[1]
    dtype, stem = m.array("scale").dtype, m.value("scale").name or "bn"
    arrays: list[npt.NDArray[Any]] = [k, shift, np.zeros_like(k), np.ones_like(k)]
    values = [rw.const(a.astype(dtype), f"{stem}.{n}") for a, n in zip(arrays, _STATS, strict=True)]
    return rw.op("BatchNormalization", m.value("x"), *values, attrs={"epsilon": 0.0})


@rule(P.BatchNormalization(x, *stats, as_="bn"))
def bn_to_mul_add(m: Match, rw: Rewriter) -> Result:
    affine = _affine(m, m.node("bn"))
    if isinstance(affine, Reject):
        return affine
    axes = rank(m.value("x"))
    if axes is None:
        return Reject("the rank of the input is unknown")
    shape = (-1, *[1] * (axes - 2)) if axes >= 2 else (-1,)
    own = m.value("x").dtype
    dtype = own.numpy() if own is not None else m.array("scale").dtype  # statistics may be wider than x
    k, shift = (
        rw.const(a.reshape(shape).astype(dtype), f"{m.value('scale').name}.{n}")
        for a, n in zip(affine, ("k", "shift"), strict=True)
    )
    return rw.op("Add", rw.op("Mul", m.value("x"), k), shift)


_FOLD = RuleSet([fold_bn_into_producer, merge_bns, fold_bn_into_consumer])
_EXPAND = RuleSet([bn_to_mul_add])


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """`standalone`: turn what cannot be folded into a Mul and an Add."""

    standalone: bool = False

    name: ClassVar[str] = "fold-bn"
    establishes: ClassVar[frozenset[str]] = frozenset({"bn-folded"})

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        result = rewrite_result(_FOLD.apply(graph), ctx)
        if not self.standalone:
            return result
        expanded = rewrite_result(_EXPAND.apply(graph), ctx)
        return PassResult(result.changed or expanded.changed, {**result.stats, **expanded.stats})
