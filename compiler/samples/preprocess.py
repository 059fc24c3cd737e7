"""Preprocess: from pixels to what the model takes. Geometry, then colour order, then `(x / scale - mean) / std`.

Two conventions, one formula (x is 0..255):
    torchvision, timm     scale: 255, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]
    RKNN, MMDetection     scale: 1 (the default), mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375]
`mean_values` and `std_values` give the second for either: what rknn-toolkit2's `config()` takes.
mean and std follow the order of the channels the model takes: with `colour: BGR`, blue first.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostic, EdgecError, Severity, did_you_mean

Mode = Literal["stretch", "crop", "letterbox"]
Layout = Literal["NCHW", "NHWC"]
Colour = Literal["RGB", "BGR", "GRAY"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "lanczos"]


@dataclass(frozen=True)
class Preprocess:
    """How images and integer arrays become the floats a model takes.

    Sizes are (height, width). The final size is the model's own where it is fixed, else `crop`, else `resize`.
    `mode` stretch: resized to the final size. crop: the short side resized to `resize` (or just large enough), then
    the centre cut out. letterbox: resized to fit inside, centred, the rest filled with `pad` (0..255).
    `layout`, `colour`: of the model's input; by default read off its shape (1 channel: GRAY, 3: RGB).
    `float_arrays`: floating-point arrays count as preprocessed already unless this is set.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float = 1.0
    resize: int | tuple[int, int] | None = None
    mode: Mode | None = None
    crop: tuple[int, int] | None = None
    layout: Layout | None = None
    colour: Colour | None = None
    interpolation: Interpolation = "bilinear"
    pad: float = 114.0
    float_arrays: bool = False

    def __post_init__(self) -> None:
        problems = [text for text in self._problems() if text]
        if problems:
            raise EdgecError(*(Diagnostic("EC0707", Severity.ERROR, f"preprocessing: {text}") for text in problems))

    def _problems(self) -> list[str]:
        sizes = [s for s in (self.resize, self.crop) if s is not None]
        flat = [n for s in sizes for n in ((s,) if isinstance(s, int) else s)]
        return [
            "" if all(np.isfinite((*self.mean, *self.std, self.scale))) else "mean, std and scale must be finite",
            "" if all(s > 0 for s in self.std) else f"std must be positive, not {list(self.std)}",
            "" if self.scale > 0 else f"scale must be positive, not {self.scale:g}",
            "" if all(0 < n <= 32768 for n in flat) else f"sizes must be 1..32768, not {flat}",
            ""
            if not (self.mode in ("stretch", "letterbox") and isinstance(self.resize, int))
            else f"mode {self.mode} takes resize as height x width; one number is the short side of mode crop",
        ]

    @property
    def effective_mode(self) -> Mode:
        """`mode`, or what `resize` and `crop` imply: crop where either asks for it, else stretch."""
        if self.mode is not None:
            return self.mode
        return "crop" if isinstance(self.resize, int) or self.crop is not None else "stretch"

    @property
    def normalises(self) -> bool:
        """Whether numbers change at all."""
        return bool(self.mean or self.std) or self.scale != 1.0

    @property
    def mean_values(self) -> tuple[float, ...]:
        """mean in 0..255 units: (x - mean_values) / std_values equals (x / scale - mean) / std."""
        return tuple(m * self.scale for m in self.mean)

    @property
    def std_values(self) -> tuple[float, ...]:
        """std in 0..255 units; where only `scale` is given, the scale."""
        return tuple(s * self.scale for s in self.std) or ((self.scale,) if self.scale != 1.0 else ())

    def suspicious(self) -> str | None:
        """A mistake people make: mean and std of 0..1 pixels without `scale: 255`."""
        small = self.mean or self.std
        if small and self.scale == 1.0 and all(0 <= m <= 1 for m in self.mean) and all(s <= 1 for s in self.std):
            return "mean and std look like those of pixels in 0..1, but scale is 1, so pixels are 0..255"
        return None

    def normalise(self, x: npt.NDArray[Any], channel_axis: int | None) -> npt.NDArray[np.float32]:
        """(x / scale - mean) / std in float32; mean and std run along `channel_axis` (None: they must be scalars)."""
        y = x.astype(np.float32)
        if self.scale != 1.0:
            y /= np.float32(self.scale)
        if self.mean:
            y -= self._along(self.mean, y, channel_axis, "mean")
        if self.std:
            y /= self._along(self.std, y, channel_axis, "std")
        return y

    def _along(
        self, values: tuple[float, ...], y: npt.NDArray[Any], axis: int | None, what: str
    ) -> npt.NDArray[np.float32]:
        array = np.asarray(values, np.float32)
        if array.size == 1:
            return array.reshape(())
        if axis is None or y.shape[axis] != array.size:
            channels = "no channel axis" if axis is None else f"{y.shape[axis]} channels"
            message = f"preprocessing: {what} has {array.size} values, the input has {channels}"
            raise EdgecError(Diagnostic("EC0707", Severity.ERROR, message, hint="give one value, or one a channel"))
        shape = [1] * y.ndim
        shape[axis] = array.size
        return array.reshape(shape)

    def options(self) -> dict[str, Any]:
        """The fields that differ from their defaults: what a report and a manifest keep; `parse` reads it back."""
        pairs = ((f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self))
        return {name: list(v) if isinstance(v, tuple) else v for name, v, default in pairs if v != default}

    def describe(self) -> str:
        """One line for the report."""
        steps = [f"{self.effective_mode} ({self.interpolation})"]
        if self.resize is not None:
            size = f"short side {self.resize}" if isinstance(self.resize, int) else "x".join(map(str, self.resize))
            steps.append(f"resize {size}")
        if self.crop is not None:
            steps.append(f"crop {self.crop[0]}x{self.crop[1]}")
        steps += [text for text in (self.colour, self.layout) if text]
        x = "x" if self.scale == 1.0 else f"x / {self.scale:g}"
        if self.mean:
            x = f"{x} - {_numbers(self.mean)}"
        if self.std:
            x = f"({x}) / {_numbers(self.std)}"
        return ", ".join([*steps, x if self.normalises else "pixels 0..255 as they are"])

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Preprocess:
        """From what the command line (all strings) or YAML (lists and numbers) gives.

        "0.485,0.456,0.406", "[0.485, 0.456]" and [0.485, 0.456] are the same list; "224x320" and [224, 320] the same
        height and width; "256", "short 256" and 256 the same short side. `color` is `colour`.

        Raises:
            EdgecError: EC0707, one for every unknown option and unreadable value.
        """
        errors: list[Diagnostic] = []
        values: dict[str, Any] = {}
        for key, value in options.items():
            name = key.replace("-", "_")
            name = "colour" if name == "color" else name
            if name not in _READERS:
                hint = did_you_mean(name, list(_READERS), f"its options: {', '.join(_READERS)}")
                errors.append(Diagnostic("EC0707", Severity.ERROR, f"preprocessing has no option {key!r}", hint=hint))
                continue
            if value is None:
                continue
            try:
                values[name] = _READERS[name](value)
            except (ValueError, TypeError) as e:
                errors.append(Diagnostic("EC0707", Severity.ERROR, f"preprocessing, option {key}: {e}"))
        if errors:
            raise EdgecError(*errors)
        return cls(**values)


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"[{', '.join(f'{v:g}' for v in values)}]"


