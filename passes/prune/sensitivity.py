"""How far the outputs go when one group alone is cut, and which cuts of all groups together cost least.

Each group is cut once, by about as much as a uniform cut would, with its readers refitted by least squares; how far the
outputs then are from those of the whole graph is its harm. In between, harm grows as the cost of the elimination does
(`reconstruction`). Harms of several groups are taken to add up.
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
from edgec.passes.prune.reconstruction import Reader
from edgec.passes.prune.weight_layers import product_layer
from edgec.passes.quantize.judge import judged_values
from edgec.runtime import Session

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Harm:
    """Of a group: `curve[n]` is what taking out its n first atoms does to the outputs."""

    curve: Array


def measure(
    graph: Graph, groups: Sequence[Group], orders: Sequence[npt.NDArray[np.int64]], costs: Sequence[Array],
    readers: dict[ir.Node, Reader], cuts: Counts, samples: Sequence[Arrays],
) -> list[Harm]:  # fmt: skip
    """Harm of every group, from one cut of `cuts[i]` atoms each (0: it is not cut, and its harm is infinite).

    `orders`: atoms of each group in the order they go; `costs`: what each of them adds, in that order.
    """
    judged = judged_values(graph)
    names = sorted(set(judged.values()))
    session = Session(graph, optimise=False, all_values=names)
    want = [{n: v[n] for n in names} for v in session.run_all(samples)]
    power = {n: sum(float(np.square(w[n] - w[n].mean(), dtype=np.float64).sum()) for w in want) for n in names}
    out = []
    for i, (group, order, cost, n) in enumerate(zip(groups, orders, costs, cuts, strict=True)):
        if not n:
            out.append(Harm(np.r_[0.0, np.full(len(group.numbers), np.inf)]))
            continue
        cut = _cut(graph, i, groups, order[:n], readers)
        error = dict.fromkeys(names, 0.0)
        for w, got in zip(want, Session(cut, all_values=names).run_all(samples), strict=True):
            for name in names:
                error[name] += float(np.square(w[name] - got[name], dtype=np.float64).sum())
        harm = sum(error[name] / max(power[name], 1e-30) for name in names) / len(names)
        shape = np.r_[0.0, np.cumsum(np.maximum.accumulate(np.maximum(cost, 1e-12)))]
        out.append(Harm(shape / shape[n] * harm))
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

    Step by step the group that saves most for its harm gives up one step (a multiple of its alignment).
    """
    cut = np.zeros(len(rooms), np.int64)
    have = saved(cut)
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
        _, _, cut, have = best
    return cut


def following(room: Room, cut: int) -> int | None:
    """The next larger cut that leaves a multiple of the step."""
    stays = room.atoms - cut
    fewer = (stays - 1) // room.step * room.step
    return room.atoms - fewer if fewer >= room.least and fewer > 0 else None
