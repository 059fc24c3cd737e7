"""Two files of one int8 model, quantised by edgec and by the SDK: which one is better, by what the simulator computed.

The figure of a file is the mean over outputs and their channels of the SQNR in dB against the float graph, each clipped to
0..60. By channel, because boxes of hundreds of pixels and scores below 1 may share an output: a file in which all scores
are dead has a high SQNR over the whole of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from edgec.target import Arrays
    from edgec.targets.rknn.variant import Built

_BEST_DB = 60.0
"""What a channel counts at most: an exact one must not outweigh the others."""

_SAME_DB = 0.1
"""Figures closer than this are equal."""

_CPU_DB = 3.0
"""What a file with more layers on the CPU has to be better by."""


@dataclass(frozen=True)
class Fidelity:
    """`outputs`: SQNR in dB of each, over all samples. `figure`: see above."""

    outputs: Mapping[str, float]
    figure: float


def fidelity(reference: Iterable[Arrays], simulated: Iterable[Arrays]) -> Fidelity:
    """Compare outputs sample by sample."""
    sums: dict[str, _Channels] = {}
    for want, got in zip(reference, simulated, strict=True):
        for name, r in want.items():
            sums.setdefault(name, _Channels()).add(np.asarray(r), np.asarray(got[name]))
    outputs = {name: s.whole() for name, s in sums.items()}
    return Fidelity(outputs, float(np.mean([s.mean() for s in sums.values()])) if sums else 0.0)


@dataclass
class _Channels:
    """Sums of squares of an output, by channel."""

    signal: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0))
    noise: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0))

    def add(self, r: npt.NDArray[Any], x: npt.NDArray[Any]) -> None:
        r, x = r.astype(np.float64), x.astype(np.float64).reshape(r.shape)
        r, x = np.atleast_1d(r), np.atleast_1d(x)
        axes = tuple(i for i in range(r.ndim) if i != channel_axis(r.shape))
        signal, noise = (r * r).sum(axes), ((r - x) ** 2).sum(axes)
        self.signal = self.signal + signal if self.signal.size else signal
        self.noise = self.noise + noise if self.noise.size else noise

    def whole(self) -> float:
        return float(_db(np.sum(self.signal), np.sum(self.noise)))

    def mean(self) -> float:
        return float(np.mean(np.clip(_db(self.signal, self.noise), 0, _BEST_DB)))


def channel_axis(shape: Sequence[int]) -> int | None:
    """Axis 1 of images, the shorter one of two in detections ([1, 22, 2100] or [1, 2100, 22]); else none."""
    if len(shape) >= 4:
        return 1
    if len(shape) == 3:
        return 1 if shape[1] <= shape[2] else 2
    return None


def _db(signal: Any, noise: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        db = 10 * np.log10(signal / noise)
    return np.where(noise == 0, np.inf, np.where(np.isfinite(noise) & (signal > 0), db, -np.inf))


def better(a: tuple[Built, Fidelity], b: tuple[Built, Fidelity], *, integers_only: bool = False) -> Built:
    """The more accurate file; one with more layers on the CPU must be clearly better. Equal ones: fewer layers, then `a`.

    `integers_only`: the NPU has no floating point, and of two files the one with layers in float is not taken.
    """
    (one, f), (two, g) = a, b
    if integers_only and bool(one.in_float) != bool(two.in_float):
        return two if one.in_float else one
    lead = f.figure - g.figure - _CPU_DB * np.sign(one.on_cpu - two.on_cpu)
    if abs(lead) >= _SAME_DB:
        return one if lead > 0 else two
    return two if len(two.layers) < len(one.layers) else one


def figures(built: Built, quality: Fidelity) -> dict[str, Any]:
    """What the report says of one file."""
    return {
        "sqnr dB": {name: round(db, 2) if np.isfinite(db) else None for name, db in quality.outputs.items()},
        "figure dB": round(quality.figure, 2),
        "layers": len(built.layers),
        "float layers": built.in_float,
        "CPU layers": built.on_cpu,
        "convolution cycles": sum(r.total_cycles for r in built.table.rows),
        "seconds": built.answer.seconds,
    }


def summary(built: Built, quality: Fidelity) -> str:
    """One phrase for people."""
    outputs = ", ".join(f"{db:.1f}" for db in quality.outputs.values())
    layers = f"{len(built.layers)} layers, {built.in_float} in float, {built.on_cpu} on the CPU"
    return f"{outputs} dB ({quality.figure:.1f} by channel; {layers})"
