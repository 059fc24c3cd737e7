"""What the model takes: its inputs with shapes and dtypes, and which axes of an input are an image's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgec.diagnostics import Location, error
from edgec.graph import Graph
from edgec.samples.preprocess import Layout

_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class InputSpec:
    """One input of the model. A dimension that is not fixed is None; `shape` None: not even the rank is known."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...] | None
    symbols: tuple[str | None, ...] = ()

    @property
    def batch(self) -> int:
        """Rows along axis 0 in one sample: the fixed number, or 1."""
        return (self.shape[0] or 1) if self.shape else 1

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype.name} of any shape"
        return f"{self.dtype.name}[{','.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class ImageAxes:
    """An input that is an image: where its channels are, how many, and how large it is (None: not fixed)."""

    layout: Layout
    channels: int | None
    height: int | None
    width: int | None

    @property
    def channel_axis(self) -> int:
        """Counted from the end, so it holds with and without a batch axis."""
        return -3 if self.layout == "NCHW" else -1


def input_specs(graph: Graph) -> list[InputSpec]:
    """The inputs a run must feed: those with a default (an initializer) are left out."""
    specs: list[InputSpec] = []
    for v in graph.inputs:
        if v.name is None or v.const_value is not None:
            continue
        if v.dtype is None:
            raise error("EC0705", f"input {v.name!r} of the model has no type", Location(graph.source))
        shape = None if v.shape is None else tuple(d if isinstance(d, int) else None for d in v.shape)
        symbols = () if v.shape is None else tuple(None if isinstance(d, int) else d.value for d in v.shape)
        specs.append(InputSpec(v.name, v.dtype.numpy(), shape, symbols))
    return specs


def image_axes(spec: InputSpec, layout: Layout | None = None) -> ImageAxes | None:
    """How `spec` holds an image, or None if it does not. `layout` settles what the shape leaves open."""
    if spec.shape is None or len(spec.shape) not in (3, 4):
        return None
    if len(spec.shape) == 3 and spec.shape[0] not in _CHANNELS and spec.shape[-1] not in _CHANNELS:
        return None
    a, b, c = spec.shape[-3:]
    if layout is None:
        likely = [(a, "NCHW"), (c, "NHWC")]
        found = [kind for n in ((1, 3), (4,)) for d, kind in likely if d in n]
        if not found:
            return None
        layout = "NCHW" if found[0] == "NCHW" else "NHWC"
    return ImageAxes("NCHW", a, b, c) if layout == "NCHW" else ImageAxes("NHWC", c, a, b)
