"""Weight clustering: the weights of a layer take few values, which a target stores as a table and indices of few bits.

Values are found by k-means (kmeans.py), each weight counted by the mean square of what it multiplies; with calibration data
values and choices are then improved for least error of the layer's output, layer after layer, each with its predecessors
clustered already (table_rounding.py), and biases take away what means lost. The graph stays an ordinary float graph: emitters
find the few values (Core ML: constexpr_lut_to_dense), any compressor does.

One table for a whole weight suits layers whose channels are of one size: run `equalize{weights=tensor}` before. What has tables
for groups of channels (Core ML from iOS 18 on) takes `per=group`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import error
from edgec.graph import Graph, constant
from edgec.passes.prune.kmeans import kmeans, nearest
from edgec.passes.prune.table_rounding import TableRounding
from edgec.passes.prune.weight_layers import (
    SMALLEST,
    Fitting,
    WeightLayer,
    mend_bias,
    replace_constant,
    tables_of_rows,
    weight_layers,
)
from edgec.passes.quantize.rounding import damped
from edgec.pipeline import Pass, PassContext, PassResult

if TYPE_CHECKING:
    from edgec.pipeline import Contract

Array = npt.NDArray[Any]

_ZEROS = 0.25
"""Part of zeros from which on a weight was pruned: its zeros stay, and one entry of the table is theirs."""


@dataclass(frozen=True)
class ClusterWeights(Pass):
    """`bits`: 2^bits values for a table. `depthwise`: bits of grouped convolutions, which are small and lose most; 0: as the
    others. `finer`: bits of the smallest weights, which cost little and are often the first of a network, where an error goes
    through all of it: as many as make up `share` of all numbers. `per`: one table a tensor, or one for each group of `group` output channels (the largest divisor of their
    number up to that). `smallest`: weights of fewer numbers stay as they are. `fit`: use calibration data where there is some.
    `samples`, `columns`, `damping`, `memory`: as of `round-weights`. `rounds`: of improving choices and values in turn.

    Conv, ConvTranspose, Gemm and MatMul with a constant that no other node reads, and tables that a Gather reads rows of.

    Raises:
        EdgecError: EC0290 `bits` is not within 1 to 8.
    """

    bits: int = 4
    depthwise: int = 8
    finer: int = 6
    share: float = 0.1
    per: Literal["tensor", "group"] = "tensor"
    group: int = 16
    smallest: int = SMALLEST
    fit: bool = True
    samples: int = 64
    columns: int = 2048
    damping: float = 0.01
    rounds: int = 3
    sweeps: int = 2
    memory: int = 1024

    name: ClassVar[str] = "cluster-weights"
    contract: ClassVar[Contract] = "lossy"
    needs_calibration: ClassVar[bool] = False

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        if not 1 <= self.bits <= 8 or not 0 <= self.depthwise <= 8 or not 0 <= self.finer <= 8:
            raise error("EC0290", f"tables have 1 to 8 bits, not {self.bits}, {self.depthwise} and {self.finer}")
        reference = graph.clone()
        layers = weight_layers(graph, reference, self.smallest)
        fitting = Fitting(self, graph, reference, layers, ctx)
        clustered = biases = 0
        bits = self._bits(layers)
        for layer in layers:
            if not np.isfinite(layer.weight()).all():
                continue
            h, means = fitting.moments(layer)
            layer.set_weight(self._clustered(layer, bits[layer.name], h))
            clustered += 1
            if means is not None:
                biases += mend_bias(layer, means, graph)
        for value in tables_of_rows(graph, self.smallest):
            data = np.asarray(constant(value), np.float32)
            if np.isfinite(data).all():
                replace_constant(value, self._plain(data.reshape(1, *data.shape), self.bits)[0])
                clustered += 1
        return PassResult(clustered > 0, {"clustered": clustered, "biases": biases} if clustered else {})

    def _bits(self, layers: Sequence[WeightLayer]) -> dict[str, int]:
        """Of each layer's table, by name."""
        sizes = {x.name: int(np.prod(x.stored.shape.numpy(), dtype=np.int64)) for x in layers}
        bits = {x.name: self.depthwise if x.groups > 1 and self.depthwise else self.bits for x in layers}
        left = self.share * sum(sizes.values())
        for layer in sorted(layers, key=lambda x: sizes[x.name]):
            left -= sizes[layer.name]
            if left < 0:
                break
            bits[layer.name] = max(bits[layer.name], self.finer)
        return bits

    def _clustered(self, layer: WeightLayer, bits: int, h: Array | None) -> Array:
        w = layer.rows(layer.weight()).astype(np.float64)
        if h is None or not h.any():
            return layer.unrows(self._plain(w, bits)).astype(np.float32)
        zeros = _pruned(w)
        part = self._parts(w)
        count = (1 << bits) - (zeros is not None)
        importance = np.broadcast_to(np.diagonal(h, axis1=-2, axis2=-1)[:, None, :], w.shape)
        tables = [_table(w, importance, part == i, zeros, count) for i in range(int(part.max()) + 1)]
        rounding = TableRounding(w, damped(h, self.damping), tables, part, zeros)
        rounding.improve(self.rounds, self.sweeps)
        return layer.unrows(rounding.q).astype(np.float32)

    def _plain(self, w: Array, bits: int) -> Array:
        """Each weight to the nearest of its table's values."""
        zeros, part = _pruned(w), self._parts(w)
        out = np.empty(w.shape)
        for i in range(int(part.max()) + 1):
            rows = part == i
            table = _table(w, None, rows, zeros, (1 << bits) - (zeros is not None))
            out[rows] = table[nearest(w[rows], table)]
        return out if zeros is None else np.where(zeros, 0, out)

    def _parts(self, w: Array) -> npt.NDArray[np.int64]:
        """[groups, rows]: which table a row goes by. Rows are in the order of the output channels."""
        channels = w.shape[0] * w.shape[1]
        size = channels
        if self.per == "group":
            size = max(d for d in range(1, min(self.group, channels) + 1) if channels % d == 0)
        return np.asarray(np.arange(channels) // size, np.int64).reshape(w.shape[:2])


def _pruned(w: Array) -> npt.NDArray[np.bool_] | None:
    zeros = w == 0
    return zeros if zeros.mean() > _ZEROS else None


def _table(w: Array, importance: Array | None, rows: Array, zeros: Array | None, count: int) -> Array:
    keep = np.broadcast_to(rows[..., None], w.shape) & (True if zeros is None else ~zeros)
    if not keep.any():
        return np.zeros(1)
    return kmeans(w[keep], count, None if importance is None else importance[keep])
