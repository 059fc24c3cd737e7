"""Mixed precision: the search on models of its own making, then on a real quantised graph; the plot."""

from __future__ import annotations

import itertools
import math
from xml.etree import ElementTree

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.quantization.budget import Budget, Score
from edgec.quantization.metric import Drop
from edgec.quantization.mixed import giving_up_order, search
from edgec.quantization.pareto import Dot, frontier, pareto_svg
from edgec.quantization.sensitivity import Layer, Sensitivity
from edgec.quantization.terms import Follower, Term


def made_up(harms: dict[str, float], macs: dict[str, int]) -> Sensitivity:
    """Layers whose errors are independent and exactly as predicted."""
    names = list(harms)
    c = np.diag(np.sqrt([harms[n] * len(names) for n in names]))
    layers = tuple(Layer(n, "Conv", macs[n], 30.0, None, harms[n], harms[n]) for n in names)
    return Sensitivity(layers, tuple(map(Term, names)), c)


def exact(found: Sensitivity, runs: list[frozenset[str]]):
    def evaluate(keep: frozenset[str], wide: frozenset[str]) -> Score:
        runs.append(keep)
        return Score(found.sqnr_db(keep))

    return evaluate


NAMES = [f"n{i}" for i in range(40)]


@pytest.mark.parametrize("seed", range(5))
def test_the_search_is_near_the_best_and_takes_few_runs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = NAMES[:10]
    harms = dict(zip(names, 10 ** rng.uniform(-5, -2, 10), strict=True))
    macs = dict(zip(names, rng.integers(100, 1000, 10).tolist(), strict=True))
    found = made_up(harms, macs)
    budget = Budget(min_sqnr=found.sqnr_db() + 6)
    runs: list[frozenset[str]] = []
    mixed = search(found, exact(found, runs), budget, costs=macs, max_kept=1.0)
    assert budget.met(mixed.chosen.score)
    best = min(
        sum(macs[n] for n in keep)
        for size in range(11)
        for keep in itertools.combinations(names, size)
        if found.sqnr_db(keep) >= budget.min_sqnr
    )
    assert sum(macs[n] for n in mixed.keep) <= 1.35 * best
    assert len(runs) == len(set(runs)) <= 14


def test_many_layers_take_few_runs() -> None:
    rng = np.random.default_rng(0)
    harms = {n: float(10 ** rng.uniform(-6, -2)) for n in NAMES}
    found = made_up(harms, dict.fromkeys(NAMES, 100))
    runs: list[frozenset[str]] = []
    mixed = search(found, exact(found, runs), Budget(min_sqnr=found.sqnr_db() + 10), max_kept=1.0)
    assert 0 < len(mixed.keep) < 20
    assert len(runs) < 15
    worst = sorted(harms, key=lambda n: -harms[n])[: len(mixed.keep)]
    assert set(mixed.keep) == set(worst)  # all cost the same: the worst it is


def test_predictions_that_are_wrong_are_made_good_by_runs() -> None:
    found = made_up(dict.fromkeys(NAMES, 1e-4), dict.fromkeys(NAMES, 100))
    budget = Budget(min_sqnr=30.0)

    def evaluate(keep: frozenset[str], wide: frozenset[str]) -> Score:
        return Score(35.0 if "n7" in keep else 20.0)

    mixed = search(found, evaluate, budget, max_kept=1.0)
    assert "n7" in mixed.keep
    assert mixed.chosen.met


def test_nothing_is_kept_where_nothing_has_to_be() -> None:
    found = made_up({"a": 1e-4, "b": 1e-4}, {"a": 1, "b": 1})
    runs: list[frozenset[str]] = []
    mixed = search(found, exact(found, runs), Budget(min_sqnr=30.0))
    assert mixed.keep == ()
    assert runs == [frozenset()]
    assert mixed.chosen.share == 1.0


