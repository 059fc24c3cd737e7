"""How many atoms go from which group so that a part of something countable goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgec.diagnostics import error
from edgec.graph import Graph
from edgec.passes.prune.allocation import Allocation, Counts, Room, globally, reach, uniform
from edgec.passes.prune.costs import Costs
from edgec.passes.prune.groups import Group
from edgec.passes.prune.ranking import Data, Ranking
from edgec.passes.prune.sensitivity import HarmMeter, by_harm, following

_PROBED = 32
"""Samples that the harm of cutting a group is measured on."""

_ROUNDS = 3
"""How often an allocation by harm is decided on, each time knowing more."""


@dataclass
class Plan:
    """Cuts of a graph by one allocation. What was measured for one cut serves the next."""

    graph: Graph
    groups: Sequence[Group]
    rooms: Sequence[Room]
    ranking: Ranking
    costs: Costs
    allocation: Allocation
    data: Data | None
    _meter: HarmMeter | None = field(default=None, init=False)

    def cut(self, what: str, part: float) -> Counts | None:
        """The least that saves the part of `what` (ratio, macs, params); None if none does."""
        counts = self._counts()
        saved = self._saving(what)
        found = counts(part) if what == "ratio" else reach(counts, saved, part)  # a ratio: the nearest multiples
        if found is None or self.allocation != "sensitivity" or self.data is None:
            return found
        goal = saved(found) if what == "ratio" else min(part, self.most(what))
        if self._meter is None:
            self._meter = HarmMeter(self.graph, self.groups, self.ranking, self.data.judged[:_PROBED])
        meter = self._meter
        meter.measure([n or following(r, 0) or 0 for n, r in zip(found, self.rooms, strict=True)])
        for _ in range(_ROUNDS):
            found = by_harm(self.rooms, meter.harms(), saved, goal)
            if found is None:
                return None
            meter.measure(found)
        return found

    def most(self, what: str) -> float:
        """The part of `what` that the largest cut saves."""
        return self._saving(what)(self._counts()(1.0))

    def _counts(self) -> Callable[[float], Counts]:
        return globally(self.rooms, self.ranking.costs) if self.allocation == "global" else uniform(self.rooms)

    def _saving(self, what: str) -> Callable[[Counts], float]:
        """Cut -> the part it saves."""
        if what == "ratio":
            widths = np.asarray([g.width for g in self.groups])
            channels = sum(g.width * len(g.numbers) for g in self.groups)
            return lambda cut: float((cut * widths).sum() / channels)
        full = self.costs.total(what, [0] * len(self.groups))
        if full == 0:
            hint = "fix the input shapes: --input-shape"
            raise error("EC0334", "the multiply-accumulates of this model are not known", hint=hint)
        return lambda cut: 1 - self.costs.total(what, cut) / full
