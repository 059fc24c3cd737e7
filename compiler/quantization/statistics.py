"""Statistics: what calibration saw of a model's tensors. Saved as calibration.json, continued and merged."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Location, error
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
    def largest(self) -> Array:
        """Largest absolute value of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


@dataclass
class Statistics:
    """Of one model (`model_hash` is its fingerprint) on one set of samples (`data_hash`): value name -> sketch."""

    model_hash: str = ""
    data_hash: str = ""
    samples: int = 0
    tensors: dict[str, TensorSketch] = field(default_factory=dict)
    per_channel: dict[str, ChannelRange] = field(default_factory=dict)

    def sketch(self, name: str) -> TensorSketch:
        """The sketch of a value, made at its first use."""
        return self.tensors.setdefault(name, TensorSketch())

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
        self.add_data(other.samples, other.data_hash)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write calibration.json. The file appears complete or not at all."""
        data = {
            "format": _FORMAT,
            "version": _VERSION,
            "model_hash": self.model_hash,
            "data_hash": self.data_hash,
            "samples": self.samples,
            "tensors": {name: s.to_json() for name, s in self.tensors.items()},
            "per_channel": {
                name: {"axis": c.axis, "low": c.low.tolist(), "high": c.high.tolist()}
                for name, c in self.per_channel.items()
            },
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
                tensors={str(name): TensorSketch.from_json(s) for name, s in data["tensors"].items()},
                per_channel={
                    str(name): ChannelRange(int(c["axis"]), np.float32(c["low"]), np.float32(c["high"]))
                    for name, c in data["per_channel"].items()
                },
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as e:
            text = f"it has no {e}" if isinstance(e, KeyError) else " ".join(str(e).split())
            raise error("EC0720", f"cannot read the calibration: {text}", where, "calibrate again") from None
