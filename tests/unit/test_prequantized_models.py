"""Real models that ONNX Runtime quantised: taken over, kept, brought back to float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper, numpy_helper
from test_prequantized import FLOAT, PREPARE, run

from edgec.compare import compare
from edgec.graph import Graph
from edgec.quantization.form import quantization_form
from edgec.runtime import Session

Array = npt.NDArray[Any]


class _Inputs:
    """Calibration data for onnxruntime.quantization: uniform noise."""

    def __init__(self, graph: Graph) -> None:
        rng = np.random.default_rng(0)
        self._left = iter([noise(graph, rng) for _ in range(3)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._left, None)


def noise(graph: Graph, rng: np.random.Generator) -> dict[str, Array]:
    shapes = {v.name or "": [d if isinstance(d, int) else 1 for d in v.shape or ()] for v in graph.inputs}
    return {n: (rng.random(s) * 2 - 1).astype(np.float32) for n, s in shapes.items()}


def quantized(model: Path, out: Path, form: str, *, per_channel: bool = True) -> Graph:
    """`form`: qdq, qoperator or dynamic; uint8 activations, int8 weights."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    if form == "dynamic":
        quantize_dynamic(model, out, weight_type=QuantType.QInt8, per_channel=per_channel)
    else:
        style = QuantFormat.QDQ if form == "qdq" else QuantFormat.QOperator
        reader: Any = _Inputs(Graph.load(model))
        quantize_static(
            model, out, reader, quant_format=style, per_channel=per_channel, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
    return Graph.load(out)


MODELS = ["mnist_cnn_digitrec", "cifar10_resnet20"]


@pytest.mark.parametrize("name", MODELS)
def test_qoperator_of_onnx_runtime(name: str, eval_dir: Path, tmp_path: Path) -> None:
    g = quantized(eval_dir / "models" / f"{name}.onnx", tmp_path / "q.onnx", "qoperator")
    assert quantization_form(g).form == "qoperator"
    run(g, PREPARE)
    after = g.clone()
    run(after, "qoperator-to-qdq")
    assert quantization_form(after).form == "qdq"
    assert all(n.domain == "" for n in after.nodes())
    feeds = noise(g, np.random.default_rng(1))
    want, got = Session(g, all_values=True).run(feeds), Session(after, all_values=True).run(feeds)
    stored = [n for n, a in want.items() if a.dtype == np.uint8 and n in got]
    assert len(stored) > 5
    for tensor in stored:
        apart = np.abs(want[tensor].astype(int) - got[tensor].astype(int))
        assert apart.max() <= 1, tensor
        assert (apart > 0).mean() < 0.001, tensor


@pytest.mark.parametrize("name", MODELS)
def test_dynamic_of_onnx_runtime(name: str, eval_dir: Path, tmp_path: Path) -> None:
    model = eval_dir / "models" / f"{name}.onnx"
    g = quantized(model, tmp_path / "q.onnx", "dynamic")
    assert quantization_form(g).form == "dynamic"
    run(g, PREPARE)
    ranges, weights = g.clone(), g.clone()
    run(ranges, "qoperator-to-qdq{dynamic=ranges}")
    run(weights, "qoperator-to-qdq")
    assert quantization_form(weights).form == "weight-only"
    feeds = [noise(g, np.random.default_rng(1))]
    results = {n: list(Session(x).run_all(feeds)) for n, x in (("dyn", g), ("ranges", ranges), ("weights", weights))}
    assert compare(results["dyn"], results["ranges"]).outputs[0].sqnr_db > 100
    real = list(Session(model).run_all(feeds))
    assert compare(real, results["weights"]).outputs[0].sqnr_db > 30


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_back_to_float_keeps_what_the_ranges_clipped(form: str, eval_dir: Path, tmp_path: Path) -> None:
    """ONNX Runtime's Q/DQ files have no Relu left: their ranges clip."""
    model = eval_dir / "models" / "mnist_cnn_digitrec.onnx"
    g = quantized(model, tmp_path / "q.onnx", form)
    assert "Relu" not in g.op_counts()
    after = g.clone()
    run(after, PREPARE + ",dequantize")
    assert quantization_form(after).form == "none"
    assert after.op_counts()["Relu"] == 4
    feeds = [noise(g, np.random.default_rng(1))]
    real = list(Session(model).run_all(feeds))
    rounded, back = (compare(real, Session(x).run_all(feeds)).outputs[0].sqnr_db for x in (g, after))
    assert back > rounded, "only the rounding of the weights is left"
    assert back > 25


@pytest.mark.parametrize("name", MODELS)
def test_the_float_passes_do_not_move_a_step(name: str, eval_dir: Path, tmp_path: Path) -> None:
    g = quantized(eval_dir / "models" / f"{name}.onnx", tmp_path / "q.onnx", "qdq")
    after = g.clone()
    run(after, FLOAT)
    kept, had = quantization_form(after).counts, quantization_form(g).counts
    assert kept["activations"] == had["activations"]
    assert kept["weights"] >= had["weights"] - 2, "equal constants are shared"
    feeds = noise(g, np.random.default_rng(1))
    for tensor, want in Session(g).run(feeds).items():
        np.testing.assert_array_equal(Session(after).run(feeds)[tensor], want)


def with_float_weights(graph: Graph) -> Graph:
    """As ModelOpt and the fake quantisation of PyTorch export: weights in float, behind QuantizeLinear."""
    proto = graph.to_proto()
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    nodes = []
    for n in proto.graph.node:
        if n.op_type == "DequantizeLinear" and n.input[0] in stored and stored[n.input[0]].dtype == np.int8:
            data, scale = stored[n.input[0]], stored[n.input[1]]
            shape = [-1 if i == 0 and scale.ndim else 1 for i in range(data.ndim)]
            name = f"{n.input[0]}_float"
            real = data.astype(np.float32) * (scale.reshape(shape) if scale.size > 1 else scale.reshape(()))
            proto.graph.initializer.append(numpy_helper.from_array(real.astype(np.float32), name))
            q = helper.make_node("QuantizeLinear", [name, *n.input[1:]], [f"{name}_q"])
            q.attribute.extend(n.attribute)
            nodes.append(q)
            n.input[0] = f"{name}_q"
        nodes.append(n)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    made = Graph.from_proto(proto)
    made.remove_dead()
    return made


def test_float_weights_behind_quantizelinear_are_stored(eval_dir: Path, tmp_path: Path) -> None:
    g = quantized(eval_dir / "models" / "mnist_cnn_digitrec.onnx", tmp_path / "q.onnx", "qdq")
    like = with_float_weights(g)
    assert like.op_counts()["QuantizeLinear"] > g.op_counts()["QuantizeLinear"]
    feeds = noise(g, np.random.default_rng(1))
    for pipeline in (
        PREPARE + ",canonical-qdq",
        "constants-to-initializers,upgrade-opset,infer-shapes,canonical-qdq",
        FLOAT,
    ):
        after = like.clone()
        run(after, pipeline)
        assert after.op_counts()["QuantizeLinear"] == g.op_counts()["QuantizeLinear"]
        assert after.weight_bytes() < 1.2 * g.weight_bytes()
        for tensor, want in Session(g).run(feeds).items():
            np.testing.assert_array_equal(Session(after).run(feeds)[tensor], want)


def test_a_model_with_stored_weights_is_not_quantised_twice(eval_dir: Path, tmp_path: Path) -> None:
    """mlperf_kws_dscnn comes from TensorFlow Lite with five int8 weights; ONNX Runtime's quantize_static rounds them again."""
    import edgec

    source = Graph.load(eval_dir / "models" / "mlperf_kws_dscnn.onnx")
    assert str(quantization_form(source)) == "weight-only (5 weights)"
    np.savez(tmp_path / "c.npz", **{n: np.repeat(a, 4, 0) for n, a in noise(source, np.random.default_rng(1)).items()})
    made = edgec.compile(source, target="x86-64", precision="int8", calibration=tmp_path / "c.npz")
    assert "EC0792" in [d.code for d in made.diagnostics]
    theirs = {v.name: v.const_value.numpy() for v in source.model.graph.initializers.values() if v.const_value}
    ours = [v.const_value.numpy() for v in made.graph.model.graph.initializers.values() if v.const_value]
    for node in source.nodes():
        if node.op_type == "DequantizeLinear" and node.inputs[0] is not None:
            want = theirs[node.inputs[0].name]
            assert any(a.dtype == np.int8 and np.array_equal(a, want) for a in ours), node.inputs[0].name
    stored = {n.inputs[0].producer() for n in made.graph.nodes() if n.op_type == "QuantizeLinear" and n.inputs[0]}
    assert all(p is None or p.op_type != "DequantizeLinear" for p in stored)


def test_a_quantised_model_passes_through_compile_unchanged(eval_dir: Path, tmp_path: Path) -> None:
    import edgec

    g = quantized(eval_dir / "models" / "mnist_cnn_digitrec.onnx", tmp_path / "q.onnx", "qdq")
    np.savez(tmp_path / "c.npz", **noise(g, np.random.default_rng(1)))
    made = edgec.compile(g, target="x86-64", precision="int8", calibration=tmp_path / "c.npz")
    assert made.graph.op_counts()["QuantizeLinear"] == g.op_counts()["QuantizeLinear"]
    feeds = noise(g, np.random.default_rng(2))
    for tensor, want in Session(g).run(feeds).items():
        np.testing.assert_array_equal(Session(made.graph).run(feeds)[tensor], want)
