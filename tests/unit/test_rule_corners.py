"""Corners of the rewrite rules: what must not be rewritten, and what would crash."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.graph import Graph, constant
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes, parse_pipeline
from edgec.testing import assert_equivalent

_HEAD = '<ir_version: 10, opset_import: ["" : 24]>\n'


def _after(text: str, pipeline: str) -> tuple[Graph, Graph]:
    before = Graph.from_text(_HEAD + text)
    after = before.clone()
    passes = build_passes(parse_pipeline(pipeline), Registry().passes())
    PassManager(passes, verify="structure").run(after, PassContext())
    return before, after


def test_one_times_one_does_not_crash() -> None:
    before, after = _after(
        "g (float[1] x) => (float[1] y) <float[1] one = {1}> { a = Mul(one, one)\n y = Add(x, a) }", "eliminate-noops"
    )
    assert_equivalent(before, after)


def test_crossed_clip_limits_are_negative() -> None:
    before, after = _after(
        "g (float[4] x) => (float[4] y) <float zero = {0}, float low = {-1}> { a = Clip(x, zero, low)\n y = Abs(a) }",
        "eliminate-noops",
    )
    assert "Abs" in after.op_counts()
    assert_equivalent(before, after)


def test_clips_of_integers_stay() -> None:
    before, after = _after(
        "g (int64[4] x) => (int64[4] y) <int64 a = {1}, int64 b = {9223372036854775807}> "
        "{ c = Clip(x, a, b)\n y = Clip(c, a, b) }",
        "eliminate-noops",
    )
    assert after.op_counts()["Clip"] == 2
    assert_equivalent(before, after)


@pytest.mark.parametrize("pipeline", ["fuse-hard-sigmoid", "fuse-hard-swish"])
def test_division_by_zero_is_left_alone(pipeline: str) -> None:
    _, after = _after(
        "g (float[4] x) => (float[4] y) <float z = {0}, float h = {1}, float b = {3}> "
        "{ a = Add(x, b)\n c = Clip(a, z, h)\n y = Div(c, z) }",
        pipeline,
    )
    assert after.op_counts()["Div"] == 1


def test_mean_of_doubles_stays_a_reduction() -> None:
    before, after = _after(
        "g (double[1,2,4,4] x) => (double[1,2,1,1] y) <int64[2] axes = {2, 3}> { y = ReduceMean(x, axes) }",
        "fuse-reduce",
    )
    assert "ReduceMean" in after.op_counts()
    assert_equivalent(before, after)


def test_a_scale_that_adds_an_axis_is_no_scale_of_the_norm() -> None:
    before, after = _after(
        "g (float[2,8] x) => (float[1,2,8] y) <float[8] ones = {1,1,1,1,1,1,1,1}, float[1,1,8] k = {1,2,3,4,5,6,7,8}> "
        "{ n = LayerNormalization(x, ones)\n y = Mul(n, k) }",
        "fuse-layer-norm",
    )
    assert "Mul" in after.op_counts()
    assert_equivalent(before, after)


@pytest.mark.parametrize(
    ("body", "initializers", "want"),
    [
        ("c = Div(p, q)", "int32[1] p = {-2147483648}, int32[1] q = {2}", [-1073741824]),
        ("c = Slice(p, s, e, zero, step)",
         "int32[3] p = {5,6,7}, int64[1] s = {-9}, int64[1] e = {-9}, int64[1] zero = {0}, int64[1] step = {-1}", [5]),
    ],
)  # fmt: skip
def test_constants_fold_as_the_runtime_computes(body: str, initializers: str, want: list[int]) -> None:
    n = len(want)
    _, after = _after(
        f"g (int32[{n}] x) => (int32[{n}] y) <{initializers}> {{ {body}\n y = Add(x, c) }}", "fold-constants"
    )
    (add,) = after.nodes()
    np.testing.assert_array_equal(constant(add.inputs[1]), want)


def test_flatten_of_nothing_keeps_the_other_dimensions() -> None:
    _, after = _after(
        "g (float[1] x) => (int64[2] y) <int64[2] shape = {0, 3}> "
        "{ e = ConstantOfShape(shape)\n f = Flatten<axis = 1>(e)\n s = Shape(f)\n y = Identity(s) }",
        "fold-constants",
    )
    (node,) = after.nodes()
    assert constant(node.inputs[0]).tolist() == [0, 3]


def test_wide_statistics_of_a_half_precision_model() -> None:
    before, after = _after(
        "g (float16[1,2,2,2] x) => (float16[1,2,2,2] y) "
        "<float[2] s = {2, 3}, float[2] b = {1, 2}, float[2] m = {0, 1}, float[2] v = {1, 4}> "
        "{ y = BatchNormalization(x, s, b, m, v) }",
        "fold-bn{standalone=true}",
    )
    assert after.op_counts() == {"Mul": 1, "Add": 1}
    assert_equivalent(before, after, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("k", "folds"), [(0.5, True), (2e-5, False)])
def test_half_precision_weights_that_would_vanish_are_not_folded(k: float, folds: bool) -> None:
    before, after = _after(
        "g (float16[1,2] x) => (float16[1,2] y) "
        f"<float[2,2] ws = {{0.01, 0.02, 0.015, 0.013}}, float ks = {{{k}}}> {{ w = Cast<to = 10>(ws)\n k = Cast<to = 10>(ks)\n a = MatMul(x, w)\n y = Mul(a, k) }}",
        "fold-constants,fold-scale-bias",
    )
    assert ("Mul" not in after.op_counts()) == folds
    assert_equivalent(before, after, rtol=1e-2, atol=1e-3)
