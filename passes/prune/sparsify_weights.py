"""Magnitude pruning: the weights that matter least become zero, which a target stores as a mask and the others.

Without calibration data those of least magnitude go. With it, those go that cost the layer's output least (the optimal brain
surgeon's w^2 / [H^-1], Hassibi and Stork 1993), and the weights that stay make good what is lost (SparseGPT: Frantar and
Alistarh 2023), layer after layer, each with its predecessors pruned already; biases take away what means lost.
The graph stays an ordinary float graph: emitters find the zeros (Core ML: constexpr_sparse_to_dense).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import error
from edgec.graph import Graph
from edgec.passes.prune.weight_layers import SMALLEST, Fitting, WeightLayer, mend_bias, weight_layers
from edgec.passes.quantize.rounding import _inverse_factor, damped
from edgec.pipeline import Pass, PassContext, PassResult

if TYPE_CHECKING:
    from edgec.pipeline import Contract

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_BLOCK = 128
"""Columns whose zeros are chosen at a time: later ones have been changed to make good for earlier ones."""

_REFIT = 50
"""Steps towards the least squares solution for the weights that stay."""


@dataclass(frozen=True)
class SparsifyWeights(Pass):
    """`sparsity`: part of the weights that becomes zero. `allocation`: `lamp`, more of them in layers that have many small ones,
    by layer-adaptive magnitudes (Lee et al. 2021); `uniform`, the same part of every layer. `pattern`: `magnitude`, anywhere; or `n:m`, n zeros among
    every m neighbours along the input channels, where their number is a multiple of m (`sparsity` then says nothing).
    `depthwise`: whether grouped convolutions too. `smallest`, `fit`, `samples`, `columns`, `damping`, `memory`: as of
    `cluster-weights`.

    Raises:
        EdgecError: EC0290 `sparsity` or `pattern` cannot be.
    """

    sparsity: float = 0.75
    pattern: str = "magnitude"
    allocation: Literal["lamp", "uniform"] = "lamp"
    depthwise: bool = False
    smallest: int = SMALLEST
    fit: bool = True
    samples: int = 64
    columns: int = 2048
    damping: float = 0.01
    memory: int = 1024

    name: ClassVar[str] = "sparsify-weights"
    contract: ClassVar[Contract] = "lossy"
    needs_calibration: ClassVar[bool] = False

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        neighbours = self._neighbours()
        reference = graph.clone()
        layers = [x for x in weight_layers(graph, reference, self.smallest) if x.groups == 1 or self.depthwise]
        fitting = Fitting(self, graph, reference, layers, ctx)
        pruned = biases = 0
        parts = self._parts(layers)
        for layer in layers:
            w = layer.rows(layer.weight()).astype(np.float64)
            order = _neighbours_first(layer)
            if not np.isfinite(w).all() or (neighbours and w.shape[2] % neighbours[1]):
                continue
            h, means = fitting.moments(layer)
            rows = w[..., order]
            new = np.empty_like(w)
            if h is not None and h.any():
                new[..., order] = _surgery(
                    rows, damped(h, self.damping)[:, order][:, :, order], neighbours, parts[layer.name]
                )
            else:
                new[..., order] = np.where(_zeros(np.abs(rows), neighbours, parts[layer.name]), 0, rows)
            layer.set_weight(layer.unrows(new).astype(np.float32))
            pruned += 1
            if means is not None:
                biases += mend_bias(layer, means, graph)
        return PassResult(pruned > 0, {"pruned": pruned, "biases": biases} if pruned else {})

    def _neighbours(self) -> tuple[int, int] | None:
        found = re.fullmatch(r"([1-9]\d?):([1-9]\d?)", self.pattern)
        if found and int(found[1]) < int(found[2]):
            return int(found[1]), int(found[2])
        if self.pattern != "magnitude":
            raise error("EC0290", f"pattern is magnitude or n:m with n < m, not {self.pattern!r}", hint="pattern=2:4")
        if not 0 < self.sparsity < 1:
            raise error("EC0290", f"a sparsity lies between 0 and 1, {self.sparsity} does not")
        return None

    def _parts(self, layers: Sequence[WeightLayer]) -> dict[str, float]:
        """Which part of each layer's weights becomes zero, by name."""
        if self.allocation == "uniform" or not layers or self._neighbours() is not None:
            return dict.fromkeys((x.name for x in layers), self.sparsity)
        scores = {x.name: _lamp(x.weight()) for x in layers}
        every = np.concatenate(list(scores.values()))
        last = np.partition(every, count := min(round(every.size * self.sparsity), every.size - 1))[count]
        return {name: float((score < last).mean()) for name, score in scores.items()}


