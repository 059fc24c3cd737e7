"""Mini-batches from unlabelled samples. Everything random is a function of the seed and the step: resuming needs no state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Location, error
from edgec.samples import Samples
from edgec.training.options import DistillOptions

Arrays = dict[str, npt.NDArray[Any]]


def read_samples(samples: Samples, limit: int) -> list[Arrays]:
    """The samples in memory, `limit` at most.

    Raises:
        EdgecError: EC0324 fewer than two: one is needed to train on, one to judge by.
    """
    held = list(islice(iter(samples), limit))
    if len(held) < 2:
        message = f"training needs at least 2 samples, there are {len(held)}"
        raise error("EC0324", message, Location(samples.describe), "some hundred are a good number")
    return held


def split(count: int, holdout: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the samples trained on, and of those judged by: at least one each."""
    order = np.random.default_rng([seed, 1]).permutation(count)
    held = min(count - 1, max(1, round(count * holdout)))
    return sorted(order[held:].tolist()), sorted(order[:held].tolist())


def batches_per_epoch(count: int, batch: int) -> int:
    """The last, smaller batch counts as one."""
    return -(-count // batch)


def batch_numbers(chosen: Sequence[int], batch: int, seed: int, step: int) -> list[int]:
    """The samples of batch `step`, counted from 0 over all epochs; each epoch goes through all of them in a new order."""
    epoch, within = divmod(step, batches_per_epoch(len(chosen), batch))
    order = np.random.default_rng([seed, 2, epoch]).permutation(len(chosen))
    return [chosen[i] for i in order[within * batch : (within + 1) * batch]]


def augmented(
    batch: Sequence[Arrays], options: DistillOptions, step: int, image_axes: dict[str, tuple[int, int]]
) -> list[Arrays]:
    """The samples, their images changed by chance as `options.augment` says; `image_axes`: (height, width) axes of the
    inputs that are images. Inputs of one sample are changed alike."""
    rng = np.random.default_rng([options.seed, 3, step])
    out = []
    for sample in batch:
        flip = rng.random() < 0.5 and "flip" in options.augment
        shift = rng.uniform(-0.125, 0.125, 2)
        part, at = _part(rng), rng.random(2)
        changed = dict(sample)
        for name, (h, w) in image_axes.items():
            array = sample[name]
            if "crop" in options.augment:
                for axis, share in ((h, shift[0]), (w, shift[1])):
                    rows = np.arange(array.shape[axis]) + round(share * array.shape[axis])
                    array = np.take(array, np.clip(rows, 0, array.shape[axis] - 1), axis=axis)
            if "zoom" in options.augment:
                for axis, share, where in ((h, part[0], at[0]), (w, part[1], at[1])):
                    array = _enlarged(array, axis, share, where)
            changed[name] = np.ascontiguousarray(np.flip(array, w) if flip else array)
        out.append(changed)
    return _blended(out, image_axes, rng) if "mix" in options.augment else out


def _part(rng: np.random.Generator) -> tuple[float, float]:
    """Shares of height and width: a quarter of the area to all of it, up to a third longer than wide."""
    area, ratio = rng.uniform(0.25, 1.0), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    return min(1.0, float(np.sqrt(area * ratio))), min(1.0, float(np.sqrt(area / ratio)))


def _enlarged(array: npt.NDArray[Any], axis: int, share: float, where: float) -> npt.NDArray[Any]:
    """A part of an axis, `share` of it from `where` (0: first, 1: last) on, as long as all of it was: bilinear."""
    n = array.shape[axis]
    at = np.clip((np.arange(n) + 0.5) * share - 0.5 + where * (1 - share) * n, 0, n - 1)
    low = np.floor(at).astype(np.int64)
    shape = [1] * array.ndim
    shape[axis] = n
    weight = (at - low).astype(array.dtype).reshape(shape)
    first, second = np.take(array, low, axis=axis), np.take(array, np.minimum(low + 1, n - 1), axis=axis)
    blended: npt.NDArray[Any] = first + (second - first) * weight
    return blended


def _blended(batch: list[Arrays], image_axes: dict[str, tuple[int, int]], rng: np.random.Generator) -> list[Arrays]:
    """Every second image, by chance, blended with another of the batch (mixup, arXiv:1710.09412)."""
    others, shares, chosen = rng.permutation(len(batch)), rng.random(len(batch)), rng.random(len(batch)) < 0.5
    out = []
    for sample, other, share, blend in zip(batch, others, shares, chosen, strict=True):
        changed = dict(sample)
        for name in image_axes if blend and batch[other].keys() == sample.keys() else ():
            theirs = batch[other][name]
            if theirs.shape == sample[name].shape:
                changed[name] = sample[name] + (theirs - sample[name]) * sample[name].dtype.type(share)
        out.append(changed)
    return out


def image_axes(sample: Arrays) -> dict[str, tuple[int, int]]:
    """Inputs that look like images: 4-D floats, channels (1, 3 or 4) second or last -> the axes of height and width."""
    found = {}
    for name, a in sample.items():
        if a.ndim == 4 and a.dtype.kind == "f":
            if a.shape[1] in (1, 3, 4):
                found[name] = (2, 3)
            elif a.shape[3] in (1, 3, 4):
                found[name] = (1, 2)
    return found


def joined(batch: Sequence[Arrays]) -> Arrays:
    """One feed of several samples: inputs along their first axis. Inputs without axes are the first sample's."""
    return {n: np.concatenate([s[n] for s in batch]) if batch[0][n].ndim else batch[0][n] for n in batch[0]}


def chunks(items: Sequence[int], size: int) -> Iterator[list[int]]:
    """`items`, `size` at a time."""
    for i in range(0, len(items), size):
        yield list(items[i : i + size])
