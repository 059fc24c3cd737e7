"""The search for the cheapest mixed precision within a budget: along a path of choices, each with more bits than the last."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from edgec.diagnostics import error
from edgec.quantization.budget import Budget
from edgec.quantization.mixed import LAYER_COST, RETRIES, Evaluate, Mixed, Point, giving_up_order
from edgec.quantization.sensitivity import Sensitivity

Choice = tuple[frozenset[str], frozenset[str]]
"""Layers in float, and layers with 16-bit activations."""

PLAIN: Choice = (frozenset(), frozenset())


class Search:
    """One search; `run` it once. See `edgec.quantization.mixed.search` for the arguments."""

    def __init__(
        self,
        found: Sensitivity,
        evaluate: Evaluate,
        budget: Budget,
        costs: Mapping[str, float] | None,
        max_kept: float,
        wide: Collection[str],
        dtype: str,
        estimate: Evaluate | None,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.found, self.evaluate, self.budget, self.progress = found, evaluate, budget, progress
        self.macs = {la.node: la.macs for la in found.layers}
        self.total = sum(self.macs.values())
        self.costs = dict(costs) if costs is not None else self._costs()
        self.max_kept, self.dtype, self.estimate = max_kept, dtype, estimate
        self.widenable = {n for n in self.macs if n in wide}
        self.points: dict[tuple[Choice, bool], Point] = {}

    def _costs(self) -> dict[str, float]:
        return {name: n + LAYER_COST * max(self.total, 1) for name, n in self.macs.items()}

    def share(self, keep: Collection[str]) -> float:
        """Part of the multiply-accumulates in integers, of 8 or 16 bits."""
        if not self.total:
            return 1 - len(set(keep)) / max(len(self.macs), 1)
        return 1 - sum(self.macs.get(n, 0) for n in set(keep)) / self.total

    def cost(self, choice: Choice) -> tuple[float, float]:
        """Float costs more than any number of layers in 16 bits."""
        keep, wide = choice
        return sum(self.costs[n] for n in keep), sum(self.costs[n] for n in wide)

    def run(self) -> Mixed:
        plain = self.point(PLAIN)
        if plain.met:
            return self.result()
        if self.budget.min_agreement is not None and plain.score.agreement is None:
            hint = "ask for an SQNR, or give a metric of your own"
            raise error("EC0754", "no output has the shape [batch, classes], so there is no top-1 agreement", hint=hint)
        path = self._wide_path()
        if len(path) > 1 and self._trial(path[-1]).met:
            high = self._bisect(path, self._reach(path))
        else:
            floats = self._float_path(path[-1][1])
            high = self._bisect(floats, self._reach(floats))
            fewer = [(floats[high][0], w - floats[high][0]) for _, w in path]  # of 16 bits, with the same in float
            path = [*fewer, *floats[high + 1 :]]
            high = self._bisect(path, len(fewer) - 1) if len(fewer) > 1 else 0
        self._retry(self._settle(path, high))
        return self.result()

    def _wide_path(self) -> list[Choice]:
        order: list[str] = []
        if self.widenable:
            order = giving_up_order(self.found, self.costs, lambda w: self.found.power((), w), self.widenable)
        return [(frozenset(), frozenset(order[:n])) for n in range(len(order) + 1)]

    def _float_path(self, wide: frozenset[str]) -> list[Choice]:
        order = self._affordable(giving_up_order(self.found, self.costs, lambda k: self.found.power(k, wide)))
        return [(frozenset(order[:n]), wide - set(order[:n])) for n in range(len(order) + 1)]

    def _affordable(self, order: list[str]) -> list[str]:
        """The layers that may be kept together without too much leaving integers."""
        out: list[str] = []
        for name in order:
            if 1 - self.share([*out, name]) <= self.max_kept:
                out.append(name)
        return out

    def _reach(self, path: Sequence[Choice]) -> int:
        """Where on the path it is enough: as far as predicted, then twice as far, then at its end."""
        end = len(path) - 1
        at = next((n for n in range(1, end) if self._hopeful(path[n], PLAIN)), end)
        while at < end and not self._trial(path[at]).met:
            at = min(end, max(at + 1, 2 * at))
        if at == end and not (self._trial(path[at]).met or self.point(path[at]).met):
            raise self.failure()
        return at

    def _bisect(self, path: Sequence[Choice], high: int) -> int:
        """The first place that is enough, between the start, where it is not, and `high`, where it is."""
        low = -1 if len(path) > 1 and self._trial(path[0]).met else 0
        if low < 0 or not high:
            return 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._trial(path[middle]).met else (middle, high)
        return high

    def _settle(self, path: Sequence[Choice], at: int) -> Choice:
        """The first choice from there on that really meets the budget, where what was run so far are estimates."""
        low, step = at, 1
        while not self.point(path[at]).met:
            if at >= len(path) - 1:
                raise self.failure()
            low, at, step = at, min(len(path) - 1, at + step), 2 * step
        while at - low > 1:
            middle = (low + at) // 2
            low, at = (low, middle) if self.point(path[middle]).met else (middle, at)
        return path[at]

    def _hopeful(self, choice: Choice, known: Choice, slack: float = 0.0) -> bool:
        """Whether a choice may meet the budget, told from what another one, `known`, really reached."""
        if self.budget.min_sqnr is None:
            return True
        was, now = self.found.sqnr_db(*known), self.found.sqnr_db(*choice)
        expected = self._trial(known).score.sqnr_db + (now - was if now != was else 0.0)  # both may be infinite
        return not expected < self.budget.min_sqnr - slack

    def _retry(self, settled: Choice) -> None:
        """Give single layers fewer bits again where the budget still holds, those that cost most first."""
        tried, best, steps = 0, settled, [settled]
        for name in sorted(settled[0] | settled[1], key=lambda n: (n not in settled[0], -self.costs[n])):
            for fewer in self._fewer(name, best):
                if tried >= RETRIES or not self._hopeful(fewer, best, slack=0.5):
                    continue
                tried += 1
                if self._trial(fewer).met:
                    best = fewer
                    steps.append(best)
                    break
        next(choice for choice in reversed(steps) if self.point(choice).met)  # the last that holds without estimates

    def _fewer(self, name: str, choice: Choice) -> list[Choice]:
        """The choice with one layer in 8 bits or, from float, in 16; nothing is left of it if it was the only one."""
        keep, wide = choice[0] - {name}, choice[1] - {name}
        out = [(keep, wide)] if keep or wide else []
        return [*out, (keep, wide | {name})] if name in choice[0] and name in self.widenable else out

    def _trial(self, choice: Choice) -> Point:
        """An estimate where there are any, unless the choice was run already."""
        exact = self.estimate is None or (choice, True) in self.points
        return self.point(choice, exact)

    def point(self, choice: Choice, exact: bool = True) -> Point:
        """Run a choice, once."""
        key = choice, exact
        if key not in self.points:
            run = self.evaluate if exact or self.estimate is None else self.estimate
            score = run(*choice)
            keep, wide = choice
            share = self.share(keep)
            made = Point(tuple(sorted(keep)), share, score, self.budget.met(score), tuple(sorted(wide)), exact)
            self.points[key] = made
            if self.progress is not None:
                missed = "; ".join(self.budget.shortfalls(score)) or "within budget"
                bits = f", {len(wide)} in {self.dtype}" if wide else ""
                about = "" if exact else " (estimate)"
                self.progress(f"{len(keep)} layers kept{bits}, {share:.1%} of the MACs in integers: {missed}{about}")
        return self.points[key]

    def result(self) -> Mixed:
        """The cheapest of the choices that were really run and meet the budget."""
        met = [(choice, p) for (choice, exact), p in self.points.items() if exact and p.met]
        _, best = min(met, key=lambda item: (*self.cost(item[0]), item[1].keep, item[1].wide))
        points = tuple(self.points.values())
        return Mixed(best.keep, points, self.budget, self.found, best.wide, self.dtype)

    def failure(self) -> Exception:
        """How close the best choice came, and what is to blame."""
        best = max((p for p in self.points.values() if p.exact), key=self._closeness)
        missed = "; ".join(self.budget.shortfalls(best.score))
        bits = f", {len(best.wide)} more with {self.dtype}" if best.wide else ""
        kept = f"with {len(best.keep)} layers in higher precision{bits} ({best.share:.1%} of the MACs in integers)"
        left = self.found.off(best.keep)
        rest = sorted((la for la in self.found.layers if la.node not in left), key=lambda la: -la.harm)
        total = sum(la.harm for la in rest)
        blame = ", ".join(f"{la.node} ({la.harm / total:.0%} of the error left)" for la in rest[:3]) if total else ""
        hint = f"let more leave integers (--max-kept, now {self.max_kept:.0%})"
        if blame:
            hint += f"; most harmful of those still in integers: {blame}"
        return error("EC0755", f"no choice meets the budget: {missed}, {kept}", hint=hint)

    def _closeness(self, p: Point) -> tuple[float, float]:
        value = getattr(p.score, self.budget.figure)
        return (value if value is not None else -float("inf"), -sum(self.costs[n] for n in p.keep))
