"""Statistics: what calibration saw of a model's tensors. Saved as calibration.json, continued and merged."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostics, Location, error
from edgec.quantization.sketch import TensorSketch

Array = npt.NDArray[Any]

_FORMAT = "edgec-calibration"
_VERSION = 1


@dataclass(eq=False)
class ChannelRange:
    """Extremes of each channel: `low` and `high` are float32 [C], channels lie along `axis`."""

    axis: int
    low: Array
    high: Array

    def merge(self, other: ChannelRange) -> None:
        if self.axis != other.axis or self.low.shape != other.low.shape:
            raise ValueError("the channels are not the same")
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)

    @property
    def whole(self) -> tuple[float, float]:
        """Extremes of all channels: inf and -inf where there are none."""
        return float(self.low.min(initial=np.inf)), float(self.high.max(initial=-np.inf))

    @property
    def largest(self) -> Array:
        """Largest absolute value of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


@dataclass
class Statistics:
    """Of one model (`model_hash` is its fingerprint) on one set of samples (`data_hash`): value name -> sketch."""

    model_hash: str = ""
    data_hash: str = ""
    samples: int = 0
    generated: bool = False
    """Some of the samples were made up."""
    tensors: dict[str, TensorSketch] = field(default_factory=dict)
    per_channel: dict[str, ChannelRange] = field(default_factory=dict)
    left_out: dict[int, list[str]] = field(default_factory=dict)
    """Samples, by number from 0, that are in no range, and the values that were NaN or infinite in them, in order."""

    def sketch(self, name: str) -> TensorSketch:
        """The sketch of a value, made at its first use."""
        return self.tensors.setdefault(name, TensorSketch())

    def require_finite(self, name: str, source: str | None = None) -> None:
        """EC0737 where all that was seen of a value is NaN or infinite, or was in samples left out: it has no range."""
        sketch = self.sketch(name)
        sketch.fold()
        if not sketch.empty or not (sketch.not_finite or self.left_out):
            return
        if len(self.left_out) == self.samples:
            what = f"all {self.samples} calibration samples drive the model to NaN or infinity: no range can be told"
            raise error(
                "EC0737", what, Location(source), "check how they are prepared: the scale, the mean, the layout"
            )
        what = f"{name} was NaN or infinite in all calibration samples: no range can be told"
        raise error("EC0737", what, Location(source), "check the samples and the model, or keep its node in float")

    def add_channels(self, name: str, seen: ChannelRange) -> None:
        if name in self.per_channel:
            self.per_channel[name].merge(seen)
        else:
            self.per_channel[name] = seen

    def add_data(self, samples: int, digest: str) -> None:
        """Note which samples these statistics are of; those of further passes are added to the hash in order."""
        self.samples += samples
        self.data_hash = hashlib.sha256((self.data_hash + digest).encode()).hexdigest() if self.data_hash else digest

    def merge(self, other: Statistics) -> None:
        """Take in what was seen of the same model on other samples. EC0719 where it is another model."""
        if self.model_hash != other.model_hash:
            raise error("EC0719", "the statistics are of another model")
        for name, sketch in other.tensors.items():
            self.sketch(name).merge(sketch)
        for name, seen in other.per_channel.items():
            self.add_channels(name, ChannelRange(seen.axis, seen.low, seen.high))
        self.left_out |= {self.samples + i: names for i, names in other.left_out.items()}
        self.add_data(other.samples, other.data_hash)
        self.generated |= other.generated

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write calibration.json. The file appears complete or not at all."""
        data = {
            "format": _FORMAT,
            "version": _VERSION,
            "model_hash": self.model_hash,
            "data_hash": self.data_hash,
            "samples": self.samples,
            "generated": self.generated,
            "tensors": {name: s.to_json() for name, s in self.tensors.items()},
            "per_channel": {
                name: {"axis": c.axis, "low": c.low.tolist(), "high": c.high.tolist()}
                for name, c in self.per_channel.items()
            },
            "left_out": {str(i): names for i, names in self.left_out.items()},
        }
        path = Path(path)
        tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            tmp.write_text(json.dumps(data, indent=1), encoding="utf-8")
            tmp.replace(path)
        finally:
            tmp.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Read calibration.json.

        Raises:
            EdgecError: EC0720 it cannot be read or is no such file.
        """
        where = Location(str(path))
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["format"] != _FORMAT or data["version"] != _VERSION:
                raise ValueError(f"format {data['format']} {data['version']}, not {_FORMAT} {_VERSION}")
            return cls(
                model_hash=str(data["model_hash"]),
                data_hash=str(data["data_hash"]),
                samples=int(data["samples"]),
                generated=bool(data["generated"]),
                tensors={str(name): TensorSketch.from_json(s) for name, s in data["tensors"].items()},
                per_channel={
                    str(name): ChannelRange(
                        int(c["axis"]), np.asarray(c["low"], np.float32), np.asarray(c["high"], np.float32)
                    )
                    for name, c in data["per_channel"].items()
                },
                left_out={int(i): [str(n) for n in names] for i, names in data.get("left_out", {}).items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as e:
            text = f"it has no {e}" if isinstance(e, KeyError) else " ".join(str(e).split())
            raise error("EC0720", f"cannot read the calibration: {text}", where, "calibrate again") from None


FEW_SAMPLES = 16
"""Fewer than this are always worth a warning."""

_STILL_MOVING = 0.1
"""Movement of a tensor's range over the last doubling of the samples that counts, as a part of its width."""

_SATURATED = 0.02
"""Part of a tensor's elements in the topmost bucket, not at zero, that counts as saturation."""


def review(
    stats: Statistics,
    notes: Diagnostics,
    *,
    where: Location | None = None,
    inputs: Collection[str] = (),
    fixed: Collection[str] = (),
) -> None:
    """Say what is wrong with the data or the model, as far as its tensors show: EC0722 to EC0727, EC0738.

    `inputs`: all inputs of the graph; an input that never changes is a fault of the data. `fixed`: values that samples have no
    part in (`fixed_values`): that those never change is none.
    """
    place = where or Location()
    if stats.generated:
        what = "the model was calibrated with made-up samples: its ranges have nothing to do with those of real inputs"
        notes.warn("EC0727", what, place, "give real inputs before anyone judges or ships the result")
    tensors = {name: s for name, s in stats.tensors.items() if not s.empty}
    for sketch in stats.tensors.values():
        sketch.fold()
    if stats.left_out:
        i, names = next(iter(stats.left_out.items()))
        numbers = _some([str(k) for k in stats.left_out], 8, "")
        one = len(stats.left_out) == 1
        what = f"sample{'' if one else 's'} {numbers} {'is' if one else 'are'} left out: "
        what += f"NaN or infinity in {_some(names)}{'' if one else f' (sample {i})'}"
        notes.warn("EC0722", what, place, "look at the sample's values and how it was prepared, or remove it")
    bad = [n for n, s in stats.tensors.items() if s.not_finite]
    if bad:
        what = f"{_some(bad)} took values that are NaN or infinite whatever the sample: their ranges are those of the others"
        notes.warn("EC0722", what, place, "run `edgec compare` on the model and a sample to see where they begin")
    tensors = {n: s for n, s in tensors.items() if n not in bad and n not in fixed}
    _differ(stats, tensors, inputs, notes, place)
    if _all_constant(tensors, inputs):
        tensors = {n: s for n, s in tensors.items() if n not in inputs}
    dead = [n for n, s in tensors.items() if s.low == s.high == 0]
    if dead:
        what = f"{_some(dead)} {_was(dead)} zero in all {stats.samples} samples: nothing is known of the range"
        notes.warn("EC0723", what, place, "add samples that exercise that part of the model")
    constant = [n for n, s in tensors.items() if s.constant and s.low != 0]
    if constant:
        what = f"{_some(constant)} had one value in all {stats.samples} samples"
        notes.note("EC0724", what, place, "if it is no constant of the model, add samples that differ")
    full = [n for n, s in tensors.items() if not s.constant and s.high > 0 and s.share_at(s.high) > _SATURATED]
    if full:
        what = f"more than {_SATURATED:.0%} of the values of {_some(full)} are at the upper limit"
        notes.note(
            "EC0725", what, place, "a clamp that is hit as often as this is either meant or a wrong normalisation"
        )
    _enough(stats, tensors, notes, place)


_ALIKE = 1e-6
"""Parts of a tensor's width by which the extremes of equal samples may differ: kernels add in no fixed order."""


def _differ(
    stats: Statistics, tensors: dict[str, TensorSketch], inputs: Collection[str], notes: Diagnostics, place: Location
) -> None:
    """EC0738: samples that teach what one would, or nothing."""
    hint = "calibrate with inputs like those in use: about 100 that differ"
    if _all_constant(tensors, inputs):
        told = ", ".join(f"{n} is {tensors[n].low:g}" for n in inputs)
        notes.warn("EC0738", f"the calibration samples hold one value: {told} in every element of all", place, hint)
        return
    seen = [s for s in tensors.values() if not s.constant]
    if len(seen) > 1 and all(s.samples > 1 and _same_ends(s) for s in seen):
        what = f"all {stats.samples} calibration samples are alike: every tensor has the same extremes in each"
        notes.warn("EC0738", what, place, hint)


def _all_constant(tensors: dict[str, TensorSketch], inputs: Collection[str]) -> bool:
    """Whether every input was observed and never changed. One of several that does not may be meant so: a size, a mask."""
    return bool(inputs) and all(n in tensors and tensors[n].constant for n in inputs)


def _same_ends(s: TensorSketch) -> bool:
    return max(s.low_mean - s.low, s.high - s.high_mean) <= _ALIKE * (s.high - s.low)


def _enough(stats: Statistics, tensors: dict[str, TensorSketch], notes: Diagnostics, place: Location) -> None:
    moving = [n for n, s in tensors.items() if last_growth(s) > _STILL_MOVING]
    few = 0 < stats.samples < FEW_SAMPLES
    if not few and len(moving) * 2 <= len(tensors):
        return
    known = (
        f"; the ranges of {len(moving)} of {len(tensors)} tensors still moved over the last half of them"
        if moving
        else ""
    )
    what = f"{stats.samples} calibration sample{'s are' if stats.samples != 1 else ' is'} too few to be sure of ranges"
    notes.warn("EC0726", what + known, place, "100 to 500 samples that differ are usual")


_OUTSIDE = 0.01
"""Part of a tensor's elements beyond the calibrated range that says: other data."""


def unlike(stats: Statistics, others: Statistics, notes: Diagnostics, *, where: Location | None = None) -> None:
    """Say whether other samples, those for verification, go beyond what calibration saw: EC0728.

    `others`: of the same graph. Of each tensor the range that holds 99.9 % of the calibrated elements is compared.
    """
    beyond: dict[str, float] = {}
    for name, seen in others.tensors.items():
        known = stats.tensors.get(name)
        if known is None or known.empty or seen.empty:
            continue
        low, high = known.bulk()
        outside = seen.share_outside(low, high)
        if outside > _OUTSIDE:
            beyond[name] = outside
    if beyond:
        worst = sorted(beyond, key=lambda n: -beyond[n])
        more = f", and of {len(worst) - 1} other tensors more than {_OUTSIDE:.0%}" if len(worst) > 1 else ""
        what = (
            f"the samples for verification are unlike those for calibration: {beyond[worst[0]]:.0%} of the values of "
            f"{worst[0]} lie outside of the range that held 99.9%{more}"
        )
        notes.warn("EC0728", what, where or Location(), "calibrate with inputs of the same source and preparation")


def last_growth(sketch: TensorSketch) -> float:
    """How far the ends of the range that holds 99.9 % have moved since about half of the samples, as a part of its width.

    0 for one sample. The extremes themselves are no measure: those of real data grow for ever.
    """
    before = [(low, high) for n, low, high in sketch.growth if n * 2 <= sketch.samples]
    if not before:
        return 0.0
    (was_low, was_high), (low, high) = before[-1], sketch.bulk()
    width = high - low
    return max(abs(low - was_low), abs(high - was_high)) / width if width > 0 else 0.0


def _some(names: list[str], most: int = 4, what: str = " tensors") -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more{what}" if len(names) > most else "")


def _was(names: list[str]) -> str:
    return "was" if len(names) == 1 else "were"
