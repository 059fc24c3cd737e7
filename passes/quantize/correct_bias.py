"""Biases that make the mean of each output channel equal to that of the float graph, where its readers see it.

Rounding weights shifts means, and a shift is the one error that averaging over positions and adding up over channels
does not reduce; a bias takes it away for nothing. Empirical bias correction (Nagel et al. 2019, section 4.2.2, appendix
D): layer after layer, each with its predecessors corrected, in one run of both graphs in stages. Two things are added,
without which it costs more than it brings on some data (mobilenet_v2 on 24 photos: 18.8 dB became 15.3 dB, now 19.8):

- Only positions count where the float layer lies within the limits of its activation. Far below a ReLU's zero errors are
  large, clipped ranges make them one-sided, and nobody reads them; a mean over all positions moves the others by them.
- What counts is the shift in the middle half of the samples, less what is not sure of it (`certain_mean`).

The result is judged on samples it was not fitted to, and given up where biases as they were come
clearly closer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph
from edgec.passes.quantize.correction import (
    calibration_of,
    certain_mean,
    closeness,
    nothing_to_correct,
    staged_samples,
)
from edgec.passes.quantize.layers import Layer, find_layers
from edgec.passes.quantize.reader_limits import limits_of
from edgec.passes.quantize.staged_run import StagedRun
from edgec.pipeline import Pass, PassContext, PassResult

if TYPE_CHECKING:
    from edgec.pipeline import Contract
    from edgec.quantization.record import QuantRecord

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Vector = npt.NDArray[np.float64]

CHANCE_DB = 1.0
"""What 16 samples may say against a correction by chance (keyword spotting: -0.8 dB on them, +0.6 dB on 900)."""


@dataclass(frozen=True)
class CorrectBias(Pass):
    """`samples`: calibration samples used, at most; fewer where what is alive between layers would take more than
    `memory` MB. int32 biases are stored anew; a Conv or Gemm without a bias gets one; a MatMul has no room for one.

    Raises:
        EdgecError: EC0730 nothing has been quantised; EC0731 no calibration data.
    """

    samples: int = 32
    memory: int = 1024

    name: ClassVar[str] = "correct-bias"
    contract: ClassVar[Contract] = "lossy"
    needs_calibration: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        if nothing_to_correct(ctx):
            return PassResult(False)
        record, calibration = calibration_of(self.name, ctx)
        fit, judge = staged_samples(record.reference, calibration, self.samples, self.memory)
        before = graph.clone()
        corrected = correct_biases(graph, record, fit)
        if not corrected:
            return PassResult(False)
        now, was = closeness(record.reference, (graph, before), judge)
        if now >= was - CHANCE_DB:
            return PassResult(True, {"biases": corrected})
        what = f"biases stay as they were: corrected they gave {now:.1f} dB, without that {was:.1f} dB"
        ctx.diagnostics.note("EC0734", what)
        graph.model = before.model
        return PassResult(False)


def correct_biases(graph: Graph, record: QuantRecord, samples: Sequence[Arrays]) -> int:
    """Correct the biases of `graph` by these samples, whatever comes of it. Returns how many changed."""
    quantized, floating = StagedRun(graph, samples), StagedRun(record.reference, samples)
    corrected = 0
    for layer in find_layers(graph, record):
        if layer.takes_bias:
            shift = certain_mean(_shifts(layer, floating, quantized))
            if np.isfinite(shift).all():
                corrected += layer.set_bias(layer.bias() + shift, graph)
    return corrected


def _shifts(layer: Layer, floating: StagedRun, quantized: StagedRun) -> Vector:
    """How far each output channel lies below the float one in the mean over positions that count, [samples, channels]; 0
    where none counts. The next stage runs the node again.
    """
    y, y_q = layer.reference.outputs[0], layer.node.outputs[0]
    low, high = limits_of(y, lambda _: None, 1.0) or (-np.inf, np.inf)
    pairs = zip(floating.values([y], layer.reference), quantized.values([y_q], layer.node), strict=True)
    shifts = []
    for a, b in pairs:
        want, got = _channels(layer, a[y.name or ""]), _channels(layer, b[y_q.name or ""])
        seen = (want > low) & (want < high)
        lost = np.where(seen, want - got, 0).sum(axis=1, dtype=np.float64)
        shifts.append(lost / np.maximum(seen.sum(axis=1), 1))
    return np.asarray(shifts)


def _channels(layer: Layer, y: Array) -> Array:
    return np.moveaxis(y, layer.channel_axis, 0).reshape(layer.channels, -1)
