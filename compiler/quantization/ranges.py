"""Ranges: from what was seen of a tensor to the reals its stored values shall cover."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import did_you_mean, error
from edgec.quantization.params import kind_of_range, limits
from edgec.quantization.sketch import TensorSketch

if TYPE_CHECKING:
    from edgec.specs.scheme import QuantKind

Array = npt.NDArray[Any]

METHODS = ("mse", "minmax", "moving-average", "percentile", "entropy")

_BINS = 2048
"""Bins of equal width that entropy works on: TensorRT's number."""

_SUMS = 1024
"""Bins of equal width on each side of zero that mse sums over: 4 or more for each step of 8 bits."""

_KEPT = 0.9995
"""Part of the elements that entropy leaves uncut. Without a limit it degenerates where a tensor has few elements, or many
at its upper end (ReLU6): EfficientNet-Lite0 has 14.5 dB without, 20.5 dB with it."""

_FINE = 1 << 10
"""Stored values from which on cutting off gains nothing."""


def choose_range(
    sketch: TensorSketch, kind: QuantKind, method: str, *, percentile: float = 99.999
) -> tuple[float, float]:
    """The range [low, high] to cover, within the extremes seen.

    mse             least squared error of storing and reading back, both ends moved separately where the kind allows;
                    cutting off weighs more than rounding, rare extremes do not set ends (`_CUT_OFF`, `_REACH`)
    minmax          everything that was seen
    moving-average  mean of the samples' extremes
    percentile      `percentile` % of the elements; the rest is cut off in equal parts at both ends
    entropy         least Kullback-Leibler divergence of the stored from the real distribution (Migacz, GTC 2017)

    Of floating-point and 16-bit kinds, mse and entropy give minmax: their steps are fine enough. (0, 0) where nothing was seen.

    Raises:
        EdgecError: EC0721 there is no such method or percentile.
    """
    if method not in METHODS:
        hint = did_you_mean(method, list(METHODS), f"methods are {', '.join(METHODS)}")
        raise error("EC0721", f"there is no calibration method {method!r}", hint=hint)
    if sketch.empty:
        return 0.0, 0.0
    sketch.fold()
    kind = kind_of_range(kind, sketch.low)
    if method == "minmax" or sketch.constant or not sketch.counts.size:
        return sketch.low, sketch.high
    if method == "moving-average":
        return sketch.low_mean, sketch.high_mean
    if method == "percentile":
        return _percentile(sketch, kind, percentile)
    low, high = limits(kind)
    if kind.dtype.startswith("float") or high - low >= _FINE:
        return sketch.low, sketch.high
    return _entropy(sketch, kind) if method == "entropy" else _least_squares(sketch, kind)


def _percentile(sketch: TensorSketch, kind: QuantKind, percentile: float) -> tuple[float, float]:
    if not 50 < percentile <= 100:
        raise error("EC0721", f"a percentile is between 50 and 100, not {percentile:g}")
    if kind.symmetric:
        end = _folded(sketch).quantile(percentile / 100)
        return max(sketch.low, -end), min(sketch.high, end)
    rest = (1 - percentile / 100) / 2
    return sketch.quantile(rest), sketch.quantile(1 - rest)


def _folded(sketch: TensorSketch) -> TensorSketch:
    """The sketch of absolute values."""
    positive, negative = sketch.keys >= 0, sketch.keys < 0
    out = TensorSketch(samples=1, low=0.0, high=max(abs(sketch.low), abs(sketch.high)))
    parts = [
        (sketch.keys[positive], sketch.counts[positive]),
        (-sketch.keys[negative][::-1], sketch.counts[negative][::-1]),
    ]
    for keys, counts in parts:
        out.merge(TensorSketch(low=0.0, high=0.0, keys=keys, counts=counts))
    return out


