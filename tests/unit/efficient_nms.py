"""EfficientNMS in numpy, box by box, as NVIDIA documents it: what the reference in ONNX ops is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any
F = np.float32


def efficient_nms(
    boxes: Array, scores: Array, anchors: Array | None = None, *, score_threshold: float, iou_threshold: float,
    max_output_boxes: int, background_class: int = -1, score_activation: int = 0, box_coding: int = 0,
    class_agnostic: int = 0,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """num_detections, detection_boxes, detection_scores, detection_classes."""
    batch, number, classes = scores.shape
    if boxes.ndim == 3:
        boxes = boxes[:, :, None, :]
    threshold = F(score_threshold)
    if score_activation:
        threshold = F(-32768) if threshold <= 0 else np.log(threshold / (F(1) - threshold))
    found = np.zeros((batch, 1), np.int32)
    out_boxes = np.zeros((batch, max_output_boxes, 4), F)
    out_scores = np.zeros((batch, max_output_boxes), F)
    out_classes = np.zeros((batch, max_output_boxes), np.int32)
    for b in range(batch):
        candidates = [
            (scores[b, n, c], n, c)
            for n in range(number)
            for c in range(classes)
            if c != background_class and scores[b, n, c] >= threshold
        ]
        candidates.sort(key=lambda t: -t[0])
        kept: list[tuple[Any, int, Array]] = []
        for score, n, c in candidates[:4096]:
            if len(kept) == max_output_boxes:
                break
            anchor = None if anchors is None else anchors[b if len(anchors) > 1 else 0, n]
            box = corners(boxes[b, n, c if boxes.shape[2] > 1 else 0], anchor, box_coding)
            if all((k != c and not class_agnostic) or iou(box, other) < F(iou_threshold) for _, k, other in kept):
                kept.append((score, c, box))
        found[b] = len(kept)
        for i, (score, c, box) in enumerate(kept):
            out_boxes[b, i], out_classes[b, i] = box, c
            out_scores[b, i] = 1 / (1 + np.exp(-score)) if score_activation else score
    return found, out_boxes, out_scores, out_classes


def corners(box: Array, anchor: Array | None, coding: int) -> Array:
    if coding == 0:
        return box if anchor is None else ordered(box) + ordered(anchor)
    if anchor is not None:
        box = np.concatenate([box[:2] * anchor[2:] + anchor[:2], anchor[2:] * np.exp(box[2:])])
    return np.concatenate([box[:2] - box[2:] * F(0.5), box[:2] + box[2:] * F(0.5)])


def ordered(box: Array) -> Array:
    return np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])])


def iou(a: Array, b: Array) -> Any:
    a, b = ordered(a), ordered(b)
    width, height = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), F(0))
    both = width * height
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both
    return both / union if both > 0 and union > 0 else F(0)
