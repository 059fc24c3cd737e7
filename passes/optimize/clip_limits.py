"""The range of values: what Clip and Relu limit to, and what is never negative."""

from __future__ import annotations

import math

from edgec.graph import constant, ir

_NONNEGATIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt", "Softplus", "ReduceL1", "ReduceL2"}
_CARRY = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_CARRY |= {"Transpose", "Slice", "Split", "Identity", "Gather", "ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"}
_CARRY_ALL = {"Concat", "Add", "Mul", "Sum", "Max", "Min", "Mean"}


def clip_limits(node: ir.Node) -> tuple[float, float] | None:
    """Lowest and highest value a Clip or Relu lets through; None if a limit is not constant."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    limits = [-math.inf, math.inf]
    for i, name in enumerate(("min", "max")):
        if (a := node.attributes.get(name)) is not None:  # opset below 11
            limits[i] = a.as_float()
        elif len(node.inputs) > i + 1 and (v := node.inputs[i + 1]) is not None:
            data = constant(v)
            if data is None or data.size != 1:
                return None
            limits[i] = float(data.reshape(-1)[0])
    return limits[0], limits[1]


def nonnegative(value: ir.Value, depth: int = 4) -> bool:
    """Whether no element of the value can be below zero, as its producers show (NaN aside)."""
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or depth == 0:
        return False
    if value.dtype is not None and not value.dtype.is_floating_point():
        return False  # integers wrap around
    if node.op_type in _NONNEGATIVE:
        return True
    if node.op_type == "Clip":
        limits = clip_limits(node)
        return limits is not None and min(limits) >= 0  # the upper one wins where they cross
    if node.op_type in _CARRY:
        source = node.inputs[0]
        return source is not None and value.index() == 0 and nonnegative(source, depth - 1)
    if node.op_type in _CARRY_ALL:
        return all(v is not None and nonnegative(v, depth - 1) for v in node.inputs)
    return False
