"""Biases that make the mean of each output channel equal to that of the float graph.

Rounding weights shifts means, and a shift is the one error that averaging over positions and adding up over channels
does not reduce; a bias takes it away for nothing. Empirical bias correction (Nagel et al. 2019, section 4.2.2, appendix
D): layer after layer, each with its predecessors corrected, in one run of both graphs in stages. What counts is the
shift in the middle half of the samples, not the mean of all (`middle_mean`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, ir
from edgec.passes.quantize.correction import calibration_of, middle_mean, nothing_to_correct, staged_samples
from edgec.passes.quantize.layers import Layer, find_layers
from edgec.passes.quantize.staged_run import StagedRun
from edgec.pipeline import Pass, PassContext, PassResult

if TYPE_CHECKING:
    from edgec.pipeline import Contract

Vector = npt.NDArray[np.float64]


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
        layers = [layer for layer in find_layers(graph, record) if layer.takes_bias]
        samples = staged_samples(record.reference, calibration, self.samples, self.memory)
        quantized, floating = StagedRun(graph, samples), StagedRun(record.reference, samples)
        corrected = 0
        for layer in layers:
            want = _means(floating, layer.reference, layer)
            shift = middle_mean(want - _means(quantized, layer.node, layer))
            if np.isfinite(shift).all():
                corrected += layer.set_bias(layer.bias() + shift, graph)
        return PassResult(corrected > 0, {"biases": corrected})


def _means(run: StagedRun, node: ir.Node, layer: Layer) -> Vector:
    """Mean of each output channel of a node over positions, [samples, channels]. The next stage runs the node again."""
    y = node.outputs[0]
    means = []
    for values in run.values([y], node):
        rows = np.moveaxis(values[y.name or ""], layer.channel_axis, 0).reshape(layer.channels, -1)
        means.append(rows.mean(axis=1, dtype=np.float64))
    return np.asarray(means)
