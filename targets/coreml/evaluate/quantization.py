"""Quantise and dequantise at run time, between float and int8 or uint8."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.evaluate.rules import OpReader, evaluates


@evaluates("quantize")
def quantize(o: OpReader) -> None:
    """clip(round(x / scale) + zero_point), halves to the even integer; scale a scalar, or a vector along `axis`."""
    _qdq(o, "QuantizeLinear", o.text("output_dtype"))


@evaluates("dequantize")
def dequantize(o: OpReader) -> None:
    """scale (x - zero_point)."""
    _qdq(o, "DequantizeLinear", o.mil("input").dtype)


def _qdq(o: OpReader, op: str, dtype: str) -> None:
    scale = o.array("scale").astype(np.float32)
    zero = np.broadcast_to(o.array("zero_point", 0), scale.shape).astype(dtype)
    axis = o.integer("axis") if scale.ndim else None
    o.give(o.emit(op, [o.x("input"), o.exact(scale), o.exact(zero)], axis=axis))
