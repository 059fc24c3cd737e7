"""What the layers that read a group's channels lose when some go and the weights that are left make it good.

For a reader y = W x with H = E[x x^T] (about the mean, where its bias takes care of that) the columns S removed cost at best

    tr(W_S [H^-1]_SS^-1 W_S^T),    and    W <- W - W_S [H^-1]_SS^-1 [H^-1]_S,    H^-1 <- H^-1 - [H^-1]_:S [H^-1]_SS^-1 [H^-1]_S:

go on without them (Hassibi and Stork 1993, "Optimal brain surgeon", for blocks; as a criterion for channels ThiNet, Luo et al.
2017, arXiv:1707.06342). Costs are parts of the variance of the reader's output; those of several readers add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, ir
from edgec.passes.prune.groups.group import Group
from edgec.passes.prune.weight_layers import WeightLayer, product_layer, shrunk
from edgec.passes.quantize.moments import Moments, columns
from edgec.passes.quantize.staged_run import StagedRun

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

_LARGEST = 6144
"""Inputs of an output, at most: beyond, products of different inputs are left out (a matrix of 25088 squared is 5 GB)."""

_ROUNDS = 192
"""Atoms are taken out in at most so many rounds; the costs of those left are new in each."""

_COLUMNS_PER_WEIGHT = 8
_DAMPING = 1e-2
"""Part of each input's variance added to it."""


@dataclass
class Reader:
    """A layer that sums over the channels of one or more groups. `h` [k, k], or [k] where only variances are kept."""

    layer: WeightLayer
    of_class: int
    h: Array
    w: Array
    """[outputs, k]"""
    mean: Array
    """[k], of what it reads; zeros where no bias takes care of it."""

    def without(self, columns: Indices) -> tuple[Array, Array]:
        """The weights that make good best for these columns, which are then 0; what the bias changes by."""
        damped = _damped(self.h)
        rest = np.delete(np.arange(self.w.shape[1]), columns)
        w = np.zeros_like(self.w)
        right = self.w[:, columns] @ damped[np.ix_(columns, rest)]
        w[:, rest] = self.w[:, rest] + np.linalg.solve(damped[np.ix_(rest, rest)], right.T).T
        return w, (self.w - w) @ self.mean

    @property
    def power(self) -> float:
        """Variance of its output."""
        wide = self.w * self.h if self.h.ndim == 1 else self.w @ self.h
        return float((wide * self.w).sum())

    def columns_of(self, group: Group) -> Indices:
        """[atoms, columns an atom]: those each atom of the group takes."""
        labels = group.analysis.labels[self.of_class]
        kernel = self.w.shape[1] // len(labels)
        per_column = np.repeat(labels, kernel)
        order = np.argsort(per_column, kind="stable")
        first = np.searchsorted(per_column[order], group.numbers)
        size = int(np.count_nonzero(per_column == group.numbers[0]))
        return np.asarray(order[first[:, None] + np.arange(size)], np.int64)


def readers_of(graph: Graph, groups: Sequence[Group]) -> dict[ir.Node, tuple[WeightLayer, int]]:
    """Layers that sum over channels of these groups, with the class of dimensions they sum over, in execution order."""
    found: dict[ir.Node, tuple[WeightLayer, int]] = {}
    for g in groups:
        for d, node, c in g.roles("reads"):
            layer = product_layer(node)
            sizes = g.count(c)
            if (
                layer is not None
                and layer.weight_value is d.value
                and layer.groups == 1
                and len(set(sizes.tolist())) == 1
            ):
                found[node] = layer, c
    return {n: found[n] for n in graph.model.graph if n in found}


