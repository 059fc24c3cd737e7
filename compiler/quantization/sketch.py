"""TensorSketch: what calibration keeps of one tensor. Its size does not grow with the data; two of them add up.

Values are counted in buckets of equal relative width: a bucket is a float32 without its last 14 mantissa bits, so that
its width is at most 1/512 of its values. No range has to be known beforehand, which is why one pass over the data
serves every method (`edgec.quantization.ranges`).
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DROPPED_BITS = 14
"""Mantissa bits that do not tell buckets apart: 9 remain."""

_NOT_FINITE = 0x7F800000 >> DROPPED_BITS
_FOLD_AT = 1 << 15


@dataclass
class TensorSketch:
    """Extremes are of every element; the histogram is of those `add` was given, each counting for as many as stand
    behind it. The same data in the same order gives the same sketch.

    `low`, `high`: inf and -inf before the first sample. `low_sum`, `high_sum`: of each sample's extremes.
    `not_finite`: NaN and infinities found among the values counted; they are in no bucket.
    `growth`: (samples, low, high) after 1, 2, 4, 8 ... samples, of the range that holds 99.9 % of the elements.
    `keys`: bucket numbers, ascending like the values in them, 0 for zero; `counts`: elements in each.
    """

    samples: int = 0
    elements: int = 0
    low: float = math.inf
    high: float = -math.inf
    low_sum: float = 0.0
    high_sum: float = 0.0
    not_finite: int = 0
    growth: list[tuple[int, float, float]] = field(default_factory=list)
    keys: Array = field(default_factory=lambda: np.zeros(0, np.int32))
    counts: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    _waiting: list[tuple[Array, int]] = field(default_factory=list, repr=False, compare=False)
    _waiting_size: int = field(default=0, repr=False, compare=False)

    # --- filling -------------------------------------------------------------------------------------------------

    def add(self, values: Array, *, weight: int = 1, extremes: tuple[float, float] | None = None) -> None:
        """One sample: float32 values that count `weight` times each, and the extremes of all its elements.

        `extremes`: None takes them from `values`, of the finite ones, as does an extreme that is no finite number. A sample
        without elements (low > high) or without finite ones counts as none.
        """
        values = np.ascontiguousarray(values, np.float32).reshape(-1)
        if extremes is not None and not_finite(*extremes):
            self.not_finite += bool(np.isfinite(values).all())  # else they are found among the values
            extremes = None
        if extremes is None:
            finite = values[np.isfinite(values)]
            extremes = (float(finite.min()), float(finite.max())) if finite.size else (math.inf, -math.inf)
        low, high = extremes
        if values.size:
            self._waiting.append((values, weight))
            self._waiting_size += values.size
            if self._waiting_size >= _FOLD_AT:
                self.fold()
        if low > high:
            return
        self.samples += 1
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.low_sum += low
        self.high_sum += high
        if self.samples & (self.samples - 1) == 0:
            self.growth.append((self.samples, *self.bulk()))

    def fold(self) -> None:
        """Count the values that wait. Whatever reads buckets does this first."""
        waiting, self._waiting, self._waiting_size = self._waiting, [], 0
        for weight in sorted({w for _, w in waiting}):
            values = np.concatenate([v for v, w in waiting if w == weight])
            keys, counts, lost = _bucketise(values)
            self.not_finite += lost
            self.elements += int(counts.sum()) * weight
            self.keys, self.counts = _add(self.keys, self.counts, keys, counts * weight)

    def merge(self, other: TensorSketch) -> None:
        """Take in what `other` saw of the same tensor on other samples."""
        other.fold()
        self.fold()
        self.samples += other.samples
        self.elements += other.elements
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.low_sum += other.low_sum
        self.high_sum += other.high_sum
        self.not_finite += other.not_finite
        self.keys, self.counts = _add(self.keys, self.counts, other.keys, other.counts)
        if self.samples and (not self.growth or self.samples >= 2 * self.growth[-1][0]):
            self.growth.append((self.samples, *self.bulk()))

    @classmethod
    def group(cls, members: Iterable[TensorSketch]) -> TensorSketch:
        """One sketch for tensors that must share parameters: seen on the same samples, each with all its elements."""
        out = cls()
        for m in members:
            m.fold()
            if m.low > m.high:
                continue
            low, high = min(out.low_mean, m.low_mean), max(out.high_mean, m.high_mean)
            out.samples = max(out.samples, m.samples)
            out.low_sum, out.high_sum = low * out.samples, high * out.samples
            out.elements += m.elements
            out.low, out.high = min(out.low, m.low), max(out.high, m.high)
            out.not_finite += m.not_finite
            out.keys, out.counts = _add(out.keys, out.counts, m.keys, m.counts)
        return out

    # --- reading -------------------------------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Nothing was seen: no sample, or only tensors without elements or finite values."""
        return self.low > self.high

    @property
    def constant(self) -> bool:
        """Every element of every sample had the same value."""
        return self.low == self.high

    @property
    def low_mean(self) -> float:
        """Mean of the samples' smallest values, inf where nothing was seen."""
        return self.low_sum / self.samples if self.samples else math.inf

    @property
    def high_mean(self) -> float:
        return self.high_sum / self.samples if self.samples else -math.inf

    def buckets(self) -> tuple[Array, Array]:
        """(values, counts) of the buckets that hold something: their middles, ascending, within the extremes."""
        self.fold()
        return np.clip(_middles(self.keys), self.low, self.high), self.counts

    def edges(self) -> tuple[Array, Array]:
        """Smallest and largest value of each bucket."""
        self.fold()
        return _edges(self.keys)

    def quantile(self, share: float) -> float:
        """The value below which `share` of the elements lie, between buckets' edges by proportion."""
        return self._quantiles(share)[0]

    def _quantiles(self, *shares: float) -> list[float]:
        self.fold()
        if not self.counts.size:
            return [self.high if share >= 0.5 else self.low for share in shares]
        total = np.cumsum(self.counts)
        at = [min(int(np.searchsorted(total, share * total[-1], side="left")), total.size - 1) for share in shares]
        out = []
        for share, i, lower, upper in zip(shares, at, *_edges(self.keys[at]), strict=True):
            part = (share * total[-1] - (total[i] - self.counts[i])) / self.counts[i]
            value = lower + (upper - lower) * min(max(part, 0.0), 1.0)
            out.append(float(min(max(value, self.low), self.high)))
        return out

    def bulk(self) -> tuple[float, float]:
        """The range without the outermost 0.05 % of the elements at each end."""
        low, high = self._quantiles(0.0005, 0.9995)
        return low, high

    def share_at(self, value: float) -> float:
        """The part of the elements that lies in the bucket of `value`."""
        self.fold()
        key = _key(value)
        i = int(np.searchsorted(self.keys, key))
        found = i < self.keys.size and self.keys[i] == key
        return float(self.counts[i] / self.counts.sum()) if found else 0.0

    def share_outside(self, low: float, high: float) -> float:
        """The part of the elements that lies below `low` or above `high`, but for those in the buckets of both."""
        self.fold()
        if not self.counts.size:
            return 0.0
        outside = (self.keys < _key(low)) | (self.keys > _key(high))
        return float(self.counts[outside].sum() / self.counts.sum())

    # --- storing -------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        self.fold()
        return {
            "samples": self.samples,
            "elements": self.elements,
            "low": None if self.empty else self.low,
            "high": None if self.empty else self.high,
            "low_sum": self.low_sum,
            "high_sum": self.high_sum,
            "not_finite": self.not_finite,
            "growth": [list(g) for g in self.growth],
            "buckets": _pack(np.diff(self.keys, prepend=0).astype("<i4"), self.counts.astype("<i8")),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TensorSketch:
        """The sketch `to_json` was called on. Raises KeyError, TypeError or ValueError for anything else."""
        steps, counts = _unpack(data["buckets"])
        nothing = data["low"] is None
        return cls(
            samples=int(data["samples"]),
            elements=int(data["elements"]),
            low=math.inf if nothing else float(data["low"]),
            high=-math.inf if nothing else float(data["high"]),
            low_sum=float(data["low_sum"]),
            high_sum=float(data["high_sum"]),
            not_finite=int(data["not_finite"]),
            growth=[(int(n), float(a), float(b)) for n, a, b in data["growth"]],
            keys=np.cumsum(steps, dtype=np.int64).astype(np.int32),
            counts=counts.astype(np.int64),
        )


def not_finite(low: float, high: float) -> bool:
    """Whether these extremes say that NaN or infinities are among the values; inf and -inf are those of no value."""
    return math.isnan(low) or math.isnan(high) or (low <= high and (math.isinf(low) or math.isinf(high)))


def _key(value: float) -> int:
    """The bucket of a value: the magnitude's leading bits with the value's sign."""
    bits = int(np.float32(value).view(np.int32))
    magnitude = (bits & 0x7FFFFFFF) >> DROPPED_BITS
    return -magnitude if bits < 0 else magnitude


def _bucketise(values: Array) -> tuple[Array, Array, int]:
    """(keys, counts, how many values were NaN or infinite). Sorting is the fastest way to count: it is vectorised."""
    values = np.sort(values + np.float32(0))  # -0 becomes 0
    bits = values.view(np.int32) >> DROPPED_BITS
    last = np.append(np.flatnonzero(bits[1:] != bits[:-1]), bits.size - 1)
    counts = np.diff(last, prepend=-1)
    magnitude = bits[last] & (0x7FFFFFFF >> DROPPED_BITS)
    keys = np.where(bits[last] < 0, -magnitude, magnitude)
    finite = magnitude < _NOT_FINITE
    lost = 0 if finite.all() else int(counts[~finite].sum())
    return (keys, counts, 0) if not lost else (keys[finite], counts[finite], lost)


def _add(keys: Array, counts: Array, more: Array, more_counts: Array) -> tuple[Array, Array]:
    """Buckets of both; either may be empty."""
    if not keys.size:
        return more, more_counts
    if not more.size:
        return keys, counts
    keys, counts = np.concatenate([keys, more]), np.concatenate([counts, more_counts])
    order = np.argsort(keys, kind="stable")  # two ascending runs: merged, not sorted
    keys, counts = keys[order], counts[order]
    first = np.append(True, keys[1:] != keys[:-1]).nonzero()[0]
    return keys[first], np.add.reduceat(counts, first)


def _edges(keys: Array) -> tuple[Array, Array]:
    inner, outer = _floats(np.abs(keys)), _floats(np.abs(keys) + 1)
    inner, outer = np.where(keys == 0, 0.0, inner), np.where(keys == 0, 0.0, outer)
    return np.where(keys < 0, -outer, inner), np.where(keys < 0, -inner, outer)


def _floats(magnitudes: Array) -> Array:
    """Where buckets begin; the last one of float32, which holds what masks are filled with (-3.4e38), ends at infinity: the
    largest finite number stands for it.
    """
    starts = (magnitudes.astype(np.int32) << DROPPED_BITS).view(np.float32).astype(np.float64)
    return np.asarray(np.minimum(starts, np.finfo(np.float32).max))


def _middles(keys: Array) -> Array:
    size = np.abs(keys)
    middle = np.where(size == 0, 0.0, (_floats(size) + _floats(size + 1)) / 2)
    return np.where(keys < 0, -middle, middle)


def _pack(steps: Array, counts: Array) -> str:
    return base64.b64encode(zlib.compress(steps.tobytes() + counts.tobytes(), 6)).decode()


def _unpack(text: str) -> tuple[Array, Array]:
    try:
        raw = zlib.decompress(base64.b64decode(text, validate=True))
    except zlib.error as e:
        raise ValueError(str(e)) from None
    if len(raw) % 12:
        raise ValueError("buckets are cut off")
    n = len(raw) // 12
    return np.frombuffer(raw, "<i4", n), np.frombuffer(raw, "<i8", n, offset=4 * n)
