"""Hazards: what a stored tensor would lose, what stays in float because of it, and what that saves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from edgec.diagnostics import Diagnostics, Severity
from edgec.graph import Graph
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.passes.quantize.hazards import Hazards, find_hazards, hazard_values
from edgec.passes.quantize.head import find_head
from edgec.passes.quantize.plan import make_plan
from edgec.passes.quantize.reader_limits import within
from edgec.passes.quantize.split_heads import SplitHeads, parts_of
from edgec.passes.quantize.split_sigmoids import SplitSigmoids
from edgec.pipeline import PassContext, PassManager
from edgec.quantization.observe import observe
from edgec.quantization.statistics import ChannelRange, Statistics
from edgec.quantizing import quantize
from edgec.samples import Samples
from edgec.specs.conditions import Setting
from edgec.specs.schema import Effort, builtin_scheme
from edgec.specs.scheme import Scheme
from edgec.testing import assert_equivalent, run

Array = npt.NDArray[Any]
Inputs = dict[str, Array]

SETTING = Setting("int8", "x86-64", 24)
ORT = builtin_scheme("onnxruntime-int8")


def whole_graph_scheme(**rules: dict[str, Any]) -> Scheme:
    """A compiler that stores every tensor: what the usual quantisers do."""
    always = {"inputs": "all"}
    ops: dict[str, Any] = {
        op: [always] for op in ("Add", "Mul", "Concat", "Sigmoid", "Relu", "Exp", "Softmax", "Reshape")
    }
    ops["Conv"] = [{"inputs": [0], "weight": 1, "axis": 0, "bias": 2}]
    ops["MatMul"] = [{"inputs": [0], "weight": 1, "axis": -1}]
    ops |= {op: [rule] for op, rule in rules.items()}
    return Scheme.model_validate_json(
        json.dumps({
            "schema_version": 1, "name": "everything", "description": "stores every tensor", "evidence": "a test's",
            "activations": {"dtype": "uint8", "symmetric": False},
            "weights": {"dtype": "int8", "symmetric": True, "per": "channel"}, "ops": ops,
        })
    )  # fmt: skip


class Net:
    """A small detector, written down layer by layer; weights are random but always the same."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def op(self, op: str, inputs: list[str], out: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [out], name=f"/{out}", **attributes))
        return out

    def conv(
        self,
        x: str,
        out: str,
        c: tuple[int, int],
        *,
        kernel: int = 1,
        stride: int = 1,
        gain: Any = 1.0,
        bias: Any = 0.0,
    ) -> str:
        n_in, n_out = c
        scale = np.broadcast_to(np.float32(gain), n_out) / np.sqrt(n_in * kernel * kernel)
        w = self.rng.standard_normal((n_out, n_in, kernel, kernel)) * scale[:, None, None, None]
        b = np.broadcast_to(np.float32(bias), n_out)
        self.weights += [numpy_helper.from_array(np.float32(a), f"{out}.{s}") for a, s in ((w, "w"), (b.copy(), "b"))]
        return self.op("Conv", [x, f"{out}.w", f"{out}.b"], out, pads=[kernel // 2] * 4, strides=[stride] * 2)

    def constant(self, name: str, data: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(data), name))
        return name

    def body(self) -> str:
        self.conv("images", "c1", (3, 16), kernel=3, stride=2, gain=2)
        self.conv(self.op("Relu", ["c1"], "r1"), "c2", (16, 32), kernel=3, stride=2, gain=1.5)
        return self.op("Relu", ["c2"], "r2")

    def graph(self, out: str, shape: list[int], image: int = 32) -> Graph:
        value = helper.make_tensor_value_info
        g = helper.make_graph(
            self.nodes, "net", [value("images", 1, [1, 3, image, image])], [value(out, 1, shape)], self.weights
        )
        model = helper.make_model(g, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
        return Graph.from_proto(onnx.shape_inference.infer_shapes(model))


def detector() -> Graph:
    """Boxes (0..640) and scores (0..1) by two convolutions, concatenated: the output of most YOLO exports."""
    net = Net()
    x = net.body()
    box = net.op("Relu", [net.conv(x, "box", (32, 4), gain=120, bias=320)], "boxes")
    score = net.op("Sigmoid", [net.conv(x, "logits", (32, 3), gain=2, bias=-3)], "scores")
    net.op("Concat", [box, score], "out", axis=1)
    return net.graph("out", [1, 7, 8, 8])


def one_layer_detector() -> Graph:
    """One convolution computes boxes in pixels and scores."""
    net = Net()
    gain = [120, 1, 120, 120, 1, 120, 1]  # scores between boxes
    bias = [320 if g > 1 else 0.2 for g in gain]
    net.op(
        "Relu",
        [net.conv(net.body(), "head", (32, 7), gain=np.float32(gain) * [1, 0.3, 1, 1, 0.3, 1, 0.3], bias=bias)],
        "out",
    )
    return net.graph("out", [1, 7, 8, 8])


def pictures(n: int = 8, seed: int = 1, size: int = 32) -> list[Inputs]:
    rng = np.random.default_rng(seed)
    return [{"images": rng.random((1, 3, size, size), dtype=np.float32) * rng.uniform(0.3, 1)} for _ in range(n)]


def seen(graph: Graph, samples: list[Inputs] | None = None) -> Statistics:
    floats = [
        v.name
        for n in graph.model.graph
        for v in n.outputs
        if v.name and v.dtype is not None and v.dtype.is_floating_point()
    ]
    values = [v.name or "" for v in graph.inputs if v.dtype is not None and v.dtype.is_floating_point()] + floats
    return observe(graph, values, samples or pictures(), per_channel=values)


def hazards(graph: Graph, scheme: Scheme = ORT, samples: list[Inputs] | None = None) -> Hazards:
    return find_hazards(graph, seen(graph, samples), scheme, SETTING)


def codes(found: Hazards, severity: Severity = Severity.WARNING) -> list[str]:
    return [h.code for h in found.items if h.severity == severity]


# --- the head ------------------------------------------------------------------------------------------------------


def test_the_head_is_what_stands_between_the_last_weights_and_the_output() -> None:
    head = find_head(detector())
    assert [n.op_type for n in head.nodes] == ["Relu", "Sigmoid", "Concat"]
    assert [v.name for v in head.sources] == ["box", "logits"]


def test_a_convolution_that_averages_the_bins_of_a_softmax_is_part_of_the_head() -> None:
    net = Net()
    bins = net.op("Softmax", [net.conv(net.body(), "bins", (32, 16))], "probability", axis=1)
    net.constant("places", np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1))
    net.op("Conv", [bins, "places"], "distance")
    assert [n.op_type for n in find_head(net.graph("distance", [1, 1, 8, 8])).nodes] == ["Softmax", "Conv"]


def test_the_float_region_leaves_activations_that_are_part_of_a_kernel_alone() -> None:
    found = hazards(detector(), whole_graph_scheme())
    assert set(found.float_nodes) == {"/boxes", "/scores", "/out"}
    with_units = whole_graph_scheme().model_copy(update={"units": ORT.units})
    assert set(hazards(detector(), with_units).float_nodes) == {"/scores", "/out"}


# --- boxes and scores in one tensor --------------------------------------------------------------------------------


def test_boxes_and_scores_in_one_stored_tensor_are_found_and_kept_apart() -> None:
    graph = detector()
    found = hazards(graph, whole_graph_scheme())
    [conflict] = [h for h in found.items if h.code == "EC0850"]
    assert conflict.node == "/out"
    assert conflict.repaired
    assert conflict.severity == Severity.WARNING
    assert conflict.figures["levels"] < 1
    assert "scores" in conflict.message
    plan = make_plan(graph, whole_graph_scheme(), SETTING, keep=found.float_nodes)
    assert "out" not in plan.activations
    assert {"box", "logits"} <= set(plan.activations)  # each with a scale of its own
    assert plan.activations["box"].group != plan.activations["logits"].group
    assert sum(n in plan.quantized for n in ("/c1", "/c2", "/box", "/logits")) == 4  # no product left in float


def test_what_the_scheme_leaves_in_float_is_told_as_a_note() -> None:
    found = hazards(detector())
    assert codes(found) == []
    assert "EC0850" in codes(found, Severity.NOTE)
    assert found.float_nodes == {}
    notes = Diagnostics()
    found.report(notes, "detector.onnx")
    assert any(d.code == "EC0850" and d.location.node == "/out" for d in notes)


def test_parts_of_like_range_are_no_hazard() -> None:
    net = Net()
    x = net.body()
    a = net.op("Sigmoid", [net.conv(x, "a", (32, 3), gain=3)], "sa")
    b = net.op("Sigmoid", [net.conv(x, "b", (32, 3), gain=3)], "sb")
    net.op("Concat", [a, b], "out", axis=1)
    found = hazards(net.graph("out", [1, 6, 8, 8]), whole_graph_scheme())
    assert found.items == []
    assert found.float_nodes == {}


def test_sixteen_bits_have_levels_for_both() -> None:
    wide = whole_graph_scheme()
    assert wide.activations is not None
    wide = wide.model_copy(update={"activations": wide.activations.model_copy(update={"dtype": "uint16"})})
    assert codes(hazards(detector(), wide)) == []


def test_a_slice_of_a_mixture_keeps_the_mixture_in_float() -> None:
    net = Net()
    x = net.body()
    net.op(
        "Concat",
        [net.conv(x, "box", (32, 4), gain=120, bias=320), net.conv(x, "obj", (32, 2), gain=0.2)],
        "mixed",
        axis=1,
    )
    net.constant("sizes", np.array([4, 2], np.int64))
    net.nodes.append(helper.make_node("Split", ["mixed", "sizes"], ["b", "s"], name="/split", axis=1))
    net.op("Mul", ["b", "b"], "area")
    net.op("Sigmoid", ["s"], "p")
    net.op("Concat", ["area", "p"], "out", axis=1)
    scheme = whole_graph_scheme(Split={"inputs": [0], "share": True})
    found = hazards(net.graph("out", [1, 6, 8, 8]), scheme)
    assert "/mixed" in found.float_nodes
    assert "/split" in found.float_nodes


def test_a_branch_that_vanishes_inside_the_network_is_told() -> None:
    net = Net()
    x = net.body()
    small, large = net.conv(x, "small", (32, 8), gain=0.01), net.conv(x, "large", (32, 8), gain=30)
    net.conv(net.op("Concat", [small, large], "joined", axis=1), "out", (16, 4))
    found = hazards(net.graph("out", [1, 4, 8, 8]))
    assert [(h.code, h.node, h.repaired) for h in found.items] == [("EC0860", "/joined", False)]


# --- other hazards of arithmetic -----------------------------------------------------------------------------------


def test_offsets_added_to_a_grid_stay_in_float() -> None:
    net = Net()
    offset = net.op("Sigmoid", [net.conv(net.body(), "xy", (32, 2))], "offset")
    grid = np.float32(np.stack(np.meshgrid(np.arange(8), np.arange(8)))[None] * 10)
    net.op("Add", [offset, net.constant("grid", grid)], "out")
    found = hazards(net.graph("out", [1, 2, 8, 8]), whole_graph_scheme())
    assert codes(found) == ["EC0852"]
    assert "/out" in found.float_nodes


def test_anchors_of_different_size_stay_in_float() -> None:
    net = Net()
    size = net.op("Sigmoid", [net.conv(net.body(), "wh", (32, 2))], "size")
    net.op("Mul", [size, net.constant("anchors", np.float32([8, 512]).reshape(1, 2, 1, 1))], "out")
    found = hazards(net.graph("out", [1, 2, 8, 8]), whole_graph_scheme())
    assert codes(found) == ["EC0852"]
    assert "multiplied by 8" in found.items[0].message


def test_exp_stays_in_float_where_most_of_it_would_be_zero() -> None:
    net = Net()
    net.op("Exp", [net.conv(net.body(), "log_size", (32, 2), gain=8)], "out")
    found = hazards(net.graph("out", [1, 2, 8, 8]), whole_graph_scheme())
    assert "EC0853" in codes(found)
    assert "/out" in found.float_nodes


ATTENTION = """<ir_version: 10, opset_import: ["" : 24]> g (float[1,4,8,16] q, float[1,4,16,8] k, float[1,4,8,16] v)
    => (float[1,4,8,16] y) <float[1,1,1,8] mask = {0,0,0,0,0,0,MARK,MARK}>
    { s = MatMul(q, k)  m = Add(s, mask)  p = Softmax<axis = -1>(m)  y = MatMul(p, v) }"""


@pytest.mark.parametrize("mark", ["-10000.0", "-3.4e38"])
def test_masks_are_no_data(mark: str) -> None:
    graph = Graph.from_text(ATTENTION.replace("MARK", mark))
    PassManager([InferShapes()]).run(graph)
    rng = np.random.default_rng(0)
    shapes = {"q": (1, 4, 8, 16), "k": (1, 4, 16, 8), "v": (1, 4, 8, 16)}
    samples = [{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()} for _ in range(2)]
    scheme = whole_graph_scheme(MatMul={"inputs": [0, 1]})
    found = find_hazards(graph, seen(graph, samples), scheme, SETTING)
    assert "EC0854" in codes(found)
    plan = make_plan(graph, scheme, SETTING, keep=found.float_nodes)
    assert "m" not in plan.activations
    assert {"q", "k", "v", "s"} <= set(plan.activations)


def test_without_marks_attention_is_left_alone() -> None:
    graph = Graph.from_text(ATTENTION.replace("MARK", "0"))
    PassManager([InferShapes()]).run(graph)
    rng = np.random.default_rng(0)
    shapes = {"q": (1, 4, 8, 16), "k": (1, 4, 16, 8), "v": (1, 4, 8, 16)}
    samples = [{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}]
    found = find_hazards(graph, seen(graph, samples), whole_graph_scheme(MatMul={"inputs": [0, 1]}), SETTING)
    assert "EC0854" not in codes(found)


def test_small_scores_on_a_scale_up_to_one() -> None:
    net = Net()
    net.op("Sigmoid", [net.conv(net.body(), "logits", (32, 3), gain=1, bias=-6)], "out")
    fixed = whole_graph_scheme(Sigmoid={"inputs": [0], "fixed": {"scale": 1 / 256, "zero_point": 0}})
    found = hazards(net.graph("out", [1, 3, 8, 8]), fixed)
    assert codes(found) == ["EC0855"]
    assert found.float_nodes.keys() == {"/out"}
    assert codes(hazards(net.graph("out", [1, 3, 8, 8]), whole_graph_scheme())) == []  # the range follows the scores


def test_limits_where_only_a_sigmoid_reads() -> None:
    net = Net()
    x = net.conv(net.body(), "logits", (32, 3), gain=40)
    net.op("Sigmoid", [net.op("Transpose", [x], "moved", perm=[0, 2, 3, 1])], "out")
    assert hazards(net.graph("out", [1, 8, 8, 3])).limits == {"logits": (-12.0, 12.0)}


def silu_net() -> Graph:
    net = Net()
    net.op("Swish", [net.conv(net.body(), "wide", (32, 8), gain=30)], "act")
    net.conv("act", "out", (8, 4))
    return net.graph("out", [1, 4, 8, 8])


def test_what_a_silu_makes_zero_needs_no_range() -> None:
    graph = silu_net()
    statistics = seen(graph)
    low, high = hazards(graph).limits["wide"]
    assert statistics.tensors["wide"].low < 3 * low
    assert -12 < low < -2
    assert high == np.inf
    cut = within(statistics.tensors["wide"], (low, high))
    assert cut.low == low
    assert cut.high == statistics.tensors["wide"].high
    assert cut.buckets()[1].sum() == statistics.tensors["wide"].buckets()[1].sum()
    assert abs(low / (1 + np.exp(-low))) < cut.high / 255  # below a step of what is stored after it


def test_values_another_op_reads_have_no_limits() -> None:
    net = Net()
    x = net.conv(net.body(), "wide", (32, 8), gain=30)
    net.op("Add", [net.op("Swish", [x], "act"), x], "both")
    net.conv("both", "out", (8, 4))
    assert "wide" not in hazards(net.graph("out", [1, 4, 8, 8])).limits


def test_the_last_layers_of_a_dense_head_are_not_cut() -> None:
    net = Net()
    x = net.body()
    box = net.op("Relu", [net.conv(x, "b1", (32, 16))], "b1a")
    score = net.op("Relu", [net.conv(x, "s1", (32, 16))], "s1a")
    parts = [net.conv(box, "box", (16, 4)), net.op("Sigmoid", [net.conv(score, "logits", (16, 3))], "score")]
    net.op("Concat", parts, "out", axis=1)
    found = hazards(net.graph("out", [1, 7, 8, 8]))
    assert {"box", "logits", "b1a", "s1a"} <= found.uncut
    assert not {"r1", "c1", "images"} & found.uncut  # three layers back from the head, no further


def test_a_classifier_has_no_last_layers_to_protect() -> None:
    net = Net()
    net.op("GlobalAveragePool", [net.body()], "pooled")
    net.op("Flatten", ["pooled"], "flat")
    net.constant("w", net.rng.standard_normal((32, 10)).astype(np.float32))
    net.op("MatMul", ["flat", "w"], "out")
    assert hazards(net.graph("out", [1, 10])).uncut == frozenset()


# --- fusion, outliers, weights -------------------------------------------------------------------------------------

SHARED_SIGMOID = """<ir_version: 10, opset_import: ["" : 24]> g (float[1,4] x) => (float[1,4] y, float[1,4] z)
    { s = Sigmoid(x)  y = Mul(x, s)  z = Sqrt(s) }"""


def test_a_sigmoid_with_two_readers_is_told_and_split() -> None:
    graph = Graph.from_text(SHARED_SIGMOID)
    found = find_hazards(graph, Statistics(), ORT, SETTING)
    assert codes(found) == ["EC0856"]
    after = graph.clone()
    PassManager([SplitSigmoids()], verify="structure").run(after)
    assert after.op_counts()["Sigmoid"] == 2
    assert_equivalent(graph, after, rtol=0, atol=0)
    assert find_hazards(after, Statistics(), ORT, SETTING).items == []


def test_splitting_sigmoids_lets_silu_fuse() -> None:
    from edgec.passes.optimize.fuse_silu import FuseSilu

    graph = Graph.from_text(SHARED_SIGMOID)
    plain, split = graph.clone(), graph.clone()
    PassManager([FuseSilu()]).run(plain)
    PassManager([SplitSigmoids(), FuseSilu()]).run(split)
    assert plain.op_counts()["Swish"] == 0
    assert split.op_counts() == {"Swish": 1, "Sigmoid": 1, "Sqrt": 1}


def test_an_activation_that_cannot_be_absorbed_is_a_note() -> None:
    net = Net()
    x = net.conv(net.body(), "pre", (32, 8))
    net.op("Mul", [net.op("Relu", [x], "act"), x], "both")
    net.conv("both", "out", (8, 4))
    found = hazards(net.graph("out", [1, 4, 8, 8]))
    assert ("EC0857", "/act") in [(h.code, h.node) for h in found.items if h.severity == Severity.NOTE]


def test_outliers_are_noted() -> None:
    net = Net()
    gain = np.ones(64, np.float32)
    net.conv(net.op("Relu", [net.conv(net.body(), "mid", (32, 64), gain=gain)], "act"), "out", (64, 4))
    graph = net.graph("out", [1, 4, 16, 16], image=64)
    samples = pictures(2, size=64)
    samples[0]["images"][0, :, 20, 20] = 4000
    assert "EC0858" in codes(hazards(graph, samples=samples), Severity.NOTE)
    assert "EC0858" not in codes(hazards(graph, samples=pictures(2, size=64)), Severity.NOTE)


def test_uneven_weights_with_one_scale() -> None:
    net = Net()
    net.conv("images", "out", (3, 8), gain=[1, 1, 1, 1, 1, 1, 1, 0.001])
    graph = net.graph("out", [1, 8, 32, 32])
    one_scale = whole_graph_scheme()
    one_scale = one_scale.model_copy(update={"weights": one_scale.weights.model_copy(update={"per": "tensor"})})
    assert "EC0859" in codes(hazards(graph, one_scale))
    assert "EC0859" not in codes(hazards(graph))


# --- channels of one layer -----------------------------------------------------------------------------------------


def test_channels_of_different_meaning_are_told_and_split() -> None:
    graph = one_layer_detector()
    assert codes(hazards(graph)) == ["EC0851"]
    after = graph.clone()
    samples = pictures()
    result = SplitHeads().run(after, PassContext(calibration=Samples(lambda: iter(samples), describe="pictures")))
    assert result.stats == {"layers": 1}
    after.verify()
    assert after.op_counts()["Conv"] == 4
    assert_equivalent(graph, after)
    assert codes(hazards(after)) == []


def test_without_calibration_data_heads_stay_whole() -> None:
    graph = one_layer_detector()
    assert not SplitHeads().run(graph, PassContext()).changed


def test_channels_are_parted_by_range() -> None:
    high = np.float32([600, 0.5, 300, 0, 0.9])
    assert parts_of(ChannelRange(1, np.zeros(5, np.float32), high), 64) == [[0, 2], [1, 3, 4]]
    near = np.float32([600, 30, 300, 0, 90])
    assert parts_of(ChannelRange(1, np.zeros(5, np.float32), near), 64) == [[0, 1, 2, 3, 4]]


def test_a_classifier_is_not_split() -> None:
    graph = Graph.from_text("""<ir_version: 10, opset_import: ["" : 24]> g (float[1,2] images) => (float[1,3] y)
        <float[2,3] w = {1, 0.001, 1, 1, 0.001, 1}> { y = Gemm(images, w) }""")
    samples: list[Inputs] = [{"images": np.float32([[1, 2]])}, {"images": np.float32([[-1, 2]])}]
    ctx = PassContext(calibration=Samples(lambda: iter(samples), describe="two"))
    assert not SplitHeads().run(graph, ctx).changed


# --- proof: int8 numbers against float ------------------------------------------------------------------------------


def quantized(graph: Graph, samples: list[Inputs], *, split: bool = True) -> Graph:
    """Through edgec's own steps for ONNX Runtime."""
    from edgec.passes.quantize.quantize import Quantize
    from edgec.specs.schema import builtin_target

    out = graph.clone()
    ctx = PassContext(
        target=builtin_target("x86-64"),
        precision="int8",
        calibration=Samples(lambda: iter(samples), describe="pictures"),
    )
    PassManager([*([SplitHeads()] if split else []), Quantize()], verify="structure").run(out, ctx)
    return out


def correlation(a: Array, b: Array) -> float:
    return 0.0 if np.ptp(b) == 0 else float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1])


