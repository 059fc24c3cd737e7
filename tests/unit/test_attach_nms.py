"""attach-nms, detach-nms, and the reference of EfficientNMS_TRT against numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from efficient_nms import corners, efficient_nms
from onnx import TensorProto, helper

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.passes.legalize.detach_nms import without_plugins
from edgec.passes.legalize.plugin_reference import to_reference
from edgec.pipeline import PassContext, PassManager
from edgec.plugin_ops import plugin_nodes
from edgec.plugins import Registry
from edgec.recipe import build_passes, parse_pipeline
from edgec.runtime import Session

OUTPUTS = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")
ATTRIBUTES: dict[str, Any] = {
    "score_threshold": 0.25, "iou_threshold": 0.5, "max_output_boxes": 20, "background_class": -1,
    "score_activation": 0, "box_coding": 0, "class_agnostic": 0,
}  # fmt: skip


def plugin_model(
    boxes: tuple[int, ...], scores: tuple[int, ...], anchors: tuple[int, ...] | None, *, dynamic: bool = False,
    opset: int = 17, domain: str = "", kind: int = TensorProto.FLOAT, **attributes: Any,
) -> Graph:  # fmt: skip
    """A graph that is one plugin node."""

    def open_(shape: tuple[int, ...]) -> list[int | None]:
        return [None if dynamic and i < 2 else d for i, d in enumerate(shape)]

    inputs = [
        helper.make_tensor_value_info("b", kind, open_(boxes)),
        helper.make_tensor_value_info("s", kind, open_(scores)),
    ]
    if anchors is not None:
        inputs.append(helper.make_tensor_value_info("a", kind, anchors))
    kinds = (TensorProto.INT32, kind, kind, TensorProto.INT32)
    outputs = [helper.make_tensor_value_info(n, t, None) for n, t in zip(OUTPUTS, kinds, strict=True)]
    names = [i.name for i in inputs]
    node = helper.make_node(
        "EfficientNMS_TRT", names, list(OUTPUTS), "nms", domain=domain, plugin_version="1", **attributes
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    graph = helper.make_graph([node], "g", inputs, outputs)
    return Graph.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "two images": {"batch": 2},
    "dynamic sizes": {"batch": 2, "dynamic": True},
    "any class": {"class_agnostic": 1},
    "background": {"background_class": 0},
    "background, dynamic": {"batch": 2, "background_class": 1, "dynamic": True},
    "logits": {"score_activation": 1},
    "centre and size": {"box_coding": 1},
    "boxes of each class": {"batch": 2, "per_class": True},
    "anchors": {"batch": 2, "anchors": 1},
    "anchors of each image, centre and size": {"batch": 2, "anchors": 2, "box_coding": 1},
    "anchors, boxes of each class": {"anchors": 1, "box_coding": 1, "per_class": True},
    "fewer boxes than outputs": {"number": 5, "max_output_boxes": 100},
    "no threshold": {"classes": 1, "score_threshold": 0.0},
    "nothing passes": {"score_threshold": 2.0},
    "more than 4096 candidates": {"number": 600, "classes": 10, "max_output_boxes": 1000, "iou_threshold": 0.9},
    "old opset": {"opset": 11},
    "domain": {"domain": "TRT"},
}


def example(
    *, batch: int = 1, number: int = 40, classes: int = 3, per_class: bool = False, anchors: int = 0, **rest: Any
) -> tuple[Graph, dict[str, Any], dict[str, Any]]:
    """A plugin model, its inputs, and the attributes."""
    rng = np.random.default_rng(3)
    graph_options = {k: rest.pop(k) for k in ("dynamic", "opset", "domain") if k in rest}
    attributes = {**ATTRIBUTES, **rest}
    shape = (batch, number, classes, 4) if per_class else (batch, number, 4)
    centre, size = rng.uniform(0, 10, (*shape[:-1], 2)), rng.uniform(1, 5, (*shape[:-1], 2))
    centred = np.concatenate([centre, size], -1)
    boxes = centred if attributes["box_coding"] else np.concatenate([centre - size / 2, centre + size / 2], -1)
    scores = rng.random((batch, number, classes))
    feeds = {"b": boxes * (0.1 if anchors and attributes["box_coding"] else 1), "s": scores}
    if attributes["score_activation"]:
        feeds["s"] = scores * 6 - 3
    if anchors:
        feeds["a"] = rng.uniform(1, 4, (anchors, number, 4))
    feeds = {k: v.astype(np.float32) for k, v in feeds.items()}
    shapes = [feeds["b"].shape, feeds["s"].shape, feeds["a"].shape if anchors else None]
    return plugin_model(*shapes, **graph_options, **attributes), feeds, attributes


@pytest.mark.parametrize("case", CASES)
def test_the_reference_is_what_the_plugin_does(case: str) -> None:
    graph, feeds, attributes = example(**CASES[case])
    reference = to_reference(graph)
    reference.verify()
    assert not plugin_nodes(reference)
    assert len(plugin_nodes(graph)) == 1  # ours is as it was
    got = Session(reference).run(feeds)
    wanted = efficient_nms(feeds["b"], feeds["s"], feeds.get("a"), **attributes)
    for name, array in zip(OUTPUTS, wanted, strict=True):
        assert got[name].dtype == array.dtype
        np.testing.assert_allclose(got[name], array, rtol=1e-6, atol=1e-6)
    assert (wanted[0] > 0).all() or case == "nothing passes"


def test_a_score_or_an_overlap_at_the_threshold_counts() -> None:
    """The plugin compares with >=, ONNX's NonMaxSuppression with >."""
    graph = plugin_model((1, 3, 4), (1, 3, 1), None, **ATTRIBUTES)
    boxes = np.float32([[[0, 0, 2, 1], [0, 0, 1, 1], [5, 5, 6, 6]]])  # the first two: IoU 0.5
    scores = np.float32([[[0.9], [0.8], [0.25]]])
    got = Session(graph).run({"b": boxes, "s": scores})  # a session runs the reference by itself
    assert got["num_detections"].item() == 2
    assert got["detection_scores"][0, :2].tolist() == [np.float32(0.9), 0.25]


