"""How much noise storing a layer's input and weight in int8 makes at its output: what factors are chosen by."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def noise_over_signal(rows: Array, factors: Array, largest: Array, power: Array) -> float:
    """Noise power over signal power, with the input's channels scaled by `factors` and the weight by their inverse.

    `rows`: the weight, [groups, outputs/group, k]; all else [groups, k], for each of the k inputs: `factors`, `largest`
    absolute value, `power` (mean square), both before scaling. Rounding errors are taken as uniform and independent,
    inputs as uncorrelated; the input has one scale, the weight one an output.
    """
    scaled = rows / factors[:, None, :]
    step = float((factors * largest).max()) / 127
    steps = np.abs(scaled).max(axis=2) / 127
    noise = step**2 / 12 * np.square(scaled).sum()
    noise += (np.square(steps).sum(axis=1) / 12 * (np.square(factors) * power).sum(axis=1)).sum()
    signal = (np.square(rows).sum(axis=1) * power).sum()
    return float(noise / signal) if signal > 0 else 0.0