def score_correlation(graph: Graph, after: Graph, channels: list[int]) -> float:
    tests = pictures(4, seed=2)
    want = np.stack([run(graph, s)[0][:, channels] for s in tests])
    got = np.stack([run(after, s)[0][:, channels] for s in tests])
    return correlation(want, got)


def ort_static(graph: Graph, samples: list[Inputs], folder: Path) -> Graph:
    """What ONNX Runtime's quantiser makes of the same model and data."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Inputs] = iter(samples)

        def get_next(self) -> Inputs | None:
            return next(self.left, None)

    proto = graph.to_proto()
    proto.opset_import[0].version = 21  # the newest it knows; nothing used here differs
    onnx.save(proto, folder / "float.onnx")
    quantize_static(
        folder / "float.onnx", folder / "int8.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return Graph.load(folder / "int8.onnx")


def test_scores_survive_where_onnxruntimes_quantiser_makes_them_zero(tmp_path: Path) -> None:
    graph, samples = detector(), pictures(16)
    peer = ort_static(graph, samples, tmp_path)
    assert all((run(peer, s)[0][:, 4:] == 0).all() for s in pictures(4, seed=2))
    assert score_correlation(graph, quantized(graph, samples), [4, 5, 6]) > 0.99


def test_scores_of_a_layer_shared_with_boxes_survive_once_it_is_split() -> None:
    graph, samples, scores = one_layer_detector(), pictures(16), [1, 4, 6]
    assert score_correlation(graph, quantized(graph, samples, split=False), scores) < 0.5
    assert score_correlation(graph, quantized(graph, samples), scores) > 0.99


def test_values_to_observe_are_those_of_the_head() -> None:
    assert hazard_values(detector()) == ["box", "logits", "boxes", "scores", "out"]


def test_a_normalisation_read_by_products_and_an_addition_is_split_and_then_smoothed() -> None:
    from edgec.passes.quantize.smooth import Smooth
    from edgec.passes.quantize.split_norms import SplitNorms

    net = """<ir_version: 10, opset_import: ["" : 24]> g (float[1,3,4] x) => (float[1,3,4] y)
        <float[4] g1 = {1, 30, 1, 1}, float[4] b1 = {0, 0, 0.5, 0}, float[4,4] w = {1,2,3,4,4,3,2,1,1,1,1,1,2,2,2,2}>
        { n = LayerNormalization<axis = -1>(x, g1, b1)  p = MatMul(n, w)  y = Add(p, n) }"""
    graph = Graph.from_text(net)
    PassManager([InferShapes()]).run(graph)
    samples = [{"x": np.random.default_rng(i).standard_normal((1, 3, 4)).astype(np.float32)} for i in range(4)]
    ctx = PassContext(calibration=Samples(lambda: iter(samples), describe="four"))
    alone = graph.clone()
    assert not Smooth().run(alone, ctx).changed  # the addition reads it too
    after = graph.clone()
    assert SplitNorms().run(after, ctx).stats == {"norms": 1}
    assert not SplitNorms().run(after, ctx).changed
    assert_equivalent(graph, after, rtol=0, atol=0)
    assert Smooth(alpha=0.5).run(after, ctx).changed
    assert_equivalent(graph, after)


def test_biases_of_stored_products_get_the_rank_that_keeps_them_from_becoming_a_gemm() -> None:
    from edgec.passes.quantize.quantize import Quantize
    from edgec.passes.quantize.widen_biases import WidenBiases

    graph = Graph.from_text("""<ir_version: 10, opset_import: ["" : 24]> g (float[1,3,4] x) => (float[1,3,2] y)
        <float[4,2] w = {1,2,3,4,4,3,2,1}, float[2] b = {1,2}> { p = MatMul(x, w)  y = Add(p, b) }""")
    PassManager([InferShapes()]).run(graph)
    samples = [{"x": np.random.default_rng(i).standard_normal((1, 3, 4)).astype(np.float32)} for i in range(4)]
    ctx = PassContext(calibration=Samples(lambda: iter(samples), describe="four"), precision="int8")
    assert not WidenBiases().run(graph.clone(), ctx).changed  # in float a Gemm is right
    PassManager([Quantize(scheme="onnxruntime-int8")]).run(graph, ctx)
    before = graph.clone()
    assert WidenBiases().run(graph, ctx).stats == {"biases": 1}
    assert_equivalent(before, graph, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("made", "scores", "effort"),
    [(detector, [4, 5, 6], "low"), (detector, [4, 5, 6], "medium"), (one_layer_detector, [1, 4, 6], "medium")],
)
def test_scores_survive_the_pipelines_of_tflite(made: Callable[[], Graph], scores: list[int], effort: Effort) -> None:
    """Where Concat takes one scale for all it joins: without the repair every score is 0."""
    graph, rows = made(), pictures(16)
    data = Samples(lambda: iter(rows), describe="made for the test", count=len(rows))

    def quantised(options: dict[str, Any]) -> Graph:
        found = quantize(graph, target="android", precision="int8", calibration=data, effort=effort, options=options)
        return found.graph

    assert score_correlation(graph, quantised({}), scores) > 0.99
    if made is detector:
        assert score_correlation(graph, quantised({"hazards": False, "method": "mse"}), scores) < 0.5
