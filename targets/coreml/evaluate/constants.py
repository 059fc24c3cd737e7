"""Compressed constants, opened: each by the formula of its operation's definition."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.evaluate.rules import OpReader, evaluates
from edgec.targets.coreml.program import NUMPY


@evaluates("constexpr_affine_dequantize")
def affine(o: OpReader) -> None:
    """(quantized_data - zero_point) * scale; scale and zero_point scalars, or vectors along `axis`."""
    data = o.array("quantized_data")
    scale, zero = o.array("scale"), o.array("zero_point")
    along = [1] * data.ndim
    if scale.ndim or zero.ndim:
        along[o.integer("axis")] = -1
    real = (data.astype(np.float32) - _on(zero, along)) * _on(scale, along)
    o.evaluator.keep_number(o.out, real.astype(NUMPY[o.out.dtype]))


def _on(
    values: np.ndarray[tuple[int, ...], np.dtype[np.generic]], along: list[int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    wide = values.astype(np.float32)
    return wide.reshape(along) if wide.ndim else wide
