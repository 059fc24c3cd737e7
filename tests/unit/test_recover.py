"""Pass recover in closed form, and the least squares under it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, constant, ir
from edgec.infer import infer_shapes
from edgec.passes.prune.closed_form import tasks_of
from edgec.passes.prune.least_squares import Part, Problem, solve_ridge
from edgec.passes.prune.prune import Prune
from edgec.passes.prune.recover import Recover
from edgec.pipeline import PassContext
from edgec.runtime import Session
from edgec.samples import Samples

Array = npt.NDArray[Any]


def with_weights(text: str, seed: int, **shapes: tuple[int, ...]) -> Graph:
    graph = Graph.from_text(text)
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        data = rng.normal(size=shape) / np.sqrt(max(1, int(np.prod(shape[1:]))))
        made[name] = ir.Value(
            name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(data.astype(np.float32), name=name),
        )  # fmt: skip
        graph.model.graph.register_initializer(made[name])
    for node in graph.model.graph:
        for i, v in enumerate(node.inputs):
            if v is not None and v.name in made:
                node.replace_input_with(i, made[v.name])
    infer_shapes(graph)
    graph.facts |= frozenset({"constants-as-initializers", "opset-current"})
    return graph


def inverted_residual() -> Graph:
    """conv, then expand - depthwise - project with a residual sum, twice, pool and Gemm."""
    return with_weights(
        """<ir_version: 10, opset_import: ["" : 20]> g (float[1,3,12,12] x) => (float[1,7] y) {
            s0 = Conv <pads = [1, 1, 1, 1]> (x, ws, bs)
            s = Relu(s0)
            e0 = Conv(s, we, be)
            e = Relu(e0)
            d0 = Conv <pads = [1, 1, 1, 1], group = 24> (e, wd, bd)
            d = Relu(d0)
            p = Conv(d, wp, bp)
            a = Add(p, s)
            f0 = Conv(a, wf, bf)
            f = Relu(f0)
            q = Conv(f, wq)
            b = Add(a, q)
            g0 = GlobalAveragePool(b)
            g1 = Flatten(g0)
            y = Gemm <transB = 1> (g1, wy, by)
        }""",
        0, ws=(8, 3, 3, 3), bs=(8,), we=(24, 8, 1, 1), be=(24,), wd=(24, 1, 3, 3), bd=(24,), wp=(8, 24, 1, 1), bp=(8,),
        wf=(32, 8, 1, 1), bf=(32,), wq=(8, 32, 1, 1), wy=(7, 8), by=(7,),
    )  # fmt: skip


def images(count: int, seed: int) -> list[dict[str, Array]]:
    """Neighbours are alike, as in real images."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        coarse = rng.normal(size=(1, 3, 4, 4)).repeat(3, axis=2).repeat(3, axis=3)
        out.append({"x": (coarse + 0.3 * rng.normal(size=(1, 3, 12, 12))).astype(np.float32)})
    return out


def context(feeds: list[dict[str, Array]]) -> PassContext:
    return PassContext(calibration=Samples(lambda: iter(feeds), describe="made", count=len(feeds)))


def error_of(graph: Graph, reference: Graph, feeds: list[dict[str, Array]]) -> float:
    a = [v["y"] for v in Session(reference).run_all(feeds)]
    b = [v["y"] for v in Session(graph).run_all(feeds)]
    return float(np.square(np.subtract(a, b)).sum() / np.square(np.asarray(a) - np.mean(a, axis=0)).sum())


@pytest.mark.parametrize("importance", ["l2", "reconstruction"])
def test_closed_form_brings_outputs_closer_on_other_samples(importance: Any) -> None:
    graph = inverted_residual()
    reference, ctx = graph.clone(), context(images(48, 1))
    Prune(ratio=0.3, align=1, importance=importance, allocation="uniform").run(graph, ctx)
    others = images(32, 2)
    before = error_of(graph, reference, others)
    result = Recover().run(graph, ctx)
    graph.verify()
    assert result.changed
    assert result.stats["layers"] >= 4
    assert error_of(graph, reference, others) < 0.5 * before