def _resample(sketch: TensorSketch, edges: Array) -> Array:
    """How many elements lie between neighbouring edges; a bucket cut by an edge is divided in proportion."""
    lower, upper = sketch.edges()
    lower, upper = np.clip(lower, sketch.low, sketch.high), np.clip(upper, sketch.low, sketch.high)
    tiny = np.maximum(np.abs(upper), np.finfo(np.float32).tiny) * 1e-9
    points = np.stack([lower, np.maximum(upper, lower + tiny)], 1).reshape(-1)
    total = np.cumsum(sketch.counts)
    heights = np.stack([total - sketch.counts, total], 1).reshape(-1)
    out: Array = np.diff(np.interp(edges, points, heights))
    out[-1] += total[-1] - heights[-1] if heights[-1] < total[-1] else 0
    return out


# --- entropy ---------------------------------------------------------------------------------------------------------


def _entropy(sketch: TensorSketch, kind: QuantKind) -> tuple[float, float]:
    """Each side of zero is cut where the divergence of its part of the distribution is least."""
    qmin, qmax = limits(kind)
    if kind.symmetric:
        both = _folded(sketch)
        end = _cut(both, qmax if qmin < 0 else (qmax + 1) // 2)
        return max(sketch.low, -end), min(sketch.high, end)
    span = max(sketch.high, 0.0) - min(sketch.low, 0.0)
    ends = []
    for sign, end in ((-1, sketch.low), (1, sketch.high)):
        if sign * end <= 0:
            ends.append(end)
            continue
        side = sketch.keys * sign >= 0
        keys, counts = sketch.keys[side] * sign, sketch.counts[side]
        order = np.argsort(keys)
        part = TensorSketch(samples=1, low=0.0, high=abs(end), keys=keys[order], counts=counts[order])
        levels = max(8, round((qmax - qmin) * abs(end) / span))
        ends.append(sign * _cut(part, levels))
    return ends[0], ends[1]


def _cut(sketch: TensorSketch, levels: int) -> float:
    """The end of [0, end] for non-negative values, stored in `levels` steps, by least divergence."""
    bins = max(_BINS, 4 * levels)
    edges = np.linspace(0.0, sketch.high, bins + 1)
    counts = _resample(sketch, edges)
    counts[0] = counts[1]  # zeros are stored exactly; their spike would outvote everything else
    kept = np.cumsum(counts) / counts.sum()
    best, end = np.inf, sketch.high
    for used in range(levels, bins + 1, max(1, bins // 128)):
        if kept[used - 1] < _KEPT:  # all in the last bin is no divergence at all
            continue
        divergence = _divergence(counts, used, levels)
        if divergence < best:
            best, end = divergence, float(edges[used])
    return end


def _divergence(counts: Array, used: int, levels: int) -> float:
    """KL(P || Q): P the first `used` bins with what lies beyond added to the last, Q the same in `levels` steps."""
    p = counts[:used].copy()
    held = p > 0
    group = np.arange(used) * levels // used
    sums = np.bincount(group, weights=p, minlength=levels)
    filled = np.bincount(group, weights=held, minlength=levels)
    q = np.where(held, sums[group] / np.maximum(filled[group], 1), 0.0)
    p[-1] += counts[used:].sum()
    if not p.sum() or not q.sum():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    q = np.where((p > 0) & (q <= 0), 1e-9, q)
    both = p > 0
    return float(np.sum(p[both] * np.log(p[both] / q[both])))


# --- least squares ---------------------------------------------------------------------------------------------------

_CUT_OFF = 4.0
"""How much more the error of values cut off counts than that of rounding: it has one sign, and it falls on the largest
activations, so that it does not average out in the layers after. 4 was the best of 1, 4 and 16 over six vision and audio
models, by the SQNR of their outputs."""

_REACH = 1.5
"""Ends lie at most this much beyond the mean of the samples' own ends, or where they cut off `_RARE` of the elements: what
few elements of few samples reach would cost the precision of all others. (MobileNetV2: 3 dB; no loss on models without
such samples.)"""

_RARE = 1e-4


def _least_squares(sketch: TensorSketch, kind: QuantKind) -> tuple[float, float]:
    """Coordinate search over both ends, coarse then fine."""
    values, counts = _summed(sketch)
    low, high = sketch.low, sketch.high
    if kind.symmetric:
        end = max(abs(low), abs(high))
        end *= _search(lambda r: _error(values, counts, -end * r, end * r, kind))
        near = min(end, _REACH * max(abs(sketch.low_mean), abs(sketch.high_mean)))
        if sketch.share_outside(-near, near) <= _RARE:
            end = near
        return max(low, -end), min(high, end)
    if kind.zero_in_range:
        low, high = min(low, 0.0), max(high, 0.0)
    a = b = 1.0
    for _ in range(2 if low < 0 < high else 1):
        other = low * a
        if high > 0:
            b = _search(lambda r, other=other: _error(values, counts, np.full(r.shape, other), high * r, kind))  # type: ignore[misc]
        other = high * b
        if low < 0:
            a = _search(lambda r, other=other: _error(values, counts, low * r, np.full(r.shape, other), kind))  # type: ignore[misc]
    lowest, highest = _reach(sketch)
    return (max(low * a, lowest) if low < 0 else low), (min(high * b, highest) if high > 0 else high)


def _reach(sketch: TensorSketch) -> tuple[float, float]:
    """The ends that `_REACH` and `_RARE` allow, one on each side of zero or at it."""
    low = min(_REACH * sketch.low_mean, sketch.quantile(_RARE), 0.0)
    return low, max(_REACH * sketch.high_mean, sketch.quantile(1 - _RARE), 0.0)


def _search(cost: Callable[[Array], Array]) -> float:
    """The shrink factor of least cost: a coarse grid, then a fine one around its best. Of equals the largest."""
    grid = np.geomspace(1.0, 0.02, 64)
    best = float(grid[int(np.argmin(cost(grid)))])
    fine = best * np.linspace(1.06, 0.94, 17)
    fine = fine[fine <= 1.0]
    return float(fine[int(np.argmin(cost(fine)))])


def _summed(sketch: TensorSketch) -> tuple[Array, Array]:
    """Means and shares of at most 2 * `_SUMS` + 1 bins of equal width; zeros stay apart."""
    values, counts = sketch.buckets()
    width = max(abs(sketch.low), abs(sketch.high)) / _SUMS
    place = np.sign(values) * np.ceil(np.abs(values) / width)
    starts = np.flatnonzero(np.diff(place, prepend=-np.inf))
    weights = np.add.reduceat(counts.astype(np.float64), starts)
    means = np.add.reduceat(values * counts, starts) / weights
    return means.astype(np.float32), (weights / weights.sum()).astype(np.float32)


def _error(values: Array, shares: Array, low: Array, high: Array, kind: QuantKind) -> Array:
    """Mean squared error for each candidate range, what is cut off weighted; relative to that of the values themselves."""
    qmin, qmax = limits(kind)
    middle = 0 if qmin < 0 else (qmax + 1) // 2
    if kind.symmetric:
        scale = np.maximum(np.abs(low), np.abs(high)) / (qmax - middle)
        zero = np.full(scale.shape, float(middle))
    else:
        scale = (high - low) / (qmax - qmin)
        zero = np.rint(qmin - low / np.maximum(scale, 1e-38))
    scale = np.maximum(scale, 1e-38)[:, None]
    unit = np.abs(values).max()  # squares of very large or small values would leave float32
    steps = np.rint(values / scale.astype(np.float32))
    first, last = (qmin - zero)[:, None].astype(np.float32), (qmax - zero)[:, None].astype(np.float32)
    stored = np.clip(steps, first, last)
    rest = (stored * (scale / unit).astype(np.float32) - values / unit) ** 2
    rest[stored != steps] *= _CUT_OFF
    out: Array = rest @ shares
    return out
