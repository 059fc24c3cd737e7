"""How many atoms go from which group: the same part of each (uniform), or those of least importance anywhere (global)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Allocation = Literal["auto", "uniform", "global", "sensitivity"]
Counts = npt.NDArray[np.int64]

_STEPS = 32
"""Halvings in the search for the least cut that reaches a goal: 2^-32 is less than one atom in any model."""


@dataclass(frozen=True)
class Room:
    """How a group may be cut: `atoms` there are, each `width` channels; what stays is a multiple of `step` atoms, and at
    least `least`."""

    atoms: int
    step: int
    least: int

    @staticmethod
    def of(atoms: int, width: int, align: int, least: float) -> Room:
        step = align // math.gcd(align, width)
        floor = max(step, math.ceil(math.ceil(least * atoms) / step) * step)
        return Room(atoms, step, min(atoms, floor))

    def stays(self, wanted: float) -> int:
        """The nearest number that may stay, the larger of two."""
        rounded = math.floor(wanted / self.step + 0.5) * self.step
        return min(self.atoms, max(self.least, rounded))


def uniform(rooms: Sequence[Room]) -> Callable[[float], Counts]:
    """Strength s in 0..1 -> atoms that go: the part s of every group."""
    return lambda s: np.asarray([r.atoms - r.stays((1 - s) * r.atoms) for r in rooms], np.int64)


def globally(rooms: Sequence[Room], scores: Sequence[npt.NDArray[np.float64]]) -> Callable[[float], Counts]:
    """Strength s -> atoms that go: the part s of all atoms, those of least score."""
    ordered = [np.sort(x) for x in scores]
    everything = np.sort(np.concatenate(ordered)) if ordered else np.zeros(0)

    def counts(s: float) -> Counts:
        n = round(s * len(everything))
        bound = everything[n - 1] if n else -np.inf
        below = [int(np.searchsorted(x, bound, side="right")) for x in ordered]
        return np.asarray([r.atoms - r.stays(r.atoms - k) for r, k in zip(rooms, below, strict=True)], np.int64)

    return counts


def reach(counts: Callable[[float], Counts], saved: Callable[[Counts], float], goal: float) -> Counts | None:
    """The least cut that saves the part `goal`; None if the largest does not. Rounding makes steps: it may save more.

    Where many groups make their step at the same strength (all of 16 channels, say), they make it one by one, those that
    save least first, until the goal is reached.
    """
    if saved(counts(1.0)) < goal:
        return None
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if saved(counts(middle)) >= goal:
            high = middle
        else:
            low = middle
    cut, full = counts(low), counts(high)
    steps = np.flatnonzero(full != cut)
    gains = [saved(np.where(np.arange(len(cut)) == i, full, cut)) for i in steps]
    for i in steps[np.argsort(gains, kind="stable")]:
        if saved(cut) >= goal:
            break
        cut[i] = full[i]
    return cut