def test_what_is_redundant_is_made_good_for_exactly() -> None:
    """Filters n and n + 12 are alike: with one of each pair gone the reader's weights can make good for it."""
    graph = inverted_residual()
    initializers = graph.model.graph.initializers
    for name, axis in (("we", 0), ("be", 0), ("wd", 0), ("bd", 0)):
        data = np.array(constant(initializers[name]))
        data[12:] = data[:12]
        initializers[name].const_value = ir.tensor(data, name=name)
        assert axis == 0
    reference, ctx = graph.clone(), context(images(64, 1))
    Prune(ratio=0.1, align=1, keep=("s0", "f0")).run(graph, ctx)
    assert ctx.pruning is not None
    assert len(ctx.pruning.kept["e0"][1]) >= 12
    Recover().run(graph, ctx)
    assert error_of(graph, reference, images(16, 2)) < 1e-3


def test_layers_before_a_sum_are_fitted_to_the_sum() -> None:
    graph = inverted_residual()
    ctx = context(images(8, 1))
    Prune(ratio=0.3, align=1, importance="l2", allocation="uniform").run(graph, ctx)
    assert ctx.pruning is not None
    tasks = {t.layer.node.outputs[0].name: t for t in tasks_of(graph, ctx.pruning)}
    assert (tasks["p"].target.name, tasks["p"].other and tasks["p"].other.name) == ("a", "s")
    assert (tasks["q"].target.name, tasks["q"].other and tasks["q"].other.name) == ("b", "a")
    assert (tasks["d0"].target.name, tasks["d0"].other) == ("d0", None)
    assert set(tasks) == {"s0", "e0", "d0", "p", "f0", "q", "y"}


def test_a_bias_that_is_added_behind_a_product_is_the_products() -> None:
    """Hidden units of a transformer's MLP: what is cut had a mean, which the bias takes over; where two layers share one
    constant, each gets its own."""
    graph = with_weights(
        """<ir_version: 10, opset_import: ["" : 20]> g (float[1,8,12] x) => (float[1,8,12] y, float[1,8,12] z) {
            p = MatMul(x, w1)
            q = Add(b1, p)
            h = Relu(q)
            r = MatMul(h, w2)
            s = Add(r, b2)
            y = Add(x, s)
            t = MatMul(y, w3)
            z = Add(t, b2)
        }""",
        0, w1=(12, 64), b1=(64,), w2=(64, 12), b2=(12,), w3=(12, 12),
    )  # fmt: skip
    reference = Session(graph.clone())
    rng = np.random.default_rng(1)
    feeds = [{"x": (1 + rng.normal(size=(1, 8, 12))).astype(np.float32)} for _ in range(40)]
    ctx = PassContext(calibration=Samples(lambda: iter(feeds), describe="made", count=len(feeds)))

    def bias_of_error() -> float:
        want, got = reference.run_all(feeds), Session(graph).run_all(feeds)
        errors = np.stack([w["y"] - g["y"] for w, g in zip(want, got, strict=True)])
        return float(np.abs(errors.mean((0, 1, 2))).max())

    Prune(ratio=0.5, align=1, importance="l2", allocation="uniform").run(graph, ctx)
    lost = bias_of_error()
    Recover().run(graph, ctx)
    graph.verify()
    assert lost > 0.5
    assert bias_of_error() < 0.01
    first, second = (
        n for n in graph.nodes() if n.name in ("", None) and n.op_type == "Add" and n.outputs[0].name in "sz"
    )
    assert first.inputs[1] is not second.inputs[1]
    assert graph.op_counts()["MatMul"] == 3


def test_never_worse() -> None:
    """Two samples say nothing of others: the graph stays as it was rather than get worse on those it was not fitted to."""
    graph = inverted_residual()
    reference, ctx = graph.clone(), context(images(2, 1))
    Prune(ratio=0.1, align=1, importance="l2", allocation="uniform").run(graph, ctx)
    others = images(64, 2)
    before = error_of(graph, reference, others)
    Recover().run(graph, ctx)
    assert error_of(graph, reference, others) < 1.2 * before


def test_refusals() -> None:
    graph = inverted_residual()
    with pytest.raises(EdgecError) as e:
        Recover().run(graph, context(images(2, 1)))
    assert e.value.diagnostics[0].code == "EC0339"
    ctx = PassContext()
    Prune(ratio=0.3, align=1).run(graph, ctx)
    with pytest.raises(EdgecError) as e:
        Recover().run(graph, ctx)
    assert e.value.diagnostics[0].code == "EC0731"


def test_the_same_twice() -> None:
    def made() -> str:
        graph, ctx = inverted_residual(), context(images(12, 1))
        Prune(ratio=0.3, align=1).run(graph, ctx)
        Recover().run(graph, ctx)
        return graph.fingerprint()

    assert made() == made()


