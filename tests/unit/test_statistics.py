"""Statistics: stored, loaded, merged; what review finds in them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.quantization.fixed_values import fixed_values
from edgec.quantization.sketch import TensorSketch
from edgec.quantization.statistics import ChannelRange, Statistics, last_growth, review, unlike


def stats_of(samples: int = 32, **tensors: object) -> Statistics:
    """Each tensor: a function of the sample's number that gives its elements."""
    out = Statistics(model_hash="m")
    for name, make in tensors.items():
        for i in range(samples):
            out.sketch(name).add(np.asarray(make(i), np.float32))  # type: ignore[operator]
    out.add_data(samples, "d")
    return out


def found(stats: Statistics) -> list[str]:
    notes = Diagnostics()
    review(stats, notes)
    return [d.code for d in notes]


def normal(i: int) -> np.ndarray:
    return np.random.default_rng(i).standard_normal(4096)


def test_saved_and_loaded(tmp_path):
    stats = stats_of(4, a=normal, b=lambda i: [0, i])
    stats.add_channels("a", ChannelRange(1, np.float32([-1, 0.1]), np.float32([2, 3])))
    path = tmp_path / "calibration.json"
    stats.save(path)
    back = Statistics.load(path)
    assert (back.model_hash, back.data_hash, back.samples) == ("m", "d", 4)
    assert back.tensors["a"].to_json() == stats.tensors["a"].to_json()
    assert back.per_channel["a"].axis == 1
    np.testing.assert_array_equal(back.per_channel["a"].low, np.float32([-1, 0.1]))
    back.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_damaged_files_are_told_from_others(tmp_path):
    path = tmp_path / "calibration.json"
    stats = stats_of(2, a=normal)
    stats.save(path)
    good = json.loads(path.read_text())
    bad = [
        "",
        "[]",
        "{}",
        '{"format": "edgec-calibration", "version": 99}',
        json.dumps({**good, "tensors": {"a": {}}}),
        json.dumps({**good, "tensors": {"a": {**good["tensors"]["a"], "buckets": "AAAA"}}}),
        json.dumps({**good, "samples": None}),
        path.read_text()[:-40],
    ]
    for text in bad:
        path.write_text(text)
        with pytest.raises(EdgecError, match="EC0720"):
            Statistics.load(path)
    with pytest.raises(EdgecError, match="EC0720"):
        Statistics.load(tmp_path / "absent.json")


def test_merging_adds_samples_and_names_the_data_in_order():
    a, b = stats_of(3, t=normal), stats_of(5, t=lambda i: normal(i + 3), u=normal)
    a.add_channels("t", ChannelRange(0, np.float32([-1]), np.float32([1])))
    b.add_channels("t", ChannelRange(0, np.float32([-3]), np.float32([0])))
    a.merge(b)
    assert (a.samples, a.tensors["t"].samples, a.tensors["u"].samples) == (8, 8, 5)
    assert a.data_hash != "d"
    assert (a.per_channel["t"].low[0], a.per_channel["t"].high[0], a.per_channel["t"].largest[0]) == (-3, 1, 3)
    with pytest.raises(EdgecError, match="EC0719"):
        a.merge(Statistics(model_hash="other"))


def test_sound_statistics_pass_without_a_word():
    assert found(stats_of(128, a=normal, b=lambda i: np.abs(normal(i)))) == []


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda i: [1, np.nan] if i == 3 else [1, 2], "EC0722"),  # as observe adds what every sample has
        (lambda i: [1, np.inf], "EC0722"),
        (lambda i: [0, 0], "EC0723"),
        (lambda i: [2.5, 2.5], "EC0724"),
        (lambda i: np.minimum(np.abs(normal(i)), 0.7), "EC0725"),
    ],
)
def test_each_finding(make, code):
    assert found(stats_of(32, suspect=make, a=normal, b=normal)) == [code]


def test_samples_left_out_are_named_stored_and_numbered_in_order(tmp_path):
    a, b = stats_of(20, t=normal), stats_of(20, t=normal)
    b.left_out = {3: ["t", "u"]}
    a.merge(b)
    a.save(tmp_path / "c.json")
    back = Statistics.load(tmp_path / "c.json")
    assert back.left_out == {23: ["t", "u"]}
    notes = Diagnostics()
    review(back, notes)
    assert [(d.code, d.message) for d in notes] == [("EC0722", "sample 23 is left out: NaN or infinity in t, u")]
    back.left_out |= {24: ["v"]}
    review(back, notes)
    assert notes.items[-1].message == "samples 23, 24 are left out: NaN or infinity in t, u (sample 23)"


