"""What ONNX's node tests leave open of the expansions: extremes, precision, types, and what is refused."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.passes.legalize.expand_composites import ExpandComposites
from edgec.pipeline import PassContext
from edgec.testing import assert_equivalent, run

Array = npt.NDArray[Any]


def graph(body: str, inputs: str, outputs: str, weights: str = "") -> Graph:
    text = f'<ir_version: 10, opset_import: ["" : 24]> g ({inputs}) => ({outputs}) {weights} {{ {body} }}'
    return Graph.from_text(text)


def expand(g: Graph, *ops: str) -> Graph:
    after = g.clone()
    infer_shapes(after)
    assert ExpandComposites(ops).run(after, PassContext()).changed
    after.verify()
    for op in ops:
        assert op in ("Elu", "Max") or op not in after.op_counts()
    return after


def expanded_function(op: str, x: Array, *also: str) -> Array:
    g = graph(f"y = {op}(x)", f"float[{x.size}] x", f"float[{x.size}] y")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run(expand(g, op, *also), {"x": x})[0]


def test_erf_is_good_to_float32() -> None:
    x = np.linspace(-6, 6, 100_001).astype(np.float32)
    want = np.array([math.erf(float(v)) for v in x])
    got = expanded_function("Erf", x)
    assert np.abs(got - want).max() < 5e-7
    small = np.array([1e-30, -1e-20, 1e-5], np.float32)
    np.testing.assert_allclose(expanded_function("Erf", small), small * 2 / math.sqrt(math.pi), rtol=1e-6)
    assert np.allclose(expanded_function("Erf", np.array([np.inf, -np.inf], np.float32)), [1, -1], rtol=3e-7)


CASES = {
    "Acos": (-1, 1), "Asin": (-1, 1), "Atan": (-50, 50), "Sinh": (-89.2, 89.2), "Cosh": (-89.2, 89.2),
    "Asinh": (-3e38, 3e38), "Acosh": (1, 3e38), "Atanh": (-0.999, 0.999), "Tan": (-1.5, 1.5),
}  # fmt: skip


@pytest.mark.parametrize("op", CASES)
def test_functions_are_precise_over_their_whole_range(op: str) -> None:
    low, high = CASES[op]
    near = np.concatenate([np.linspace(-2, 2, 4001), np.logspace(-6, 0, 1001), -np.logspace(-6, 0, 1001)])
    x = np.concatenate([near, 1 + np.logspace(-6, 2, 1001), np.linspace(low, high, 1001)])
    x = np.clip(x, low, high).astype(np.float32)
    name = {"Acos": "arccos", "Asin": "arcsin", "Atan": "arctan", "Asinh": "arcsinh", "Acosh": "arccosh"}.get(op)
    function = getattr(np, name or {"Atanh": "arctanh"}.get(op, op.lower()))
    want = function(x.astype(np.float64))
    np.testing.assert_allclose(expanded_function(op, x), want, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("op", ["Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Softplus", "IsNaN"])
def test_infinities_and_nan(op: str) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 0, 1, -1, 1e30, -1e30, 100, -100], np.float32)
    kind = "bool" if op == "IsNaN" else "float"
    g = graph(f"y = {op}(x)", "float[10] x", f"{kind}[10] y")
    want, got = run(g, {"x": x})[0], run(expand(g, op), {"x": x})[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-30)


def test_logarithm_of_a_sum_of_exponentials_does_not_overflow() -> None:
    x = np.array([[1000, 1000], [-np.inf, -np.inf], [np.inf, 1], [-1000, -1001]], np.float32)
    g = graph("y = ReduceLogSumExp <keepdims = 0> (x, a)", "float[4,2] x", "float[4] y", "<int64[1] a = {1}>")
    want = [1000 + math.log(2), -np.inf, np.inf, -1000 + math.log1p(math.exp(-1))]
    np.testing.assert_allclose(run(expand(g, "ReduceLogSumExp"), {"x": x})[0], want, rtol=1e-6)


EQUATIONS = [
    ("ij,jk->ik", "3,4", "4,5"), ("bij,bjk->bik", "2,3,4", "2,4,5"), ("bhqd,bhkd->bhqk", "2,3,4,5", "2,3,6,5"),
    ("bchw,bkc->bkhw", "2,3,4,5", "2,6,3"), ("...ij,...jk->...ik", "2,5,3,4", "2,5,4,6"), ("i,j->ij", "3", "4"),
    ("ij,ij->", "3,4", "3,4"), ("ij,kj", "3,4", "5,4"), ("ijk,k->ji", "2,3,4", "4"), ("i,j", "3", "4"),
    ("nchw,vw->ncvh", "1,2,3,4", "5,4"), ("ab,cd->db", "2,3", "4,5"),
]  # fmt: skip


@pytest.mark.parametrize(("equation", "a", "b"), EQUATIONS)
def test_einsum(equation: str, a: str, b: str) -> None:
    zeros = [np.zeros([int(d) for d in text.split(",")]) for text in (a, b)]
    want = np.einsum(equation, *zeros).shape
    g = graph(
        f'y = Einsum <equation = "{equation}"> (a, b)', f"float[{a}] a, float[{b}] b",
        f"float[{','.join(map(str, want))}] y",
    )  # fmt: skip
    assert_equivalent(g, expand(g, "Einsum"))


def test_einsum_of_three_and_of_one() -> None:
    g = graph(
        'y = Einsum <equation = "ij,jk,kl->li"> (a, b, c)', "float[2,3] a, float[3,4] b, float[4,5] c", "float[5,2] y"
    )
    assert_equivalent(g, expand(g, "Einsum"))
    g = graph('y = Einsum <equation = "abc->ca"> (a)', "float[2,3,4] a", "float[4,2] y")
    assert_equivalent(g, expand(g, "Einsum"))


def test_a_diagonal_is_refused() -> None:
    g = graph('y = Einsum <equation = "ii->i"> (a)', "float[3,3] a", "float[3] y")
    context = PassContext()
    assert not ExpandComposites(("Einsum",)).run(g, context).changed
    assert "twice" in next(iter(context.rejections["expand-einsum"].values()))


ONE = {
    "BitwiseAnd": ("y = BitwiseAnd(x, m)", "int32[5] x", "int32[5] y", "<int32[1] m = {7}>"),
    "BitwiseOr": ("y = BitwiseOr(x, m)", "int32[5] x", "int32[5] y", "<int32[1] m = {3}>"),
    "CastLike": ("y = CastLike(x, l)", "float[3] x, int32[1] l", "int32[3] y", ""),
    "MeanVarianceNormalization": ("y = MeanVarianceNormalization(x)", "float[2,3,4,5] x", "float[2,3,4,5] y", ""),
    "Xor": ("y = Xor(a, b)", "bool[6] a, bool[6] b", "bool[6] y", ""),
    "And": ("y = And(a, b)", "bool[6] a, bool[6] b", "bool[6] y", ""),
    "Or": ("y = Or(a, b)", "bool[6] a, bool[6] b", "bool[6] y", ""),
    "Trilu": ("y = Trilu <upper = 0> (x)", "float[4,5] x", "float[4,5] y", ""),
    "LRN": ("y = LRN <size = 5, alpha = 0.5, beta = 0.75, bias = 2.0> (x)", "float[2,6,3,3] x", "float[2,6,3,3] y", ""),
    "Max": ("y = Max(a, b, c)", "float[4] a, float[1] b, float[2,4] c", "float[2,4] y", ""),
    "Min.variadic": ("y = Min(a, b, c)", "int64[4] a, int64[1] b, int64[2,4] c", "int64[2,4] y", ""),
    "GatherElements": ("y = GatherElements <axis = 1> (x, i)", "float[3,4] x, int64[3,2] i", "float[3,2] y", ""),
    "LogSoftmax": ("y = LogSoftmax <axis = 1> (x)", "float[3,4,2] x", "float[3,4,2] y", ""),
    "Celu": ("y = Celu <alpha = 2.0> (x)", "float[9] x", "float[9] y", ""),
    "PRelu": ("y = PRelu(x, s)", "float[2,9] x, float[1] s", "float[2,9] y", ""),
}  # fmt: skip


@pytest.mark.parametrize("op", ONE)
def test_one_node(op: str) -> None:
    g = graph(*ONE[op])
    assert_equivalent(g, expand(g, op))


@pytest.mark.parametrize(("a", "b"), [(5.3, 2.1), (-5.3, 2.1), (5.3, -2.1), (7.0, 7.0), (1.0, np.inf), (0.3, 0.1)])
def test_remainder_with_the_sign_of_the_dividend(a: float, b: float) -> None:
    g = graph("y = Mod <fmod = 1> (a, b)", "float[1] a, float[1] b", "float[1] y")
    feeds = {"a": np.array([a], np.float32), "b": np.array([b], np.float32)}
    got, want = run(expand(g, "Mod"), feeds)[0], run(g, feeds)[0]
    assert abs(got - want) < 1e-6 or abs(abs(got - want) - abs(b)) < 1e-6


def test_float64_is_refused_where_only_float32_is_reached() -> None:
    g = graph("y = Atan(x)", "double[4] x", "double[4] y")
    assert not ExpandComposites(("Atan",)).run(g, PassContext()).changed


def test_elu_of_another_alpha() -> None:
    g = graph("y = Elu <alpha = 0.5> (x)", "float[50] x", "float[50] y")
    after = expand(g, "Elu")
    assert [n.attributes["alpha"].as_float() for n in after.nodes() if n.op_type == "Elu"] == [1]
    assert_equivalent(g, after)


def test_global_lp_pool() -> None:
    g = graph("y = GlobalLpPool <p = 3> (x)", "float[1,2,3,4] x", "float[1,2,1,1] y")
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype(np.float32)
    want = (np.abs(x) ** 3).sum((2, 3), keepdims=True) ** (1 / 3)
    np.testing.assert_allclose(run(expand(g, "GlobalLpPool"), {"x": x})[0], want, rtol=1e-5)


def test_lrn_over_an_even_number_of_channels() -> None:
    g = graph("y = LRN <size = 2, alpha = 0.5, beta = 0.75> (x)", "float[1,3,1,1] x", "float[1,3,1,1] y")
    x = np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1)
    want = x.reshape(-1) / (1 + 0.25 * np.array([1 + 4, 4 + 9, 9])) ** 0.75
    np.testing.assert_allclose(run(expand(g, "LRN"), {"x": x})[0].reshape(-1), want, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
def test_cumulative_sum(axis: int, reverse: int, exclusive: int) -> None:
    body = f"y = CumSum <reverse = {reverse}, exclusive = {exclusive}> (x, a)"
    g = graph(body, "float[3,4,2] x", "float[3,4,2] y", f"<int64 a = {{{axis}}}>")
    assert_equivalent(g, expand(g, "CumSum"))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_determinant(n: int) -> None:
    g = graph("y = Det(x)", f"float[2,{n},{n}] x", "float[2] y")
    assert_equivalent(g, expand(g, "Det"))


def test_windowed_frames() -> None:
    g = graph(
        "y = STFT (x, step, w)", "float[1,32] x", "float[1,7,5,2] y",
        "<int64 step = {4}, float[8] w = {0.1,0.3,0.6,1,1,0.6,0.3,0.1}>",
    )  # fmt: skip
    assert_equivalent(g, expand(g, "STFT"))
