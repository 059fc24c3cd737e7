"""QuantizeLinear and DequantizeLinear as rules build them: zero points given, one number as a scalar."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, constant, ir
from edgec.rewrite import Reject, Rewriter

Array = npt.NDArray[Any]


def dequantize(
    rw: Rewriter, stored: ir.Value, scale: ir.Value, zero: ir.Value | None, axis: int | None = None, block: int = 0
) -> ir.Value | Reject:
    """real = (stored - zero) * scale; `axis` counts where there is more than one scale.

    The zero point gets the shape of the scale, as ONNX asks; ops on integers are content with one for all.
    """
    params = _params(rw, scale, zero, stored.dtype, stored)
    if isinstance(params, Reject):
        return params
    real = rw.op("DequantizeLinear", stored, *params, attrs=_attrs(params[0], axis, block, stored))
    return typed(real, params[0].dtype, stored)


def quantize(
    rw: Rewriter, real: ir.Value, scale: ir.Value, zero: ir.Value | None, dtype: ir.DataType | None = None
) -> ir.Value | Reject:
    """stored = saturate(round(real / scale) + zero), for the tensor as a whole. `dtype` where no zero point tells."""
    params = _params(rw, scale, zero, dtype or ir.DataType.UINT8, real)
    if isinstance(params, Reject):
        return params
    return typed(rw.op("QuantizeLinear", real, *params), params[1].dtype, real)


def typed(value: ir.Value, dtype: ir.DataType | None, like: ir.Value | None = None) -> ir.Value:
    """`value` with its type, where inference could not tell it: outputs of other domains' ops have none to begin with."""
    if value.dtype is None and dtype is not None:
        value.type = ir.TensorType(dtype)
    if value.shape is None and like is not None:
        value.shape = like.shape
    return value


def _attrs(scale: ir.Value, axis: int | None, block: int, stored: ir.Value) -> dict[str, int]:
    if scale.shape is None or scale.shape.rank() == 0:
        return {}
    axis = 1 if axis is None else axis
    if axis < 0 and stored.shape is not None:
        axis += stored.shape.rank()
    return {"axis": axis, "block_size": block} if block else {"axis": axis}


def _params(
    rw: Rewriter, scale: ir.Value, zero: ir.Value | None, dtype: ir.DataType | None, about: ir.Value
) -> tuple[ir.Value, ir.Value] | Reject:
    s, z = constant(scale), constant(zero)
    if s is None:  # a range computed at run time
        if zero is not None:
            return scale, zero
        return Reject(f"the scale of {about.name} is computed at run time, and there is no zero point")
    if zero is not None and z is None:
        return Reject(f"the zero point of {about.name} is computed at run time")
    s = np.asarray(s)
    if s.size == 1 and s.ndim:
        scale = rw.const(s.reshape(()), _stem(scale, about, "scale"))
    if zero is None or z is None:
        if dtype is None:
            return Reject(f"the type of {about.name} is not known")
        zero = rw.const(np.zeros(() if s.size == 1 else s.shape, dtype.numpy()), f"{about.name}_zp")
    elif np.shape(z) != (() if s.size == 1 else s.shape):
        shape = () if s.size == 1 else s.shape
        if np.size(z) not in (1, s.size):
            return Reject(f"the zero points of {about.name} do not match its scales")
        zero = rw.const(
            np.array(np.broadcast_to(np.reshape(z, () if np.size(z) == 1 else shape), shape)), f"{zero.name}"
        )
    return scale, zero


def _stem(value: ir.Value, about: ir.Value, what: str) -> str:
    return value.name or f"{about.name}_{what}"


def dequantize_bias(
    rw: Rewriter, bias: ir.Value | None, x_scale: ir.Value, w_scale: ir.Value, factor: float = 1.0
) -> ir.Value | Reject | None:
    """An int32 bias on the scale of the sums it is added to: that of the input times that of the weight (times `factor`)."""
    if bias is None:
        return None
    a, b = constant(x_scale), constant(w_scale)
    if a is None or b is None:
        return Reject("the scale of the bias is computed at run time")
    product = np.float32(np.reshape(a, -1)[0]) * np.asarray(b, np.float32) * np.float32(factor)
    scale = np.asarray(product, np.asarray(a).dtype)
    scale = scale.reshape(()) if scale.size == 1 else scale.reshape(-1)
    return dequantize(rw, bias, rw.const(scale, f"{bias.name}_scale"), None, 0)


def initializer(graph: Graph, hint: str, data: Array) -> ir.Value:
    """A weight of the main graph, for passes that are no rules. `hint` begins its name."""
    name = graph.fresh(hint)
    tensor = ir.tensor(np.ascontiguousarray(data) if data.ndim else data, name=name)
    value = ir.Value(name=name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.model.graph.register_initializer(value)
    return value
