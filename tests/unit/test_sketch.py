"""TensorSketch: exact extremes, quantiles within a bucket, merging, storing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.quantization.sketch import TensorSketch

RELATIVE = 1 / 512
"""Width of a bucket beside its values."""


def sketch_of(*samples: object, weight: int = 1) -> TensorSketch:
    s = TensorSketch()
    for x in samples:
        s.add(np.asarray(x, np.float32), weight=weight)
    return s


def same(a: TensorSketch, b: TensorSketch) -> bool:
    return json.dumps(a.to_json()) == json.dumps(b.to_json())


def test_extremes_are_exact_and_means_are_of_the_samples():
    s = sketch_of([1.25, -3.5], [0.1, 7.75])
    s.fold()
    assert (s.low, s.high, s.samples, s.elements) == (-3.5, 7.75, 2, 4)
    assert s.low_mean == pytest.approx((-3.5 + 0.1) / 2)
    assert s.high_mean == pytest.approx((1.25 + 7.75) / 2)


def test_extremes_of_elements_that_are_not_counted():
    s = TensorSketch()
    s.add(np.float32([1, 2]), weight=5, extremes=(-1.0, 9.0))
    values, counts = s.buckets()
    assert (s.low, s.high) == (-1.0, 9.0)
    assert counts.tolist() == [5, 5]
    assert s.elements == 10
    np.testing.assert_allclose(values, [1, 2], rtol=RELATIVE)


def test_buckets_ascend_over_zero_and_hold_zeros_of_both_signs():
    s = sketch_of([-2, -1, -0.0, 0.0, 1e-3, 5])
    values, counts = s.buckets()
    assert (np.diff(values) > 0).all()
    np.testing.assert_allclose(values, [-2, -1, 0, 1e-3, 5], rtol=RELATIVE)
    assert counts.tolist() == [1, 1, 2, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_lie_within_a_bucket_of_the_exact_ones(values: list[float], share: float):
    x = np.sort(np.float32(values))
    s = sketch_of(x)
    i = min(max(math.ceil(share * x.size) - 1, 0), x.size - 1)
    exact = float(x[i])
    slack = abs(exact) * RELATIVE * 1.01 + 1e-37
    assert exact - slack <= s.quantile(share) <= exact + slack


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20), min_size=2, max_size=12), st.data())
def test_merging_parts_is_seeing_everything(samples: list[list[float]], data: st.DataObject):
    cut = data.draw(st.integers(1, len(samples) - 1))
    whole, first, rest = sketch_of(*samples), sketch_of(*samples[:cut]), sketch_of(*samples[cut:])
    first.merge(rest)
    for name in ("samples", "elements", "low", "high", "not_finite"):
        whole.fold()
        assert getattr(first, name) == getattr(whole, name), name
    assert first.low_sum == pytest.approx(whole.low_sum)
    assert first.keys.tolist() == whole.keys.tolist()
    assert first.counts.tolist() == whole.counts.tolist()
    assert [n for n, _, _ in first.growth] == sorted(n for n, _, _ in first.growth)
    assert first.growth[-1][0] <= first.samples


def test_a_group_has_the_elements_of_all_and_the_samples_of_one():
    a, b = sketch_of([0, 1], [0, 3]), sketch_of([-1, 0.5], [-2, 0.5])
    g = TensorSketch.group([a, b, TensorSketch()])
    assert (g.low, g.high, g.samples) == (-2, 3, 2)
    assert (g.low_mean, g.high_mean) == (-1.5, 2)
    assert g.counts.sum() == 8
    assert (a.low, b.high) == (0, 0.5)  # the members stay as they were


def test_not_a_number_and_infinity_are_counted_apart():
    s = sketch_of([1, np.nan, np.inf, -np.inf, 2])
    assert s.buckets()[1].sum() == 2
    assert s.not_finite == 3
    assert (s.low, s.high) == (1, 2)


def test_extremes_that_are_not_finite_give_way_to_those_of_finite_values():
    s = TensorSketch()
    s.add(np.float32([1, 2]), extremes=(-np.inf, 2.0))  # the infinity was not among the values taken
    assert (s.low, s.high, s.samples, s.not_finite) == (1, 2, 1, 1)
    s.add(np.zeros(0, np.float32), extremes=(np.nan, 2.0))
    assert (s.low, s.high, s.samples, s.not_finite) == (1, 2, 1, 2)
    s.add(np.zeros(0, np.float32), extremes=(np.inf, -np.inf))  # no elements
    assert (s.samples, s.not_finite) == (1, 2)


def test_nothing_seen():
    s = TensorSketch()
    assert s.empty
    s.add(np.zeros(0, np.float32))
    s.add(np.float32([np.nan]))
    assert s.empty
    assert s.samples == 0
    assert same(TensorSketch.from_json(json.loads(json.dumps(s.to_json()))), s)


def test_folding_early_changes_nothing():
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal(20_000).astype(np.float32) for _ in range(5)]  # more than what waits
    s, t = TensorSketch(), TensorSketch()
    for x in samples:
        s.add(x)
        t.add(x)
        t.fold()
    assert same(s, t)
    assert s.counts.sum() == 100_000
    assert s.keys.size < 20_000


def test_storing_keeps_everything():
    s = sketch_of(np.random.default_rng(1).standard_normal(5000), [1e-30, 1e30], weight=7)
    back = TensorSketch.from_json(json.loads(json.dumps(s.to_json())))
    assert same(back, s)
    assert back.quantile(0.9) == s.quantile(0.9)
    for key, value in (("buckets", "AAAA"), ("buckets", "?"), ("low", "x")):
        with pytest.raises(ValueError, match=r"\S"):
            TensorSketch.from_json({**s.to_json(), key: value})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mask", [-3.4028234663852886e38, 3.4028234663852886e38])
def test_masks_of_the_largest_number_have_quantiles(mask: float):
    """Attention masks are filled with float32's lowest number: the bucket of it has no end to go halfway to."""
    sketch = sketch_of([mask] * 50 + [0.0] * 50)
    shares = (0.0005, 0.25, 0.75, 0.9995)
    assert sorted({round(sketch.quantile(s) / abs(mask), 2) for s in shares}) == sorted({0.0, np.sign(mask)})
    low, high = sketch.edges()
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()
