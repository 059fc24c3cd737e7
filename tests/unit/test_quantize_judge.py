"""What trials of quantisation are judged by: which values, which samples, and what one sample may weigh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgec.graph import Graph
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.passes.quantize import best_method as module
from edgec.passes.quantize.judge import HIGHEST_DB, LOWEST_DB, Judge, judged_values
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext
from edgec.samples import Samples

HEAD = '<ir_version: 10, opset_import: ["" : 24]>'


def graph(body: str, weights: str = "", out: str = "float[1,4] y") -> Graph:
    g = Graph.from_text(f"{HEAD} g (float[1,4] x) => ({out}) <{weights}> {{ {body} }}")
    InferShapes().run(g, PassContext())
    return g


def rows(*values: Sequence[float]) -> list[dict[str, Any]]:
    return [{"x": np.float32([v])} for v in values]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("l = Neg(x) y = Softmax(l)", "l"),
        ("l = Neg(x) s = Softmax(l) y = Identity(s)", "l"),
        ("l = Neg(x) s = Softmax(l) t = Unsqueeze(s, a) y = Squeeze(t, a)", "l"),
        ("l = Neg(x) s = Softmax(l) q = QuantizeLinear(s, u, z) y = DequantizeLinear(q, u, z)", "l"),
        ("l = Neg(x) q = QuantizeLinear(l, u, z) d = DequantizeLinear(q, u, z) y = Softmax(d)", "d"),
        ("l = Neg(x) s = Softmax(l) y = Mul(s, s)", "y"),
        ("y = Softmax(x)", "y"),
        ("y = Neg(x)", "y"),
    ],
)
def test_behind_a_softmax_what_it_reads_is_judged(body: str, value: str) -> None:
    weights = "int64[1] a = {1}, float u = {0.1}, int8 z = {0}"
    assert judged_values(graph(body, weights)) == {"y": value}


def test_sure_classes_do_not_hide_an_error() -> None:
    """Softmax of 100, -100: equal to the last bit, whatever happens to the scores."""
    was, now = (
        graph("l = Mul(x, c) y = Softmax(l)", "float c = {1}"),
        graph("l = Mul(x, c) y = Softmax(l)", "float c = {0.5}"),
    )
    judge = Judge(was, rows([100, -100, -100, -100]))
    assert judge.closeness(now, [0]) == pytest.approx(20 * np.log10(2), abs=1e-3)
    assert judge.closeness(was, [0]) == HIGHEST_DB


def test_one_sample_weighs_no_more_than_another() -> None:
    """A large sample that is exact hides nothing of a small one that is wrong by half; one that is lost counts to a bound."""
    was, now = (
        graph("y = Mul(x, c)", "float[4] c = {1, 1, 1, 1}"),
        graph("y = Mul(x, c)", "float[4] c = {0.5, 1, 1, 1}"),
    )
    judge = Judge(was, rows([1, 0, 0, 0], [0, 1000, 0, 0], [0, 0, 0, 0]))
    half = 20 * np.log10(2)
    assert judge.closeness(now, [0, 1]) == pytest.approx((half + HIGHEST_DB) / 2, abs=1e-3)
    lost = graph("y = Add(x, c)", "float[4] c = {9, 9, 9, 9}")
    assert judge.closeness(lost, [2]) == LOWEST_DB


def test_samples_without_finite_answers_judge_nothing() -> None:
    judge = Judge(graph("y = Sqrt(x)"), rows([1, 1, 1, 1], [-1, 1, 1, 1], [4, 4, 4, 4]))
    assert [float(s["x"][0, 0]) for s in judge.samples] == [1, 4]
    assert len(Judge(graph("y = Sqrt(x)"), rows([-1, 1, 1, 1])).samples) == 1


@pytest.mark.parametrize("count", [2, 7, 40, 100])
def test_no_corrected_trial_is_judged_on_what_it_was_fitted_to(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    feeds = [{"x": np.float32(rng.standard_normal((1, 4)))} for _ in range(count)]
    fitted: list[float] = []
    judged: list[float] = []
    correct, closeness = module.correct_biases, Judge.closeness

    def note_fit(g: Graph, record: Any, samples: Any) -> int:
        fitted.extend(float(s["x"][0, 0]) for s in samples)
        return correct(g, record, samples)

    def note_judged(self: Judge, g: Graph, indices: Sequence[int]) -> float:
        judged.extend(float(self.samples[i]["x"][0, 0]) for i in indices)
        return closeness(self, g, indices)

    monkeypatch.setattr(module, "correct_biases", note_fit)
    monkeypatch.setattr(Judge, "closeness", note_judged)
    w = ", ".join(f"{v:.4f}" for v in rng.standard_normal(16))
    g = graph("y = Gemm(x, w, b)", f"float[4,4] w = {{{w}}}, float[4] b = {{1, 2, 3, 4}}")
    samples = Samples(lambda: iter(feeds), describe="noise", count=count)
    ctx = PassContext(calibration=samples)
    Quantize(scheme="onnxruntime-int8", method="best", corrected=True).run(g, ctx)
    assert fitted
    assert judged
    assert not set(fitted) & set(judged)
    assert len(set(judged)) <= module.SAMPLES
