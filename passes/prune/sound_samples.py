"""Calibration inputs that a model computes something of: one NaN makes every sum over all of them NaN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostics, EdgecError, Location, error
from edgec.graph import Graph
from edgec.passes.quantize.correction import staged_samples
from edgec.runtime import Session
from edgec.samples import Samples

Arrays = dict[str, npt.NDArray[Any]]

_NAMED = 8


def spoilt(graph: Graph, samples: Iterable[Arrays]) -> list[int]:
    """Numbers of the samples that hold NaN, or make an output NaN; and of those with infinities where others have none
    (masks of transformers are infinite in every sample, on purpose)."""
    nan: list[bool] = []
    infinite: list[set[str]] = []
    session = Session(graph, optimise=True)
    for sample in samples:
        values = dict(_floats({**{f"input {k}": v for k, v in sample.items()}, **session.run(sample)}))
        nan.append(any(np.isnan(v).any() for v in values.values()))
        infinite.append({name for name, v in values.items() if np.isinf(v).any()})
    always = set.intersection(*infinite) if infinite else set()
    return [i for i, (n, names) in enumerate(zip(nan, infinite, strict=True)) if n or names - always]


def _floats(values: Mapping[str, npt.NDArray[Any]]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    return ((name, v) for name, v in values.items() if v.dtype.kind == "f")


def sound_samples(
    reference: Graph, calibration: Samples, count: int, megabytes: int, notes: Diagnostics
) -> tuple[list[Arrays], list[Arrays]]:
    """`staged_samples` without those that are spoilt, which is told.

    Raises:
        EdgecError: EC0731 there is not one sample; EC0737 all of them are spoilt.
    """
    fit, judge = staged_samples(reference, calibration, count, megabytes)
    fitted = _without(fit, spoilt(reference, fit), calibration, notes)
    judged = fitted if judge is fit else _without(judge, spoilt(reference, judge), calibration, notes)
    if not fitted and not judged:
        raise _nothing_left(calibration)
    return fitted or judged, judged or fitted


def without_spoilt(reference: Graph, calibration: Samples, limit: int, notes: Diagnostics) -> Samples:
    """The first `limit` of the calibration inputs without those that are spoilt, which is told.

    Raises:
        EdgecError: EC0737 all of them are spoilt.
    """
    bad = spoilt(reference, iter(calibration.take(limit)))
    if not bad:
        return calibration
    if len(bad) == min(limit, len(calibration)):
        raise _nothing_left(calibration)
    _tell([str(i) for i in bad], calibration, notes)
    return calibration.without(bad)


def _without(samples: list[Arrays], bad: Sequence[int], calibration: Samples, notes: Diagnostics) -> list[Arrays]:
    if not bad:
        return samples
    _tell([f"{len(bad)} of {len(samples)}"], calibration, notes)
    left_out = {*bad}
    return [s for i, s in enumerate(samples) if i not in left_out]


def _tell(which: Sequence[str], calibration: Samples, notes: Diagnostics) -> None:
    some = ", ".join(which[:_NAMED]) + (f" and {len(which) - _NAMED} more" if len(which) > _NAMED else "")
    what = f"calibration samples left out, {some}: they hold NaN or infinity, or the model makes it of them"
    found = Location(calibration.describe)
    if not any(d.code == "EC0722" and d.message == what for d in notes.items):
        notes.warn("EC0722", what, found, "look at the samples' values and how they were prepared, or remove them")


def _nothing_left(calibration: Samples) -> EdgecError:
    hint = "check how the samples are prepared: scale, mean, layout"
    return error("EC0737", f"all calibration samples hold NaN or infinity: {calibration.describe}", hint=hint)
