"""QuantizeLinear and DequantizeLinear as arithmetic: where their numbers are not those of a tensor with one constant scale.

That is: scales computed at run time, a scale for each channel or block of an activation, integers of the interface, and
types TFLite's QUANTIZE and DEQUANTIZE do not take. What is computed is ONNX's definition of the two ops, step by step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgec.graph import attribute, constant, ir, is_constant
from edgec.targets.tflite.model import DTYPES, Operator, Tensor

if TYPE_CHECKING:
    from edgec.targets.tflite.builder import Builder

_INTEGERS = ("int8", "uint8", "int16", "uint16", "int32")


def dequantize(b: Builder, node: ir.Node) -> Tensor:
    """(x - zero point) scale, as the model has it (not channels last)."""
    x = _cast(b, b.tensor(_given(node, 0), None), "float32")
    shape, split = x.shape, _split(b, node)
    x = b.reshape(x, split)
    zero = _parameter(b, node, 2, split)
    if zero is not None:
        x = _emit(b, node, "SUB", x, zero)
    scale = _parameter(b, node, 1, split)
    assert scale is not None  # it is no optional input
    return b.reshape(_emit(b, node, "MUL", x, scale), shape)


def quantize(b: Builder, node: ir.Node) -> Tensor | str:
    """round(x / scale) + zero point, saturated; or why that cannot be said."""
    out = node.outputs[0]
    kind = b.dtype(out)
    if kind not in _INTEGERS:
        return f"LiteRT has no arithmetic that ends in {kind}"
    x = b.tensor(_given(node, 0), None)
    shape, split = x.shape, _split(b, node)
    scale, zero = _parameter(b, node, 1, split), _parameter(b, node, 2, split)
    assert scale is not None  # it is no optional input
    x = _emit(b, node, "DIV", b.reshape(x, split), scale)
    rounded = Tensor(f"{out.name}_rounded", x.shape, "float32")
    b.operators.append(Operator("ROUND", [x], [rounded], {}, node.name or ""))
    x = rounded if zero is None else _emit(b, node, "ADD", rounded, zero)
    limits = np.iinfo(kind)
    low, high = (b.constant(np.asarray(v, np.float32), f"{kind}_limit") for v in (limits.min, limits.max))
    x = _emit(b, node, "MINIMUM", _emit(b, node, "MAXIMUM", x, low), high)
    return _cast(b, b.reshape(x, shape), kind)


def _given(node: ir.Node, i: int) -> ir.Value:
    v = node.inputs[i]
    assert v is not None  # data and scale are not optional
    return v


def _split(b: Builder, node: ir.Node) -> tuple[int, ...]:
    """The shape of the data, the axis of blocks split into blocks and what is in them."""
    shape, block = b.shape(_given(node, 0)), int(attribute(node, "block_size") or 0)
    if not block:
        return shape
    axis = int(attribute(node, "axis")) % len(shape)
    return (*shape[:axis], math.ceil(shape[axis] / block), block, *shape[axis + 1 :])


def _parameter(b: Builder, node: ir.Node, i: int, split: tuple[int, ...]) -> Tensor | None:
    """Scale or zero point as floats that broadcast against the split data."""
    v = node.inputs[i] if i < len(node.inputs) else None
    if v is None:
        return None
    shape, rank = b.shape(v), len(split)
    if len(shape) == 1 and shape[0] != 1:
        along = [1] * rank
        along[int(attribute(node, "axis")) % rank] = shape[0]
        shape = tuple(along)
    elif len(shape) > 1:  # one for each block
        axis = int(attribute(node, "axis")) % len(shape)
        shape = (*shape[: axis + 1], 1, *shape[axis + 1 :])
    else:
        shape = ()
    if is_constant(v):
        return b.constant(np.asarray(constant(v)).astype(np.float32).reshape(shape), f"{v.name}_real")
    return b.reshape(_cast(b, b.tensor(v, None), "float32"), shape)


def _cast(b: Builder, t: Tensor, dtype: str) -> Tensor:
    if t.dtype == dtype:
        return t
    if t.data is not None:
        return b.constant(t.data.astype(dtype), f"{t.name}_{dtype}", dtype)
    out = Tensor(f"{t.name}_{dtype}", t.shape, dtype)
    options = {"in_data_type": DTYPES[t.dtype], "out_data_type": DTYPES[dtype]}
    b.operators.append(Operator("CAST", [t], [out], options, t.name))
    return out


def _emit(b: Builder, node: ir.Node, op: str, x: Tensor, y: Tensor) -> Tensor:
    out = Tensor(f"{node.outputs[0].name}_{op.lower()}", x.shape, "float32")
    b.operators.append(Operator(op, [x, y], [out], {}, node.name or ""))
    return out
