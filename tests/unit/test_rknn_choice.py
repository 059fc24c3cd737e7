"""Which of two .rknn files is better: fidelity by channels, layers on the CPU and in float."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.targets.rknn.choice import Fidelity, better, channel_axis, fidelity


def test_fidelity_counts_channels() -> None:
    """Scores that are all zero hide in the SQNR of an output with large boxes, not in the figure by channel."""
    rng = np.random.default_rng(0)
    boxes, scores = rng.uniform(0, 640, (1, 4, 50)), rng.uniform(0, 1, (1, 4, 50))
    want = np.concatenate([boxes, scores], 1)
    dead = np.concatenate([boxes + rng.normal(0, 1, boxes.shape), 0 * scores], 1)
    live = np.concatenate([boxes + rng.normal(0, 2, boxes.shape), scores + rng.normal(0, 0.02, scores.shape)], 1)
    a, b = fidelity([{"o": want}], [{"o": dead}]), fidelity([{"o": want}], [{"o": live}])
    assert a.outputs["o"] > b.outputs["o"] + 3
    assert b.figure > a.figure + 5
    signal, noise = (want**2).sum(), ((want - dead) ** 2).sum()
    assert a.outputs["o"] == pytest.approx(10 * np.log10(signal / noise))
    channels = [10 * np.log10((want[0, c] ** 2).sum() / ((want[0, c] - dead[0, c]) ** 2).sum()) for c in range(8)]
    assert a.figure == pytest.approx(np.mean(np.clip(channels, 0, 60)))


def test_fidelity_of_exact_dead_and_broken_outputs() -> None:
    one = np.ones((1, 5))
    assert fidelity([{"y": one}], [{"y": one}]).figure == 60
    assert fidelity([{"y": 0 * one}], [{"y": one}]).figure == 0
    assert fidelity([{"y": one}], [{"y": np.nan * one}]).figure == 0
    assert fidelity([{"y": np.float32(3)}], [{"y": np.ones(1, np.float32) * 3}]).figure == 60
    assert fidelity([], []).figure == 0


@pytest.mark.parametrize(
    ("shape", "axis"), [((1, 8, 4, 4), 1), ((1, 22, 2100), 1), ((1, 2100, 22), 2), ((1, 10), None)]
)
def test_channel_axis(shape: tuple[int, ...], axis: int | None) -> None:
    assert channel_axis(shape) == axis


def layered(cpu: int, npu: int, floating: int = 0) -> Any:
    class Fake:
        on_cpu = cpu
        in_float = floating
        layers = ("x",) * (cpu + npu)

    return Fake()


def test_layers_on_the_cpu_cost() -> None:
    def quality(db: float) -> Fidelity:
        return Fidelity({"y": db}, db)

    few, many = layered(0, 10), layered(2, 10)
    assert better((many, quality(22)), (few, quality(20))) is few
    assert better((many, quality(24)), (few, quality(20))) is many
    assert better((few, quality(20)), (many, quality(22))) is few
    short, long = layered(1, 8), layered(1, 10)
    assert better((long, quality(20.05)), (short, quality(20))) is short
    assert better((short, quality(20)), (long, quality(20))) is short
    assert better((long, quality(21)), (short, quality(20))) is long


def test_layers_in_float_are_nothing_for_an_npu_of_integers() -> None:
    mixed, whole = layered(0, 10, floating=2), layered(0, 12)
    good, bad = Fidelity({"y": 30}, 30), Fidelity({"y": 20}, 20)
    assert better((mixed, good), (whole, bad)) is mixed
    assert better((mixed, good), (whole, bad), integers_only=True) is whole
    assert better((whole, bad), (mixed, good), integers_only=True) is whole
    assert better((mixed, good), (mixed, bad), integers_only=True) is mixed