def test_float16_stays_float16() -> None:
    graph = plugin_model((1, 3, 4), (1, 3, 1), None, kind=TensorProto.FLOAT16, **ATTRIBUTES)
    boxes = np.float16([[[0, 0, 2, 1], [4, 4, 5, 5], [5, 5, 6, 6]]])
    got = Session(graph).run({"b": boxes, "s": np.float16([[[0.9], [0.8], [0.5]]])})
    assert got["detection_boxes"].dtype == np.float16
    assert got["num_detections"].item() == 3


def test_what_cannot_be_referred_stays_and_is_told() -> None:
    graph = plugin_model((1, 3, 4), (1, 3, 1), None, **{k: v for k, v in ATTRIBUTES.items() if k != "iou_threshold"})
    ctx = PassContext()
    run("detach-nms", graph, ctx)
    (warning,) = [d for d in ctx.diagnostics if d.code == "EC0315"]
    assert "iou_threshold is missing" in warning.message
    assert len(plugin_nodes(graph)) == 1


def test_shapes_go_on_behind_plugins_and_checks_let_them_through(tmp_path: Path) -> None:
    graph = Graph.from_text("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,100,1,4] b, float[N,100,8] s, float[1,16,32,32] f, float[7,4] r, int64[7] i) => (y, z, k, float[1,16,32,32] u) {
      n, bb, sc, c = BatchedNMSDynamic_TRT <keepTopK = 20, plugin_version = "1"> (b, s)
      y = Relu (bb)
      p = ROIAlign_TRT <output_height = 5, output_width = 6> (f, r, i)
      z = Relu (p)
      q = EfficientNMS_ONNX_TRT <max_output_boxes_per_class = 10> (b, s)
      k = Identity (q)
      u = OfMyOwn <plugin_version = "1"> (f)
    }""")
    infer_shapes(graph)
    shapes = {v.name: str(v.shape) for v in graph.outputs}
    assert shapes == {"y": "[N,20,4]", "z": "[7,16,5,6]", "k": "[unk__0,3]", "u": "[1,16,32,32]"}
    assert [n.op_type for n in plugin_nodes(graph)][-1] == "OfMyOwn"
    graph.verify()
    run("infer-shapes,fold-constants,cse,remove-dead", graph)
    graph.save(tmp_path / "m.onnx")
    loaded = Graph.load(tmp_path / "m.onnx")
    loaded.verify()
    assert [n.domain for n in plugin_nodes(loaded)] == [""] * 4


def test_a_name_onnx_does_not_know_is_no_plugin_by_itself() -> None:
    graph = Graph.from_text(
        '<ir_version: 10, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Rellu (x) }'
    )
    with pytest.raises(EdgecError, match="EC0305"):
        graph.verify()


# --- attaching --------------------------------------------------------------------------------------------------------


def run(steps: str, graph: Graph, ctx: PassContext | None = None) -> Graph:
    PassManager(build_passes(parse_pipeline(steps), Registry().passes()), verify="structure").run(graph, ctx)
    return graph


def head(shape: str, more: str = "") -> Graph:
    return Graph.from_text(
        f'<ir_version: 10, opset_import: ["" : 17]> g (float[{shape}] x) => (float[{shape}] y) {{ y = Relu (x) {more} }}'
    )


def attributes_of(graph: Graph) -> dict[str, Any]:
    (node,) = plugin_nodes(graph)
    return {k: a.value for k, a in node.attributes.items()}


YOLO8 = "1,22,2100"
YOLO5 = "1,6300,25"


def test_the_head_of_yolov8_is_found() -> None:
    graph = run("attach-nms{score-threshold=0.3 max-output-boxes=50}", head(YOLO8))
    assert [v.name for v in graph.outputs] == list(OUTPUTS)
    assert [str(v.shape) for v in graph.outputs] == ["[1,1]", "[1,50,4]", "[1,50]", "[1,50]"]
    found = attributes_of(graph)
    assert found["box_coding"] == 1
    assert found["max_output_boxes"] == 50
    assert found["plugin_version"] == "1"
    assert found["score_threshold"] == pytest.approx(0.3)
    x = image_of_boxes(22, 2100)
    got = Session(graph).run({"x": x})
    rows = np.maximum(x, 0)[0].T[None]
    wanted = efficient_nms(
        rows[..., :4], rows[..., 4:], score_threshold=0.3, iou_threshold=0.45, max_output_boxes=50, box_coding=1
    )
    for name, array in zip(OUTPUTS, wanted, strict=True):
        np.testing.assert_allclose(got[name], array, rtol=1e-6, atol=1e-6)


def test_the_head_of_yolov5_has_objectness() -> None:
    graph = run("attach-nms{class-agnostic=true}", head(YOLO5))
    assert attributes_of(graph)["class_agnostic"] == 1
    x = image_of_boxes(25, 6300).transpose(0, 2, 1).copy()
    got = Session(graph).run({"x": x})
    rows = np.maximum(x, 0)
    wanted = efficient_nms(
        rows[..., :4], rows[..., 5:] * rows[..., 4:5], score_threshold=0.25, iou_threshold=0.45, max_output_boxes=100,
        box_coding=1, class_agnostic=1,
    )  # fmt: skip
    assert wanted[0].item() > 0
    for name, array in zip(OUTPUTS, wanted, strict=True):
        np.testing.assert_allclose(got[name], array, rtol=1e-6, atol=1e-6)


def image_of_boxes(channels: int, number: int) -> Any:
    """[1, channels, boxes]: centres and sizes within 320 pixels, and scores of which few are high."""
    rng = np.random.default_rng(5)
    x = rng.random((1, channels, number)).astype(np.float32)
    x[:, :2] *= 320
    x[:, 2:4] = x[:, 2:4] * 60 + 10
    x[:, 4:] **= 6
    return x


def test_dynamic_boxes_and_batch() -> None:
    graph = run("attach-nms", head("N,84,M"))
    assert [str(v.shape) for v in graph.outputs] == ["[N,1]", "[N,100,4]", "[N,100]", "[N,100]"]
    x = image_of_boxes(84, 500).repeat(2, 0)
    assert Session(graph).run({"x": x})["detection_boxes"].shape == (2, 100, 4)


def test_channels_behind_boxes_without_objectness_are_told_by_their_concat() -> None:
    graph = Graph.from_text("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[1,300,4] a, float[1,300,80] b) => (float[1,300,84] y) { y = Concat <axis = 2> (a, b) }""")
    run("attach-nms", graph)
    assert "Mul" not in graph.op_counts()


