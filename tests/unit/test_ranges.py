"""choose_range: every method against what it is defined as."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.quantization.params import params_of_range
from edgec.quantization.ranges import METHODS, choose_range
from edgec.quantization.sketch import TensorSketch
from edgec.specs.scheme import QuantKind

UINT8 = QuantKind(dtype="uint8", symmetric=False)
INT8 = QuantKind(dtype="int8", symmetric=True, narrow=True)
INT4 = QuantKind(dtype="int4", symmetric=False)
INT16 = QuantKind(dtype="int16", symmetric=True)
FP8 = QuantKind(dtype="float8e4m3fn", symmetric=True)
KINDS = [UINT8, INT8, INT4, INT16]

rng = np.random.default_rng(0)
DATA = {
    "normal": rng.standard_normal(100_000),
    "relu": np.maximum(rng.standard_normal(100_000), 0),
    "relu6": np.clip(3 * rng.standard_normal(100_000), 0, 6),
    "heavy": rng.standard_t(2.5, 100_000),
    "negative": -np.abs(rng.standard_normal(100_000)) - 1,
    "skewed": rng.gamma(2, 1, 100_000) - 0.3,
}


def sketch(*samples: np.ndarray) -> TensorSketch:
    out = TensorSketch()
    for x in samples:
        out.add(x.astype(np.float32))
    return out


def sqnr(x: np.ndarray, ends: tuple[float, float], kind: QuantKind) -> float:
    back = params_of_range(*ends, kind).fake(x.astype(np.float32))
    return float(10 * np.log10((x**2).sum() / ((x - back) ** 2).sum()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.dtype)
@pytest.mark.parametrize("name", DATA)
def test_ranges_lie_within_what_was_seen(name: str, kind: QuantKind, method: str):
    x = DATA[name]
    low, high = choose_range(sketch(x), kind, method)
    seen_low, seen_high = min(float(x.min()), 0), max(float(x.max()), 0)
    assert seen_low - 1e-5 <= low <= high <= seen_high + 1e-5
    assert sqnr(x, (low, high), kind) > (6 if name != "heavy" or kind is not INT4 else 2)


def test_minmax_and_moving_average():
    s = sketch(np.array([-1.0, 2.0]), np.array([-3.0, 4.0]))
    assert choose_range(s, UINT8, "minmax") == (-3, 4)
    assert choose_range(s, UINT8, "moving-average") == (-2, 3)


def test_percentile_cuts_both_ends_or_the_absolute_value():
    x = DATA["normal"]
    low, high = choose_range(sketch(x), UINT8, "percentile", percentile=99)
    np.testing.assert_allclose([low, high], np.quantile(x, [0.005, 0.995]), rtol=0.005)
    low, high = choose_range(sketch(x), INT8, "percentile", percentile=99)
    assert high == pytest.approx(-low)
    assert high == pytest.approx(np.quantile(np.abs(x), 0.99), rel=0.005)
    assert choose_range(sketch(DATA["relu"]), UINT8, "percentile", percentile=99)[0] == 0


@pytest.mark.parametrize("kind", [UINT8, INT8, INT4], ids=lambda k: k.dtype)
@pytest.mark.parametrize("name", ["normal", "relu", "heavy", "skewed"])
def test_mse_is_no_worse_than_minmax_in_squares(name: str, kind: QuantKind):
    x = DATA[name]
    s = sketch(x)
    assert sqnr(x, choose_range(s, kind, "mse"), kind) >= sqnr(x, choose_range(s, kind, "minmax"), kind) - 0.2


def test_mse_finds_the_best_range_of_a_grid():
    """Against brute force over exact values, with the same weight of what is cut off."""
    from edgec.quantization import ranges

    x = DATA["skewed"][:20_000]
    s = sketch(x)

    def cost(low: float, high: float) -> float:
        p = params_of_range(low, high, INT4)
        q = np.rint(x / float(p.scale)) + float(p.zero_point)
        outside = (q < p.limits[0]) | (q > p.limits[1])
        return float(((x - p.fake(x)) ** 2 * np.where(outside, ranges._CUT_OFF, 1)).sum())

    best = min(cost(s.low * a, s.high * b) for a in np.linspace(0.2, 1, 33) for b in np.linspace(0.2, 1, 81))
    assert cost(*choose_range(s, INT4, "mse")) <= 1.03 * best


def test_mse_moves_each_end_by_itself():
    """Outliers on one side are cut off there, and the other end stays where it is."""
    x = np.concatenate([DATA["normal"], np.linspace(10, 20, 4)])
    for sign in (1, -1):
        ends = choose_range(sketch(sign * x), INT4, "mse")
        near, far = (ends[0], ends[1]) if sign > 0 else (-ends[1], -ends[0])
        assert -4.5 < near < -2
        assert 2 < far < 9


def test_mse_keeps_the_clamp_of_relu6():
    assert choose_range(sketch(DATA["relu6"]), UINT8, "mse") == (0, pytest.approx(6))


def test_mse_does_not_follow_single_samples():
    usual = [rng.standard_normal(4096) for _ in range(40)]
    odd = np.concatenate([rng.standard_normal(4090), [-100, -95, 90, 95, 100, 98]])
    low, high = choose_range(sketch(*usual, odd), UINT8, "mse")
    assert -15 < low < -3
    assert 3 < high < 15
    assert choose_range(sketch(*usual, odd), INT8, "mse") == (pytest.approx(low, rel=0.5), pytest.approx(high, rel=0.5))
    assert sqnr(usual[0], (low, high), UINT8) > sqnr(usual[0], (-100, 100), UINT8) + 10


def test_mse_keeps_what_many_samples_reach_with_few_elements():
    """Scores of ten classes: each class is the largest in some samples only."""
    scores = [np.where(np.arange(10) == i % 10, 10 + i % 7, rng.standard_normal(10)) for i in range(100)]
    assert choose_range(sketch(*scores), UINT8, "mse")[1] > 15


def test_entropy_cuts_a_long_tail_and_keeps_an_even_distribution():
    tail = np.concatenate([rng.laplace(size=100_000), [80.0, -80.0]])
    for kind in (UINT8, INT8):
        assert choose_range(sketch(tail), kind, "entropy")[1] < 40
        even = rng.uniform(-1, 1, 100_000)
        assert choose_range(sketch(even), kind, "entropy")[1] > 0.9


def test_entropy_of_few_elements_and_of_a_clamp_keeps_nearly_all():
    few = np.linspace(0.13, 0.73, 100)
    assert choose_range(sketch(few), UINT8, "entropy") == (pytest.approx(0.13), pytest.approx(0.73, rel=0.02))
    clamp = np.minimum(np.abs(4 * rng.standard_normal(50_000)), 6)
    assert choose_range(sketch(clamp), UINT8, "entropy")[1] > 5.9


def test_scaling_the_data_scales_the_range():
    for method in set(METHODS) - {"entropy"}:  # its divergence is flat over this tail: buckets that move decide
        for factor in (1e-6, 1e6):
            low, high = choose_range(sketch(DATA["heavy"]), UINT8, method)
            ends = choose_range(sketch(DATA["heavy"] * factor), UINT8, method)
            np.testing.assert_allclose(ends, (low * factor, high * factor), rtol=0.05)


def test_floats_keep_everything():
    s = sketch(DATA["heavy"])
    for method in ("mse", "entropy", "minmax"):
        assert choose_range(s, FP8, method) == (s.low, s.high)


def test_degenerate_tensors():
    for method in METHODS:
        for kind in KINDS:
            assert choose_range(TensorSketch(), kind, method) == (0, 0)
            assert choose_range(sketch(np.zeros(5)), kind, method) == (0, 0)
            assert choose_range(sketch(np.full(5, 2.5)), kind, method) == (2.5, 2.5)
            low, high = choose_range(sketch(np.array([0.0, 1e-30, 1e-38])), kind, method)
            assert 0 <= low <= high <= 1.1e-30
    extremes_only = TensorSketch()
    extremes_only.add(np.zeros(0), extremes=(-1.0, 2.0))
    assert choose_range(extremes_only, UINT8, "mse") == (-1, 2)


def test_unknown_methods_and_percentiles():
    s = sketch(DATA["normal"])
    with pytest.raises(EdgecError, match=r"EC0721(.|\n)*did you mean 'entropy'"):
        choose_range(s, UINT8, "entropie")
    with pytest.raises(EdgecError, match="EC0721"):
        choose_range(s, UINT8, "percentile", percentile=0.999)


def test_ends_that_much_of_a_tensor_reaches_are_kept():
    """Lows of 0.3, -0.2 and -0.1 average to 0: that says nothing of how rare values below 0 are."""
    samples = [np.array([0.3, 0.9]), np.array([-0.2, 1.0]), np.array([-0.1, 0.8])]
    low, _ = choose_range(sketch(*samples), UINT8, "mse")
    assert low <= -0.15
    rare = [np.r_[np.linspace(0, 1, 5000), -0.01 * np.ones(3)] for _ in range(50)]
    low, high = choose_range(sketch(*rare, np.r_[np.linspace(0, 1, 5000), 9.0]), UINT8, "mse")
    assert high < 2  # one value of 250,000


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_16_bits_cover_everything(method: str):
    x = DATA["heavy"]
    low, high = choose_range(sketch(x), INT16, method)
    assert (low, high) == pytest.approx((x.min(), x.max()))
