"""Goals that only a build for the target tells: time by the vendor's own model of the device, and flash.

Cuts are chosen by what can be counted (multiply-accumulates, parameters); how much of that has to go for the goal is found by
building for the target a few times: false position between a cut that is too small and one that is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgec.diagnostics import Diagnostics, EdgecError, error
from edgec.graph import Graph
from edgec.passes.prune.allocation import Counts
from edgec.passes.prune.goals import Goal
from edgec.passes.prune.groups import Group, find_groups, remove
from edgec.passes.prune.ranking import Ranking
from edgec.pipeline import PassContext
from edgec.pruning import Promise
from edgec.trial import Weight

_TRIALS = 8
"""Builds at most, beside that of the whole graph."""

_NEAR = 0.02
"""Part of the goal that may be left unused."""

_MARGIN = {"flash": 0.005}
"""Part of a limit that is left free: weights are coded by their values, which recovery changes after the cut."""

_FINE = 1e-3
"""Cuts that differ by less, as a part of what can be counted, are the same."""


@dataclass
class Scales:
    """Puts graphs on the target's scales: what `goal` is in, for a graph and for cuts of it."""

    goal: Goal
    graph: Graph
    weigh: Callable[[Graph], Weight]
    unit: str = ""
    by: str = ""
    dense: float = 0.0
    builds: int = 0
    known: dict[bytes, float] = field(default_factory=dict)
    """Cut -> what is left."""

    @classmethod
    def of(cls, goal: Goal, graph: Graph, ctx: PassContext) -> Scales:
        """With the whole graph weighed.

        Raises:
            EdgecError: EC0363 there is no target, or its compiler estimates no time; EC0333 a goal in seconds, and it
                estimates something else.
        """
        if ctx.weigh is None:
            hint = "`edgec compile MODEL --target ... --compress 'prune{...}'`; prune{macs=...} and prune{params=...} need none"
            raise error("EC0363", f"prune: a goal of {goal.what} needs a target to build for", hint=hint)
        scales = cls(goal, graph, ctx.weigh)
        ctx.progress(f"prune: build for {goal.what}")
        scales.dense = scales._left(graph, ctx)
        return scales

    def of_cut(self, groups: Sequence[Group], ranking: Ranking, cut: Counts, ctx: PassContext) -> float:
        """What is left after a cut; a build, where it was not weighed before."""
        key = cut.tobytes()
        if key not in self.known:
            ctx.progress(f"prune: trial build {self.builds} for {self.goal}")
            self.known[key] = self._left(without(self.graph, groups, ranking, cut), ctx)
        return self.known[key]

    def _left(self, graph: Graph, ctx: PassContext) -> float:
        try:
            weight = self.weigh(graph)
        except EdgecError as e:
            e.add_note(f"in a trial build for prune{{{self.goal}}}")
            raise
        self.builds += 1
        found = weight.of_goal(self.goal.what)
        if found is None:
            name = ctx.target.name if ctx.target is not None else "this target"
            hint = "prune{macs=...} is the nearest; Rockchip's and Vela's compilers estimate time"
            raise error("EC0363", f"prune: nothing estimates how long {name} takes", hint=hint)
        self.unit, self.by = found.unit, found.by
        if self.goal.what == "latency" and self.goal.most is not None and self.unit != "s":
            hint = "a part of them: prune{latency=0.3}"
            raise error("EC0333", f"prune: {self.by} counts {self.unit}, not seconds", hint=hint)
        return found.amount

    @property
    def limit(self) -> float:
        """What may be left."""
        return self.goal.limit(self.dense)

    @property
    def promise(self) -> Promise:
        return Promise(str(self.goal), self.goal.what, self.limit, self.unit)

    def shown(self, amount: float) -> str:
        return self.promise.shown(amount)


def reach_measured(
    scales: Scales, groups: Sequence[Group], ranking: Ranking, cut_of: Callable[[float], Counts | None], most: float,
    held: str, ctx: PassContext,
) -> Counts:  # fmt: skip
    """The least of the cuts `cut_of(s)`, s up to `most`, that leave what the goal allows. `held`: what may hold the rest.

    Raises:
        EdgecError: EC0334 the largest leaves more; EC0363.
    """
    limit = scales.limit * (1 - _MARGIN.get(scales.goal.what, 0.0))
    if scales.limit >= scales.dense:
        message = f"prune: {scales.goal}: it takes {scales.shown(scales.dense)} already"
        raise error("EC0333", message, hint="a smaller goal, or no prune")
    low, at_low = 0.0, scales.dense
    high, at_high, best = most, 0.0, None
    guess = min(most, 1 - limit / scales.dense)
    for _ in range(_TRIALS):
        cut = cut_of(guess)
        left = scales.of_cut(groups, ranking, cut, ctx) if cut is not None else scales.dense
        if cut is not None and left <= limit:
            high, at_high, best = guess, left, cut
            if left > limit * (1 - _NEAR):
                break
        else:
            low, at_low = guess, left
            if low >= most:
                break
        if best is not None and high - low < _FINE:
            break
        guess = _between(low, at_low, high, at_high, limit) if best is not None else _further(scales, low, at_low, most)
    if best is None:
        message = (
            f"prune: {scales.goal} cannot be reached: {scales.shown(at_low)} are left of {scales.shown(scales.dense)}"
        )
        raise error("EC0334", message, hint=f"{held} hold the rest")
    left = scales.of_cut(groups, ranking, best, ctx)
    _tell(scales, left, ctx.diagnostics)
    return best


def _between(low: float, at_low: float, high: float, at_high: float, limit: float) -> float:
    """Where a straight line says the middle of what is near enough is, not too close to either end."""
    wanted = limit * (1 - _NEAR / 2)
    share = (at_low - wanted) / (at_low - at_high) if at_low > at_high else 0.5
    return low + (high - low) * min(0.9, max(0.1, share))


def _further(scales: Scales, s: float, left: float, most: float) -> float:
    """Beyond a cut that is too small, by what it saved."""
    wanted = scales.dense - scales.limit
    gone = max(scales.dense - left, 0.1 * wanted)
    return min(most, max(1.1 * s, 1.05 * s * wanted / gone))


def _tell(scales: Scales, left: float, notes: Diagnostics) -> None:
    percent = 100 * (1 - left / scales.dense)
    message = f"prune{{{scales.goal}}}: {scales.shown(left)} of {scales.shown(scales.dense)} are left by {scales.by} (-{percent:.1f} %)"
    hint = f"{scales.builds} trial builds; recovery and calibration come after"
    notes.note("EC0362", message, hint=hint)


def without(graph: Graph, groups: Sequence[Group], ranking: Ranking, cut: Counts) -> Graph:
    """A copy of `graph` without the first atoms of each group."""
    copy = graph.clone()
    twins = {g.name: g for g in find_groups(copy)}
    if gone := ranking.first_atoms([twins[g.name] for g in groups], cut):
        remove(copy, gone)
    return copy
