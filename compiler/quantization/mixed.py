"""Mixed precision: the cheapest layers to give higher precision so that a model stays within its budget.

Sensitivity says what each layer costs at the outputs, so the order in which layers are given up (most error removed
for the multiply-accumulates it costs) needs no run at all. How many of them it takes is found with runs, by bisection,
and each of those that cost most is then tried again in fewer bits. Where the target computes on 16-bit activations, layers
are given those first, and float only where all of them together are not enough.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgec.quantization.budget import Budget, Score
from edgec.quantization.pareto import Dot, pareto_svg
from edgec.quantization.sensitivity import Sensitivity


class Evaluate(Protocol):
    """What a model reaches with `keep` in float and `wide` in 16 bits: quantised and run."""

    def __call__(self, keep: frozenset[str], wide: frozenset[str]) -> Score: ...


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
    """One choice that was run. `share`: part of the multiply-accumulates that is done in integers, 0..1.

    `keep`: layers in float; `wide`: with 16-bit activations. Not `exact`: run without the passes that correct, and what
    those gain on the plain model added.
    """

    keep: tuple[str, ...]
    share: float
    score: Score
    met: bool
    wide: tuple[str, ...] = ()
    exact: bool = True


@dataclass(frozen=True)
class Mixed:
    """`keep` and `wide`: for the options of the `quantize` pass. `points`: every choice run, in that order."""

    keep: tuple[str, ...]
    points: tuple[Point, ...]
    budget: Budget
    sensitivity: Sensitivity = field(repr=False)
    wide: tuple[str, ...] = ()
    dtype: str = "16 bits"
    """Of the activations of `wide`."""

    @property
    def chosen(self) -> Point:
        return next(p for p in self.points if (p.keep, p.wide, p.exact) == (self.keep, self.wide, True))

    def _is_chosen(self, p: Point) -> bool:
        return p is self.chosen

    LAYER_COLUMNS = ("layer", "op", "MACs", "became")

    def layer_table(self) -> list[tuple[str, ...]]:
        """Rows of text under `LAYER_COLUMNS`: what became of each layer that was given more bits, in execution order."""
        became = {**dict.fromkeys(self.wide, self.dtype), **dict.fromkeys(self.keep, "float")}
        return [
            (la.node, la.op, f"{la.macs:,}", became[la.node]) for la in self.sensitivity.layers if la.node in became
        ]

    COLUMNS = ("float", "16 bits", "MACs in integers", "SQNR dB", "agreement", "metric", "within budget")

    def table(self) -> list[tuple[str, ...]]:
        """Rows of text under `COLUMNS`, most integers first."""
        rows = sorted(self.points, key=lambda p: (-p.share, len(p.keep), len(p.wide), not p.exact))
        return [
            (
                f"{len(p.keep)} layer{'s' if len(p.keep) != 1 else ''}" + (" *" if self._is_chosen(p) else ""),
                str(len(p.wide)),
                f"{p.share:.1%}",
                f"{'' if p.exact else '~'}{p.score.sqnr_db:.1f}",
                "" if p.score.agreement is None else f"{p.score.agreement:.2%}",
                "" if p.score.metric is None else f"{p.score.metric:.4g}",
                ("yes" if p.met else "no") if p.exact else "likely" if p.met else "unlikely",
            )
            for p in rows
        ]

    def svg(self, title: str = "mixed precision") -> str:
        """The points as a plot, in the figure the budget is about."""
        return _svg(self.points, self.budget, self.chosen, title)

    def to_json(self) -> dict[str, Any]:
        points = [
            {
                "keep": list(p.keep), "wide": list(p.wide), "integer_share": p.share, "met": p.met, "exact": p.exact,
                **p.score.to_json(),
            }
            for p in self.points
        ]  # fmt: skip
        return {
            "keep": list(self.keep), "wide": list(self.wide), "wide_dtype": self.dtype if self.wide else None,
            "integer_share": self.chosen.share, "budget": str(self.budget), "points": points,
            "sensitivity": self.sensitivity.to_json(),
        }  # fmt: skip


def _count(p: Point) -> str:
    return f"{len(p.keep)} layers kept" + (f", {len(p.wide)} in 16 bits" if p.wide else "")


def _svg(points: Collection[Point], budget: Budget, chosen: Point, title: str) -> str:
    labels = {"sqnr_db": "SQNR in dB", "agreement": "top-1 agreement", "metric": "metric"}
    dots = [
        Dot(p.share, value, f"{_count(p)}, {p.share:.1%} in integers: {value:.4g}", p is chosen)
        for p in points
        if p.exact and (value := getattr(p.score, budget.figure)) is not None
    ]
    return pareto_svg(dots, title=title, y_label=labels[budget.figure], floor=budget.floor)


def giving_up_order(
    found: Sensitivity,
    costs: Mapping[str, float],
    power: Callable[[Collection[str]], float] | None = None,
    names: Collection[str] | None = None,
) -> list[str]:
    """All layers, or `names`, in the order that removes most predicted error for its cost, one after the other.

    `power`: what error is left when layers are given up; by default when they are kept in float. What a layer is worth
    changes with each step, upwards too: the rounding between two convolutions only goes with both. So the most promising
    are looked at again after every step, and all of them if there are few.
    """
    predict = power or found.power
    layers = [la for la in found.layers if names is None or la.node in names]
    left = {la.node for la in layers}
    order: list[str] = []
    gain: dict[str, float] = dict.fromkeys(left, float("inf"))
    now = first = predict(())
    while left and now > first * NEGLIGIBLE:
        for name in sorted(left, key=lambda n: (-gain[n], n))[:LOOKED_AT] if order else sorted(left):
            gain[name] = (now - predict([*order, name])) / costs[name]
        best = max(sorted(left), key=gain.__getitem__)
        order.append(best)
        left.remove(best)
        now = predict(order)
    harm = {la.node: la.harm for la in layers}
    return [*order, *sorted(left, key=lambda n: (-harm[n] / costs[n], n))]


def search(
    found: Sensitivity,
    evaluate: Evaluate,
    budget: Budget,
    *,
    costs: Mapping[str, float] | None = None,
    max_kept: float = 0.5,
    wide: Collection[str] = (),
    dtype: str = "16 bits",
    estimate: Evaluate | None = None,
    progress: Callable[[str], None] | None = None,
) -> Mixed:
    """The cheapest choice that was found to meet the budget: the fewest multiply-accumulates in float, then in 16 bits.

    `costs`: what keeping each layer costs, in any unit; by default its multiply-accumulates and a little for each layer.
    `max_kept`: at most this part of the multiply-accumulates may leave integers. `wide`: layers that may be given 16-bit
    activations, `dtype`. `estimate`: a cheaper `evaluate` to search with; what is returned has passed the real one.

    Raises:
        EdgecError: EC0755 no choice meets it; the message says how close the best one came, and what is to blame.
            EC0754 the budget is about a figure this model does not have.
    """
    from edgec.quantization.mixed_search import Search

    return Search(found, evaluate, budget, costs, max_kept, wide, dtype, estimate, progress).run()
