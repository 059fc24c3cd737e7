"""max(x, a x), where(x > 0, x, a x) and PRelu with one slope become LeakyRelu; Keras' PReLU spelling becomes PRelu.

Source: ONNX operator definitions of LeakyRelu and PRelu; He et al., "Delving Deep into Rectifiers", 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import static_shape
from edgec.passes.optimize.matching import blocked, is_float, number, scalar
from edgec.pattern import Match, P, anyof, const, lit, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x, slope = var("x"), scalar("slope")
_scaled = P.Mul(x, slope)


def _leaky(m: Match, rw: Rewriter) -> Result:
    return blocked(m, rw, 6) or rw.op("LeakyRelu", m.value("x"), attrs={"alpha": number(m, "slope")})


@rule(P.Max(x, _scaled))
def leaky_relu_from_max(m: Match, rw: Rewriter) -> Result:
    if not 0 <= number(m, "slope") <= 1:
        return Reject("max(x, a x) is LeakyRelu only for a in 0..1")
    return _leaky(m, rw)


@rule(P.Where(anyof(P.Greater(x, lit(0.0)), P.GreaterOrEqual(x, lit(0.0))), x, _scaled))
def leaky_relu_from_where(m: Match, rw: Rewriter) -> Result:
    return _leaky(m, rw)


@rule(P.Where(anyof(P.Less(x, lit(0.0)), P.LessOrEqual(x, lit(0.0))), _scaled, x))
def leaky_relu_from_where_less(m: Match, rw: Rewriter) -> Result:
    return _leaky(m, rw)


@rule(P.PRelu(x, const("slopes")))
def leaky_relu_from_prelu(m: Match, rw: Rewriter) -> Result:
    slopes = m.array("slopes")
    if slopes.size == 0 or not np.all(slopes == slopes.reshape(-1)[0]):
        return Reject("the channels have different slopes")
    if not is_float(m.value("x")):
        return Reject("LeakyRelu takes floating point only")
    return rw.op("LeakyRelu", m.value("x"), attrs={"alpha": float(slopes.reshape(-1)[0])})


_negative_part = P.Relu(P.Neg(x))


@rule(P.Add(P.Relu(x), P.Mul(_negative_part, const("slopes"))))
def prelu_from_relus(m: Match, rw: Rewriter) -> Result:
    """relu(x) + k relu(-x) is PRelu with slope -k: Keras stores the negated slope beside Neg(slope)."""
    x_shape, slopes = static_shape(m.value("x")), m.array("slopes")
    if x_shape is None or np.broadcast_shapes(x_shape, slopes.shape) != x_shape:
        return Reject("the slopes may widen the shape")
    return rw.op("PRelu", m.value("x"), rw.const(-slopes, f"{m.value('slopes').name}.neg"))


@rule(P.Sub(P.Relu(x), P.Mul(_negative_part, const("slopes"))))
def prelu_from_difference(m: Match, rw: Rewriter) -> Result:
    x_shape, slopes = static_shape(m.value("x")), m.array("slopes")
    if x_shape is None or np.broadcast_shapes(x_shape, slopes.shape) != x_shape:
        return Reject("the slopes may widen the shape")
    return rw.op("PRelu", m.value("x"), rw.const(slopes, f"{m.value('slopes').name}.slope"))


@dataclass(frozen=True)
class FuseLeakyRelu(RewritePass):
    """Leaky rectifiers, whatever their spelling, become LeakyRelu (one slope) or PRelu."""

    name: ClassVar[str] = "fuse-leaky-relu"
    rules: ClassVar[RuleSet] = RuleSet(
        [
            leaky_relu_from_max,
            leaky_relu_from_where,
            leaky_relu_from_where_less,
            leaky_relu_from_prelu,
            prelu_from_relus,
            prelu_from_difference,
        ]
    )