def test_a_value_without_a_finite_observation_has_no_range():
    stats = stats_of(8, never=lambda i: [np.nan, np.inf], sometimes=lambda i: [np.nan, 1], empty=lambda i: [])
    stats.require_finite("sometimes")
    stats.require_finite("empty")  # no elements is nothing wrong
    with pytest.raises(EdgecError, match=r"EC0737.*never was NaN or infinite"):
        stats.require_finite("never")
    stats.left_out = {i: ["x"] for i in range(8)}
    with pytest.raises(EdgecError, match=r"EC0737.*all 8 calibration samples"):
        stats.require_finite("empty")


def told(stats: Statistics, **known: object) -> list[tuple[str, str]]:
    notes = Diagnostics()
    review(stats, notes, **known)  # type: ignore[arg-type]
    return [(d.code, d.message) for d in notes]


def test_inputs_that_never_change_are_a_fault_of_the_data():
    stats = stats_of(32, x=lambda i: [0.25, 0.25], a=lambda i: normal(0), b=lambda i: normal(1))
    ((code, message),) = told(stats, inputs=["x"])
    assert code == "EC0738"
    assert "x is 0.25" in message
    zeros = stats_of(32, x=lambda i: [0, 0], a=normal, b=normal)
    assert [c for c, _ in told(zeros, inputs=["x"])] == ["EC0738"]
    assert [c for c, _ in told(zeros, inputs=["x", "a"])] == ["EC0723"]  # another input changes
    assert [c for c, _ in told(zeros, inputs=["x", "ids"])] == ["EC0723"]  # nothing is known of the other


def test_equal_samples_are_told_from_different_ones():
    same = stats_of(32, x=lambda i: normal(0), a=lambda i: np.maximum(normal(0), 0), c=lambda i: [1, 1])
    assert [c for c, _ in told(same, inputs=["x"])] == ["EC0738", "EC0724"]
    images = stats_of(32, x=lambda i: [0, *np.abs(np.tanh(normal(i))), 1], a=normal)  # each from black to white
    assert told(images, inputs=["x"]) == []
    assert told(stats_of(32, x=lambda i: [0, *np.abs(np.tanh(normal(i))), 1]), inputs=["x"]) == []


def test_what_samples_have_no_part_in_is_not_held_against_them():
    stats = stats_of(32, x=normal, a=normal, zeros=lambda i: [0, 0], grid=lambda i: [3, 3], ends=lambda i: [0, 1, 1, 1])
    assert {c for c, _ in told(stats)} == {"EC0723", "EC0724", "EC0725"}
    assert told(stats, fixed=["zeros", "grid", "ends"]) == []


def test_fixed_values_are_those_no_input_reaches_but_by_its_shape():
    graph = Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 24]>
        g (float[N,4] x) => (float[N,4] y) <float[4] w = {1,2,3,4}>
        { s = Shape(x) z = ConstantOfShape(s) e = Exp(z) v = Neg(w) k = Mul(e, v) r = RandomNormalLike(z) t = Add(x, r) y = Add(t, k) }"""
    )
    assert fixed_values(graph) == {"s", "z", "e", "v", "k"}


def test_too_few_or_still_moving():
    assert found(stats_of(4, a=normal)) == ["EC0726"]
    growing = {n: lambda i, k=k: [-1, (i + 1) * k] for k, n in enumerate("abc", 1)}
    stats = stats_of(64, **growing)
    assert last_growth(stats.tensors["a"]) == pytest.approx(32 / 65, abs=0.02)
    notes = Diagnostics()
    review(stats, notes)
    assert [d.code for d in notes] == ["EC0726"]
    assert re.search("3 of 3 tensors still moved", notes.items[0].message)
    assert last_growth(TensorSketch()) == 0


def test_made_up_samples_are_told_also_after_storing(tmp_path):
    stats = stats_of(64, a=normal)
    part = stats_of(64, a=normal)
    part.generated = True
    stats.merge(part)
    stats.save(tmp_path / "c.json")
    assert found(Statistics.load(tmp_path / "c.json")) == ["EC0727"]


def test_other_samples_than_those_of_calibration():
    stats = stats_of(64, a=normal, b=lambda i: np.abs(normal(i)))
    for scale, codes in ((1, []), (3, ["EC0728"]), (0.1, [])):
        notes = Diagnostics()
        others = stats_of(8, a=lambda i, s=scale: s * normal(i + 100), b=lambda i, s=scale: s * np.abs(normal(i + 100)))
        unlike(stats, others, notes)
        assert [d.code for d in notes] == codes, scale
    notes = Diagnostics()
    unlike(stats, stats_of(8, c=normal), notes)
    assert not notes.items
