"""Which element TFLite's nearest-neighbour Resize picks (ONNX's: `edgec.passes.legalize.resize_as_matmul`)."""

from __future__ import annotations

import math

import numpy as np


def tflite_nearest_indices(size: int, to: int, align_corners: bool, half_pixel_centers: bool) -> list[int]:
    """Source index of each of `to` positions along an axis of `size`, by TFLite's kernel (reference_ops::ResizeNearestNeighbor, measured against it)."""
    scale = np.float32((size - 1) / (to - 1)) if align_corners and to > 1 else np.float32(size) / np.float32(to)
    offset = np.float32(0.5 if half_pixel_centers else 0.0)
    picked = []
    for i in range(to):
        at = (np.float32(i) + offset) * scale
        index = math.floor(at + np.float32(0.5)) if align_corners else math.floor(at)
        picked.append(max(0, min(index, size - 1)))
    return picked
