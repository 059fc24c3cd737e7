"""Which epoch's weights are kept: verdicts on held-out samples, and the views they are shown in."""

from __future__ import annotations

import numpy as np

from edgec.training.held_out import held_out_views, ruined, surely_above
from edgec.training.options import DistillOptions


def test_a_difference_counts_when_it_is_more_than_chance_makes() -> None:
    rng = np.random.default_rng(0)
    easy_and_hard = rng.uniform(0.01, 5.0, 200)  # samples differ far more than epochs do
    assert surely_above(easy_and_hard + 0.01, easy_and_hard)
    assert not surely_above(easy_and_hard - 0.01, easy_and_hard)
    assert not surely_above(easy_and_hard, easy_and_hard)
    one_outlier = np.zeros(10)
    one_outlier[3] = 5.0
    assert not surely_above(1 + one_outlier, np.ones(10))


def test_one_sample_decides_by_its_loss_and_nan_is_always_worse() -> None:
    assert surely_above(np.array([1.1]), np.array([1.0]))
    assert not surely_above(np.array([1.0]), np.array([1.0]))
    assert surely_above(np.array([np.nan, 1.0]), np.ones(2))


def test_an_epoch_did_harm_when_it_is_a_quarter_worse_and_surely_so() -> None:
    rng = np.random.default_rng(1)
    least = rng.uniform(0.5, 1.5, 50)
    assert ruined(least * 1.5, least)
    assert not ruined(least * 1.1, least)
    by_one = least.copy()
    by_one[0] += 100.0
    assert not ruined(by_one, least)
    assert ruined(np.full(50, np.nan), least)


def test_few_samples_are_judged_in_several_views_and_always_the_same_ones() -> None:
    rng = np.random.default_rng(2)
    held = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(10)]
    axes = {"x": (2, 3)}
    options = DistillOptions(augment=("flip", "zoom"))
    views = held_out_views(held, options, axes)
    assert len(views) == 7  # 70 judgements
    assert all(a is b for a, b in zip(views[0], held, strict=True))
    assert len({v[0]["x"].tobytes() for v in views}) == 7
    again = held_out_views(held, options, axes)
    assert all((a["x"] == b["x"]).all() for v, w in zip(views, again, strict=True) for a, b in zip(v, w, strict=True))
    assert len(held_out_views(held * 10, options, axes)) == 1
    assert len(held_out_views(held, DistillOptions(), axes)) == 1
    assert len(held_out_views(held, options, {})) == 1
