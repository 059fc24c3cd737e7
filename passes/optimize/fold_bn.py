"""BatchNormalization folded into the convolution before it: y = scale * (conv(x) - mean) / sqrt(var + eps) + bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import attribute
from edgec.pattern import Match, P, const, opt, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x, w, b = var("x"), const("w"), opt(const("b"))
stats = [const(n) for n in ("scale", "bias", "mean", "variance")]


@rule(P.BatchNormalization(P.Conv(x, w, b, as_="conv"), *stats, as_="bn"))
def fold_bn_into_conv(m: Match, rw: Rewriter) -> Result:
    bn = m.node("bn")
    if attribute(bn, "training_mode"):
        return Reject("BatchNormalization is in training mode")
    scale, bias, mean, variance = (m.array(n).astype(np.float64) for n in ("scale", "bias", "mean", "variance"))
    k = scale / np.sqrt(variance + attribute(bn, "epsilon"))
    weight = m.array("w") * k.reshape(-1, *[1] * (m.array("w").ndim - 1))
    old_bias = m.array("b").astype(np.float64) if m.has("b") else np.zeros_like(mean)
    stem, dtype = m.value("w").name or "w", m.array("w").dtype
    return rw.op(
        "Conv",
        m.value("x"),
        rw.const(weight.astype(dtype), f"{stem}.folded"),
        rw.const(((old_bias - mean) * k + bias).astype(dtype), f"{stem}.bias"),
        attrs=m.node("conv").attributes,
    )


@dataclass(frozen=True)
class FoldBatchNorm(RewritePass):
    name: ClassVar[str] = "fold-bn"
    establishes: ClassVar[frozenset[str]] = frozenset({"bn-folded"})
    rules: ClassVar[RuleSet] = RuleSet([fold_bn_into_conv])
