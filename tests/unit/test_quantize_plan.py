"""Where Q/DQ go, and what the quantised graph looks like: on graphs small enough to read."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, constant, ir
from edgec.lowering import lower
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.passes.quantize.plan import Plan, make_plan
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext
from edgec.plugins import Registry
from edgec.runtime import Session
from edgec.samples import Samples, generated_samples
from edgec.specs.conditions import Setting
from edgec.specs.schema import builtin_scheme
from edgec.specs.scheme import Scheme

ORT = builtin_scheme("onnxruntime-int8")
SETTING = Setting("int8", "x86-64", 24)

HEAD = '<ir_version: 10, opset_import: ["" : 24]>'


def numbers(count: int, seed: int) -> str:
    return ", ".join(f"{v:.4f}" for v in np.random.default_rng(seed).normal(size=count))


CONV = f"float[4,4,1,1] w = {{{numbers(16, 0)}}}, float[4] b = {{{numbers(4, 1)}}}"


def graph(body: str, weights: str = "") -> Graph:
    """A graph from float[1,4,8,8] x to y, shapes known."""
    g = Graph.from_text(f"{HEAD} g (float[1,4,8,8] x) => (float[1,4,8,8] y) <{weights}> {{ {body} }}")
    InferShapes().run(g, PassContext())
    return g


def plan(g: Graph, scheme: Scheme = ORT, **options: object) -> Plan:
    return make_plan(g, scheme, SETTING, **options)  # type: ignore[arg-type]


def test_a_unit_is_quantised_outside_only() -> None:
    p = plan(graph("c = Conv(x, w, b) y = Relu(c)", CONV))
    assert list(p.activations) == ["x", "y"]
    assert [(s.node.op_type, s.input, s.axis) for s in p.weights] == [("Conv", 1, 0)]
    assert len(p.biases) == 1


def test_the_tail_stays_in_float() -> None:
    """Nothing after the last convolution computes on integers: the concatenation would only lose precision."""
    g = graph("c = Conv(x, w, b) d = MaxPool<kernel_shape=[1,1]>(c) e = Sigmoid(d) y = Add(e, d)", CONV)
    assert list(plan(g).activations) == ["x", "c"]


def test_an_addition_between_convolutions_is_quantised_with_its_float_operand() -> None:
    g = graph("c = Conv(x, w, b) s = Sin(x) a = Add(c, s) y = Conv(a, w, b)", CONV)
    p = plan(g)
    assert list(p.activations) == ["x", "c", "s", "a", "y"]
    sine = p.activations["s"]
    assert sine.uses is not None
    assert {(node.op_type, i) for node, i in sine.uses} == {("Add", 1)}
    assert p.activations["x"].uses is not None  # Sin reads it in float
    assert {node.op_type for node, _ in p.activations["x"].uses} == {"Conv"}


def test_data_movement_shares_parameters() -> None:
    g = graph(
        "c = Conv(x, w, b) t = Transpose<perm=[0,1,3,2]>(c) m = MaxPool<kernel_shape=[1,1]>(t) y = Conv(m, w, b)", CONV
    )
    groups = {tuple(names) for names in plan(g).groups}
    assert groups == {("x",), ("c", "t", "m"), ("y",)}


def test_kept_nodes_are_left_alone_with_their_reason() -> None:
    g = graph("c = Conv(x, w, b) y = Conv(c, w, b)", CONV)
    p = plan(g, keep={"c": "it hurts"})
    assert p.kept == {"c": "it hurts"}
    assert [s.node.outputs[0].name for s in p.weights] == ["y"]
    assert list(p.activations) == ["c", "y"]


def test_a_product_of_activations_is_not_a_weight() -> None:
    g = graph("t = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, t)")
    assert not plan(g).weights


def test_weight_only_leaves_activations() -> None:
    p = plan(graph("y = Conv(x, w, b)", CONV), builtin_scheme("weight-only-int8"))
    assert not p.activations
    assert not p.biases


# --- the graph -------------------------------------------------------------------------------------------------------


def quantised(g: Graph, **options: object) -> tuple[Graph, PassContext]:
    ctx = PassContext(calibration=generated_samples(g, 4))
    after = g.clone()
    Quantize(scheme="onnxruntime-int8", **options).run(after, ctx)  # type: ignore[arg-type]
    after.verify()
    return after, ctx


def test_the_public_interface_stays() -> None:
    g = graph("y = Conv(x, w, b)", CONV)
    q, _ = quantised(g)
    assert [v.name for v in q.inputs] == ["x"]
    assert [v.name for v in q.outputs] == ["y"]
    assert q.outputs[0].producer().op_type == "DequantizeLinear"  # type: ignore[union-attr]
    assert Counter(n.op_type for n in q.nodes()) == {"QuantizeLinear": 2, "DequantizeLinear": 4, "Conv": 1}


def test_bias_scale_is_that_of_the_product() -> None:
    q, ctx = quantised(graph("y = Conv(x, w, b)", CONV))
    conv = next(n for n in q.nodes() if n.op_type == "Conv")
    x, w, b = (v.producer() for v in conv.inputs if v is not None)
    scales = [np.asarray(constant(n.inputs[1])) for n in (x, w, b) if n is not None]
    np.testing.assert_allclose(scales[2], scales[0] * scales[1], rtol=1e-6)
    assert ctx.quantization is not None
    assert set(ctx.quantization.activations) == {"x", "y"}
    assert [node for node, _ in ctx.quantization.weights.values()] == [conv.name or ""]


def test_a_bias_too_large_for_int32_widens_its_channel_only() -> None:
    g = graph("y = Conv(x, w, b)", CONV)
    g.model.graph.initializers["b"].const_value = ir.tensor(np.float32([0, 3e8, 0, 1]), name="b")
    q, _ = quantised(g, weights="minmax")
    stored = next(v for k, v in q.model.graph.initializers.items() if k == "b_q")
    assert 2**30 - 1024 <= int(np.abs(np.asarray(constant(stored), np.int64)).max()) <= 2**30  # the rest is for sums
    w = np.abs(np.asarray(constant(q.model.graph.initializers["w_q"]), np.int32)).reshape(4, -1).max(1)
    assert list(w[[0, 2, 3]]) == [127, 127, 127]
    assert w[1] < 127


def test_a_shared_weight_is_stored_once() -> None:
    q, _ = quantised(graph("c = Conv(x, w, b) y = Conv(c, w, b)", CONV))
    assert sum(k.startswith("w_q") for k in q.model.graph.initializers) == 1


@pytest.mark.parametrize("method", ["mse", "minmax", "moving-average", "percentile", "entropy"])
def test_every_method_gives_a_model_close_to_the_float_one(method: str) -> None:
    g = graph("c = Conv(x, w, b) r = Relu(c) a = Add(r, x) y = Conv(a, w, b)", CONV)
    q, _ = quantised(g, method=method)
    x = next(iter(generated_samples(g, 1, seed=7)))
    want, got = Session(g).run(x)["y"], Session(q).run(x)["y"]
    sqnr = 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum())
    assert sqnr > 20, sqnr


def test_no_calibration_data_is_an_error() -> None:
    with pytest.raises(EdgecError, match="calibration") as caught:
        Quantize(scheme="onnxruntime-int8").run(graph("y = Conv(x, w, b)", CONV), PassContext())
    assert caught.value.diagnostics[0].code == "EC0220"


def test_no_scheme_is_an_error() -> None:
    with pytest.raises(EdgecError) as caught:
        Quantize().run(graph("y = Relu(x)"), PassContext())
    assert caught.value.diagnostics[0].code == "EC0221"


def test_an_unknown_node_to_keep_is_an_error() -> None:
    g = graph("y = Conv(x, w, b)", CONV)
    with pytest.raises(EdgecError, match="no node 'z'") as caught:
        Quantize(scheme="onnxruntime-int8", keep=("z",)).run(g, PassContext(calibration=generated_samples(g, 1)))
    assert caught.value.diagnostics[0].code == "EC0222"


def test_nothing_to_quantise_changes_nothing() -> None:
    g = graph("y = Sin(x)")
    assert not Quantize(scheme="onnxruntime-int8").run(g, PassContext()).changed


def test_the_target_computes_in_integers() -> None:
    """ONNX Runtime's optimiser fuses every Q/DQ of the pipeline's result into integer kernels."""
    g = graph("c = Conv(x, w, b) r = Relu(c) a = Add(r, x) y = Conv(a, w, b)", CONV)
    ctx = PassContext(calibration=generated_samples(g, 4))
    registry = Registry()
    q = lower(g, registry.target("x86-64"), "int8", registry=registry, ctx=ctx).graph
    kinds = _optimised(q.to_bytes())
    assert kinds["QLinearConv"] == 2
    assert kinds["QLinearAdd"] == 1
    assert not kinds["Conv"]
    assert not kinds["Add"]


def _optimised(model: bytes) -> Counter[str]:
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(Path(folder, "m.onnx"))
        options.log_severity_level = 4
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)


def test_ranges_saved_and_used_again_give_the_same_model(tmp_path: Path) -> None:
    g = graph("c = Conv(x, w, b) y = Relu(c)", CONV)
    first, ctx = quantised(g)
    assert ctx.quantization is not None
    assert ctx.quantization.statistics is not None
    ctx.quantization.statistics.save(tmp_path / "calibration.json")
    again = g.clone()
    Quantize(scheme="onnxruntime-int8", ranges=str(tmp_path / "calibration.json")).run(again, PassContext())
    assert again.to_bytes() == first.to_bytes()


def test_ranges_of_another_model_are_refused(tmp_path: Path) -> None:
    _, ctx = quantised(graph("y = Conv(x, w, b)", CONV))
    assert ctx.quantization is not None
    assert ctx.quantization.statistics is not None
    ctx.quantization.statistics.save(tmp_path / "calibration.json")
    other = graph("c = Conv(x, w, b) y = Conv(c, w, b)", CONV)
    with pytest.raises(EdgecError) as caught:
        Quantize(scheme="onnxruntime-int8", ranges=str(tmp_path / "calibration.json")).run(other, PassContext())
    assert caught.value.diagnostics[0].code == "EC0223"


def test_ranges_of_the_same_names_with_other_weights_are_refused(tmp_path: Path) -> None:
    g = graph("y = Conv(x, w, b)", CONV)
    _, ctx = quantised(g)
    assert ctx.quantization is not None
    assert ctx.quantization.statistics is not None
    ctx.quantization.statistics.save(tmp_path / "calibration.json")
    other = g.clone()
    w = other.model.graph.initializers["w"]
    w.const_value = ir.tensor(w.const_value.numpy() * 2, name="w")
    with pytest.raises(EdgecError, match="EC0223"):
        Quantize(scheme="onnxruntime-int8", ranges=str(tmp_path / "calibration.json")).run(other, PassContext())


def test_samples_may_be_endless_in_number_but_are_read_once() -> None:
    g = graph("y = Conv(x, w, b)", CONV)
    rows = list(generated_samples(g, 3))
    reads = []

    def read() -> object:
        reads.append(1)
        return iter(rows)

    samples = Samples(read, describe="counted", count=3)  # type: ignore[arg-type]
    Quantize(scheme="onnxruntime-int8").run(g.clone(), PassContext(calibration=samples))
    assert len(reads) == 1


def test_the_best_method_is_named_and_at_least_as_good_as_the_default() -> None:
    g = graph("c = Conv(x, w, b) r = Relu(c) a = Add(r, x) y = Conv(a, w, b)", CONV)
    best, ctx = quantised(g, method="best")
    (note,) = [d for d in ctx.diagnostics if d.code == "EC0225"]
    assert "mse" in note.message
    default, _ = quantised(g)
    rows = list(generated_samples(g, 4))
    errors = [
        sum(float(((Session(g).run(x)["y"] - Session(q).run(x)["y"]) ** 2).sum()) for x in rows)
        for q in (best, default)
    ]
    assert errors[0] <= errors[1] * 1.0001
