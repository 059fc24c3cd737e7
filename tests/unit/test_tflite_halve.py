"""float16 weights: who is halved, shared weights once, what float16 cannot hold stays."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.targets.tflite.halve import LEAST, fits, halve_weights
from edgec.targets.tflite.model import Operator, SubGraph, Tensor, TfliteModel


def _weight(name: str, data: np.ndarray) -> Tensor:
    return Tensor(name, data.shape, "float32", None, data.astype(np.float32))


def _two_layers(w: Tensor, b: Tensor) -> TfliteModel:
    x, h, y = (Tensor(n, (1, 16), "float32") for n in "xhy")
    layers = [Operator("FULLY_CONNECTED", [x, w, b], [h]), Operator("FULLY_CONNECTED", [h, w, b], [y])]
    return TfliteModel([SubGraph("main", [x], [y], layers)])


def test_a_shared_weight_is_stored_and_dequantised_once() -> None:
    w = _weight("w", np.random.default_rng(0).standard_normal((16, 16)))
    model = _two_layers(w, _weight("b", np.ones(16)))
    assert halve_weights(model) == []
    made = model.main.operators
    assert [o.op for o in made] == ["DEQUANTIZE", "FULLY_CONNECTED", "FULLY_CONNECTED"]
    (half,) = made[0].inputs
    assert half is not None
    assert half.dtype == "float16"
    assert half.data is not None
    np.testing.assert_array_equal(half.data, w.data.astype(np.float16))
    assert made[1].inputs[1] is made[2].inputs[1] is made[0].outputs[0]


def test_small_constants_stay() -> None:
    model = _two_layers(_weight("w", np.eye(16)), _weight("b", np.ones(16)))
    halve_weights(model)
    assert LEAST > 16
    assert all(o.inputs[2] is not None and o.inputs[2].data is not None for o in model.main.operators[1:])


@pytest.mark.parametrize("factor", [1e5, 1e-8])
def test_what_float16_cannot_hold_is_named_once_and_stays(factor: float) -> None:
    model = _two_layers(
        _weight("w", factor * np.random.default_rng(0).standard_normal((16, 16))), _weight("b", np.ones(16))
    )
    assert halve_weights(model) == ["w"]
    assert [o.op for o in model.main.operators] == ["FULLY_CONNECTED", "FULLY_CONNECTED"]


def test_infinities_and_zeros_fit() -> None:
    assert fits(np.array([0.0, -np.inf, 1.0], np.float32))
    assert fits(np.zeros(4, np.float32))
    assert not fits(np.array([7e4, 1.0], np.float32))
