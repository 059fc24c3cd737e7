"""Zeros and repeated values in weights, and what targets make of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

from edgec.diagnostics import Diagnostics
from edgec.graph import Graph
from edgec.specs.schema import PatternUse, builtin_target, builtin_targets
from edgec.weight_patterns import tell_worth, weight_patterns


def graph(weight: np.ndarray) -> Graph:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 24]> g (float[1,64,8,8] x) => (float[1,64,8,8] y) { y = Conv (x, w) }"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return Graph.from_proto(model)


RNG = np.random.default_rng(0)
DENSE = RNG.normal(0, 1, (64, 64, 1, 1)).astype(np.float32)


def test_dense_weights_have_no_pattern() -> None:
    found = weight_patterns(graph(DENSE))
    assert (found.zeros, found.two_four, found.few) == (0, 0, 0)
    assert found.coded_bytes == found.bytes == 64 * 64 * 4


def test_zeros_anywhere() -> None:
    sparse = np.where(RNG.random(DENSE.shape) < 0.75, 0, DENSE).astype(np.float32)
    found = weight_patterns(graph(sparse))
    assert found.zeros == pytest.approx(0.75, abs=0.02)
    assert found.two_four == 0
    assert found.coded_bytes < 0.5 * found.bytes


def test_two_zeros_in_every_four_input_channels() -> None:
    pattern = np.array([1, 0, 0, 1] * 16, np.float32)[None, :, None, None]
    found = weight_patterns(graph(DENSE * pattern))
    assert (found.zeros, found.two_four) == (0.5, 1)
    along_outputs = weight_patterns(graph(DENSE * pattern.transpose(1, 0, 2, 3)))
    assert along_outputs.zeros == 0.5, "as many zeros"
    assert along_outputs.two_four == 0, "but whole output channels of them: rows with four numbers"


def test_sixteen_values_take_four_bits() -> None:
    values = RNG.normal(0, 1, 16).astype(np.float32)
    found = weight_patterns(graph(values[RNG.integers(0, 16, DENSE.shape)]))
    assert found.few == 1
    assert found.coded_bytes == pytest.approx(64 * 64 / 2 + 16 * 4, rel=0.01)


@pytest.mark.parametrize("gain", ["none", "size", "speed"])
def test_what_it_is_worth_is_told(gain: str) -> None:
    sparse = np.where(RNG.random(DENSE.shape) < 0.75, 0, DENSE).astype(np.float32)
    notes = Diagnostics()
    use = PatternUse(gain=gain, how="because")  # type: ignore[arg-type]
    tell_worth(weight_patterns(graph(sparse)), {"zeros": use}, "board", notes, None)
    (told,) = notes.items
    assert told.code == ("EC0360" if gain == "none" else "EC0361")
    assert "board" in told.message
    assert "because" in told.message


def test_dense_weights_are_not_talked_of() -> None:
    notes = Diagnostics()
    tell_worth(weight_patterns(graph(DENSE)), {}, "board", notes, None)
    assert not notes.items


@pytest.mark.parametrize("name", builtin_targets())
def test_every_target_says_what_it_makes_of_them(name: str) -> None:
    assert set(builtin_target(name).weight_patterns) == {"zeros", "two_four", "few"}
