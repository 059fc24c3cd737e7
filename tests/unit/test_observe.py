"""observe: the same figures as running the graph and looking at its values, in memory that does not grow."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.quantization import probes
from edgec.quantization.observe import observe
from edgec.quantization.probes import Probes
from edgec.runtime import Session
from edgec.samples import Samples

HEAD = '<ir_version: 10, opset_import: ["" : 24]>\n'
NET = (
    HEAD
    + """
g (float[1,3,24,24] x) => (float[1,4,12,12] y)
<float[4,3,3,3] w, float[4] b = {0.5,-0.5,1,0}>
{ c = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w, b) r = Relu(c) s = Sigmoid(c) y = Mul(r, s) }
"""
)


def net() -> Graph:
    import onnx

    proto = onnx.parser.parse_model(NET.replace("float[4,3,3,3] w, ", ""))
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    return Graph.from_proto(proto)


def inputs(n: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 3, 24, 24)).astype(np.float32)} for _ in range(n)]


def test_figures_are_those_of_the_values():
    graph, samples = net(), inputs(3)
    before = graph.to_bytes()
    names = ["x", "c", "r", "y"]
    stats = observe(graph, names, samples, per_channel=["c"])
    assert graph.to_bytes() == before
    assert (stats.samples, list(stats.tensors)) == (3, names)
    session = Session(graph, all_values=True)
    runs = [{**x, **session.run(x)} for x in samples]
    for name in names:
        every = np.concatenate([r[name].ravel() for r in runs])
        s = stats.tensors[name]
        assert s.low == pytest.approx(float(every.min()), rel=1e-5)
        assert s.high == pytest.approx(float(every.max()), rel=1e-5)
        assert s.low_mean == pytest.approx(float(np.mean([r[name].min() for r in runs])), rel=1e-5)
        assert s.quantile(0.8) == pytest.approx(float(np.quantile(every, 0.8)), rel=0.02, abs=1e-3)
        assert s.counts.sum() == every.size  # small tensors are counted whole
    c = np.concatenate([r["c"] for r in runs])
    seen = stats.per_channel["c"]
    np.testing.assert_allclose(seen.low, c.min((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(seen.high, c.max((0, 2, 3)), rtol=1e-5)
    assert seen.axis == 1


def test_in_parts_or_at_once_in_any_order_of_threads():
    graph, samples = net(), inputs(6)
    whole = observe(graph, ["c", "y"], samples)
    again = observe(graph, ["c", "y"], samples)
    parts = observe(graph, ["c", "y"], samples[:2])
    observe(graph, ["c", "y"], samples[2:], into=parts)
    merged = observe(graph, ["c", "y"], samples[:2])
    merged.merge(observe(graph, ["c", "y"], samples[2:]))
    for other in (again, parts, merged):
        assert other.samples == 6
        for name in ("c", "y"):
            a, b = whole.tensors[name], other.tensors[name]
            a.fold()
            b.fold()
            assert (a.low, a.high, a.samples) == (b.low, b.high, b.samples)
            assert a.keys.tolist() == b.keys.tolist()
            assert a.counts.tolist() == b.counts.tolist()
    assert again.data_hash == whole.data_hash
    assert parts.data_hash == merged.data_hash != whole.data_hash


def test_large_tensors_are_sampled_and_weighted():
    n = 40
    graph = Graph.from_text(HEAD + "g (float[1,8,128,128] x) => (float[1,8,128,128] y) { y = Relu(x) }")
    rng = np.random.default_rng(2)
    samples = ({"x": rng.standard_normal((1, 8, 128, 128)).astype(np.float32)} for _ in range(n))
    s = observe(graph, ["x"], samples).tensors["x"]
    s.fold()
    size = 8 * 128 * 128
    assert s.elements == pytest.approx(n * size, rel=0.02)
    assert s.quantile(0.975) == pytest.approx(1.96, abs=0.03)
    assert s.quantile(0.5) == pytest.approx(0, abs=0.02)


def test_columns_and_channels_have_their_turn():
    """A pattern along any axis must not hide between the steps."""
    graph = Graph.from_text(HEAD + "g (float[1,16,64,64] x) => (float[1,16,64,64] y) { y = Relu(x) }")
    for axis in (1, 2, 3):
        index = np.arange((1, 16, 64, 64)[axis], dtype=np.float32)
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        x = np.broadcast_to(index.reshape(shape), (1, 16, 64, 64)) + 1
        s = observe(graph, ["x"], [{"x": np.ascontiguousarray(x)}] * 60).tensors["x"]
        assert s.buckets()[0].size == index.size
        counts = s.buckets()[1]
        assert counts.max() < 1.3 * counts.min()


def test_open_shapes_and_other_floats():
    graph = Graph.from_text(
        HEAD + "g (float[N,4] x) => (float16[N,4] y, int64[N,4] i) { h = Neg(x) y = Cast<to=10>(h) i = Cast<to=7>(h) }"
    )
    samples = [{"x": np.full((n, 4), n, np.float32)} for n in (3, 100, 20_000)]
    stats = observe(graph, ["h", "y"], samples, per_channel={"h": 1})
    for name in ("h", "y"):
        s = stats.tensors[name]
        s.fold()
        assert s.high == -3
        assert s.elements == pytest.approx(4 * 20_103, rel=0.01)
    assert stats.tensors["h"].low == -20_000
    assert stats.per_channel["h"].high.tolist() == [-3] * 4
    with pytest.raises(EdgecError, match=r"EC0717.*'i'.*INT64"):
        observe(graph, ["i"], samples)


def test_empty_tensors_are_no_samples():
    graph = Graph.from_text(HEAD + "g (float[N] x) => (float[N] y) { y = Exp(x) }")
    empty, full = {"x": np.zeros(0, np.float32)}, {"x": np.zeros(5, np.float32)}
    stats = observe(graph, ["y"], [empty, full, empty])
    assert stats.samples == 3
    assert stats.tensors["y"].samples == 1
    assert stats.tensors["y"].low == 1
    assert observe(graph, ["y"], [empty]).tensors["y"].empty


def test_extremes_only():
    stats = observe(net(), ["y"], inputs(2), histogram=False)
    s = stats.tensors["y"]
    assert s.buckets()[0].size == 0
    assert s.high > s.low


def test_the_optimiser_keeps_what_is_fused_between_observed_values(tmp_path):
    """Only what is observed is an output: Conv and Relu stay one kernel."""
    import onnx
    import onnxruntime as ort

    graph = net()
    made = Probes(graph, ["x", "r"], {}, True)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    ort.InferenceSession(made.graph.to_bytes(), options, providers=["CPUExecutionProvider"])
    ops = [n.op_type for n in onnx.load(tmp_path / "o.onnx").graph.node]
    assert "FusedConv" in ops
    assert "Relu" not in ops


def test_steps_meet_about_as_many_rows_as_wanted_and_divide_no_size():
    for rows in (10, 4096, 75264, 999_983, 224 * 224 * 64):
        for wanted in (1, 256, 4096):
            stride = probes._stride(rows, wanted)
            assert stride == 1 or rows % stride
            assert -(-rows // stride) <= max(wanted, 1) * 2 + 1


def test_errors(tmp_path):
    graph, samples = net(), inputs(1)
    with pytest.raises(EdgecError, match=r"EC0717.*'nothing'"):
        observe(graph, ["nothing"], samples)
    with pytest.raises(EdgecError, match="EC0718"):
        observe(graph, ["y"], [])
    stats = observe(graph, ["y"], samples)
    other = Graph.from_text(HEAD + "g (float[1] x) => (float[1] y) { y = Exp(x) }")
    with pytest.raises(EdgecError, match="EC0719"):
        observe(other, ["y"], samples, into=stats)
    with pytest.raises(EdgecError, match=r"EC0717.*rank is 1"):
        observe(other, ["y"], samples, per_channel={"y": 0})
    with pytest.raises(EdgecError, match="EC0811"):
        observe(graph, ["y"], [{"x": np.zeros((1, 3, 8, 8), np.float32)}])


def test_the_samples_are_read_once_and_progress_is_told():
    passes = 0

    def make():
        nonlocal passes
        passes += 1
        yield from inputs(5)

    seen: list[int] = []
    source = Samples(make, describe="five")
    stats = observe(net(), ["y"], source, progress=seen.append)
    assert passes == 1
    assert seen == [1, 2, 3, 4, 5]
    assert stats.data_hash == source.digest()
    assert not stats.generated
    made_up = Samples(lambda: iter(inputs(2)), describe="two", generated=True)
    assert observe(net(), ["y"], made_up, into=stats).generated


def test_memory_does_not_grow_with_the_samples():
    import psutil

    graph = Graph.from_text(
        HEAD + "g (float[1,32,64,64] x) => (float[1,32,64,64] y) { a = Neg(x) b = Exp(a) y = Relu(b) }"
    )
    rng = np.random.default_rng(3)
    block = rng.standard_normal((1, 32, 64, 64)).astype(np.float32)
    rss: dict[int, int] = {}

    def many():
        for _ in range(300):
            yield {"x": block}

    observe(graph, ["x", "a", "b", "y"], many(), progress=lambda i: rss.update({i: psutil.Process().memory_info().rss}))
    assert rss[300] - rss[100] < 20e6  # 200 samples are 105 MB, their activations 420 MB
