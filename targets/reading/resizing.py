"""Which element a nearest-neighbour Resize picks, by ONNX's definition and by TFLite's."""

from __future__ import annotations

import math

import numpy as np


def nearest_indices(size: int, to: int, place: str, rounding: str) -> list[int] | None:
    """Source index of each of `to` positions along an axis of `size` (ONNX operator Resize, no region of interest).

    `place`: coordinate_transformation_mode; `rounding`: nearest_mode. None for modes that need more than the sizes.
    """
    scale = np.float32(to) / np.float32(size)
    x = np.arange(to, dtype=np.float32)
    if place in ("half_pixel", "half_pixel_symmetric") or (place == "pytorch_half_pixel" and to > 1):
        at = (x + np.float32(0.5)) / scale - np.float32(0.5)
    elif place == "pytorch_half_pixel":
        at = np.zeros(to, np.float32)
    elif place == "align_corners":
        at = x * np.float32((size - 1) / (to - 1)) if to > 1 else np.zeros(to, np.float32)
    elif place == "asymmetric":
        at = x / scale
    else:
        return None
    rounded = {
        "round_prefer_floor": np.ceil(at - np.float32(0.5)),
        "round_prefer_ceil": np.floor(at + np.float32(0.5)),
        "floor": np.floor(at),
        "ceil": np.ceil(at),
    }.get(rounding)
    return None if rounded is None else [int(v) for v in np.clip(rounded, 0, size - 1)]


def tflite_nearest_indices(size: int, to: int, align_corners: bool, half_pixel_centers: bool) -> list[int]:
    """The same by TFLite's kernel (reference_ops::ResizeNearestNeighbor, measured against it)."""
    scale = np.float32((size - 1) / (to - 1)) if align_corners and to > 1 else np.float32(size) / np.float32(to)
    offset = np.float32(0.5 if half_pixel_centers else 0.0)
    picked = []
    for i in range(to):
        at = (np.float32(i) + offset) * scale
        index = math.floor(at + np.float32(0.5)) if align_corners else math.floor(at)
        picked.append(max(0, min(index, size - 1)))
    return picked