def test_ridge_of_nothing_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(6, 200)), rng.normal(size=(3, 6))
    found = solve_ridge((x @ x.T)[None], (w @ x @ x.T)[None], 0.0)
    np.testing.assert_allclose(found[0], w, rtol=1e-8)


def test_inputs_that_never_vary_get_nothing() -> None:
    found = solve_ridge(np.diag([1.0, 0.0, 2.0])[None], np.ones((1, 2, 3)), 0.0)
    np.testing.assert_allclose(found[0], [[1, 0, 0.5]] * 2)


@pytest.mark.parametrize("noise", [0.0, 100.0])
def test_noise_leaves_the_weights_alone(noise: float) -> None:
    """Wanted outputs that inputs explain are fitted; of noise, little is."""
    rng = np.random.default_rng(1)
    w0, w1 = rng.normal(size=(2, 1, 4, 30))
    problem = Problem(w0, biased=True)
    for held, n in ((False, 60), (True, 400)):
        x = rng.normal(size=(1, 30, n)) + 3
        clean = (w0 if noise else w1) @ x + 2.0
        y = clean + noise * rng.normal(size=clean.shape)
        problem.add(Part(x.astype(np.float32), y.astype(np.float32)), held=held)
    fit = problem.solve(np.zeros((1, 4)))
    if noise:
        assert fit.ridge is None or fit.ridge >= 1
        assert np.abs(fit.weight - w0).max() < 5
    else:
        np.testing.assert_allclose(fit.weight, w1, atol=5e-2)
        np.testing.assert_allclose(fit.bias, 2.0, atol=0.3)
        assert fit.after < 1e-3 < fit.before


def test_what_is_clipped_need_not_be_hit() -> None:
    """Behind a Relu the outputs are closer if what lies below zero anyway is not fitted to."""
    rng = np.random.default_rng(3)
    teacher, w0 = rng.normal(size=(2, 1, 6, 10))
    errors = []
    for limits in (None, (0.0, np.inf)):
        problem = Problem(w0[:, :, :5], biased=True, limits=limits)
        for held in (False, True):
            data = np.random.default_rng(int(held))
            x = data.normal(size=(1, 10, 4000)).astype(np.float32)
            problem.add(Part(x[:, :5], (teacher @ x).astype(np.float32)), held=held)
        fit = problem.solve(np.zeros((1, 6)))
        x = np.random.default_rng(9).normal(size=(1, 10, 4000))
        got = np.maximum(fit.weight @ x[:, :5] + fit.bias[..., None], 0)
        errors.append(np.square(got - np.maximum(teacher @ x, 0)).mean())
    assert errors[1] < 0.97 * errors[0]


def test_samples_with_nan_are_left_out_and_nothing_else_is_refused() -> None:
    good = [{"x": np.random.default_rng(i).normal(size=(1, 3, 12, 12)).astype(np.float32)} for i in range(6)]
    bad = {"x": np.full((1, 3, 12, 12), np.nan, np.float32)}

    def outcome(inputs: list[dict[str, Array]]) -> Array:
        graph = inverted_residual()
        context = PassContext(calibration=Samples(lambda: iter(inputs), describe="made up", count=len(inputs)))
        Prune(ratio=0.4, align=4).run(graph, context)
        Recover().run(graph, context)
        return Session(graph).run(good[0])["y"]

    np.testing.assert_array_equal(outcome([*good, bad]), outcome(good))
    with pytest.raises(EdgecError, match="EC0737"):
        outcome([bad, bad])


def test_rounds_and_batches_are_not_given_both() -> None:
    with pytest.raises(EdgecError, match=r"EC0204.*epochs"):
        Recover(method="distillation", epochs=3, steps=5).run(inverted_residual(), PassContext())


def test_the_closed_form_has_no_training_options() -> None:
    """Epochs that nothing would run are no wish to be dropped silently."""
    graph = with_weights(
        '<ir_version: 10, opset_import: ["" : 24]> g (float[1,4] x) => (float[1,4] y) { y = MatMul (x, w) }',
        0,
        w=(4, 4),
    )
    with pytest.raises(EdgecError, match="the closed form does not train") as caught:
        Recover(epochs=3).run(graph, PassContext())
    assert caught.value.diagnostics[0].code == "EC0204"
