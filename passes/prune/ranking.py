"""In which order the atoms of each group go, by the importance asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostics, error
from edgec.graph import Graph, ir
from edgec.passes.prune.gradients import sensitivity_of_outputs
from edgec.passes.prune.groups import Atom, Group
from edgec.passes.prune.importance import WEIGHTS, Scores, activity, scores
from edgec.passes.prune.reconstruction import Reader, elimination, observe_readers
from edgec.passes.prune.sound_samples import sound_samples
from edgec.samples import Samples

Arrays = dict[str, npt.NDArray[Any]]

_FEW = 8

Importance = Literal["auto", "l1", "l2", "bn", "activation", "taylor", "reconstruction"]


@dataclass(frozen=True)
class Data:
    """Calibration inputs in memory: those that weights are fitted on, and others that what was fitted is judged on."""

    fitted: Sequence[Arrays]
    judged: Sequence[Arrays]
    columns: int
    seed: int

    @classmethod
    def read(
        cls, graph: Graph, samples: Samples, count: int, columns: int, megabytes: int, seed: int, notes: Diagnostics
    ) -> Data:
        """The first `count` samples, or as many as fit the memory; every fourth is judged on. Few serve for both."""
        found, _ = sound_samples(graph, samples, count, megabytes, notes)
        if len(found) < _FEW:
            return cls(found, found, columns, seed)
        return cls([s for i, s in enumerate(found) if i % 4 != 3], found[3::4], columns, seed)


@dataclass(frozen=True)
class Ranking:
    """For each group the atoms in the order they go, and what each adds to the cost when its turn comes."""

    orders: Sequence[npt.NDArray[np.int64]]
    costs: Sequence[Scores]
    readers: dict[ir.Node, Reader] = field(default_factory=dict)

    @classmethod
    def by(cls, found: Sequence[Scores], readers: dict[ir.Node, Reader]) -> Ranking:
        orders = [np.argsort(s, kind="stable").astype(np.int64) for s in found]
        return cls(orders, [s[o] for s, o in zip(found, orders, strict=True)], readers)

    def first_atoms(self, groups: Sequence[Group], cut: Sequence[int] | npt.NDArray[np.int64]) -> list[Atom]:
        """Of every group the first atoms to go, as many as `cut` says. `groups`: those that were ranked, or their twins in a
        copy of the graph."""
        return [
            Atom(g, int(g.numbers[i]))
            for g, order, n in zip(groups, self.orders, cut, strict=True)
            for i in order[: int(n)]
        ]


def rank(graph: Graph, groups: Sequence[Group], importance: Importance, data: Data | None, *, observe: bool) -> Ranking:
    """`observe`: gather the readers' moments whatever the importance is, for an allocation by harm.

    Raises:
        EdgecError: EC0335 `bn`, and no BatchNormalization is left; EC0320 `taylor`, and there is no PyTorch; EC0731 an
            importance that needs calibration data, and there is none.
    """
    if importance == "auto":
        importance = "l2" if data is None else "reconstruction"
    readers: dict[ir.Node, Reader] = {}
    if data is not None and (observe or importance == "reconstruction"):
        readers = observe_readers(graph, groups, data.fitted, data.columns, data.seed)
    if importance in WEIGHTS:
        return Ranking.by(_by_weights(groups, importance), readers)
    if data is None:
        hint = "--calib FOLDER_OF_IMAGES | data.npz | module:function, or importance=l2"
        raise error("EC0731", f"importance={importance} needs calibration data", hint=hint)
    if importance == "reconstruction":
        return _by_reconstruction(groups, readers)
    found = (activity if importance == "activation" else sensitivity_of_outputs)(graph, groups, data.fitted)
    return Ranking.by(_filled(groups, found), readers)


def _by_weights(groups: Sequence[Group], importance: Importance) -> list[Scores]:
    found = [scores(g, importance) for g in groups]
    if importance == "bn" and all(s is None for s in found):
        hint = "prune before fold-bn, or with importance=l2"
        raise error("EC0335", "no BatchNormalization follows anything that can be pruned", hint=hint)
    return _filled(groups, found)


def _filled(groups: Sequence[Group], found: Sequence[Scores | None]) -> list[Scores]:
    """Groups without the figure asked for are ranked by their weights."""
    tried = [scores(g, "l2") if s is None else s for g, s in zip(groups, found, strict=True)]
    return [np.ones(len(g.numbers)) if s is None else s for g, s in zip(groups, tried, strict=True)]


def _by_reconstruction(groups: Sequence[Group], readers: dict[ir.Node, Reader]) -> Ranking:
    orders, costs = [], []
    by_weights = _filled(groups, [None] * len(groups))
    for g, otherwise in zip(groups, by_weights, strict=True):
        mine = [r for r in readers.values() if r.of_class in g.classes and r.power > 0]
        if mine:
            order, cost = elimination(g, mine)
        else:
            order = np.argsort(otherwise, kind="stable").astype(np.int64)
            cost = otherwise[order]
        orders.append(order)
        costs.append(np.maximum.accumulate(cost))
    return Ranking(orders, costs, readers)