def observe_readers(
    graph: Graph, groups: Sequence[Group], samples: Sequence[dict[str, Array]], column_count: int, seed: int
) -> dict[ir.Node, Reader]:
    """The second moments of what readers read, by one run of the graph over the samples."""
    layers = readers_of(graph, groups)
    run = StagedRun(graph, samples)
    out = {}
    for node, (layer, c) in layers.items():
        w = layer.rows(layer.weight())[0].astype(np.float64)
        k = w.shape[1]
        each = -(-max(column_count, _COLUMNS_PER_WEIGHT * min(k, _LARGEST)) // len(samples))
        found = (
            columns(layer, v[layer.x.name or ""], each, np.random.default_rng((seed, i)))
            for i, v in enumerate(run.values([layer.x], node))
        )
        h, mean = (_second if k <= _LARGEST else _variances)(found, k, central=layer.takes_bias)
        if np.isfinite(h).all() and np.isfinite(w).all():
            out[node] = Reader(layer, c, h, w, mean)
    return out


def _second(found: Iterable[Array], k: int, *, central: bool) -> tuple[Array, Array]:
    moments = Moments.empty(1, k)
    for x in found:
        moments.add(x)
    moments.close(central=central)
    return shrunk(moments.qq, moments.n)[0], np.asarray(moments.mean[0] * central)


def _variances(found: Iterable[Array], k: int, *, central: bool) -> tuple[Array, Array]:
    total, square, n = np.zeros(k), np.zeros(k), 0
    for x in found:
        total += x[0].sum(-1, dtype=np.float64)
        square += np.square(x[0], dtype=np.float64).sum(-1)
        n += x.shape[-1]
    mean = total / n * central
    return np.asarray(square / n - mean**2), np.asarray(mean)


def _damped(h: Array) -> Array:
    d = np.diagonal(h)
    return np.asarray(h + np.diag(_DAMPING * d + 1e-8 * max(float(d.mean()), 1e-30)))


def elimination(group: Group, readers: Sequence[Reader]) -> tuple[Indices, Array]:
    """The order in which the group's atoms go, each time those that cost least, and what each adds to the cost."""
    atoms = len(group.numbers)
    surgeries = [_Surgery.of(r, group) for r in readers]
    alive = np.arange(atoms)
    order: list[Indices] = []
    costs: list[Array] = []
    step = -(-atoms // _ROUNDS)
    while len(alive):
        each = np.sum([s.costs(alive) for s in surgeries], axis=0)
        chosen = np.argsort(each, kind="stable")[:step]
        order.append(alive[chosen])
        costs.append(each[chosen])
        for s in surgeries:
            s.remove(alive[chosen])
        alive = np.delete(alive, chosen)
    return np.concatenate(order), np.concatenate(costs)


@dataclass
class _Surgery:
    """A reader while atoms are taken out. `inverse` is [k, k], or the inverse variances."""

    w: Array
    inverse: Array
    at: Indices
    power: float

    @classmethod
    def of(cls, r: Reader, group: Group) -> _Surgery:
        power = max(r.power, 1e-30)
        if r.h.ndim == 1:
            return cls(r.w.copy(), 1 / np.maximum(r.h, 1e-30), r.columns_of(group), power)
        return cls(r.w.copy(), np.linalg.inv(_damped(r.h)), r.columns_of(group), power)

    def costs(self, atoms: Indices) -> Array:
        at = self.at[atoms]
        if self.inverse.ndim == 1:
            return np.asarray((np.square(self.w).sum(0) / self.inverse)[at].sum(1) / self.power)
        if at.shape[1] == 1:
            one = at[:, 0]
            return np.asarray(np.square(self.w[:, one]).sum(0) / np.diagonal(self.inverse)[one] / self.power)
        w = np.moveaxis(self.w[:, at], 0, 1)  # [atoms, outputs, columns]
        block = np.linalg.inv(self.inverse[at[:, :, None], at[:, None, :]])
        return np.asarray(((w @ block) * w).sum((1, 2)) / self.power)

    def remove(self, atoms: Indices) -> None:
        s = self.at[atoms].reshape(-1)
        if self.inverse.ndim == 1:
            return
        factor = np.linalg.solve(self.inverse[np.ix_(s, s)], self.inverse[s])
        self.w -= self.w[:, s] @ factor
        self.inverse -= self.inverse[:, s] @ factor
        self.w[:, s] = 0
        self.inverse[s, s] = 1  # keeps it regular; these are not looked at again
