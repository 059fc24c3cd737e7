"""Between which numbers a value lies, whatever the input: what follows from the ops that make it."""

from __future__ import annotations

import math

import numpy as np

from edgec.graph import attribute, constant, ir
from edgec.quantization.pairs import DQ, Linear, limits_of

Bounds = tuple[float, float]

ANYTHING: Bounds = (-math.inf, math.inf)

_SAME = frozenset(
    {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Identity", "Expand", "MaxPool", "GlobalMaxPool",
     "GlobalAveragePool", "DepthToSpace", "SpaceToDepth", "Tile", "Dropout"}
)  # fmt: skip
"""Ops that only move numbers, choose among them or average them."""

_WITHIN: dict[str, Bounds] = {
    "Sigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Softplus": (0.0, math.inf),
    "Exp": (0.0, math.inf),
}

_DEPTH = 32


def bounds(value: ir.Value | None, depth: int = _DEPTH) -> Bounds:
    """Least and greatest number `value` can hold; infinities where nothing is known. NaN is not thought of."""
    if value is None:
        return ANYTHING
    data = constant(value)
    if data is not None and data.dtype.kind in "fiu" and data.size:
        return float(np.min(data)), float(np.max(data))
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or depth == 0:
        return ANYTHING
    return _of(node, depth - 1)


def _of(node: ir.Node, depth: int) -> Bounds:
    op = node.op_type
    if op in _WITHIN:
        return _WITHIN[op]
    if op == DQ:
        return _stored(node)
    if not node.inputs:
        return ANYTHING
    if op == "Concat":
        every = [bounds(v, depth) for v in node.inputs]
        return min(b[0] for b in every), max(b[1] for b in every)
    low, high = bounds(node.inputs[0], depth)
    if op in _SAME:
        return low, high
    if op == "Relu":
        return max(low, 0.0), max(high, 0.0)
    if op == "AveragePool":  # padding may count as 0
        return min(low, 0.0), max(high, 0.0)
    if op == "Clip":
        least, most = _limit(node, 1, "min", -math.inf), _limit(node, 2, "max", math.inf)
        return min(max(low, least), most), max(min(high, most), least)
    return ANYTHING


def _limit(node: ir.Node, i: int, name: str, default: float) -> float:
    if name in node.attributes:
        return float(attribute(node, name))
    if len(node.inputs) <= i or node.inputs[i] is None:
        return default
    data = constant(node.inputs[i])
    return float(np.asarray(data).reshape(-1)[0]) if data is not None and np.size(data) == 1 else default


def _stored(node: ir.Node) -> Bounds:
    """What a DequantizeLinear with known parameters can put out."""
    lin = Linear(node, 21)
    if lin.scale is None or lin.zero is None or not lin.scale.size or (lin.scale <= 0).any() or "int" not in lin.dtype:
        return ANYTHING
    least, most = limits_of(lin.dtype)
    return float(((least - lin.zero) * lin.scale).min()), float(((most - lin.zero) * lin.scale).max())
