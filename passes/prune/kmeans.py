"""k-means of numbers on a line: deterministic, and fast because clusters are intervals of the sorted numbers.

Lloyd's iteration from two starts, the better result kept: quantiles of the density to the power 1/3, the best placement of
many points (Panter and Dite 1951), and equal steps from end to end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_BINS = 1024


def kmeans(values: Array, k: int, weights: Array | None = None, *, iterations: int = 200) -> Array:
    """At most `k` centres, ascending, of least weighted squared distance to their values (a local minimum).

    `weights`: not negative, of the shape of `values`. Where there are not more than `k` different values those are the
    centres.
    """
    flat = np.asarray(values, np.float64).reshape(-1)
    distinct = np.unique(flat)
    if len(distinct) <= k:
        return distinct
    w = np.ones_like(flat) if weights is None else np.asarray(weights, np.float64).reshape(-1)
    if not w.sum() > 0:
        w = np.ones_like(flat)
    w = w / w.mean() + 1e-6  # numbers nobody reads still get a value near them
    order = np.argsort(flat, kind="stable")
    line = _Line(flat[order], w[order])
    found = [line.settle(start, iterations) for start in (line.spread(k), np.linspace(distinct[0], distinct[-1], k))]
    return min(found, key=line.cost)


class _Line:
    def __init__(self, values: Array, weights: Array) -> None:
        self.values, self.weights = values, weights
        self.mass = np.concatenate([[0.0], np.cumsum(weights)])
        self.sum = np.concatenate([[0.0], np.cumsum(weights * values)])
        self.square = np.concatenate([[0.0], np.cumsum(weights * values**2)])

    def spread(self, k: int) -> Array:
        density, edges = np.histogram(self.values, _BINS, weights=self.weights)
        share = np.concatenate([[0.0], np.cumsum(np.cbrt(density))])
        return np.asarray(np.interp((np.arange(k) + 0.5) / k * share[-1], share, edges))

    def settle(self, centres: Array, iterations: int) -> Array:
        for _ in range(iterations):
            ends = self._ends(centres)
            mass = np.diff(self.mass[ends])
            new = np.where(mass > 0, np.diff(self.sum[ends]) / np.where(mass > 0, mass, 1), centres)
            new = np.clip(np.sort(new), self.values[0], self.values[-1])  # differences of long sums are not exact
            if np.array_equal(new, centres):
                break
            centres = new
        return centres

    def cost(self, centres: Array) -> float:
        ends = self._ends(centres)
        mass, first, second = (np.diff(a[ends]) for a in (self.mass, self.sum, self.square))
        return float((second - 2 * centres * first + centres**2 * mass).sum())

    def _ends(self, centres: Array) -> Array:
        middles = (centres[1:] + centres[:-1]) / 2
        return np.concatenate([[0], np.searchsorted(self.values, middles), [len(self.values)]])


def nearest(values: Array, centres: Array) -> Array:
    """Index of the nearest of ascending `centres`."""
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
