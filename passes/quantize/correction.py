"""What passes that correct a quantised graph start from: the record of quantising, calibration samples within memory."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import error
from edgec.graph import Graph, ir, static_shape

if TYPE_CHECKING:
    from edgec.pipeline import PassContext
    from edgec.quantization.record import QuantRecord
    from edgec.samples import Samples

Arrays = dict[str, npt.NDArray[Any]]


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


def staged_samples(reference: Graph, calibration: Samples, count: int, megabytes: int) -> list[Arrays]:
    """The first `count` samples, or as many as a staged run of the float graph and its quantised form keep within
    `megabytes`; one at least.

    Raises:
        EdgecError: EC0731 there is not one sample.
    """
    each = max(1, _peak(reference) * 5 // 4)  # the quantised graph keeps bytes where this one keeps floats
    samples = list(islice(iter(calibration), max(1, min(count, megabytes * 2**20 // each))))
    if not samples:
        raise error("EC0731", f"there is not one calibration sample in {calibration.describe}")
    return samples


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
