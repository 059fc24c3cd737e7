"""Fitting stored arrays to a model's inputs: how many samples an array holds, and how each becomes one input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import error
from edgec.samples.images import axes_for_images, check_integer_input, image_to_input
from edgec.samples.inputs import InputSpec, image_axes
from edgec.samples.preprocess import Preprocess

Array = npt.NDArray[Any]
Dims = tuple[int | None, ...]


@dataclass(frozen=True)
class Plan:
    """`count` samples, each of `rows` rows along axis 0 (0: the whole array is one sample), made by `convert`."""

    count: int
    rows: int
    convert: Callable[[Array], Array]
    notes: tuple[str, ...] = ()


class Misfit(Exception):
    """Why an array does not fit an input."""


def plan(spec: InputSpec, shape: Sequence[int], dtype: np.dtype[Any], pre: Preprocess | None) -> Plan:
    """How an array of `shape` and `dtype` feeds `spec`.

    In this order: the input's own shape; batches of it along axis 0; samples stacked on a new axis 0; one sample
    without its batch axis; images (uint8, channels last, any size) for an image input; samples that lack only axes of
    size 1, or are flat.

    Raises:
        Misfit: none of these.
    """
    shape = tuple(shape)
    if spec.shape is None:
        return _typed(spec, Plan(1, 0, lambda a: a), dtype, pre)
    if 0 in shape:
        raise Misfit(f"it is empty: {_text(shape)}")
    found = _direct(spec.shape, shape)
    if found is not None:
        return _typed(spec, found, dtype, pre)
    found = _images(spec, shape, dtype, pre)
    if found is not None:
        return found
    found = _reshaped(spec.shape, shape)
    if found is not None:
        return _typed(spec, found, dtype, pre)
    raise Misfit(f"its shape is {_text(shape)}, the input is {spec}")


def _direct(want: Dims, have: tuple[int, ...]) -> Plan | None:
    rank = len(want)
    if len(have) == rank and _fits(want, have) and (not rank or want[0] is not None or have[0] == 1 or rank == 1):
        return Plan(1, 0, lambda a: a)
    if len(have) == rank and rank > 0 and _fits(want[1:], have[1:]):
        rows = want[0] or 1
        if have[0] % rows:
            raise Misfit(f"its {have[0]} rows do not make whole batches of {rows}")
        return Plan(have[0] // rows, rows, lambda a: a)
    if len(have) == rank + 1 and _fits(want, have[1:]):
        return Plan(have[0], 1, lambda a: a[0])
    if rank and len(have) == rank - 1 and want[0] in (1, None) and _fits(want[1:], have):
        return Plan(1, 0, lambda a: a[None])
    return None


def _fits(want: Dims, have: tuple[int, ...]) -> bool:
    return len(want) == len(have) and all(w is None or w == h for w, h in zip(want, have, strict=True))


def _images(spec: InputSpec, shape: tuple[int, ...], dtype: np.dtype[Any], pre: Preprocess | None) -> Plan | None:
    """uint8 arrays HWC or a stack of them, for an image input: the same path as image files."""
    pre = pre or Preprocess()
    axes = image_axes(spec, pre.layout)
    if dtype != np.uint8 or axes is None or axes.channels not in (1, 3) or spec.batch != 1:
        return None
    if len(shape) not in (3, 4) or shape[-1] != axes.channels:
        return None
    settled = axes_for_images(spec, pre, "<array>")

    def convert(a: Array) -> Array:
        from PIL import Image

        pixels = np.ascontiguousarray(a[0] if a.ndim == 4 else a)
        return image_to_input(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), spec, settled, pre)

    notes = [f"channels-last uint8 arrays are taken as {'gray' if axes.channels == 1 else 'RGB'} images"]
    if (settled.height, settled.width) != shape[-3:-1]:
        notes.append(f"resized from {_text(shape[-3:-1])} to {settled.height}x{settled.width}")
    if not pre.normalises and spec.dtype.kind == "f":
        notes.append("integers 0..255 are fed as floats without normalisation")
    return Plan(shape[0] if len(shape) == 4 else 1, 1 if len(shape) == 4 else 0, convert, tuple(notes))


def _reshaped(want: Dims, have: tuple[int, ...]) -> Plan | None:
    """Samples along axis 0 that are flat, or lack axes of size 1."""
    if not want or want[0] not in (1, None) or None in want[1:] or not have:
        return None
    tail = tuple(d for d in want[1:] if d is not None)
    flat, bare = (math.prod(tail),), _squeeze(tail)

    def reshape(a: Array) -> Array:
        return a.reshape(1, *tail)

    note = f"each sample is reshaped to {_text((1, *tail))}"
    if len(have) > 1 and (have[1:] == flat or _squeeze(have[1:]) == bare):
        return Plan(have[0], 1, reshape, (note,))
    if have == flat or _squeeze(have) == bare:
        return Plan(1, 0, reshape, (note,))
    return None


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d for d in shape if d != 1)


def _text(shape: Sequence[int | None]) -> str:
    return "x".join("?" if d is None else str(d) for d in shape) or "a single number"


def _typed(spec: InputSpec, found: Plan, dtype: np.dtype[Any], pre: Preprocess | None) -> Plan:
    """Add the conversion to the input's dtype: only those that lose nothing but float precision."""
    shaped = found.convert
    cast, notes = _cast(spec, dtype, pre)
    return replace(found, convert=lambda a: np.asarray(cast(shaped(a)), order="C"), notes=(*found.notes, *notes))


def _cast(spec: InputSpec, have: np.dtype[Any], pre: Preprocess | None) -> tuple[Callable[[Array], Array], list[str]]:
    want = spec.dtype
    have_float, want_float = _is_float(have), _is_float(want)
    axes = image_axes(spec, pre.layout if pre else None)
    axis = axes.channel_axis if axes is not None else None
    if (
        want_float
        and pre is not None
        and pre.normalises
        and have.kind in "iufb"
        and (not have_float or pre.float_arrays)
    ):
        return lambda a: pre.normalise(a, axis).astype(want), []
    if have == want:
        left_out = want_float and pre is not None and pre.normalises
        return lambda a: a, ["floating-point arrays are taken as preprocessed already (float_arrays: false)"] * left_out
    if want_float and have.kind in "iub":
        return lambda a: a.astype(want), [f"{have.name} is fed as {want.name} without normalisation"]
    if want_float and have_float:
        return lambda a: a.astype(want), [
            f"{have.name} is converted to {want.name}"
        ] if want.itemsize < have.itemsize else []
    if want.kind in "iu" and have.kind in "iub":
        return lambda a: _integers(spec, a), []
    if want.kind == "b" and have.kind in "iu":
        return lambda a: _booleans(spec, a), []
    raise Misfit(f"it holds {have.name}, which does not convert safely to the {want.name} of the input")


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name in ("bfloat16", "float16")


def _integers(spec: InputSpec, a: Array) -> Array:
    check_integer_input(spec, a, Preprocess())
    return a.astype(spec.dtype)


def _booleans(spec: InputSpec, a: Array) -> Array:
    if a.size and not np.isin(a, (0, 1)).all():
        raise error("EC0706", f"input {spec.name!r} takes booleans, the data holds {a.min()}..{a.max()}")
    return a.astype(bool)
