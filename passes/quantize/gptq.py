"""GPTQ: 4- and 8-bit weights of matrix products rounded for least output error (Frantar et al. 2023).

`round-weights` does the same arithmetic for every quantised layer; this is the form for weight-only graphs, whose blocks
have scales of their own: they are chosen first, by the error they make where the input is large (as in AWQ, Lin et al.
2024, inputs of large second moment count more), then the weights are rounded, column by column, each making good what
those before it lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph
from edgec.passes.quantize.correction import calibration_of, nothing_to_correct, staged_samples
from edgec.passes.quantize.layers import Layer, find_layers
from edgec.passes.quantize.moments import Moments, columns
from edgec.passes.quantize.rounding import damped, output_error, round_rows
from edgec.passes.quantize.staged_run import StagedRun
from edgec.passes.quantize.weight_ranges import weight_params
from edgec.pipeline import Pass, PassContext, PassResult

if TYPE_CHECKING:
    from edgec.pipeline import Contract

Array = npt.NDArray[Any]

_COLUMNS_PER_WEIGHT = 4


@dataclass(frozen=True)
class Gptq(Pass):
    """MatMul and Gemm whose weights are stored in 8 bits or fewer. Options as those of `round-weights`; `scales`: choose
    them anew too. A layer is left as it was where that is no better on the calibration data.

    Raises:
        EdgecError: EC0730 nothing has been quantised; EC0731 no calibration data.
    """

    samples: int = 64
    columns: int = 2048
    damping: float = 0.01
    sweeps: int = 2
    memory: int = 1024
    scales: bool = True

    name: ClassVar[str] = "gptq"
    contract: ClassVar[Contract] = "lossy"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        if nothing_to_correct(ctx):
            return PassResult(False)
        record, calibration = calibration_of(self.name, ctx)
        layers = [x for x in find_layers(graph, record) if x.node.op_type in ("MatMul", "Gemm")]
        layers = [x for x in layers if x.params.dtype in ("int4", "uint4", "int8", "uint8")]
        if not layers:
            return PassResult(False)
        samples, _ = staged_samples(record.reference, calibration, self.samples, self.memory)
        run = StagedRun(graph, samples)
        rounded = 0
        for layer in layers:
            h = self._moments(layer, run, len(samples), ctx.seed)
            if np.isfinite(h).all() and np.isfinite(layer.float_weight()).all():
                rounded += self._round(layer, damped(h, self.damping), record.scheme.weights.symmetric)
        return PassResult(rounded > 0, {"rounded": rounded})

    def _moments(self, layer: Layer, run: StagedRun, samples: int, seed: int) -> Array:
        """The second moments of what the layer reads in the quantised graph; not central: means count too."""
        k = layer.rows(layer.float_weight()).shape[2]
        positions = max(1, -(-max(self.columns, _COLUMNS_PER_WEIGHT * k) // samples))
        moments = Moments.empty(1, k)
        x = layer.x
        for i, values in enumerate(run.values([x], layer.node)):
            moments.add(columns(layer, values[x.name or ""], positions, np.random.default_rng((seed, i))))
        return moments.second()

    def _round(self, layer: Layer, h: Array, symmetric: bool) -> bool:
        weight = layer.float_weight()
        w = layer.rows(weight).astype(np.float64)
        before = output_error(w, layer.rows(layer.integers()), layer.scale_rows(), layer.zero_rows(), h).sum()
        old = layer.params
        if self.scales and layer.owns_scale:
            kind = layer.kind(symmetric)
            importance = layer.unrows(np.broadcast_to(np.diagonal(h, axis1=1, axis2=2)[:, None, :], w.shape))
            new = weight_params(weight, kind, old.axis, method="mse", importance=importance)
            layer.set_params(new)
        q = round_rows(w, layer.scale_rows(), layer.zero_rows(), layer.params.limits, h, sweeps=self.sweeps)
        if output_error(w, q, layer.scale_rows(), layer.zero_rows(), h).sum() >= before:
            layer.set_params(old)
            return False
        return layer.store(layer.unrows(q))
