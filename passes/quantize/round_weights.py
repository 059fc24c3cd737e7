"""Weights rounded, and biases set, for least error of each layer's output on calibration data.

Layer after layer: minimise ||(W x + b) - (W_q x_q + b_q)||^2 over storable W_q and b_q, where x is what the layer reads
in the float graph and x_q what it reads in the quantised one, its predecessors corrected already. W_q goes by the
second moments of x_q (moments.py), b_q then makes the means equal. Scales stay as they are. Memory depends on the model,
not on the data, but for what is alive between two layers; no gradients are needed: the problem is quadratic
(rounding.py). What AdaRound (Nagel et al. 2020) does, the way of GPTQ (Frantar et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph
from edgec.passes.quantize.correct_bias import CorrectBias, correct_biases
from edgec.passes.quantize.correction import (
    calibration_of,
    closeness,
    middle_mean,
    nothing_to_correct,
    staged_samples,
)
from edgec.passes.quantize.layers import Layer, find_layers
from edgec.passes.quantize.moments import Moments, column_means, columns
from edgec.passes.quantize.rounding import damped, round_rows
from edgec.passes.quantize.staged_run import StagedRun
from edgec.pipeline import Pass, PassContext, PassResult

if TYPE_CHECKING:
    from edgec.pipeline import Contract

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

_COLUMNS_PER_WEIGHT = 4
"""Columns of im2col taken for each weight of an output: what a least-squares problem of that size needs."""


@dataclass(frozen=True)
class RoundWeights(Pass):
    """`samples`: calibration samples used, at most; fewer where what is alive between layers would take more than
    `memory` MB. `columns`: least number of input patches a layer is fitted on. `damping`: part of the mean second moment
    added to each input's own, so that weights that see little data stay near their value. `sweeps` of coordinate descent.

    ConvTranspose, and layers whose stored weight other nodes read too, stay as they are.

    Raises:
        EdgecError: EC0730 nothing has been quantised; EC0731 no calibration data.
    """

    samples: int = 64
    columns: int = 2048
    damping: float = 0.01
    sweeps: int = 2
    memory: int = 1024

    name: ClassVar[str] = "round-weights"
    contract: ClassVar[Contract] = "lossy"
    needs_calibration: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        if nothing_to_correct(ctx):
            return PassResult(False)
        record, calibration = calibration_of(self.name, ctx)
        layers = [x for x in find_layers(graph, record) if x.node.op_type != "ConvTranspose"]
        samples, judge = staged_samples(record.reference, calibration, self.samples, self.memory)
        rival = graph.clone()
        quantized, floating = StagedRun(graph, samples), StagedRun(record.reference, samples)
        rounded = biases = 0
        for layer in layers:
            h, means = self._moments(layer, floating, quantized, len(samples), ctx.seed)
            if np.isfinite(h).all() and np.isfinite(layer.float_weight()).all():
                rounded += self._round(layer, h)
                biases += _set_bias(layer, *means, graph)
        if rounded and not self._worth_it(graph, rival, ctx, judge):
            return PassResult(True, {"biases": biases})
        return PassResult(rounded + biases > 0, {"rounded": rounded, "biases": biases})

    def _worth_it(self, graph: Graph, rival: Graph, ctx: PassContext, judge: Sequence[Arrays]) -> bool:
        """Whether the output got closer than corrected biases alone bring it, on samples that were not fitted to where there
        are enough; else `graph` becomes that: a layer that fits better need not make a network that does (measured).
        """
        record, calibration = calibration_of(self.name, ctx)
        count = min(self.samples, CorrectBias.samples)
        fit, _ = staged_samples(record.reference, calibration, count, self.memory)
        for either in (graph, rival):
            correct_biases(either, record, fit)
        scores = closeness(record.reference, (graph, rival), judge)
        if scores[0] >= scores[1]:
            return True
        what = f"weights are rounded to the nearest: fitted to layers they gave {scores[0]:.1f} dB, without that {scores[1]:.1f} dB"
        ctx.diagnostics.note("EC0733", what)
        graph.model = rival.model
        return False

    def _moments(
        self, layer: Layer, floating: StagedRun, quantized: StagedRun, samples: int, seed: int
    ) -> tuple[Array, tuple[Array, Array]]:
        """Second moments of what the layer reads; the means of that in the float and in the quantised graph, a sample.

        Means take every position: their errors would add up in the mean over a layer's positions, where those of weights
        do not.
        """
        groups, _, k = layer.rows(layer.float_weight()).shape
        positions = max(1, -(-max(self.columns, _COLUMNS_PER_WEIGHT * k) // samples))
        moments = Moments.empty(groups, k)
        means: list[tuple[Array, Array]] = []
        for i, (x, x_q) in enumerate(_inputs(layer, floating, quantized)):
            moments.add(columns(layer, x_q, positions, np.random.default_rng((seed, i))))
            means.append((column_means(layer, x), column_means(layer, x_q)))
        moments.close(central=layer.takes_bias)
        return moments.qq, (np.stack([m[0] for m in means]), np.stack([m[1] for m in means]))

    def _round(self, layer: Layer, h: Array) -> bool:
        w = layer.rows(layer.float_weight()).astype(np.float64)
        h = damped(h, self.damping)
        q = round_rows(w, layer.scale_rows(), layer.zero_rows(), layer.params.limits, h, sweeps=self.sweeps)
        return layer.store(layer.unrows(q))


def _set_bias(layer: Layer, mean: Array, mean_q: Array, graph: Graph) -> bool:
    """The bias that takes away the shift of the output; means [samples, groups, k] of what the layer reads."""
    if not layer.takes_bias:
        return False
    w = layer.rows(layer.float_weight()).astype(np.float64)
    w_q = (layer.rows(layer.integers()) - layer.zero_rows()) * layer.scale_rows()
    shift = np.einsum("gok,sgk->sgo", w, mean) - np.einsum("gok,sgk->sgo", w_q, mean_q)
    return layer.set_bias(layer.reference_bias() + middle_mean(shift.reshape(len(shift), -1)), graph)


def _inputs(layer: Layer, floating: StagedRun, quantized: StagedRun) -> Iterator[tuple[Array, Array]]:
    """What the layer reads in both graphs, sample after sample."""
    x, x_q = layer.x_reference, layer.x
    pairs = zip(floating.values([x], layer.reference), quantized.values([x_q], layer.node), strict=True)
    for a, b in pairs:
        yield a[x.name or ""], b[x_q.name or ""]
