"""Do two runtimes compute the same numbers from one file? Compared as the file stores them, so a step is a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgec.targets.tflite.model import Array


@dataclass(frozen=True)
class Exactness:
    """`steps`: largest difference of integer outputs; `floats`: of float outputs, absolute; None: there are none such.

    NaN in one place in both is the same number; in one only, the difference is infinite.
    """

    samples: int
    steps: int | None
    floats: float | None

    @property
    def equal(self) -> bool:
        return not self.steps and not self.floats

    def __str__(self) -> str:
        on = f"on {self.samples} sample{'s' * (self.samples != 1)}"
        if self.equal:
            return f"yes, {on}"
        parts = []
        if self.steps:
            parts.append(f"{self.steps} step{'s' * (self.steps != 1)}")
        if self.floats:
            parts.append(f"{self.floats:.3g} in float outputs")
        return f"no, largest difference {' and '.join(parts)} {on}"

    def to_json(self) -> dict[str, Any]:
        return {"equal": self.equal, "samples": self.samples, "steps": self.steps, "floats": self.floats}


def compare_stored(ours: Iterable[Mapping[str, Array]], theirs: Iterable[Mapping[str, Array]]) -> Exactness:
    """Outputs by name for each sample, from two runtimes."""
    samples, steps, floats = 0, None, None
    for a, b in zip(ours, theirs, strict=True):
        samples += 1
        for name, x in a.items():
            if x.dtype.kind == "f":
                floats = max(floats or 0.0, _apart(x, b[name]))
            else:
                d = np.abs(x.astype(np.int64) - b[name].astype(np.int64))
                steps = max(steps or 0, int(d.max(initial=0)))
    return Exactness(samples, steps, floats)


def _apart(x: Array, y: Array) -> float:
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    if same.all():
        return 0.0
    d = np.abs(x.astype(np.float64) - y.astype(np.float64))[~same]
    return float(np.inf if np.isnan(d).any() else d.max())
