"""How a .tflite file stores what the ONNX model says: found by shape, for converters that do not tell."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np


def as_file_wants(array: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An ONNX input in the file's order of axes: as it is, channels last, or another that fits."""
    shape = tuple(int(n) for n in shape)
    if array.size == 1:
        array = array.reshape(shape)
    elif array.shape != shape:
        array = array.transpose(order(array.shape, shape))
    return np.array(array, dtype, order="C")


def order(shape: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of `shape` that make `wanted`, channels last before any other. ValueError where none does."""
    rank = len(shape)
    last = (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))
    for perm in (tuple(range(rank)), last, *permutations(range(rank))):
        if len(wanted) == rank and tuple(shape[a] for a in perm) == wanted:
            return perm
    raise ValueError(f"no order of the axes of {shape} makes {wanted}")


def nearest_order(array: np.ndarray, reference: np.ndarray) -> tuple[int, ...]:
    """The axes of an output in the ONNX model's order: of all that fit, the one nearest to what ONNX Runtime says."""
    fitting = [p for p in permutations(range(array.ndim)) if tuple(array.shape[a] for a in p) == reference.shape]
    if not fitting:
        raise ValueError(f"no order of the axes of {array.shape} makes {reference.shape}")
    return min(fitting, key=lambda p: float(np.abs(array.transpose(p) - reference).sum()))
