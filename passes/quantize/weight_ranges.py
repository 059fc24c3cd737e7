"""Scales of a weight: the full range, or the one that makes the least squared error after quantisation.

Clipping a few large values buys finer steps for all others. Where that pays differs from channel to channel, so every
channel (or block) is searched on its own, all of them at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from edgec.quantization.params import QuantParams, limits, params_of_range

if TYPE_CHECKING:
    from edgec.specs.scheme import QuantKind

Array = npt.NDArray[Any]
WeightMethod = Literal["minmax", "mse", "cut"]

SHRINK = tuple(1.0 - 0.025 * i for i in range(21))
"""Parts of the full range that are tried, largest first: 1.0 to 0.5."""

FINE = tuple(1.0 + 0.004 * i for i in range(-10, 51) if i)
"""Tried too where few elements share a scale (depthwise filters): a step that meets them all may be a little larger."""

_FEW = 256

_CHUNK = 1 << 16
"""Elements worked on at a time: what stays in a core's cache."""


def weight_params(
    w: Array, kind: QuantKind, axis: int | None, *, method: WeightMethod = "mse", importance: Array | None = None
) -> QuantParams:
    """How to store a weight as `kind`.

    `axis`: the axis along which scales differ (`per: channel`) or that is cut into blocks (`per: block`; the last block
    may be short); not looked at for `per: tensor`.
    `method`: "cut" is "mse" among ranges no wider than the values are, so that some value of each channel is stored as the
    largest integer: who rounds what comes out anew, by largest values, finds the same integers (TensorRT does).
    `importance`: in the shape of `w` or broadcastable to it, how much an error of each element counts; not for "minmax".
    float8 has an exponent of its own: no range is better than the full one, so all are "minmax" there.
    """
    rows = _rows(w, kind, axis)
    low, high = rows.min(axis=1), rows.max(axis=1)
    if method != "minmax" and rows.shape[1] > 1 and not kind.dtype.startswith("float"):
        weights = None if importance is None else _rows(np.broadcast_to(importance, w.shape), kind, axis)
        low, high = _least_squares(rows, low, high, kind, weights, wider=method == "mse")
    if kind.per == "tensor" or axis is None:
        return params_of_range(low[0], high[0], kind)
    axis %= w.ndim
    p = params_of_range(low, high, kind, axis)
    if kind.per == "channel":
        return p
    shape = list(np.moveaxis(w, axis, -1).shape)
    shape[-1] = -1
    scale, zero = (np.moveaxis(a.reshape(shape), -1, axis) for a in (p.scale, p.zero_point))
    return QuantParams(scale, zero, kind.dtype, axis, kind.block, kind.narrow)


def _rows(w: Array, kind: QuantKind, axis: int | None) -> Array:
    """[groups, elements]: what shares a scale is one row. A short last block is filled up with its last value."""
    w = np.asarray(w, np.float32)
    if kind.per == "tensor" or axis is None:
        return w.reshape(1, -1)
    if kind.per == "channel":
        return np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)
    assert kind.block is not None
    w = np.moveaxis(w, axis, -1)
    missing = -w.shape[-1] % kind.block
    if missing:
        w = np.pad(w, [(0, 0)] * (w.ndim - 1) + [(0, missing)], mode="edge")
    return w.reshape(-1, kind.block)


def _least_squares(
    rows: Array, low: Array, high: Array, kind: QuantKind, importance: Array | None, *, wider: bool
) -> tuple[Array, Array]:
    """The range of each row, among the shrunken ones (and, `wider`, slightly grown ones), with the least sum of
    importance * error^2."""
    best_low, best_high = low.copy(), high.copy()
    fine = [f for f in FINE if wider or f <= 1] if rows.shape[1] <= _FEW else []
    tried = [(f, f) for f in (*SHRINK, *fine)]
    if not kind.symmetric:  # one end alone: only where the tail is on one side
        tried += [(f, 1.0) for f in SHRINK[2::2]] + [(1.0, f) for f in SHRINK[2::2]]
    step = max(1, _CHUNK // rows.shape[1])
    for at in range(0, len(rows), step):
        part = slice(at, at + step)
        block, weight = rows[part], None if importance is None else importance[part]
        scratch = np.empty_like(block)
        least = np.full(len(block), np.inf)
        for shrink_low, shrink_high in tried:
            lo, hi = low[part] * shrink_low, high[part] * shrink_high
            cost = _cost(block, params_of_range(lo, hi, kind, 0), limits(kind), weight, scratch)
            better = cost < least
            least[better] = cost[better]
            best_low[part][better], best_high[part][better] = lo[better], hi[better]
    return best_low, best_high


def _cost(rows: Array, p: QuantParams, ends: tuple[int, int], importance: Array | None, scratch: Array) -> Array:
    """Squared error of each row stored with `p`. `scratch`: as large as `rows`, overwritten."""
    scale = np.broadcast_to(p.scale, (len(rows),))[:, None]
    zero = np.broadcast_to(p.zero_point, (len(rows),))[:, None].astype(np.float32)
    np.divide(rows, scale, out=scratch)
    np.rint(scratch, out=scratch)
    np.clip(scratch, ends[0] - zero, ends[1] - zero, out=scratch)
    np.multiply(scratch, scale, out=scratch)
    np.subtract(scratch, rows, out=scratch)
    if importance is None:
        return np.asarray(np.einsum("ij,ij->i", scratch, scratch, dtype=np.float64))
    return np.asarray(np.einsum("ij,ij,ij->i", scratch, scratch, importance, dtype=np.float64))