def test_a_failure_says_how_close_it_came_and_what_is_to_blame() -> None:
    found = made_up({"a": 1e-2, "b": 8e-3, "c": 1e-5}, {"a": 600, "b": 300, "c": 100})
    with pytest.raises(EdgecError, match="EC0755") as e:
        search(found, exact(found, []), Budget(min_sqnr=40.0), max_kept=0.5)
    text = str(e.value)
    assert "20.0 dB where 40.0 dB is asked for" in text
    assert "a (100% of the error left)" in text
    assert "60.0% of the MACs in integers" in text
    assert "50%" in text


def test_cancelling_errors_are_ordered_too() -> None:
    layers = tuple(Layer(n, "Conv", 1, 30.0, None, 1.0, 0.0) for n in "ab")
    found = Sensitivity(layers, (Term("a"), Term("b")), np.array([[1.0, -1.0], [1.0, -1.0]]))
    assert sorted(giving_up_order(found, {"a": 1.0, "b": 1.0})) == ["a", "b"]
    assert found.sqnr_db() == math.inf
    assert found.sqnr_db(["a"]) == 0


def test_layers_that_hand_on_go_with_their_readers() -> None:
    layers = tuple(Layer(n, "Conv", 1, 30.0, None, 1.0, 1.0) for n in "abc")
    found = Sensitivity(layers, tuple(map(Term, "abc")), np.eye(3), {"b": Follower(frozenset("a"), frozenset("c"))})
    assert found.off([]) == set()
    assert found.off("a") == {"a", "b"}  # nothing to follow
    assert found.off("c") == {"b", "c"}  # nobody to follow for


@pytest.mark.parametrize(
    ("budget", "score", "missed"),
    [
        (Budget(min_sqnr=20), Score(21.0), []),
        (Budget(min_sqnr=20), Score(math.nan), ["nan dB where 20.0 dB is asked for"]),
        (Budget(min_agreement=0.99), Score(50.0, 0.98), ["98.00% agreement where 99.00% agreement is asked for"]),
        (Budget(min_agreement=0.99), Score(50.0), ["no top-1 agreement where 99.00% agreement is asked for"]),
        (Budget(max_drop=Drop.parse("1%"), baseline=80.0), Score(50.0, metric=79.3), []),
        (Budget(min_sqnr=20, max_drop=Drop.parse("1pt"), baseline=80.0), Score(10.0, metric=78.0),
         ["10.0 dB where 20.0 dB is asked for", "a metric of 78 where a metric of 79 is asked for"]),
    ],
)  # fmt: skip
def test_budgets(budget: Budget, score: Score, missed: list[str]) -> None:
    assert budget.shortfalls(score) == missed
    assert budget.met(score) == (not missed)


@pytest.mark.parametrize("wrong", [{}, {"min_agreement": 99.0}, {"max_drop": Drop(0.01, True)}])
def test_budgets_that_are_none(wrong: dict[str, object]) -> None:
    with pytest.raises(EdgecError, match="EC0754"):
        Budget(**wrong)  # type: ignore[arg-type]


def test_the_plot_is_one_file_of_valid_svg() -> None:
    dots = [Dot(1.0, 12.3, "<all> & nothing"), Dot(0.8, 25.0, "some", chosen=True), Dot(0.7, 20.0, "worse"),
            Dot(0.5, math.inf, "float")]  # fmt: skip
    text = pareto_svg(dots, title="a <model>", y_label="SQNR in dB", floor=22.0)
    root = ElementTree.fromstring(text)
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 3  # infinity cannot be drawn
    assert sum(c.get("r") == "7" for c in circles) == 1
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    for c in circles:
        assert 0 <= float(c.get("cx", "-1")) <= 640
        assert 40 <= float(c.get("cy", "-1")) <= 350
    assert [d.label for d in frontier(dots[:3])] == ["some", "<all> & nothing"]


@pytest.mark.parametrize("ys", [[], [5.0], [0.98, 0.99, 1.0], [-3e6, 4e6], [0.0, 0.0]])
def test_plots_of_any_values(ys: list[float]) -> None:
    dots = [Dot(i / 4, y, str(y)) for i, y in enumerate(ys)]
    root = ElementTree.fromstring(pareto_svg(dots, title="t", y_label="y"))
    for c in root.findall("{http://www.w3.org/2000/svg}circle"):
        assert 39.9 <= float(c.get("cy", "-1")) <= 350.1