@pytest.mark.parametrize("shape", ["1,1000", "1,300,6", "1,85,22,22", "1,4,4"])
def test_what_is_no_head_is_refused(shape: str) -> None:
    with pytest.raises(EdgecError, match="EC0313"):
        run("attach-nms", head(shape))


def test_a_head_that_could_be_two_is_refused_and_may_be_named() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[1,22,2100] x, float[1,22,500] z) => (float[1,22,2100] y, float[1,22,500] w) { y = Relu (x)  w = Relu (z) }"""
    with pytest.raises(EdgecError, match=r"EC0313.*several"):
        run("attach-nms", Graph.from_text(text))


def test_a_model_with_a_suppression_gets_no_second() -> None:
    with pytest.raises(EdgecError, match=r"EC0313.*has a non-maximum"):
        run("attach-nms,attach-nms", head(YOLO8))


TWO = """<ir_version: 10, opset_import: ["" : 17]>
g (float[1,50,4] a, float[1,3,50] b, float[1,50,9] c) => (float[1,50,4] boxes, float[1,3,50] scores, float[1,50,9] masks)
{ boxes = Relu (a)  scores = Sigmoid (b)  masks = Relu (c) }"""


def test_tensors_may_be_named_and_other_outputs_stay() -> None:
    graph = run("attach-nms{boxes=boxes scores=scores box-coding=corners domain=TRT}", Graph.from_text(TWO))
    assert [v.name for v in graph.outputs] == ["masks", *OUTPUTS]
    assert attributes_of(graph)["box_coding"] == 0
    assert plugin_nodes(graph)[0].domain == "TRT"
    infer_shapes(graph)
    assert str(plugin_nodes(graph)[0].inputs[1].shape) == "[1,50,3]"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("attach-nms{boxes=boxes scores=scores}", "four numbers"),
        ("attach-nms{boxes=box scores=scores box-coding=center}", "no tensor 'box'"),
        ("attach-nms{boxes=masks scores=scores box-coding=center}", "one axis must be 4"),
        ("attach-nms{boxes=boxes box-coding=center}", "given together"),
        ("attach-nms{iou-threshold=0}", "iou-threshold above 0"),
    ],
)
def test_names_and_options_that_make_no_sense(step: str, text: str) -> None:
    with pytest.raises(EdgecError, match=f"EC0314.*{text}"):
        run(step, Graph.from_text(TWO))


def test_kind_onnx_needs_no_plugin() -> None:
    x = {"x": image_of_boxes(22, 2100)}
    plugin, plain = run("attach-nms", head(YOLO8)), run("attach-nms{kind=onnx}", head(YOLO8))
    assert not plugin_nodes(plain)
    assert [v.name for v in plain.outputs] == list(OUTPUTS)
    ours, theirs = Session(plain).run(x), Session(plugin).run(x)
    assert all(np.array_equal(ours[n], theirs[n]) for n in OUTPUTS)


def test_detaching() -> None:
    graph = run("attach-nms", head(YOLO8))
    assert [str(v.shape) for v in without_plugins(graph).outputs] == ["[1,2100,4]", "[1,2100,18]"]
    assert len(graph.outputs) == 4
    assert [v.name for v in run("detach-nms", graph.clone()).outputs] == list(OUTPUTS)
    run("detach-nms{to=heads}", graph)
    assert not plugin_nodes(graph)
    assert len(graph.outputs) == 2


def test_new_nodes_say_where_they_come_from() -> None:
    graph = run("attach-nms", head(YOLO8))
    made = [n for n in graph.nodes() if n.op_type != "Relu"]
    assert all(n.metadata_props["edgec.rule"] == "attach-nms" for n in made)


# --- real detectors ---------------------------------------------------------------------------------------------------


def coco(eval_dir: Path, size: int, count: int) -> list[Any]:
    from PIL import Image

    files = sorted((eval_dir / "data" / "coco64" / "images").glob("*.jpg"))[:count]
    images = [np.asarray(Image.open(f).convert("RGB").resize((size, size)), np.float32) / 255 for f in files]
    return [np.ascontiguousarray(i.transpose(2, 0, 1)[None]) for i in images]


def test_nudenet(eval_dir: Path) -> None:
    path = eval_dir / "models" / "nudenet_320n.onnx"
    options = {"score_threshold": 0.01, "iou_threshold": 0.45, "max_output_boxes": 30}
    graph = run("infer-shapes,attach-nms{score-threshold=0.01 max-output-boxes=30}", Graph.load(path))
    raw, attached = Session(path), Session(graph)
    total = 0
    for x in coco(eval_dir, 320, 4):
        rows = raw.run({"images": x})["output0"].transpose(0, 2, 1)
        wanted = efficient_nms(rows[..., :4], rows[..., 4:], box_coding=1, **options)
        got = attached.run({"images": x})
        for name, array in zip(OUTPUTS, wanted, strict=True):
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-4)
        total += int(wanted[0].sum())
    assert total > 0


def test_fastestdet(eval_dir: Path) -> None:
    path = eval_dir / "models" / "fastestdet.onnx"
    graph = run("infer-shapes,attach-nms", Graph.load(path))
    raw, attached = Session(path), Session(graph)
    total = 0
    for image in coco(eval_dir, 352, 4):
        x = np.ascontiguousarray(image[:, ::-1])
        o = raw.run({"input.1": x})["758"][0].astype(np.float64)
        yy, xx = np.meshgrid(np.arange(22), np.arange(22), indexing="ij")
        size = [1 / (1 + np.exp(-o[i])) for i in (3, 4)]
        boxes = np.stack([(np.tanh(o[1]) + xx) / 22, (np.tanh(o[2]) + yy) / 22, *size], -1).reshape(1, -1, 4)
        scores = (np.maximum(o[:1], 0) ** 0.6 * np.maximum(o[5:], 0) ** 0.4).reshape(80, -1).T[None]
        wanted = efficient_nms(
            boxes.astype(np.float32), scores.astype(np.float32), score_threshold=0.25, iou_threshold=0.45,
            max_output_boxes=100, box_coding=1,
        )  # fmt: skip
        got = attached.run({"input.1": x})
        assert got["num_detections"].item() == wanted[0].item()
        np.testing.assert_allclose(got["detection_boxes"], wanted[1], atol=1e-5)
        np.testing.assert_array_equal(got["detection_classes"], wanted[3])
        total += int(wanted[0].sum())
    assert total > 0
    assert corners(np.float32([1, 1, 2, 2]), None, 1).tolist() == [0, 0, 2, 2]
