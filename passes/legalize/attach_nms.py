"""Non-maximum suppression at the end of a detector: TensorRT's plugin, or standard ONNX ops with the same outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from edgec.diagnostics import Location, error
from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.passes.legalize.detection_heads import find_head, named_tensors, split_head
from edgec.passes.legalize.plugin_reference import PluginReference
from edgec.pipeline import Contract, Pass, PassContext, PassResult
from edgec.plugin_ops import plugin_nodes
from edgec.rewrite import FROM_KEY, RULE_KEY, Rewriter

OUTPUTS = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")

TENSORRT_TOP_K = 3840
"""The greatest K TensorRT's TopK takes (its builder says so): standard ops are for TensorRT 11 too, whose plugins differ."""


@dataclass(frozen=True)
class AttachNms(Pass):
    """`attach-nms{score-threshold=0.25 iou-threshold=0.45 max-output-boxes=100}`: the model puts out detections.

    The outputs are num_detections int32 [batch, 1], detection_boxes [batch, max-output-boxes, 4] as corners,
    detection_scores and detection_classes (int32) [batch, max-output-boxes]; zeros follow the last detection. They take
    the place of the head's output or outputs; others stay.

    `kind`: efficient, the plugin EfficientNMS_TRT; onnx, standard ops (NonMaxSuppression, TopK, gathers) with the same result,
    but for images with more than 3840 scores above the threshold, of which the plugin takes 4096.
    `head`: how boxes and scores are written (`detection_heads`); auto tells YOLO-style outputs and FastestDet's apart.
    `boxes`, `scores`: names of tensors instead, [batch, boxes, 4] and [batch, boxes, classes] or with the last two axes
    swapped; then `box_coding` says what the four numbers are: corners (x1, y1, x2, y2) or center (x, y, width, height).
    `background_class`: its scores are left out; -1: there is none. `score_activation`: the scores are logits.
    `class_agnostic`: a box drops overlapping ones of any class. `domain`: of the plugin node; TensorRT looks at the type.

    Raises:
        EdgecError: EC0313 the head is not found or not certain; EC0314 the tensors named do not exist or do not fit.
    """

    kind: Literal["efficient", "onnx"] = "efficient"
    head: Literal["auto", "yolov8", "yolov5", "fastestdet"] = "auto"
    boxes: str = ""
    scores: str = ""
    score_threshold: float = 0.25
    iou_threshold: float = 0.45
    max_output_boxes: int = 100
    background_class: int = -1
    score_activation: bool = False
    box_coding: Literal["auto", "corners", "center"] = "auto"
    class_agnostic: bool = False
    domain: str = ""

    name: ClassVar[str] = "attach-nms"
    contract: ClassVar[Contract] = "lossy"

    @property
    def changes_interface(self) -> bool:
        """Always."""
        return True

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        self._check(graph)
        infer_shapes(graph)
        g = graph.model.graph
        last = next(reversed(g))
        rw = Rewriter(graph, last)
        if self.boxes:
            boxes, scores = named_tensors(graph, rw, self.boxes, self.scores)
            used, coding = {self.boxes, self.scores}, self.box_coding
        else:
            head = find_head(graph, self.head)
            boxes, scores, own = split_head(rw, head)
            used, coding = {head.value.name or ""}, own if self.box_coding == "auto" else self.box_coding
        attrs = {
            "plugin_version": "1",
            "score_threshold": float(self.score_threshold),
            "iou_threshold": float(self.iou_threshold),
            "max_output_boxes": self.max_output_boxes,
            "background_class": self.background_class,
            "score_activation": int(self.score_activation),
            "class_agnostic": int(self.class_agnostic),
            "box_coding": int(coding == "center"),
        }
        outputs = rw.ops("EfficientNMS_TRT", boxes, scores, attrs=attrs, domain=self.domain, outputs=4)
        self._add(graph, rw, outputs)
        for v in [v for v in g.outputs if v.name in used]:
            g.outputs.remove(v)
        g.outputs.extend(outputs)
        if self.domain:
            graph.model.graph.opset_imports.setdefault(self.domain, 1)
        graph.remove_dead()
        if self.kind == "onnx":
            PluginReference(TENSORRT_TOP_K).run(graph, ctx)
            for node in plugin_nodes(graph):
                why = next(iter(ctx.rejections.get("efficient-nms-reference", {}).values()), "no rule matched")
                raise error(
                    "EC0315",
                    f"suppression cannot be written in ONNX ops: {why}",
                    Location(graph.source, node=node.name),
                )
        return PassResult(True, {"nms": 1})

    def _check(self, graph: Graph) -> None:
        where = Location(graph.source)
        if bool(self.boxes) != bool(self.scores):
            raise error("EC0314", "boxes and scores are given together or not at all", where)
        if self.boxes and self.box_coding == "auto":
            hint = "box-coding=center for x, y, width, height; box-coding=corners for x1, y1, x2, y2"
            raise error("EC0314", "what the four numbers of a box mean cannot be seen from its name", where, hint)
        if self.max_output_boxes < 1 or not 0 < self.iou_threshold <= 1:
            message = "max-output-boxes must be 1 or more, and iou-threshold above 0 and at most 1"
            raise error("EC0314", message, where)
        done = [n.name for n in plugin_nodes(graph) if n.op_type.startswith(("EfficientNMS", "BatchedNMS"))]
        done += [n.name for n in graph.nodes() if n.op_type == "NonMaxSuppression" and not n.domain]
        if done:
            hint = "detach-nms takes the plugin of TensorRT out again"
            raise error("EC0313", "the model has a non-maximum suppression", Location(graph.source, node=done[0]), hint)

    def _add(self, graph: Graph, rw: Rewriter, outputs: Sequence[ir.Value]) -> None:
        for name, v in zip(OUTPUTS, outputs, strict=True):
            v.name = graph.fresh(name)
        source = next((p.name or "" for v in rw.new[0].inputs if v is not None and (p := v.producer()) is not None), "")
        for n in rw.new:
            for v in n.outputs:
                v.name = v.name or graph.fresh(f"nms.{n.op_type}")
            n.name = graph.fresh(f"nms/{n.op_type}")
            n.metadata_props[RULE_KEY] = self.name
            n.metadata_props[FROM_KEY] = source
        graph.model.graph.extend(rw.new)
        rw.commit_weights()
