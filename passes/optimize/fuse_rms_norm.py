"""x / sqrt(mean(x^2) + eps) [* scale] over the last axes becomes RMSNormalization.

Source: ONNX operator definition of RMSNormalization (opset 23); Zhang and Sennrich, "Root Mean Square Layer
Normalization", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.passes.optimize.fuse_layer_norm import norm_scale, normalised_axis, normalised_shape
from edgec.passes.optimize.matching import blocked, is_float, number, scalar
from edgec.pattern import Match, P, anyof, lit, rest, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x, eps = var("x"), scalar("eps")
_mean = P.ReduceMean(anyof(P.Pow(x, lit(2.0)), P.Mul(x, x)), rest("axes"), as_="mean")
_shifted = P.Add(_mean, eps)
_root = anyof(P.Sqrt(_shifted), P.Pow(_shifted, lit(0.5)))


def _rms_norm(m: Match, rw: Rewriter) -> Result:
    value = m.value("x")
    if rw.opset < 23:
        return Reject(f"RMSNormalization exists from opset 23, the model is written in opset {rw.opset}")
    if not is_float(value) or value.dtype is None:
        return Reject(f"{value.name} is not a floating-point tensor")
    if why := blocked(m, rw, 23):
        return why
    axis = normalised_axis([m.node("mean")], value)
    if isinstance(axis, Reject):
        return axis
    shape = normalised_shape(value, axis)
    if shape is None:
        return Reject("the normalised dimensions are not known at compile time")
    ones = rw.const(np.ones(shape, value.dtype.numpy()), f"{value.name}.scale")
    return rw.op("RMSNormalization", value, ones, attrs={"axis": axis, "epsilon": number(m, "eps")})


_RULES = [
    rule(root, name=f"rms-norm-{i}")(_rms_norm)
    for i, root in enumerate(
        [
            P.Div(x, _root),
            P.Mul(x, anyof(P.Reciprocal(_root), P.Div(lit(1.0), _root), P.Pow(_shifted, lit(-0.5)))),
        ],
        1,
    )
]


@dataclass(frozen=True)
class FuseRmsNorm(RewritePass):
    """Spelled-out RMS normalisation over the last axes, with or without scale, becomes one node."""

    name: ClassVar[str] = "fuse-rms-norm"
    rules: ClassVar[RuleSet] = RuleSet([*_RULES, norm_scale])