def _lamp(w: Array) -> Array:
    """Each weight's square as a part of the squares of all that are not smaller, in no order."""
    squares = np.sort(np.square(w, dtype=np.float64), axis=None)
    rest = np.cumsum(squares[::-1])[::-1]
    score: Array = np.divide(squares, rest, out=np.zeros_like(squares), where=rest > 0)
    return score


def _zeros(cost: Array, neighbours: tuple[int, int] | None, part: float) -> Mask:
    """Which weights go: those of least cost, `part` of all or some of each m neighbours along the last axis."""
    if neighbours is None:
        count = round(cost.size * part)
        gone = np.zeros(cost.size, bool)
        gone[np.argsort(cost, axis=None, kind="stable")[:count]] = True
        return gone.reshape(cost.shape)
    n, m = neighbours
    grouped = cost.reshape(-1, m)
    gone = np.zeros(grouped.shape, bool)
    np.put_along_axis(gone, np.argsort(grouped, axis=1, kind="stable")[:, :n], True, axis=1)
    return gone.reshape(cost.shape)


def _surgery(w: Array, h: Array, neighbours: tuple[int, int] | None, part: float) -> Array:
    """Rows with zeros, the rest of each changed for them: [groups, rows, k], as `w`."""
    u = _inverse_factor(h)
    importance = np.diagonal(u, axis1=-2, axis2=-1)[:, None, :]
    columns, rest, new = w.shape[-1], w.copy(), np.empty_like(w)
    block = _BLOCK if neighbours is None else _BLOCK // neighbours[1] * neighbours[1] or neighbours[1]
    for at in range(0, columns, block):
        end = min(at + block, columns)
        gone = _zeros((rest[..., at:end] / importance[..., at:end]) ** 2, neighbours, part)
        errors = np.empty((*w.shape[:2], end - at))
        for k in range(at, end):
            new[..., k] = np.where(gone[..., k - at], 0, rest[..., k])
            e = (rest[..., k] - new[..., k]) / u[:, None, k, k]
            rest[..., k + 1 : end] -= e[..., None] * u[:, None, k, k + 1 : end]
            errors[..., k - at] = e
        if end < columns:
            rest[..., end:] -= errors @ u[:, at:end, end:]
    return _refitted(w, h, new)


def _refitted(w: Array, h: Array, new: Array) -> Array:
    """`new` with its zeros, what stays moved to the least output error (w - new)^T H (w - new): single columns above were
    made good only by those behind them. Conjugate gradients, all rows at once, preconditioned by the diagonal."""
    keep, diagonal = new != 0, np.diagonal(h, axis1=-2, axis2=-1)[:, None, :]
    q, slope = new.copy(), ((w - new) @ h) * keep
    step = slope / diagonal
    size = (slope * step).sum(-1, keepdims=True)
    for _ in range(_REFIT):
        curve = ((step @ h) * step).sum(-1, keepdims=True)
        length = np.divide(size, curve, out=np.zeros_like(size), where=curve > 0)
        q += length * step
        slope -= length * ((step @ h) * keep)
        ahead = slope / diagonal
        before, size = size, (slope * ahead).sum(-1, keepdims=True)
        step = ahead + np.divide(size, before, out=np.zeros_like(size), where=before > 0) * step
    return q


def _neighbours_first(layer: WeightLayer) -> npt.NDArray[np.int64]:
    """The order of a row's weights in which input channels at one place of the kernel follow each other."""
    shape = tuple(layer.stored.shape.numpy())
    if layer.node.op_type not in ("Conv", "ConvTranspose"):
        return np.arange(layer.rows(np.empty(shape, np.bool_)).shape[2])
    kernel = int(np.prod(shape[2:], dtype=np.int64))
    k = layer.rows(np.empty(shape, np.bool_)).shape[2]
    return np.arange(k).reshape(-1, kernel).T.reshape(-1)
