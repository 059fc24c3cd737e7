"""Inputs made up where no real ones are given: they show that graphs agree, never how accurate a model is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostics, Location, error
from edgec.graph import Graph
from edgec.samples.inputs import ImageAxes, InputSpec, image_axes, input_specs
from edgec.samples.preprocess import Preprocess
from edgec.samples.sample_set import Arrays, Samples

_IMAGE_SIDE = 64
"""Height and width of generated images where the model leaves them open: divides by the strides of usual networks."""


def generated_samples(
    graph: Graph,
    count: int = 4,
    seed: int = 0,
    *,
    dims: Mapping[str, int] | None = None,
    preprocess: Preprocess | None = None,
    diagnostics: Diagnostics | None = None,
) -> Samples:
    """`count` made-up samples, the same for the same seed.

    Floats are standard normal; image inputs (3 channels) smooth noise of mean 0 and deviation 1, 0..255 if integer;
    other integers 0..3; booleans fair. With `preprocess`, images are pixels of 0..255 that went through its mean and std. Open dimensions are 1, those of an image 64, or what `dims` says by their name;
    EC0715 notes it.

    Raises:
        EdgecError: EC0714 an input has no known rank, or takes something that is not a number.
    """
    diagnostics = diagnostics if diagnostics is not None else Diagnostics()
    specs = input_specs(graph)
    shapes = _shapes(specs, dims or {}, diagnostics, Location(graph.source))
    kinds: set[str] = set()
    for spec in specs:
        if spec.dtype.kind not in "fiub" and spec.dtype.name not in ("bfloat16",):
            message = f"edgec cannot make up values of type {spec.dtype.name} for input {spec.name!r}"
            raise error("EC0714", message, Location(graph.source), "give samples")
        kinds.add(_kind(spec))

    def make() -> Iterator[Arrays]:
        for i in range(count):
            rng = np.random.default_rng([seed, i])  # each sample has its own stream: take(n) keeps the first n
            yield {spec.name: _values(spec, shapes[spec.name], rng, preprocess) for spec in specs}

    text = f"{count} generated samples ({', '.join(sorted(kinds))}, seed {seed}): not real data"
    return Samples(make, describe=text, count=count, generated=True, diagnostics=diagnostics)


def _shapes(
    specs: list[InputSpec], dims: Mapping[str, int], diagnostics: Diagnostics, where: Location
) -> dict[str, tuple[int, ...]]:
    chosen: dict[str, int] = {}  # a name means one size in all inputs
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in specs:
        if spec.shape is None:
            message = f"input {spec.name!r} has no shape, not even a rank: edgec cannot make up values"
            raise error("EC0714", message, where, "give samples, or --input-shape")
        axes = image_axes(spec) if _kind(spec) == _SMOOTH else None
        shape: list[int] = []
        for i, d in enumerate(spec.shape):
            if d is None:
                symbol = spec.symbols[i] or f"{spec.name}[{i}]"
                spatial = axes is not None and i - len(spec.shape) in ((-2, -1) if axes.layout == "NCHW" else (-3, -2))
                d = chosen.setdefault(symbol, dims.get(symbol, _IMAGE_SIDE if spatial else 1))
            shape.append(d)
        shapes[spec.name] = tuple(shape)
    if chosen:
        text = ", ".join(f"{name} = {n}" for name, n in chosen.items())
        diagnostics.note(
            "EC0715", f"generated samples fix the open dimensions: {text}", where, "--input-shape sets them"
        )
    return shapes


_SMOOTH = "smooth random images"


def _kind(spec: InputSpec) -> str:
    axes = image_axes(spec)
    if spec.dtype.kind == "b":
        return "random booleans"
    if axes is not None and axes.channels == 3 and (spec.dtype.kind == "f" or spec.dtype == np.uint8):
        return _SMOOTH
    return "random normal" if spec.dtype.kind not in "iu" else "small random integers"


def _values(
    spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator, preprocess: Preprocess | None
) -> npt.NDArray[Any]:
    kind = _kind(spec)
    if preprocess is not None and (axes := _of_pixels(spec, shape, preprocess)) is not None:
        image = _smooth(shape, axes.layout == "NHWC", rng) * 50 + 128
        return preprocess.normalise(np.clip(np.rint(image), 0, 255), axes.channel_axis).astype(spec.dtype)
    if kind == _SMOOTH:
        axes = image_axes(spec)
        image = _smooth(shape, axes is not None and axes.layout == "NHWC", rng)
        return (np.clip(image * 50 + 128, 0, 255) if spec.dtype == np.uint8 else image).astype(spec.dtype)
    if kind == "random booleans":
        return rng.integers(0, 2, shape).astype(bool)
    if kind == "small random integers":
        return rng.integers(0, 4, shape).astype(spec.dtype)
    return np.asarray(rng.standard_normal(shape)).astype(spec.dtype)


def _of_pixels(spec: InputSpec, shape: tuple[int, ...], preprocess: Preprocess) -> ImageAxes | None:
    """The axes of an image of floats that mean and std fit."""
    axes = image_axes(spec, preprocess.layout) if spec.dtype.kind == "f" else None
    if axes is None or axes.channels not in (1, 3):
        return None
    fit = all(len(v) in (0, 1, shape[axes.channel_axis]) for v in (preprocess.mean, preprocess.std))
    return axes if fit else None


def _smooth(shape: tuple[int, ...], channels_last: bool, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Uniform noise at several scales, coarse ones stronger, as in photographs; mean 0, deviation 1 over each image."""
    *lead, a, b, c = shape
    channels, height, width = (c, a, b) if channels_last else (a, b, c)
    total: npt.NDArray[np.float64] = np.zeros((*lead, channels, height, width))
    for cells, weight in ((2, 4.0), (6, 2.0), (18, 1.0), (0, 0.5)):  # 0: one cell a pixel
        h, w = min(cells or height, height), min(cells or width, width)
        noise = rng.uniform(-1, 1, (*lead, channels, h, w))
        total += weight * _enlarge(_enlarge(noise, height, -2), width, -1)
    total -= total.mean((-3, -2, -1), keepdims=True)
    total /= total.std((-3, -2, -1), keepdims=True) + 1e-9
    return np.moveaxis(total, -3, -1) if channels_last else total


def _enlarge(x: npt.NDArray[np.float64], size: int, axis: int) -> npt.NDArray[np.float64]:
    """Linear interpolation along one axis."""
    n = x.shape[axis]
    at = np.linspace(0, n - 1, size)
    low = np.minimum(at.astype(int), max(n - 2, 0))
    high = np.minimum(low + 1, n - 1)
    t = (at - low).reshape([-1 if i == x.ndim + axis else 1 for i in range(x.ndim)])
    y: npt.NDArray[np.float64] = np.take(x, low, axis) * (1 - t) + np.take(x, high, axis) * t
    return y