def _list(value: Any) -> list[Any]:
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            value = json.loads(text)
        else:
            return [part for part in text.replace(",", " ").split() if part]
    if isinstance(value, (int, float)):
        return [value]
    return list(value)


def _floats(value: Any) -> tuple[float, ...]:
    if isinstance(value, bool):
        raise TypeError(f"numbers are expected, not {value}")
    try:
        out = tuple(float(v) for v in _list(value))
    except (ValueError, TypeError):
        raise ValueError(f"numbers are expected, not {value!r}") from None
    if not out:
        raise ValueError("numbers are expected, not an empty list")
    return out


def _float(value: Any) -> float:
    numbers = _floats(value)
    if len(numbers) != 1:
        raise ValueError(f"one number is expected, not {value!r}")
    return numbers[0]


def _size(value: Any) -> int | tuple[int, int]:
    if isinstance(value, str):
        value = value.lower().replace("short", " ").replace("side", " ").replace("x", " ").strip()
    try:
        numbers = [int(v) for v in _list(value)]
    except (ValueError, TypeError):
        numbers = []
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    raise ValueError(f"height x width, or one number for the short side, is expected, not {value!r}")


def _pair(value: Any) -> tuple[int, int]:
    size = _size(value)
    return (size, size) if isinstance(size, int) else size


def _word(choices: Any, value: Any) -> str:
    for choice in get_args(choices):
        if str(value).lower() == choice.lower():
            return str(choice)
    raise ValueError(f"one of {', '.join(get_args(choices))} is expected, not {value!r}")


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "yes", "1", "false", "no", "0"):
        return str(value).lower() in ("true", "yes", "1")
    raise ValueError(f"true or false is expected, not {value!r}")


_READERS: dict[str, Any] = {
    "mean": _floats,
    "std": _floats,
    "scale": _float,
    "resize": _size,
    "mode": lambda v: _word(Mode, v),
    "crop": _pair,
    "layout": lambda v: _word(Layout, v),
    "colour": lambda v: _word(Colour, {"gray": "GRAY", "grey": "GRAY"}.get(str(v).lower(), v)),
    "interpolation": lambda v: _word(Interpolation, {"area": "box"}.get(str(v).lower(), v)),
    "pad": _float,
    "float_arrays": _bool,
}
