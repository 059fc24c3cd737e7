"""Plugin nodes of TensorRT as standard ONNX ops of the same meaning, so that a CPU can check what the board will run.

EfficientNMS_TRT is written out from NVIDIA's documentation and code (plugin/efficientNMSPlugin): scores at or above the
threshold, the best 4096 of all classes, boxes dropped whose IoU with a better one of their class is at or above the
threshold, the best `max_output_boxes` of what is left, zeros behind them. Of equal scores the earlier box comes first
here; on a GPU their order is open. Scores of float16 are compared in float32 here. Below a threshold of 0.007 the GPU
code takes another path, which can let boxes under the threshold through with a score of -32768; the reference keeps to
the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.passes.legalize.builders import cast, reduce_over
from edgec.passes.legalize.plugin_shapes import count, product, stack_shape, unsqueeze
from edgec.passes.prepare.upgrade_opset import UpgradeOpset
from edgec.pattern import Match, P, rest
from edgec.pipeline import Contract, Pass, PassContext, PassResult, rewrite_result
from edgec.plugin_ops import plugin_nodes, runnable
from edgec.rewrite import Reject, Result, Rewriter, Rule, RuleSet, rule

CANDIDATES = 4096
"""Scores of one image that take part (numSelectedBoxes of the plugin's parameters)."""

OLDEST_OPSET = 16
"""Models of older ones are brought to the IR's: the reference needs ops and attributes they do not have."""


@dataclass(frozen=True)
class PluginReference(Pass):
    """Every plugin node that has a reference becomes standard ops; names and types of its outputs stay.

    `candidates`: best scores of one image that take part in a suppression; the plugin takes 4096.
    """

    candidates: int = CANDIDATES

    name: ClassVar[str] = "plugin-reference"
    contract: ClassVar[Contract] = "close"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        found = plugin_nodes(graph)
        if not found:
            return PassResult(False)
        if graph.opset < OLDEST_OPSET:
            UpgradeOpset().run(graph, ctx)
        infer_shapes(graph)
        rules = [r for domain in sorted({n.domain for n in found}) for r in _rules(domain, self.candidates)]
        return rewrite_result(RuleSet(rules).apply(graph), ctx)


def to_reference(graph: Graph) -> Graph:
    """A copy of `graph` in which plugin nodes are standard ops, where edgec has a reference; `graph` itself where it has no
    plugin nodes. `plugin_ops.plugin_nodes` of the result are those without.
    """
    return runnable(graph)


def _rules(domain: str, candidates: int) -> list[Rule]:
    def written_out(m: Match, rw: Rewriter) -> Result:
        return _efficient_nms(m, rw, candidates)

    nms = rule(P.EfficientNMS_TRT(rest("inputs"), domain_=domain), name="efficient-nms-reference")(written_out)
    roi = rule(P.ROIAlign_TRT(rest("inputs"), domain_=domain), name="roi-align-reference")(_roi_align)
    return [nms, roi]


def _number(node: ir.Node, name: str, default: float | None = None) -> float:
    a = node.attributes.get(name)
    value = a.value if a is not None else default
    if not isinstance(value, (int, float)):
        raise KeyError(name)
    return float(value)


def _efficient_nms(m: Match, rw: Rewriter, candidates: int) -> Result:
    node = m.root
    try:
        threshold, iou = _number(node, "score_threshold"), _number(node, "iou_threshold")
        most, background = int(_number(node, "max_output_boxes")), int(_number(node, "background_class", -1))
        sigmoid, centred = _number(node, "score_activation", 0) != 0, _number(node, "box_coding", 0) != 0
        agnostic = _number(node, "class_agnostic", 0) != 0
    except KeyError as e:
        return Reject(f"attribute {e.args[0]} is missing")
    if iou <= 0 or most <= 0:
        return Reject("iou_threshold and max_output_boxes must be above 0")
    if len(node.outputs) != 4 or len(node.inputs) not in (2, 3) or any(v is None for v in node.inputs):
        return Reject("two or three inputs and four outputs are what the plugin has")
    boxes, scores, *anchors = (v for v in node.inputs if v is not None)
    kind = boxes.dtype
    if boxes.shape is None or scores.shape is None or kind not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return Reject("the shape or type of boxes or scores is not known")
    per_class = False
    if boxes.shape.rank() == 4:
        if not isinstance(boxes.shape[2], int):
            return Reject("it is not known whether each class has boxes of its own")
        per_class = boxes.shape[2] != 1
    scores, boxes = cast(rw, scores, ir.DataType.FLOAT), cast(rw, boxes, ir.DataType.FLOAT)
    corners = _corners(rw, boxes, [cast(rw, a, ir.DataType.FLOAT) for a in anchors], centred)
    corners = rw.op("Reshape", corners, stack_shape(rw, count(rw, boxes, 0), -1, 4))

    classes = count(rw, scores, 2)
    lowest = _logit(threshold) if sigmoid else np.float32(threshold)
    flat = rw.op("Reshape", scores, stack_shape(rw, count(rw, scores, 0), -1))
    passed = rw.op("Where", rw.op("Less", rw.const(_below(lowest), "threshold"), flat), flat, _nothing(rw))
    if background >= 0:
        index = rw.op("Range", _scalar(rw, 0), product(rw, count(rw, scores, 1), classes, scalar=True), _scalar(rw, 1))
        is_background = rw.op("Equal", rw.op("Mod", index, classes), rw.const(np.int64(background), "background"))
        passed = rw.op("Where", is_background, _nothing(rw), passed)
    size = product(rw, count(rw, scores, 1), classes)
    best = rw.op("Min", size, rw.const(np.array([candidates], np.int64), "candidates"))
    candidate, where = rw.ops("TopK", passed, best, attrs={"axis": 1, "largest": 1, "sorted": 1}, outputs=2)
    own_class = rw.op("Mod", where, classes)
    box_index = where if per_class else rw.op("Div", where, classes)
    box = rw.op("GatherND", corners, unsqueeze(rw, box_index, 2), attrs={"batch_dims": 1})

    by_class = unsqueeze(rw, candidate, 1)  # [batch, 1 or classes, candidates]
    if not agnostic:
        ids = rw.op("Range", _scalar(rw, 0), product(rw, classes, scalar=True), _scalar(rw, 1))
        ids = rw.op("Reshape", ids, rw.const(np.array([1, -1, 1], np.int64), "shape"))
        by_class = rw.op("Where", rw.op("Equal", unsqueeze(rw, own_class, 1), ids), by_class, _nothing(rw))
    kept = rw.op(
        "NonMaxSuppression", box, by_class, rw.const(np.array([most], np.int64), "most"),
        rw.const(np.array([min(float(_below(np.float32(iou))), 1.0)], np.float32), "iou"), rw.const(np.array([_below(lowest)], np.float32), "threshold"),
    )  # fmt: skip

    # [batch, candidates]: how early a kept candidate comes, 0 for the others; padded so that `most` can be taken
    pairs = rw.op("Gather", kept, rw.const(np.array([0, 2], np.int64), "pair"), attrs={"axis": 1})
    rows = rw.op("Gather", rw.op("Shape", pairs), rw.const(np.array([0], np.int64), "rows"))
    ones = rw.op("ConstantOfShape", rows, attrs={"value": ir.tensor(np.ones(1, np.float32))})
    zeros = rw.op("ConstantOfShape", rw.op("Shape", candidate), attrs={"value": ir.tensor(np.zeros(1, np.float32))})
    chosen = rw.op("ScatterND", zeros, pairs, ones)
    earliness = rw.op("Range", product(rw, best, scalar=True), _scalar(rw, 0), _scalar(rw, -1))
    key = rw.op("Mul", chosen, cast(rw, earliness, ir.DataType.FLOAT))
    key = rw.op("Pad", key, rw.const(np.array([0, 0, 0, most], np.int64), "pads"), rw.const(np.float32(0), "zero"))
    value, at = rw.ops("TopK", key, rw.const(np.array([most], np.int64), "most"), attrs={"axis": 1}, outputs=2)
    valid = rw.op("Less", rw.const(np.float32(0), "zero"), value)
    at = rw.op("Where", valid, at, _scalar(rw, 0))

    zero = rw.const(np.float32(0), "zero")
    out_scores = rw.op("GatherElements", candidate, at, attrs={"axis": 1})
    out_scores = rw.op("Where", valid, rw.op("Sigmoid", out_scores) if sigmoid else out_scores, zero)
    out_boxes = rw.op("GatherND", box, unsqueeze(rw, at, 2), attrs={"batch_dims": 1})
    out_boxes = rw.op("Where", unsqueeze(rw, valid, 2), out_boxes, zero)
    out_classes = rw.op("Where", valid, rw.op("GatherElements", own_class, at, attrs={"axis": 1}), _scalar(rw, 0))
    number = reduce_over(rw, "ReduceSum", cast(rw, valid, ir.DataType.FLOAT), [1])
    int32 = ir.DataType.INT32
    return [
        cast(rw, number, int32),
        cast(rw, out_boxes, kind),
        cast(rw, out_scores, kind),
        cast(rw, out_classes, int32),
    ]


def _corners(rw: Rewriter, boxes: ir.Value, anchors: list[ir.Value], centred: bool) -> ir.Value:
    """[..., (x1, y1, x2, y2)] of boxes in either coding, decoded by their anchors where there are some."""

    def halves(v: ir.Value) -> tuple[ir.Value, ir.Value]:
        def part(a: int, b: int) -> ir.Value:
            limits = (rw.const(np.array([n], np.int64), "slice") for n in (a, b, -1))
            return rw.op("Slice", v, *limits)

        return part(0, 2), part(2, 4)

    def ordered(v: ir.Value) -> tuple[ir.Value, ir.Value]:
        first, second = halves(v)
        return rw.op("Min", first, second), rw.op("Max", first, second)

    def join(a: ir.Value, b: ir.Value) -> ir.Value:
        return rw.op("Concat", a, b, attrs={"axis": -1})

    if not anchors and not centred:
        return boxes
    anchor = anchors[0] if anchors else None
    if anchor is not None and boxes.shape is not None and boxes.shape.rank() == 4:
        anchor = unsqueeze(rw, anchor, 2)
    if not centred:
        assert anchor is not None  # looked at above
        (low, high), (anchor_low, anchor_high) = ordered(boxes), ordered(anchor)
        return join(rw.op("Add", low, anchor_low), rw.op("Add", high, anchor_high))
    centre, size = halves(boxes)
    if anchor is not None:
        anchor_centre, anchor_size = halves(anchor)
        centre = rw.op("Add", rw.op("Mul", centre, anchor_size), anchor_centre)
        size = rw.op("Mul", anchor_size, rw.op("Exp", size))
    half = rw.op("Mul", size, rw.const(np.float32(0.5), "half"))
    return join(rw.op("Sub", centre, half), rw.op("Add", centre, half))


def _roi_align(m: Match, rw: Rewriter) -> Result:
    node = m.root
    inputs = [v for v in node.inputs if v is not None]
    if len(inputs) != 3 or len(node.outputs) != 1:
        return Reject("three inputs and one output are what the plugin has")
    attrs = {
        "coordinate_transformation_mode": "half_pixel" if _number(node, "coordinate_transformation_mode", 1) else "output_half_pixel",
        "mode": "avg" if _number(node, "mode", 1) else "max",
        "output_height": int(_number(node, "output_height", 1)),
        "output_width": int(_number(node, "output_width", 1)),
        "sampling_ratio": int(_number(node, "sampling_ratio", 0)),
        "spatial_scale": _number(node, "spatial_scale", 1.0),
    }  # fmt: skip
    return rw.op("RoiAlign", inputs[0], inputs[1], cast(rw, inputs[2], ir.DataType.INT64), attrs=attrs)


def _below(x: np.float32) -> np.float32:
    """The next number down: `v > _below(x)` is `v >= x`. Never a denormal, which some CPUs take for 0."""
    down = np.nextafter(np.float32(x), np.float32(-np.inf))
    tiny = np.finfo(np.float32).tiny
    return np.float32(-tiny) if abs(down) < tiny else np.float32(down)


def _logit(p: float) -> np.float32:
    """The threshold in front of the sigmoid, as the plugin computes it."""
    if p <= 0:
        return np.float32(-(1 << 15))
    p32 = np.float32(p)
    return np.float32(np.log(p32 / (np.float32(1) - p32))) if p32 < 1 else np.finfo(np.float32).max


def _nothing(rw: Rewriter) -> ir.Value:
    return rw.const(np.float32(-np.inf), "nothing")


def _scalar(rw: Rewriter, n: int) -> ir.Value:
    return rw.const(np.int64(n), "n")
