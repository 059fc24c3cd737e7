"""How far the outputs go when one group alone is cut, and which cuts of all groups together cost least.

Each group is cut alone, first by about as much as a uniform cut would, then by as much as was decided on, with its readers
refitted by least squares; how far the outputs then are from those of the whole graph is its harm. In between, harm grows as
the cost of the elimination does (`reconstruction`). Harms of several groups are taken to add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, ir
from edgec.passes.prune.allocation import Counts, Room
from edgec.passes.prune.groups import Atom, Group, find_groups, remove
from edgec.passes.prune.ranking import Ranking
from edgec.passes.prune.reconstruction import Reader
from edgec.passes.prune.weight_layers import product_layer
from edgec.passes.quantize.judge import judged_values
from edgec.runtime import Session

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


_NEAR = 0.15
"""Cuts that differ by less than this part are not measured both."""


@dataclass(frozen=True)
class Harm:
    """Of a group: `curve[n]` is what taking out its n first atoms does to the outputs."""

    curve: Array


class HarmMeter:
    """Cuts one group at a time and compares outputs (what a final Softmax reads) with those of the whole graph.

    Harm is the mean, over outputs, of the squared difference relative to the variance.
    """

    def __init__(self, graph: Graph, groups: Sequence[Group], ranking: Ranking, samples: Sequence[Arrays]) -> None:
        self.graph, self.groups, self.ranking, self.samples = graph, groups, ranking, samples
        self.names = sorted(set(judged_values(graph).values()))
        self.points: list[dict[int, float]] = [{} for _ in groups]
        """Of each group: atoms taken out -> harm."""
        self._want = [{n: v[n] for n in self.names} for v in Session(graph, all_values=self.names).run_all(samples)]
        self._power = {
            n: max(sum(float(np.square(w[n] - w[n].mean(), dtype=np.float64).sum()) for w in self._want), 1e-30)
            for n in self.names
        }

    def measure(self, cuts: Sequence[int] | Counts) -> None:
        """Cut `cuts[i]` atoms out of group i, each group alone; 0, and where about as many were cut before: nothing new."""
        for i, n in enumerate(int(n) for n in cuts):
            if n and all(abs(n - known) > n * _NEAR for known in self.points[i]):
                self.points[i][n] = self._harm(i, n)

    def _harm(self, i: int, n: int) -> float:
        cut = _cut(self.graph, i, self.groups, self.ranking.orders[i][:n], self.ranking.readers)
        error = dict.fromkeys(self.names, 0.0)
        for want, got in zip(self._want, Session(cut, all_values=self.names).run_all(self.samples), strict=True):
            for name in self.names:
                error[name] += float(np.square(want[name] - got[name], dtype=np.float64).sum())
        harm = sum(error[name] / self._power[name] for name in self.names) / len(self.names)
        return harm if np.isfinite(harm) else np.inf

    def harms(self) -> list[Harm]:
        """For every group from what was measured: between and beyond the points, harm goes as the elimination's cost does.
        Infinite where nothing was measured."""
        out = []
        for group, costs, points in zip(self.groups, self.ranking.costs, self.points, strict=True):
            if not points:
                out.append(Harm(np.r_[0.0, np.full(len(group.numbers), np.inf)]))
                continue
            shape = np.r_[0.0, np.cumsum(np.maximum.accumulate(np.maximum(costs, 1e-12)))]
            at = sorted(points)
            factor = np.interp(np.arange(len(shape)), at, [points[n] / shape[n] for n in at])
            out.append(Harm(np.maximum.accumulate(shape * factor)))
        return out


def _cut(
    graph: Graph, i: int, groups: Sequence[Group], gone: npt.NDArray[np.int64], readers: dict[ir.Node, Reader]
) -> Graph:
    """A copy without these atoms of group i, its readers refitted."""
    copy = graph.clone()
    free = {g.name: g for g in find_groups(copy) if g.fixed is None}
    mine = free[groups[i].name]
    remove(copy, [Atom(mine, int(mine.numbers[k])) for k in gone])
    made = {v.name: n for n in copy.model.graph for v in n.outputs}
    for node, reader in readers.items():
        if reader.of_class in groups[i].classes:
            twin = made.get(node.outputs[0].name)
            layer = product_layer(twin) if twin is not None else None
            if layer is None or reader.h.ndim == 1:
                continue
            at = reader.columns_of(groups[i])[gone].reshape(-1)
            w, bias = reader.without(at)
            layer.set_weight(layer.unrows(np.delete(w, at, axis=1)[None]).astype(np.float32))
            if layer.takes_bias and bias.any():
                layer.set_bias(layer.bias() + bias, copy)
    return copy


def by_harm(
    rooms: Sequence[Room], harms: Sequence[Harm], saved: Callable[[Counts], float], goal: float
) -> Counts | None:
    """The cut that saves the part `goal` at about the least harm; None if none does.

    Step by step the group that saves most for its harm gives up one step (a multiple of its alignment). Then steps that the
    goal can be reached without are taken back, those that cost most first.
    """
    cut = np.zeros(len(rooms), np.int64)
    have = saved(cut)
    before: list[list[int]] = [[] for _ in rooms]
    while have < goal:
        best: tuple[float, int, Counts, float] | None = None
        for i, (room, harm) in enumerate(zip(rooms, harms, strict=True)):
            after = following(room, int(cut[i]))
            if after is None or not np.isfinite(harm.curve[after]):
                continue
            trial = cut.copy()
            trial[i] = after
            gain = saved(trial) - have
            price = (harm.curve[after] - harm.curve[cut[i]]) / max(gain, 1e-12)
            if gain > 0 and (best is None or price < best[0]):
                best = price, i, trial, have + gain
        if best is None:
            return None
        _, i, trial, have = best
        before[i].append(int(cut[i]))
        cut = trial
    while True:
        back = []
        for i, earlier in enumerate(before):
            if earlier:
                trial = cut.copy()
                trial[i] = earlier[-1]
                if saved(trial) >= goal:
                    back.append((harms[i].curve[cut[i]] - harms[i].curve[trial[i]], i, trial))
        if not back:
            return cut
        _, i, cut = max(back, key=lambda b: (b[0], b[1]))
        before[i].pop()


def following(room: Room, cut: int) -> int | None:
    """The next larger cut that leaves a multiple of the step."""
    stays = room.atoms - cut
    fewer = (stays - 1) // room.step * room.step
    return room.atoms - fewer if fewer >= room.least and fewer > 0 else None
