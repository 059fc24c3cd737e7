"""Sensitivity: predictions against runs of the very same choice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext, PassManager
from edgec.quantization.layer_probe import build_probe
from edgec.quantization.sensitivity import Sensitivity, measure, only_terms, own_terms, sensitivity
from edgec.quantization.terms import Term, align, find_terms
from edgec.runtime import Session
from edgec.samples.sample_set import Samples
from edgec.specs.schema import builtin_scheme

TEXT = """<ir_version: 10, opset_import: ["" : 24]>
g (float[1,3,16,16] x) => (float[1,5] y) {
    a0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
    a = Relu(a0)
    d0 = Conv<pads=[1,1,1,1], group=16>(a, w1, b1)
    d = Relu(d0)
    p = Conv(d, w2, b2)
    r = Add(a, p)
    m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    e0 = Conv<pads=[1,1,1,1], strides=[2,2]>(m, w3, b3)
    e = Sigmoid(e0)
    f0 = Conv<strides=[2,2]>(m, w4, b4)
    f = Relu(f0)
    c = Concat<axis=1>(e, f)
    h = Conv(c, w5, b5)
    k = Relu(h)
    q = GlobalAveragePool(k)
    s = Flatten(q)
    y = Gemm<transB=1>(s, w6, b6)
}"""
SHAPES = [(16, 3, 3, 3), (16, 1, 3, 3), (16, 16, 1, 1), (16, 16, 3, 3), (16, 16, 1, 1), (32, 32, 1, 1), (5, 32)]


def network(batch: str = "1") -> Graph:
    rng = np.random.default_rng(5)
    text = TEXT
    params, weights = [], {}
    for i, shape in enumerate(SHAPES):
        fan = math.prod(shape[1:])
        weights[f"w{i}"] = (rng.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)
        weights[f"b{i}"] = (rng.standard_normal(shape[0]) * 0.1).astype(np.float32)
        params += [f"float[{','.join(map(str, shape))}] w{i}", f"float[{shape[0]}] b{i}"]
    graph = Graph.from_text(text.replace("(float[1,3,16,16] x)", f"(float[{batch},3,16,16] x, {', '.join(params)})"))
    g = graph.model.graph
    for v in list(g.inputs)[1:]:
        g.inputs.remove(v)
        v.const_value = ir.tensor(weights[v.name], name=v.name)
        g.register_initializer(v)
    infer_shapes(graph)
    return graph


def samples(n: int = 16) -> Samples:
    rng = np.random.default_rng(1)
    xs = [{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(n)]
    return Samples(lambda: iter(xs), describe="noise", count=n)


def quantize(graph: Graph, scheme: str = "onnxruntime-int8", **options: object) -> tuple[Graph, Graph]:
    after, ctx = graph.clone(), PassContext(calibration=samples())
    PassManager([Quantize(scheme=scheme, method="minmax", hazards=False, **options)]).run(after, ctx)
    assert ctx.quantization is not None
    return ctx.quantization.reference, after


@pytest.fixture(scope="module")
def measured() -> tuple[Graph, Graph, Sensitivity]:
    reference, quantized = quantize(network())
    return reference, quantized, sensitivity(reference, quantized, samples(), probes=512)


@pytest.mark.parametrize("scheme", ["onnxruntime-int8", "tensorrt-int8", "rknn-int8", "weight-only-int8"])
def test_harm_is_what_a_run_with_that_layer_alone_shows(scheme: str) -> None:
    reference, quantized = quantize(network(), scheme)
    rules = builtin_scheme(scheme)
    found = sensitivity(reference, quantized, samples(), scheme=rules, probes=512)
    exempt = scheme == "tensorrt-int8"  # the product of one vector
    assert sum(layer.op in ("Conv", "Gemm") for layer in found.layers) == 7 - exempt
    terms = find_terms(reference, quantized, rules)
    exact = {la.node: measure(reference, quantized, samples(), own_terms(terms, [la.node])) for la in found.layers}
    largest = max(exact.values())
    for layer in found.layers:
        if layer.own_db == math.inf:
            continue  # moves values that are stored already: their rounding is on the account of who stored them
        if exact[layer.node] > largest / 1000:  # 30 dB below the worst nobody asks
            assert 10 * abs(math.log10(max(layer.harm, 1e-30) / exact[layer.node])) < 5, layer
        else:
            assert layer.harm < largest / 100


@pytest.mark.parametrize("count", [0, 1, 3, 6])
def test_the_error_of_any_set_of_layers_is_predicted(measured: tuple[Graph, Graph, Sensitivity], count: int) -> None:
    reference, _, found = measured
    keep = {la.node for la in found.worst(count)}
    after, ctx = reference.clone(), PassContext(calibration=samples())
    PassManager([Quantize(scheme="onnxruntime-int8", method="minmax", hazards=False, keep=tuple(keep))]).run(after, ctx)
    every = find_terms(reference, after).terms  # the choice as it is really made
    exact = measure(reference, after, samples(), every)
    assert found.sqnr_db(keep) == pytest.approx(-10 * math.log10(exact), abs=2)


def test_all_layers_together_are_the_quantised_graph(measured: tuple[Graph, Graph, Sensitivity]) -> None:
    reference, quantized, found = measured
    every = only_terms(reference, quantized, found.terms)
    none = only_terms(reference, quantized, [])
    feed = next(iter(samples()))
    assert np.array_equal(Session(every).run(feed)["y"], Session(quantized).run(feed)["y"])
    assert np.array_equal(Session(none).run(feed)["y"], Session(reference).run(feed)["y"])
    assert found.power([la.node for la in found.layers]) == 0


def test_own_and_inherited_errors_add_up(measured: tuple[Graph, Graph, Sensitivity]) -> None:
    *_, found = measured
    first, last = found.layers[0], found.layers[-1]
    assert first.total_db == pytest.approx(first.own_db, abs=1)  # nothing before it
    assert last.total_db is not None
    assert last.inherited_db is not None
    assert last.total_db < last.own_db
    assert last.inherited_db >= last.total_db


def test_a_layer_made_worse_is_found(measured: tuple[Graph, Graph, Sensitivity]) -> None:
    reference, quantized, before = measured
    worse = quantized.clone()
    pair = [n for n in worse.nodes() if n.inputs[0] is not None and n.inputs[0].name in ("d", "d_q")]
    assert [n.op_type for n in pair] == ["QuantizeLinear", "DequantizeLinear"]
    scale = pair[0].inputs[1]
    assert scale is not None
    assert scale.const_value is not None
    scale.const_value = ir.tensor(scale.const_value.numpy() * np.float32(20), name=scale.name)  # 13 levels
    after = sensitivity(reference, worse, samples(), probes=128)
    assert after.worst(1)[0].node == "d0" != before.worst(1)[0].node  # the unit whose Relu makes it
    (mine,) = own_terms(find_terms(reference, worse), ["d0"])[1:]
    exact = measure(reference, worse, samples(), [mine])
    assert 10 * abs(math.log10(after.worst(1)[0].harm / exact)) < 1.5


def test_rounding_twice_the_same_way_counts_once() -> None:
    text = """<ir_version: 10, opset_import: ["" : 24]>
    g (float[1,2,8,8] x) => (float[1,4,16] y) <float[4,2,1,1] k = {0.5,0.4,-0.3,0.2,0.7,0.1,0.2,-0.9}, float[16,16] w = {%s}> {
        a = Conv(x, k)
        m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
        r = Reshape(m, shape)
        y = MatMul(r, w)
    }""" % ",".join(f"{v:.3f}" for v in np.random.default_rng(0).standard_normal(256))  # noqa: UP031  braces
    graph = Graph.from_text(text.replace("<float[4,2", "<int64[3] shape = {1,4,16}, float[4,2"))
    infer_shapes(graph)
    rng = np.random.default_rng(1)
    xs = [{"x": rng.standard_normal((1, 2, 8, 8)).astype(np.float32)} for _ in range(8)]
    calibration = Samples(lambda: iter(xs), describe="noise", count=8)
    after, ctx = graph.clone(), PassContext(calibration=calibration)
    PassManager([Quantize(scheme="tflite-int8", method="minmax", hazards=False)]).run(after, ctx)
    assert ctx.quantization is not None
    reference = ctx.quantization.reference
    found = sensitivity(reference, after, calibration, probes=256)
    assert [la.op for la in found.layers] == ["Conv", "MaxPool", "Reshape", "MatMul"]
    assert [la.harm for la in found.layers[1:3]] == [0, 0]  # they move what Conv has stored
    exact = measure(reference, after, calibration, found.terms)
    assert found.sqnr_db() == pytest.approx(-10 * math.log10(exact), abs=1)


def test_public_outputs_that_are_stored_count_for_their_layer() -> None:
    reference, quantized = quantize(network(), "tflite-int8")
    assert any(n.op_type == "DequantizeLinear" and n.outputs[0].name == "y" for n in quantized.nodes())
    found = sensitivity(reference, quantized, samples(), probes=128)
    gemm = next(la for la in found.layers if la.op == "Gemm")
    exact = measure(reference, quantized, samples(), own_terms(find_terms(reference, quantized), [gemm.node]))
    assert 10 * abs(math.log10(gemm.harm / exact)) < 1.5


def test_balanced_sees_the_small_channels() -> None:
    text = """<ir_version: 10, opset_import: ["" : 24]>
    g (float[1,2,8,8] x) => (float[1,2,8,8] y) <float[1,1,1,1] big = {500.0}, float[1,1,1,1] w = {1.0}, float[1,2,1,1] k = {0.5,0.5}, float[1,2,1,1] l = {0.3,-0.3}, float[2,1,1,1] ones = {1.0,1.0}> {
        a0 = Conv(x, k)
        a = Conv(a0, big)
        b0 = Conv(x, l)
        b = Conv(b0, w)
        c = Concat<axis=1>(a, b)
        y = Conv<group=2>(c, ones)
    }"""
    graph = Graph.from_text(text)
    infer_shapes(graph)
    rng = np.random.default_rng(1)
    xs = [{"x": rng.standard_normal((1, 2, 8, 8)).astype(np.float32)} for _ in range(8)]
    calibration = Samples(lambda: iter(xs), describe="noise", count=8)
    after, ctx = graph.clone(), PassContext(calibration=calibration)
    PassManager([Quantize(scheme="tflite-int8", method="minmax", hazards=False)]).run(after, ctx)
    assert ctx.quantization is not None
    plain, balanced = (
        sensitivity(ctx.quantization.reference, after, calibration, balanced=b, inherited=0) for b in (False, True)
    )
    assert plain.sqnr_db() > 30  # the boxes are fine, and larger
    assert balanced.sqnr_db() < 5  # the other channel is drowned
    assert plain.layers[0].total_db is None


def test_other_graphs_and_no_samples_are_errors(measured: tuple[Graph, Graph, Sensitivity]) -> None:
    reference, quantized, _ = measured
    with pytest.raises(EdgecError, match="EC0750"):
        sensitivity(reference, quantized, [])
    other = reference.clone()
    other.model.graph.remove(next(n for n in other.nodes() if n.op_type == "Gemm"))
    with pytest.raises(EdgecError, match="EC0751"):
        align(other, quantized)


def test_nothing_quantised_nothing_measured(measured: tuple[Graph, Graph, Sensitivity]) -> None:
    reference, *_ = measured
    found = sensitivity(reference, reference.clone(), samples(2))
    assert found.layers == ()
    assert found.sqnr_db() == math.inf
    assert found.table() == []


def test_table_and_json(measured: tuple[Graph, Graph, Sensitivity]) -> None:
    *_, found = measured
    rows = found.table(3)
    assert len(rows) == 3
    assert all(len(r) == len(found.COLUMNS) for r in rows)
    assert rows[0][0] == max(found.layers, key=lambda la: la.harm).node
    assert found.to_json()["layers"][0]["macs"] == 16 * 16 * 16 * 27


def test_one_run_graph_has_a_row_a_rounding(measured: tuple[Graph, Graph, Sensitivity]) -> None:
    reference, quantized, found = measured
    probe = build_probe(reference, quantized)
    assert [v.shape[0] for v in probe.graph.outputs] == [len(found.terms)] * 3
    assert probe.ends == []


def test_which_roundings_there_are(measured: tuple[Graph, Graph, Sensitivity]) -> None:
    *_, found = measured
    assert {t.value for t in found.terms if t.reader == "d0"} == {None, "a"}
    assert Term("d0", "a", "a0", True) in found.terms  # the unit's convolution stores what its Relu makes
    assert Term("a0", "x", None, True) in found.terms  # nobody stores the input: who asks for it does
    assert not Term("d0", "a", "a0", True).active({"a0", "d0"})
    assert Term("d0", "a", "a0", True).active({"d0"})
    assert "m" in found.off(["r"])  # MaxPool follows the addition
    assert "s" in found.off(["y"])  # Flatten is there for the Gemm


@pytest.mark.parametrize("scheme", ["onnxruntime-int8", "tensorrt-int8", "tflite-int8", "rknn-int8", "qnn-int8"])
def test_what_goes_with_a_kept_layer_is_what_the_plan_leaves_out(scheme: str) -> None:
    reference, quantized = quantize(network(), scheme)
    found = sensitivity(reference, quantized, samples(1), scheme=builtin_scheme(scheme), probes=1, inherited=0)
    wrong = 0
    for layer in found.layers:
        _, after = quantize(network(), scheme, keep=(layer.node,))
        really = {(t.reader, t.value) for t in find_terms(reference, after).terms}
        predicted = {(t.reader, t.value) for t, on in zip(found.terms, found.active([layer.node]), strict=True) if on}
        wrong += len(really ^ predicted)
    assert wrong <= 0.02 * len(found.layers) * len(found.terms)


@pytest.mark.parametrize("scheme", ["onnxruntime-int8", "tflite-int8", "tensorrt-int8"])
def test_contributions_add_up_to_the_error_itself(scheme: str) -> None:
    """Not to first order: slopes are those between the float and the quantised run (only pooling is approximated)."""
    reference, quantized = quantize(network(), scheme)
    probe = build_probe(reference, quantized, builtin_scheme(scheme))
    session, before, after = Session(probe.graph), Session(reference), Session(quantized)
    rng = np.random.default_rng(0)
    got, want = [], []
    for sample in samples():
        u = rng.standard_normal((1, 5)).astype(np.float32)
        got.append(session.run({**sample, probe.seeds["y"]: u})[probe.contributions].sum())
        want.append(((after.run(sample)["y"] - before.run(sample)["y"]) * u).sum())
    miss = np.square(np.array(got) - want).sum() / np.square(want).sum()
    assert miss < 0.05


@pytest.mark.parametrize(("batch", "ends"), [("N", ()), ("N,H", None)])
def test_a_batch_of_unknown_size_changes_nothing(batch: str, ends: tuple[str, ...] | None) -> None:
    """Most exported models have one. Where height is unknown too, convolutions end the derivation, the input among them."""
    graph = network(batch.replace(",H", ""))
    if ends is None:
        graph.inputs[0].shape = ir.Shape(["N", 3, "H", 16])
        for n in graph.nodes():
            for v in n.outputs:
                v.shape = None
        infer_shapes(graph)
    reference, quantized = quantize(graph)
    found = sensitivity(reference, quantized, samples(), scheme=builtin_scheme("onnxruntime-int8"), probes=8)
    if ends is None:
        assert "x" in found.ends
    else:
        assert found.ends == ends
    assert all(math.isfinite(la.harm) for la in found.layers)
