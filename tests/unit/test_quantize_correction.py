"""correct-bias, round-weights and what they stand on: layers, moments, staged runs, rounding."""

import itertools

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, constant, ir
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.passes.quantize.correct_bias import CorrectBias
from edgec.passes.quantize.correction import certain_mean, middle_mean, staged_samples
from edgec.passes.quantize.layers import Layer, find_layers
from edgec.passes.quantize.moments import column_means, columns
from edgec.passes.quantize.quantize import Quantize
from edgec.passes.quantize.round_weights import RoundWeights
from edgec.passes.quantize.rounding import damped, output_error, round_rows
from edgec.passes.quantize.staged_run import StagedRun
from edgec.pipeline import PassContext
from edgec.runtime import Session
from edgec.samples import Samples

NET = """<ir_version: 10, opset_import: ["" : 21]>
g (float[1,3,12,12] x) => (float[1,5] y)
{
    c1 = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w1, b1)
    r1 = Relu(c1)
    c2 = Conv <group = 8, pads = [1,1,1,1]> (r1, w2, b2)
    r2 = Relu(c2)
    c3 = Conv (r2, w3)
    p = GlobalAveragePool(c3)
    f = Flatten(p)
    y = Gemm <transB = 1> (f, w4, b4)
}"""


def _filled(text: str, weights: dict[str, np.ndarray]) -> Graph:
    """A model whose undefined inputs are these weights, with types and shapes."""
    graph = Graph.from_text(text)
    g = graph.model.graph
    for name, data in weights.items():
        value = next(v for n in g for v in n.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(data, name=name)
        value.shape, value.type = ir.Shape(data.shape), ir.TensorType(ir.DataType.FLOAT)
        g.register_initializer(value)
    InferShapes().run(graph, PassContext())
    return graph


def _net(seed: int = 0) -> Graph:
    """A small convolutional net whose weights have wild channel ranges, so that int8 hurts."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (8, 3, 3, 3), "b1": 8, "w2": (8, 1, 3, 3), "b2": 8, "w3": (16, 8, 1, 1), "w4": (5, 16), "b4": 5}
    weights = {name: (rng.standard_normal(shape) * 0.3 + 0.1).astype(np.float32) for name, shape in shapes.items()}
    weights["w3"] *= np.exp(rng.standard_normal((1, 8, 1, 1)) * 2).astype(np.float32)
    return _filled(NET, weights)


def _samples(count: int, seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    data = [{"x": (rng.standard_normal((1, 3, 12, 12)) + 0.5).astype(np.float32)} for _ in range(count)]
    return Samples(lambda: iter(data), describe="made up", count=count)


def _quantized(bits: int = 4, scheme: str = "onnxruntime-int8") -> tuple[Graph, Graph, PassContext]:
    """The float net and a form of it whose weights are rounded coarsely: what correction is for."""
    graph = _net()
    quantized, ctx = graph.clone(), PassContext(precision="int8", calibration=_samples(40, 1))
    Quantize(scheme=scheme).run(quantized, ctx)
    assert ctx.quantization is not None
    for layer in find_layers(quantized, ctx.quantization):
        step = 2 ** (8 - bits)
        coarse = np.rint(layer.integers() / step) * step
        layer.store(np.clip(coarse, *layer.params.limits).astype(np.int32))
    return graph, quantized, ctx


def _sqnr(graph: Graph, other: Graph) -> float:
    a, b = Session(graph), Session(other)
    pairs = [(a.run(s)["y"].astype(float), b.run(s)["y"]) for s in _samples(60, 2)]
    return 10 * np.log10(sum((u**2).sum() for u, _ in pairs) / sum(((u - v) ** 2).sum() for u, v in pairs))


def test_correct_bias_makes_the_means_equal() -> None:
    graph, quantized, ctx = _quantized()
    before = _sqnr(graph, quantized)
    result = CorrectBias().run(quantized, ctx)
    quantized.verify()
    assert result.stats["biases"] == 4
    assert _sqnr(graph, quantized) > before + 3
    samples = list(_samples(40, 1))
    float_run, stored_run = (Session(g, all_values=["c3"]) for g in (graph, quantized))
    means = [np.mean([s.run(x)["c3"] for x in samples], axis=(0, 1, 3, 4)) for s in (float_run, stored_run)]
    np.testing.assert_allclose(means[0], means[1], atol=0.01 * np.abs(means[0]).max())


def test_a_few_odd_samples_do_not_decide() -> None:
    usual = np.random.default_rng(0).standard_normal((40, 3)) * 0.1 + 1.0
    odd = np.concatenate([usual, np.full((4, 3), 100.0)])
    np.testing.assert_allclose(middle_mean(odd), usual.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(middle_mean(usual[:1]), usual[0])


def test_a_shift_the_samples_contradict_each_other_in_is_not_believed() -> None:
    sure = 1.0 + np.random.default_rng(0).standard_normal((32, 1)) * 0.01
    unsure = np.random.default_rng(1).standard_normal((32, 1)) * 3
    np.testing.assert_allclose(certain_mean(sure), middle_mean(sure), rtol=0.01)
    assert np.abs(certain_mean(unsure)) < np.abs(middle_mean(unsure)) * 0.75
    assert certain_mean(np.zeros((8, 2))).tolist() == [0.0, 0.0]


def test_a_fit_is_judged_on_samples_it_was_not_made_on() -> None:
    graph = _net()
    for count, apart in ((40, False), (60, True)):
        fit, judge = staged_samples(graph, _samples(count, 1), 32, 1024)
        assert len(fit) == 32
        assert (not {s["x"].tobytes() for s in fit} & {s["x"].tobytes() for s in judge}) is apart


def test_a_correction_that_does_harm_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    _, quantized, ctx = _quantized()
    before = quantized.fingerprint()

    def harmful(graph: Graph, record: object, samples: object) -> int:
        assert ctx.quantization is not None
        return sum(x.set_bias(x.bias() + 5.0, graph) for x in find_layers(graph, ctx.quantization) if x.takes_bias)

    monkeypatch.setattr("edgec.passes.quantize.correct_bias.correct_biases", harmful)
    assert not CorrectBias().run(quantized, ctx).changed
    assert quantized.fingerprint() == before
    assert "EC0734" in [d.code for d in ctx.diagnostics.items]


def test_a_layer_without_bias_gets_one_in_int32() -> None:
    _, quantized, ctx = _quantized()
    CorrectBias().run(quantized, ctx)
    node = next(n for n in quantized.nodes() if n.outputs[0].name == "c3")
    assert node.inputs[2] is not None
    dq = node.inputs[2].producer()
    assert dq is not None
    assert np.asarray(constant(dq.inputs[0])).dtype == np.int32
    x_dq, w_dq = node.inputs[0].producer(), node.inputs[1].producer()  # type: ignore[union-attr]
    want = np.asarray(constant(x_dq.inputs[1])) * np.asarray(constant(w_dq.inputs[1]))
    np.testing.assert_allclose(np.asarray(constant(dq.inputs[1])), want, rtol=1e-6)


def test_it_gets_one_in_float_where_the_scheme_has_float_biases() -> None:
    _, quantized, ctx = _quantized(scheme="tensorrt-int8")
    CorrectBias().run(quantized, ctx)
    node = next(n for n in quantized.nodes() if n.outputs[0].name == "c3")
    bias = node.inputs[2]
    assert bias is not None
    assert bias.producer() is None
    assert np.asarray(constant(bias)).dtype == np.float32


def test_round_weights_beats_rounding_to_nearest() -> None:
    graph = _net()
    quantized, ctx = graph.clone(), PassContext(precision="int8", calibration=_samples(40, 1))
    Quantize(scheme="onnxruntime-int8").run(quantized, ctx)
    before = _sqnr(graph, quantized)
    result = RoundWeights().run(quantized, ctx)
    quantized.verify()
    assert result.stats["rounded"] >= 3
    assert _sqnr(graph, quantized) > before


def test_passes_that_correct_need_a_quantised_graph_and_data() -> None:
    graph, quantized, ctx = _quantized()
    for p in (CorrectBias(), RoundWeights()):
        with pytest.raises(EdgecError, match="EC0730"):
            p.run(graph, PassContext(calibration=ctx.calibration))
        with pytest.raises(EdgecError, match="EC0731"):
            p.run(quantized, PassContext(quantization=ctx.quantization))


def test_correction_is_deterministic() -> None:
    results = []
    for _ in range(2):
        _, quantized, ctx = _quantized()
        RoundWeights().run(quantized, ctx)
        results.append(quantized.fingerprint())
    assert results[0] == results[1]


def test_staged_run_gives_what_one_run_gives() -> None:
    _, quantized, _ = _quantized()
    samples = list(_samples(3, 5))
    wanted = [n for n in quantized.model.graph if n.op_type in ("Conv", "Gemm")]
    names = [n.inputs[0].name for n in wanted if n.inputs[0] is not None]
    session = Session(quantized, all_values=[n for n in names if n])
    run = StagedRun(quantized, samples)
    for node in wanted:
        x = node.inputs[0]
        assert x is not None
        for got, sample in zip(run.values([x], node), samples, strict=True):
            np.testing.assert_array_equal(got[x.name or ""], session.run(sample)[x.name or ""])
        kinds = {a.dtype for s in run.alive for a in s.values()}
        assert kinds <= {np.dtype("uint8"), np.dtype("float32")}
        assert all(a.dtype == np.uint8 for s in run.alive for n, a in s.items() if n != "x")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_columns_are_im2col(stride: int, groups: int) -> None:
    rng = np.random.default_rng(0)
    text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float[1,4,7,6] x) => (float[1,8,h,v] y)
    {{ y = Conv <group = {groups}, pads = [1,0,2,1], strides = [{stride},1], dilations = [1,2]> (x, w) }}"""
    w = rng.standard_normal((8, 4 // groups, 3, 2)).astype(np.float32)
    graph = _filled(text, {"w": w})
    quantized, ctx = graph.clone(), PassContext()
    x = rng.standard_normal((1, 4, 7, 6)).astype(np.float32)
    ctx.calibration = Samples(lambda: iter([{"x": x}]), describe="x", count=1)
    Quantize(scheme="onnxruntime-int8").run(quantized, ctx)
    assert ctx.quantization is not None
    layer = find_layers(quantized, ctx.quantization)[0]
    got = layer.rows(layer.float_weight()) @ columns(layer, x, 1000, rng)
    want = Session(graph).run({"x": x})["y"]
    np.testing.assert_allclose(got.reshape(8, -1), want.reshape(8, -1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(column_means(layer, x), columns(layer, x, 1000, rng).mean(axis=2), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer.unrows(layer.rows(layer.integers())), layer.integers())


def test_rounding_finds_nearly_the_best_of_all() -> None:
    rng = np.random.default_rng(3)
    k = 6
    x = rng.standard_normal((k, k)) @ rng.standard_normal((k, 500))
    h = damped((x @ x.T / 500)[None], 1e-6)
    w = rng.standard_normal((1, 20, k))
    scale, zero = np.full_like(w, 0.5), np.zeros_like(w)
    q = round_rows(w, scale, zero, (-8, 7), h, sweeps=4)
    found = output_error(w, q, scale, zero, h)[0]
    nearest = output_error(w, np.rint(w / 0.5), scale, zero, h)[0]
    best = np.full(20, np.inf)
    for step in itertools.product((0, 1), repeat=k):
        best = np.minimum(best, output_error(w, np.floor(w / 0.5) + np.array(step), scale, zero, h)[0])
    assert found.sum() < 0.5 * nearest.sum()
    assert found.sum() < 1.6 * best.sum()


def test_rounding_that_makes_the_network_worse_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of nonsense are stored where rounding would store fitted ones."""
    float_net, quantized, ctx = _quantized()
    before = quantized.clone()

    def nonsense(self: RoundWeights, layer: Layer, h: np.ndarray) -> bool:
        low, _ = layer.params.limits
        return layer.store(np.full_like(layer.integers(), low))

    monkeypatch.setattr(RoundWeights, "_round", nonsense)
    result = RoundWeights().run(quantized, ctx)
    assert "rounded" not in result.stats
    assert [d.code for d in ctx.diagnostics if d.code == "EC0733"]
    rows = list(_samples(8, 9))
    error = [
        sum(float(((Session(float_net).run(x)["y"] - Session(g).run(x)["y"]) ** 2).sum()) for x in rows)
        for g in (quantized, before)
    ]
    assert error[0] <= error[1] * 1.05


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused(bad: float) -> None:
    graph = _net()
    value = graph.model.graph.initializers["w3"]
    data = np.array(constant(value))
    data[0, 0] = bad
    value.const_value = ir.tensor(data, name="w3")
    with pytest.raises(EdgecError, match="EC0736"):
        Quantize(scheme="onnxruntime-int8", hazards=False).run(graph, PassContext(calibration=_samples(4, 1)))
