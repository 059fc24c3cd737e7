"""Comparison: each figure against its definition, and the edges: zero, NaN, infinity, integers, shapes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from edgec.compare import Comparison, compare, compare_layers
from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.samples import generated_samples


def one(r, x):
    return compare([{"y": np.asarray(r)}], [{"y": np.asarray(x)}])["y"]


def test_figures_match_their_definitions_over_all_samples():
    rng = np.random.default_rng(0)
    r = rng.standard_normal((5, 2, 7)).astype(np.float32)
    x = r + 0.01 * rng.standard_normal(r.shape).astype(np.float32)
    got = compare([{"y": a} for a in r], [{"y": a} for a in x])["y"]
    a, b = r.astype(float), x.astype(float)
    assert got.samples == 5
    assert got.sqnr_db == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))
    assert got.cosine == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
    assert got.max_abs == pytest.approx(np.abs(a - b).max())
    assert got.mean_abs == pytest.approx(np.abs(a - b).mean())
    floor = 1e-3 * np.abs(a).max((1, 2), keepdims=True)
    assert got.max_rel == pytest.approx((np.abs(a - b) / np.maximum(np.abs(a), floor)).max())
    assert got.top1_agreement == pytest.approx((a.argmax(2) == b.argmax(2)).mean())
    assert not got.exact


def test_equal_is_infinite_and_exact():
    got = one([[1.0, 2.0]], [[1.0, 2.0]])
    assert (got.sqnr_db, got.cosine, got.max_abs, got.max_rel, got.equal, got.top1_agreement) == (
        math.inf,
        1,
        0,
        0,
        1,
        1,
    )
    assert got.exact
    assert got.to_json()["sqnr_db"] is None
    assert got.to_json()["exact"] is True


def test_zero_reference():
    assert one([0.0, 0.0], [0.0, 0.0]).sqnr_db == math.inf
    got = one([0.0, 0.0], [0.0, 0.1])
    assert got.sqnr_db == -math.inf
    assert got.cosine == 0
    assert got.to_json()["sqnr_db"] is None
    assert got.to_json()["exact"] is False


def test_nan_and_infinity():
    nan, inf = math.nan, math.inf
    same = one([1.0, nan, inf], [1.0, nan, inf])
    assert same.exact
    assert not same.finite
    new = one([1.0, 2.0], [1.0, nan])
    assert new.sqnr_db == -inf
    assert new.max_abs == inf
    assert not new.finite
    gone = one([1.0, nan], [1.0, 2.0])
    assert gone.sqnr_db == -inf
    assert gone.finite
    assert one([1.0, inf], [1.0, -inf]).sqnr_db == -inf
    assert json.dumps(new.to_json(), allow_nan=False)


def test_integers_and_booleans_count_equal_elements():
    assert one([1, 2, 3, 4], [1, 2, 3, 5]).equal == 0.75
    assert one([True, False], [True, True]).equal == 0.5
    assert one(np.array(["a", "b"]), np.array(["a", "c"])).sqnr_db == -math.inf


def test_top1_is_for_classes_only():
    assert one(np.eye(4), np.eye(4)[::-1]).top1_agreement == 0
    assert one(np.eye(4)[..., None, None], np.eye(4)[..., None, None]).top1_agreement == 1
    assert one(np.ones((1, 2, 3)), np.ones((1, 2, 3))).top1_agreement is None
    assert one(np.ones(4), np.ones(4)).top1_agreement is None


def test_empty_outputs_are_equal():
    assert one(np.zeros((0, 4)), np.zeros((0, 4))).exact


@pytest.mark.parametrize(
    ("want", "got", "code"),
    [
        ([{"y": np.ones((1, 2, 3, 3))}], [{"y": np.ones((1, 3, 3, 2))}], "EC0830"),
        ([{"y": np.ones((1, 2))}], [{"y": np.ones(2)}], "EC0830"),
        ([{"y": np.ones(1)}], [{"z": np.ones(1)}], "EC0831"),
        ([{"y": np.ones(1)}] * 2, [{"y": np.ones(1)}], "EC0832"),
        ([{"y": np.ones(1)}], [{"y": np.ones(1)}] * 2, "EC0832"),
    ],
)
def test_what_does_not_correspond_is_an_error(want, got, code):
    with pytest.raises(EdgecError, match=code):
        compare(iter(want), iter(got))


def test_streaming_takes_one_sample_at_a_time():
    alive: list[int] = []

    def outputs(side: int):
        for _ in range(3):
            alive.append(side)
            yield {"y": np.ones(2)}

    compare(outputs(0), outputs(1))
    assert alive == [0, 1] * 3


def test_table_and_json():
    found = compare(
        [{"y": np.array([[1.0, 2.0]]), "n": np.array([1])}], [{"y": np.array([[1.0, 2.1]]), "n": np.array([1])}]
    )
    rows = found.table()
    assert all(len(row) == len(Comparison.COLUMNS) for row in rows)
    assert rows[0][:2] == ("y", "27.0")
    assert rows[1][:2] == ("n", "exact")
    data = found.to_json()
    assert data["worst_sqnr_db"] == pytest.approx(10 * math.log10(5 / 0.01), abs=1e-6)
    assert json.dumps(data, allow_nan=False)
    assert found.worst_sqnr_db == found["y"].sqnr_db


def test_layers_are_compared_by_name_in_order():
    head = '<ir_version: 10, opset_import: ["" : 24]> g (float[1,2] x) => (float[1,2] y)'
    a = Graph.from_text(
        head
        + "{ p = Neg(x) q = Exp(p) only = Relu(q) s = Unsqueeze(q, i) y = Add(q, only) } ".replace(
            "s = Unsqueeze(q, i) ", ""
        )
    )
    b = Graph.from_text(head + " <float[1] w = {1.5}> { p = Neg(x) q = Mul(p, w) y = Add(q, q) }")
    found = compare_layers(a, b, generated_samples(a, 2))
    assert [o.name for o in found.outputs] == ["p", "q", "y"]
    assert found["p"].exact
    assert not found["q"].exact
    assert found.samples == 2


def test_layers_of_other_shapes_are_skipped():
    head = '<ir_version: 10, opset_import: ["" : 24]> g (float[1,2] x) => (float y)'
    a = Graph.from_text(head + "{ p = Neg(x) y = ReduceSum<keepdims=0>(p) }")
    b = Graph.from_text(head + "{ p = Transpose(x) y = ReduceSum<keepdims=0>(p) }")
    found = compare_layers(a, b, generated_samples(a, 1))
    assert [o.name for o in found.outputs] == ["y"]
    assert "shape" in found.skipped["p"]
