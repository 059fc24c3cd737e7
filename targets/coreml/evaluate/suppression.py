"""Non-maximum suppression."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates


@evaluates("non_maximum_suppression")
def non_maximum_suppression(o: OpReader) -> None:
    """Boxes (x, y, width, height about their centre) by falling score, without those that overlap a better one by more than
    iou_threshold. The score of a box is its best class's; `per_class_suppression`: only boxes of the same best class.

    Padded with zeros, indices with -1, and one box, the best, where none is left: as the reference in coremltools' tests of
    this operation. Before iOS17 [n, B, 4] and [n, B, K], scores of score_threshold or less do not count, and a fourth output
    counts; since then [n, 4, B] and [n, K, B].
    """
    new = len(o.operation.outputs) == 3
    shape = o.shape("scores")
    n, count = shape[0], shape[2 if new else 1]
    boxes, scores = o.x("boxes"), o.x("scores")
    if new:
        boxes, scores = (o.emit("Transpose", [v], perm=[0, 2, 1]) for v in (boxes, scores))
    found = [_one(o, boxes, scores, b, count) for b in range(n)]
    columns = [o.emit("Concat", list(parts), axis=0) for parts in zip(*found, strict=True)]
    if new:
        o.move(*(o.emit("Transpose", [v], perm=[0, 2, 1]) for v in columns[:2]), columns[2])
    else:
        o.move(*columns)


def _one(
    o: OpReader, boxes: ir.Value, scores: ir.Value, b: int, count: int
) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
    """Of one sample: boxes, scores, indices [1, max_boxes ...] and how many [1]."""
    most = o.integer("max_boxes")
    here, told = (o.emit("Gather", [v, o.const([b])], axis=0) for v in (boxes, scores))
    best = o.emit("ReduceMax", [told, o.const([2])], keepdims=0)  # [1, B]
    classes = o.emit("Unsqueeze", [best, o.const([1])])
    if o.flag("per_class_suppression"):
        places = o.emit("ArgMax", [told], axis=2, keepdims=1)  # [1, B, 1]
        mine = o.emit("Equal", [o.const(np.arange(_classes(o)).reshape(1, -1, 1)), _row(o, places)])
        classes = o.emit("Where", [mine, classes, o.const(np.float32(-np.inf))])
    threshold = o.number("score_threshold") if o.has("score_threshold") else float(np.finfo(np.float32).min)
    given = [
        here, classes, o.const([count]), o.const(np.float32(o.number("iou_threshold"))), o.const(np.float32(threshold)),
    ]  # fmt: skip
    chosen = o.emit("NonMaxSuppression", given, center_point_box=1)
    ids = o.emit("Gather", [chosen, o.const(np.int64(2))], axis=1)
    flat = o.emit("Reshape", [best, o.const([-1])])
    left = o.emit("Shape", [ids])
    _, order = o.emit_many("TopK", [o.emit("Gather", [flat, ids], axis=0), left], 2, axis=0)
    ids = o.emit("Gather", [ids, order], axis=0)
    first = o.emit("ArgMax", [flat], axis=0, keepdims=1)
    kept = o.emit("Min", [o.emit("Max", [left, o.const([1])]), o.const([most])])
    ids = o.emit("Slice", [o.emit("Concat", [ids, first], axis=0), o.const([0]), kept])
    missing = o.emit("Sub", [o.const([most]), kept])
    zero, one = o.const([0]), o.const([0, 0])
    rows = []
    for v in (here, told):
        some = o.emit("Gather", [v, ids], axis=1)
        rows.append(o.emit("Pad", [some, o.emit("Concat", [o.const([0, 0, 0, 0]), missing, zero], axis=0)]))
    indices = o.emit("Unsqueeze", [ids, zero])
    padded = o.emit("Pad", [indices, o.emit("Concat", [one, zero, missing], axis=0), o.const(np.int64(-1))])
    return rows[0], rows[1], padded, kept


def _classes(o: OpReader) -> int:
    return o.shape("scores")[1 if len(o.operation.outputs) == 3 else 2]


def _row(o: OpReader, v: ir.Value) -> ir.Value:
    return o.emit("Transpose", [v], perm=[0, 2, 1])
