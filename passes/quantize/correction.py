"""What passes that correct a quantised graph start from: the record of quantising, calibration samples within memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.compare import compare
from edgec.diagnostics import error
from edgec.graph import Graph, ir, static_shape
from edgec.runtime import Session

if TYPE_CHECKING:
    from edgec.pipeline import PassContext
    from edgec.quantization.record import QuantRecord
    from edgec.samples import Samples

Arrays = dict[str, npt.NDArray[Any]]

_JUDGED = 16
"""Samples that a fit is judged on and was not made on."""


def nothing_to_correct(ctx: PassContext) -> bool:
    """Whether `quantize` ran and stored nothing: the model arrived quantised, or nothing in it can be."""
    record = ctx.quantization
    return record is not None and not record.weights and not record.activations


def calibration_of(name: str, ctx: PassContext) -> tuple[QuantRecord, Samples]:
    """The record and the calibration data of a context.

    Raises:
        EdgecError: EC0730 or EC0731, one of them is missing.
    """
    if ctx.quantization is None:
        hint = "put it after quantize; a model that arrives quantised has no float weights to compare with"
        raise error("EC0730", f"{name} corrects what quantize made, and nothing has been quantised", hint=hint)
    if ctx.calibration is None:
        hint = "--calib FOLDER_OF_IMAGES | data.npz | module:function: unlabelled inputs like those in use"
        raise error("EC0731", f"{name} needs calibration data", hint=hint)
    return ctx.quantization, ctx.calibration


def staged_samples(
    reference: Graph, calibration: Samples, count: int, megabytes: int
) -> tuple[list[Arrays], list[Arrays]]:
    """Samples to fit on, and others to judge the fit on, spread over the rest: data often comes sorted by class.

    To fit on: the first `count`, or as many as a staged run of the float graph and its quantised form keep within `megabytes`; one at
    least. To judge on: `_JUDGED` others; where there are not as many all serve for both, since the verdict of fewer is
    chance (FastestDet: four of 16 samples turned down what brings the others 0.4 dB closer). Samples with NaN are left out:
    one makes every sum NaN.

    Raises:
        EdgecError: EC0731 there is not one sample; EC0737 all of them hold NaN.
    """
    each = max(1, _peak(reference) * 5 // 4)  # the quantised graph keeps bytes where this one keeps floats
    count = max(1, min(count, megabytes * 2**20 // each))
    total = len(calibration)
    if not total:
        raise error("EC0731", f"there is not one calibration sample in {calibration.describe}")
    fit = list(range(min(count, total)))
    rest = sorted({*range(total)} - {*fit})
    judge = _spread(rest, _JUDGED) if len(rest) >= _JUDGED else fit
    wanted = {*fit, *judge}
    held = {i: s for i, s in enumerate(islice(calibration, max(wanted) + 1)) if i in wanted}
    sound = {i for i, s in held.items() if not any(a.dtype.kind == "f" and np.isnan(a).any() for a in s.values())}
    fitted, judged = ([held[i] for i in numbers if i in sound] for numbers in (fit, judge))
    if not sound:
        hint = "check how the samples are prepared: scale, mean, layout"
        raise error(
            "EC0737", f"all {len(held)} calibration samples that were read hold NaN: {calibration.describe}", hint=hint
        )
    return fitted or judged, judged or fitted


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """`count` of them at equal distances, or all."""
    n = len(indices)
    return [indices[(2 * i + 1) * n // (2 * count)] for i in range(count)] if count < n else list(indices)


def closeness(reference: Graph, graphs: Sequence[Graph], samples: Sequence[Arrays]) -> list[float]:
    """How close each graph comes to the float graph on these samples: the SQNR of its worst output in dB."""
    want = list(Session(reference).run_all(samples))
    return [compare(want, Session(g, optimise=True).run_all(samples)).worst_sqnr_db for g in graphs]


def _peak(graph: Graph) -> int:
    """Bytes of the values alive at one time, at most; values of unknown shape do not count."""
    nodes = list(graph.model.graph)
    last = {v: i for i, n in enumerate(nodes) for v in n.inputs if v is not None}
    alive = sum(_nbytes(v) for v in graph.inputs)
    peak = alive
    ends: dict[int, int] = {}
    for v, i in last.items():
        if v.producer() is not None or v.is_graph_input():
            ends[i] = ends.get(i, 0) + _nbytes(v)
    for i, node in enumerate(nodes):
        alive += sum(_nbytes(v) for v in node.outputs if v in last)
        peak = max(peak, alive)
        alive -= ends.get(i, 0)
    return peak


def _nbytes(value: ir.Value) -> int:
    shape = static_shape(value)
    if shape is None or value.dtype is None:
        return 0
    return int(np.prod(shape, dtype=np.int64)) * max(1, int(value.dtype.itemsize))


def middle_mean(figures: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean of the middle half of the samples (axis 0), for each channel by itself.

    A few inputs that reach far beyond the stored ranges lose much to clipping; a bias that makes up for them on average
    harms all others (mobilenet_v2: 15.0 dB with the mean of 64 images, 19.2 dB with their median).
    """
    cut = len(figures) // 4
    return np.asarray(np.sort(figures, axis=0)[cut : len(figures) - cut].mean(axis=0))


def certain_mean(figures: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`middle_mean`, made smaller the less sure it is: m^3 / (m^2 + v), v its variance (of a trimmed mean, by winsorised
    squares: Tukey and McLaughlin 1963).

    What samples contradict each other in is not known, and a sum over many such channels is noise.
    """
    mean = middle_mean(figures)
    n, cut = len(figures), len(figures) // 4
    if not cut:
        return mean
    ordered = np.sort(figures, axis=0)
    spread = np.clip(ordered, ordered[cut], ordered[n - 1 - cut]).var(axis=0, ddof=1)
    variance = spread / (n * (1 - 2 * cut / n) ** 2)
    square = mean**2
    sure: npt.NDArray[np.float64] = np.zeros_like(mean)
    np.divide(mean * square, square + variance, out=sure, where=square + variance > 0)
    return sure
