"""weight_params: ranges of weights."""

import numpy as np
import pytest

from edgec.passes.quantize.weight_ranges import weight_params
from edgec.specs.scheme import QuantKind

INT8 = QuantKind(dtype="int8", symmetric=True, narrow=True, per="channel")
INT4 = QuantKind(dtype="int4", symmetric=True, per="channel")
UINT8 = QuantKind(dtype="uint8", symmetric=False, per="channel")


def _weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_minmax_covers_the_range_of_every_channel() -> None:
    w = _weight(4, 3, 3, 3)
    p = weight_params(w, INT8, 0, method="minmax")
    assert p.axis == 0
    np.testing.assert_allclose(p.scale, np.abs(w).reshape(4, -1).max(1) / 127, rtol=1e-6)
    assert np.abs(p.fake(w) - w).max() <= p.scale.max() / 2 * 1.001


@pytest.mark.parametrize("kind", [INT8, INT4, UINT8], ids=lambda k: k.dtype)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_mse_is_never_worse_than_minmax(kind: QuantKind, axis: int) -> None:
    w = _weight(6, 8, 40)
    w[2, 3, 4] = 9.0  # an outlier
    errors = {m: np.square(weight_params(w, kind, axis, method=m).fake(w) - w) for m in ("minmax", "mse")}
    other = tuple(i for i in range(3) if i != axis % 3)
    assert (errors["mse"].sum(other) <= errors["minmax"].sum(other) * (1 + 1e-6)).all()
    if kind.dtype == "int4":
        assert errors["mse"].sum() < errors["minmax"].sum() * 0.9


@pytest.mark.parametrize("shape", [(64, 1, 3, 3), (16, 64, 3, 3)])
def test_cut_ranges_end_at_a_value(shape: tuple[int, ...]) -> None:
    """Some value of each channel is the largest integer: rounded anew by largest values, nothing changes."""
    w = _weight(*shape)
    p = weight_params(w, INT8, 0, method="cut")
    rounded = p.fake(w)
    axes = tuple(range(1, w.ndim))
    np.testing.assert_allclose(np.abs(rounded).max(axes) / 127, p.scale, rtol=1e-6)
    errors = {m: np.square(weight_params(w, INT8, 0, method=m).fake(w) - w).sum() for m in ("minmax", "cut", "mse")}
    assert errors["mse"] <= errors["cut"] <= errors["minmax"]


def test_mse_gains_on_depthwise_filters() -> None:
    w = _weight(64, 1, 3, 3)
    errors = [np.square(weight_params(w, INT8, 0, method=m).fake(w) - w).sum() for m in ("mse", "minmax")]
    assert errors[0] < errors[1] * 0.7


def test_mse_finds_the_best_of_the_grid() -> None:
    w = _weight(1, 500)
    best = weight_params(w, INT4, 0, method="mse")
    top = np.abs(w).max()
    for f in np.linspace(0.5, 1.0, 21):
        scale = np.float32(top * f / 7)
        error = np.square(np.clip(np.rint(w / scale), -8, 7) * scale - w).sum()
        assert np.square(best.fake(w) - w).sum() <= error * (1 + 1e-5)


def test_per_tensor_has_one_scale() -> None:
    w = _weight(4, 5)
    p = weight_params(w, QuantKind(dtype="int8", symmetric=True), 0)
    assert p.axis is None
    assert p.scale.shape == ()


def test_blocks_with_a_short_last_one() -> None:
    w = _weight(70, 3)
    kind = QuantKind(dtype="int4", symmetric=True, per="block", block=32)
    p = weight_params(w, kind, 0, method="minmax")
    assert p.scale.shape == (3, 3)
    assert (p.axis, p.block) == (0, 32)
    np.testing.assert_allclose(p.scale[2], np.abs(w[64:]).max(0) / 7, rtol=1e-6)
    assert (np.abs(p.fake(w) - w) <= np.repeat(p.scale, 32, 0)[:70] * 0.5001).all()


def test_importance_protects_what_matters() -> None:
    w = _weight(1, 200)
    w[0, 0] = 6.0
    importance = np.ones_like(w)
    importance[0, 0] = 1e4
    plain, weighted = (weight_params(w, INT4, 0, importance=i) for i in (None, importance))
    assert abs(weighted.fake(w)[0, 0] - 6.0) < abs(plain.fake(w)[0, 0] - 6.0)


def test_zeros_and_constants_have_a_scale() -> None:
    w = np.zeros((2, 8), np.float32)
    w[1] = 3.0
    p = weight_params(w, INT8, 0)
    assert np.isfinite(p.scale).all()
    np.testing.assert_allclose(p.fake(w), w, rtol=0.01)
