"""Min/Max/Relu chains with constant limits become one Clip; Max(x, 0) becomes Relu.

Source: ONNX operator definitions of Clip, Max, Min, Relu.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import ir
from edgec.passes.optimize.matching import blocked, number, scalar
from edgec.pattern import Match, P, opt, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x = var("x")
low, high = scalar("low"), scalar("high")
low2, high2 = scalar("low2"), scalar("high2")


def _clip(m: Match, rw: Rewriter, lower: float, upper: float) -> Result:
    """Clip(x, lower, upper), an infinite limit left out."""
    if why := blocked(m, rw, 11):
        return why
    if lower > upper:
        return Reject(f"the lower limit {lower} is above the upper limit {upper}")
    value = m.value("x")
    if lower == 0 and math.isinf(upper):
        return rw.op("Relu", value)
    inputs: list[ir.Value | None] = [value]
    inputs.append(rw.scalar(lower, value, f"{value.name}.min") if math.isfinite(lower) else None)
    if math.isfinite(upper):
        inputs.append(rw.scalar(upper, value, f"{value.name}.max"))
    return rw.op("Clip", *inputs)


def _limit(m: Match, name: str, default: float) -> float:
    """A limit of a Clip, infinite where absent; limits beyond what the dtype holds are no limits."""
    if not m.has(name):
        return default
    value = number(m, name)
    dtype = m.array(name).dtype
    largest = float(np.finfo(dtype if dtype.kind == "f" else np.float32).max)  # bfloat16 reaches as far as float32
    return default if abs(value) >= largest and math.copysign(1, value) == math.copysign(1, default) else value


@rule(P.Min(P.Max(x, low), high))
def clip_from_min_of_max(m: Match, rw: Rewriter) -> Result:
    return _clip(m, rw, number(m, "low"), number(m, "high"))


@rule(P.Max(P.Min(x, high), low))
def clip_from_max_of_min(m: Match, rw: Rewriter) -> Result:
    return _clip(m, rw, number(m, "low"), number(m, "high"))


@rule(P.Max(x, low))
def relu_from_max(m: Match, rw: Rewriter) -> Result:
    if number(m, "low") != 0:
        return Reject("the limit is not 0")
    return _clip(m, rw, 0.0, math.inf)


@rule(P.Min(P.Relu(x), high))
def clip_from_min_of_relu(m: Match, rw: Rewriter) -> Result:
    return _clip(m, rw, 0.0, number(m, "high"))


@rule(P.Clip(P.Relu(x), opt(low), opt(high)))
def clip_of_relu(m: Match, rw: Rewriter) -> Result:
    return _clip(m, rw, max(_limit(m, "low", -math.inf), 0.0), _limit(m, "high", math.inf))


@rule(P.Relu(P.Clip(x, opt(low), opt(high))))
def relu_of_clip(m: Match, rw: Rewriter) -> Result:
    return _clip(m, rw, max(_limit(m, "low", -math.inf), 0.0), max(_limit(m, "high", math.inf), 0.0))


@rule(P.Clip(P.Clip(x, opt(low), opt(high)), opt(low2), opt(high2)))
def clip_of_clip(m: Match, rw: Rewriter) -> Result:
    inner, outer = ((_limit(m, "low" + s, -math.inf), _limit(m, "high" + s, math.inf)) for s in ("", "2"))
    if outer[0] > inner[1] or outer[1] < inner[0]:
        return Reject("the two ranges do not overlap: the result is a constant")
    return _clip(m, rw, max(inner[0], outer[0]), min(inner[1], outer[1]))


@rule(P.Relu(P.Relu(x)))
def relu_of_relu(m: Match, rw: Rewriter) -> Result:
    return rw.op("Relu", m.value("x"))


@rule(P.Min(P.Clip(x, low, opt(high)), high2))
def min_of_clip(m: Match, rw: Rewriter) -> Result:
    upper = min(_limit(m, "high", math.inf), number(m, "high2"))
    return _clip(m, rw, number(m, "low"), upper)


@dataclass(frozen=True)
class FuseClip(RewritePass):
    """Each spelling of a clamp with constant limits becomes Clip, or Relu where the limits are 0 and none."""

    name: ClassVar[str] = "fuse-clip"
    rules: ClassVar[RuleSet] = RuleSet(
        [
            clip_from_min_of_max,
            clip_from_max_of_min,
            clip_from_min_of_relu,
            min_of_clip,
            relu_from_max,
            clip_of_relu,
            relu_of_clip,
            clip_of_clip,
            relu_of_relu,
        ]
    )
