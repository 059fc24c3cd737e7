"""Where the readers of a value stop telling numbers apart: ranges need not reach further.

sigmoid(-12) is 6e-6 and sigmoid(-40) is 4e-18; silu(-9) is -0.001. A convolution before a SiLU often reaches -100, and a
step that covers this is wasted on numbers that all become 0. What lies outside of the limits is cut off at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, constant, ir, is_constant
from edgec.passes.quantize.head import MOVES, silu_of
from edgec.quantization.sketch import TensorSketch

Bounds = tuple[float, float]
Vector = npt.NDArray[np.float64]

SCORE_LIMITS = {"Sigmoid": (-12.0, 12.0), "Tanh": (-6.0, 6.0)}
"""Outside of these the op is within 1.3e-5 of its end. Scores are compared with each other: no wider tolerance here."""

_FLOORS: dict[str, Callable[[Vector], Vector]] = {
    "Swish": lambda x: x / (1 + np.exp(-x)),
    "Gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))),
    "Mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "Softplus": lambda x: np.log1p(np.exp(x)),
    "Elu": np.expm1,
    "Exp": np.exp,
}
"""Activations that come to rest towards minus infinity. Source: their ONNX operator definitions."""

_DEEPEST = -40.0
"""All of `_FLOORS` rest there, to the precision of float32."""

_STEP_SHARE = 0.25
"""Part of the output's step that may be lost: less than rounding loses."""


def limits_of(value: ir.Value, step_of: Callable[[ir.Value], float | None], high: float) -> Bounds | None:
    """The widest limits of all readers, -inf or inf where there is none; None if one reader is not known to saturate.

    Readers behind data movement count. `step_of`: the step a value is stored with, None where it is in float. `high`:
    the largest number seen of the value.
    """
    if value.is_graph_output() or not value.uses():
        return None
    found: list[Bounds] = []
    silu = silu_of(value)
    for user, i in value.uses():
        if user.op_type in ("Shape", "Size") or (silu is not None and user.op_type == "Sigmoid"):
            continue
        if (
            user.domain == ""
            and user.op_type in MOVES
            and user.op_type != "Pad"
            and (i == 0 or user.op_type == "Concat")
        ):
            outs = [o for o in user.outputs if o.uses() or o.is_graph_output()]
            deeper = [limits_of(o, step_of, high) for o in outs]
        else:
            op = "Swish" if user is silu else user.op_type
            deeper = [_limits(user, op, i, step_of, high)]
        for b in deeper:
            if b is None:
                return None
            found.append(b)
    return (min(f[0] for f in found), max(f[1] for f in found)) if found else None


def _limits(node: ir.Node, op: str, i: int, step_of: Callable[[ir.Value], float | None], high: float) -> Bounds | None:
    """Limits of one reader, which computes `op`."""
    if node.domain or (i != 0 and op == node.op_type):
        return None
    if op in SCORE_LIMITS:
        return SCORE_LIMITS[op]
    if op == "HardSigmoid":
        alpha, beta = float(attribute(node, "alpha")), float(attribute(node, "beta"))
        return (-beta / alpha, (1 - beta) / alpha) if alpha > 0 else None
    if op == "HardSwish":
        return -3.0, math.inf
    if op == "Relu":
        return 0.0, math.inf
    if op == "Clip":
        if any(v is not None and not is_constant(v) for v in node.inputs[1:3]):
            return None
        low, top = (constant(v) for v in (*node.inputs[1:3], None, None)[:2])
        return -math.inf if low is None else float(low), math.inf if top is None else float(top)
    if op in _FLOORS and attribute(node, "alpha") in (None, 1.0):
        step = step_of(node.outputs[0])
        tolerance = _STEP_SHARE * (step if step is not None else max(high, 1.0) / 1024)
        return _floor(_FLOORS[op], tolerance), math.inf
    return None


def _floor(f: Callable[[Vector], Vector], tolerance: float) -> float:
    """The largest x up to which f stays within `tolerance` of where it comes from."""
    x = np.linspace(_DEEPEST, 0.0, 1601)
    y = f(x)
    within = np.maximum.accumulate(np.abs(y - y[0])) <= tolerance
    return float(x[np.flatnonzero(within)[-1]])


def within(sketch: TensorSketch, limits: Bounds) -> TensorSketch:
    """The sketch of the same values cut off at `limits`; the sketch itself where none lies outside."""
    low, high = limits
    if sketch.empty or (sketch.low >= low and sketch.high <= high) or sketch.high <= low or sketch.low >= high:
        return sketch
    _, counts = sketch.buckets()
    lower, upper = sketch.edges()
    keys, counts = sketch.keys.copy(), counts.copy()
    inside = np.flatnonzero((upper > low) & (lower < high))
    if not inside.size:
        return sketch
    first, last = int(inside[0]), int(inside[-1])
    counts[first] += counts[:first].sum()
    counts[last] += counts[last + 1 :].sum()
    out = TensorSketch(samples=sketch.samples, elements=sketch.elements, not_finite=sketch.not_finite)
    out.low, out.high = max(sketch.low, low), min(sketch.high, high)
    out.low_sum, out.high_sum = max(sketch.low_mean, low) * out.samples, min(sketch.high_mean, high) * out.samples
    out.keys, out.counts = keys[first : last + 1], counts[first : last + 1]
    return out
