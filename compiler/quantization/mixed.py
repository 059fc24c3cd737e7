"""Mixed precision: the cheapest layers to keep in higher precision so that a model stays within its budget.

Sensitivity says what each layer costs at the outputs, so the order in which layers are given up (most error removed
for the multiply-accumulates it costs) needs no run at all. How many of them it takes is found with runs, by bisection,
and each of those that cost most is then tried again in integers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgec.diagnostics import error
from edgec.quantization.budget import Budget, Score
from edgec.quantization.pareto import Dot, pareto_svg
from edgec.quantization.sensitivity import Sensitivity

Evaluate = Callable[[frozenset[str]], Score]
"""What a model reaches with these layers in higher precision: quantised and run."""

LAYER_COST = 0.002
"""Each layer kept costs this part of all multiply-accumulates besides its own: its inputs and outputs are converted."""

LOOKED_AT = 64
"""Layers whose worth is predicted anew in each step of the search."""

NEGLIGIBLE = 1e-3
"""Part of the whole predicted error below which the order of the layers left does not matter."""

RETRIES = 6
"""Kept layers that are tried in integers again at the end."""


@dataclass(frozen=True)
class Point:
    """One choice that was run. `share`: part of the multiply-accumulates that is done in integers, 0..1."""

    keep: tuple[str, ...]
    share: float
    score: Score
    met: bool


@dataclass(frozen=True)
class Mixed:
    """`keep`: for the option of the `quantize` pass. `points`: every choice run, in that order."""

    keep: tuple[str, ...]
    points: tuple[Point, ...]
    budget: Budget
    sensitivity: Sensitivity = field(repr=False)

    @property
    def chosen(self) -> Point:
        return next(p for p in self.points if p.keep == self.keep)

    COLUMNS = ("kept", "MACs in integers", "SQNR dB", "agreement", "metric", "within budget")

    def table(self) -> list[tuple[str, ...]]:
        """Rows of text under `COLUMNS`, most integers first."""
        rows = sorted(self.points, key=lambda p: (-p.share, len(p.keep)))
        return [
            (
                f"{len(p.keep)} layer{'s' if len(p.keep) != 1 else ''}" + (" *" if p.keep == self.keep else ""),
                f"{p.share:.1%}",
                f"{p.score.sqnr_db:.1f}",
                "" if p.score.agreement is None else f"{p.score.agreement:.2%}",
                "" if p.score.metric is None else f"{p.score.metric:.4g}",
                "yes" if p.met else "no",
            )
            for p in rows
        ]

    def svg(self, title: str = "mixed precision") -> str:
        """The points as a plot, in the figure the budget is about."""
        return _svg(self.points, self.budget, self.keep, title)

    def to_json(self) -> dict[str, Any]:
        points = [
            {"keep": list(p.keep), "integer_share": p.share, "met": p.met, **p.score.to_json()} for p in self.points
        ]
        return {
            "keep": list(self.keep), "integer_share": self.chosen.share, "budget": str(self.budget), "points": points,
            "sensitivity": self.sensitivity.to_json(),
        }  # fmt: skip


def _svg(points: Collection[Point], budget: Budget, keep: tuple[str, ...] | None, title: str) -> str:
    labels = {"sqnr_db": "SQNR in dB", "agreement": "top-1 agreement", "metric": "metric"}
    dots = [
        Dot(p.share, value, f"{len(p.keep)} layers kept, {p.share:.1%} in integers: {value:.4g}", p.keep == keep)
        for p in points
        if (value := getattr(p.score, budget.figure)) is not None
    ]
    return pareto_svg(dots, title=title, y_label=labels[budget.figure], floor=budget.floor)


def giving_up_order(found: Sensitivity, costs: Mapping[str, float]) -> list[str]:
    """All layers, in the order that removes most predicted error for its cost, one after the other.

    What a layer is worth changes with each step, upwards too: the rounding between two convolutions only goes with
    both. So the most promising are looked at again after every step, and all of them if there are few.
    """
    left = {la.node for la in found.layers}
    order: list[str] = []
    gain: dict[str, float] = dict.fromkeys(left, float("inf"))
    power = first = found.power()
    while left and power > first * NEGLIGIBLE:
        for name in sorted(left, key=lambda n: (-gain[n], n))[:LOOKED_AT] if order else sorted(left):
            gain[name] = (power - found.power([*order, name])) / costs[name]
        best = max(sorted(left), key=gain.__getitem__)
        order.append(best)
        left.remove(best)
        power = found.power(order)
    harm = {la.node: la.harm for la in found.layers}
    return [*order, *sorted(left, key=lambda n: (-harm[n] / costs[n], n))]


def search(
    found: Sensitivity,
    evaluate: Evaluate,
    budget: Budget,
    *,
    costs: Mapping[str, float] | None = None,
    max_kept: float = 0.5,
    progress: Callable[[str], None] | None = None,
) -> Mixed:
    """The cheapest choice that was found to meet the budget.

    `costs`: what keeping each layer costs, in any unit; by default its multiply-accumulates and a little for each layer.
    `max_kept`: at most this part of the multiply-accumulates may leave integers.

    Raises:
        EdgecError: EC0755 no choice meets it; the message says how close the best one came, and what is to blame.
            EC0754 the budget is about a figure this model does not have.
    """
    return _Search(found, evaluate, budget, costs, max_kept, progress).run()


class _Search:
    def __init__(
        self,
        found: Sensitivity,
        evaluate: Evaluate,
        budget: Budget,
        costs: Mapping[str, float] | None,
        max_kept: float,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.found, self.evaluate, self.budget, self.progress = found, evaluate, budget, progress
        self.macs = {la.node: la.macs for la in found.layers}
        self.total = sum(self.macs.values())
        self.costs = dict(costs) if costs is not None else self._costs()
        self.max_kept = max_kept
        self.points: dict[frozenset[str], Point] = {}

    def _costs(self) -> dict[str, float]:
        return {name: n + LAYER_COST * max(self.total, 1) for name, n in self.macs.items()}

    def share(self, keep: Collection[str]) -> float:
        """Part of the multiply-accumulates in integers."""
        if not self.total:
            return 1 - len(set(keep)) / max(len(self.macs), 1)
        return 1 - sum(self.macs.get(n, 0) for n in set(keep)) / self.total

    def cost(self, keep: Collection[str]) -> float:
        return sum(self.costs[n] for n in keep)

    def run(self) -> Mixed:
        plain = self.point(())
        if plain.met:
            return self.result()
        if self.budget.min_agreement is not None and plain.score.agreement is None:
            hint = "ask for an SQNR, or give a metric of your own"
            raise error("EC0754", "no output has the shape [batch, classes], so there is no top-1 agreement", hint=hint)
        order = self._affordable(giving_up_order(self.found, self.costs))
        low, high = 0, self._reach(order)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.point(order[:middle]).met else (middle, high)
        self._retry(order[:high])
        return self.result()

    def _affordable(self, order: list[str]) -> list[str]:
        """The layers that may be kept together without too much leaving integers."""
        out: list[str] = []
        for name in order:
            if 1 - self.share([*out, name]) <= self.max_kept:
                out.append(name)
        return out

    def _reach(self, order: list[str]) -> int:
        """A number of layers that is enough: as many as predicted, then twice as many, then all."""
        count = self._predicted(order)
        while count < len(order) and not self.point(order[:count]).met:
            count = min(len(order), max(count + 1, 2 * count))
        if not order or not self.point(order[:count]).met:
            raise self.failure()
        return count

    def _predicted(self, order: list[str]) -> int:
        """How many layers of the order are enough, by prediction put right by the run with none kept."""
        return next((n for n in range(1, len(order)) if self._hopeful(order[:n], ())), max(len(order), 1))

    def _hopeful(self, keep: Collection[str], known: Collection[str], slack: float = 0.0) -> bool:
        """Whether a choice may meet the budget, told from what another one, `known`, really reached."""
        if self.budget.min_sqnr is None:
            return True
        was, now = self.found.sqnr_db(known), self.found.sqnr_db(keep)
        expected = self.point(known).score.sqnr_db + (now - was if now != was else 0.0)  # both may be infinite
        return not expected < self.budget.min_sqnr - slack

    def _retry(self, keep: list[str]) -> None:
        """Put single layers back into integers where the budget still holds, those that cost most first."""
        tried = 0
        for name in sorted(keep, key=lambda n: -self.costs[n]):
            fewer = [n for n in keep if n != name]
            if not fewer or tried >= RETRIES or not self._hopeful(fewer, keep, slack=0.5):
                continue
            tried += 1
            if self.point(fewer).met:
                keep = fewer

    def point(self, keep: Collection[str]) -> Point:
        """Run a choice, once."""
        key = frozenset(keep)
        if key not in self.points:
            score = self.evaluate(key)
            made = Point(tuple(sorted(key)), self.share(key), score, self.budget.met(score))
            self.points[key] = made
            if self.progress is not None:
                missed = "; ".join(self.budget.shortfalls(score)) or "within budget"
                self.progress(f"{len(key)} layers kept, {made.share:.1%} of the MACs in integers: {missed}")
        return self.points[key]

    def result(self) -> Mixed:
        """The cheapest of the choices that were run and meet the budget."""
        best = min((p for p in self.points.values() if p.met), key=lambda p: (self.cost(p.keep), p.keep))
        return Mixed(best.keep, tuple(self.points.values()), self.budget, self.found)

    def failure(self) -> Exception:
        best = max(self.points.values(), key=self._closeness)
        missed = "; ".join(self.budget.shortfalls(best.score))
        kept = f"with {len(best.keep)} layers in higher precision ({best.share:.1%} of the MACs in integers)"
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
        return (value if value is not None else -float("inf"), -self.cost(p.keep))
