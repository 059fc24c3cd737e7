"""Scales of stored weights in float16.

A channel of (nearly) zero weights has a scale of 1e-9, which float16 does not have. Its integers are stored again for the next
larger number that float16 has: the error is half a step of the new scale, 3e-8 at least.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, attribute, constant, ir, is_constant
from edgec.passes.legalize.half_constants import constant_of, is_constant_value, new_initializer

SCALE_ERROR = 2.0**-9
"""Relative error up to which a scale may be rounded: 54 dB, against the 35 to 50 dB of 8 bits."""

_LIMITS = {
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
}


def rounding_error(scale: npt.NDArray[np.float32], half: ir.DataType) -> float:
    """The largest relative error of a scale in 16 bits."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        error = np.abs(scale.astype(half.numpy()).astype(np.float64) / scale.astype(np.float64) - 1)
    return float(np.nan_to_num(error, nan=np.inf).max(initial=0.0))


def unfit_scale(node: ir.Node, half: ir.DataType) -> float | None:
    """The smallest scale of a Q or DQ node with constant float32 scales, if 16 bits cannot hold one of them; else None."""
    scale = node.inputs[1]
    if scale is None or scale.dtype is not ir.DataType.FLOAT or not is_constant_value(scale):
        return None
    data = constant_of(scale)
    assert data is not None  # it is constant
    return float(np.abs(data).min()) if rounding_error(data, half) > SCALE_ERROR else None


def can_store_again(node: ir.Node, opset: int) -> bool:
    """Whether a DequantizeLinear is of constant weights in 8 or 4 bits."""
    stored, scale = node.inputs[0], node.inputs[1]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if (
        stored is None
        or scale is None
        or stored.dtype not in _LIMITS
        or not (is_constant(stored) and is_constant(scale))
    ):
        return False
    return zero is None or is_constant(zero)


def store_again(graph: Graph, node: ir.Node, half: ir.DataType) -> bool:
    """Give the DequantizeLinear of a constant scales that 16 bits hold, and integers to match. False where that cannot be
    done: another type than 8 or 4 bits, or a scale that is computed."""
    if not can_store_again(node, graph.opset):
        return False
    stored, scale = node.inputs[0], node.inputs[1]
    assert stored is not None  # see can_store_again
    assert scale is not None
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    old = np.asarray(constant(scale), np.float32)
    new = _at_least(old, half)
    if not np.isfinite(new).all():
        return False
    integers = np.asarray(constant(stored))
    offset = np.asarray(constant(zero) if zero is not None else 0).astype(np.float64)
    axis = attribute(node, "axis", graph.opset)
    axis = 1 if axis is None else axis
    block = attribute(node, "block_size", graph.opset) or 0
    ratio = _along(old.astype(np.float64) / new, integers.shape, axis, block)
    offset = _along(offset, integers.shape, axis, block)
    assert stored.dtype is not None
    low, high = _LIMITS[stored.dtype]
    data = np.clip(np.rint((integers.astype(np.float64) - offset) * ratio + offset), low, high)
    owner = node.graph
    assert isinstance(owner, ir.Graph)  # functions are inlined
    q = new_initializer(graph, owner, f"{stored.name}.stored", ir.tensor(data.astype(integers.dtype)))
    s = new_initializer(graph, owner, f"{scale.name}.{half.name.lower()}", ir.tensor(new))
    node.replace_input_with(0, q)
    node.replace_input_with(1, s)
    return True


def _at_least(scale: npt.NDArray[np.float32], half: ir.DataType) -> npt.NDArray[np.float32]:
    """The scales, those that 16 bits round too far replaced by the next larger number they have."""
    kind = half.numpy()
    with np.errstate(over="ignore"):
        near = scale.astype(kind)
    back = near.astype(np.float32)
    error = np.abs(back.astype(np.float64) / scale.astype(np.float64) - 1)
    up = np.where(back < scale, np.nextafter(near, np.asarray(np.inf, kind)).astype(np.float32), back)
    return np.where(error > SCALE_ERROR, up, scale).astype(np.float32)


def _along(x: npt.NDArray[np.float64], shape: tuple[int, ...], axis: int, block: int) -> npt.NDArray[np.float64]:
    """Parameters as they apply to numbers of `shape`: one, one for each place along `axis`, or one for each `block` of them."""
    if x.size == 1:
        return x.reshape(())
    if block:
        return np.repeat(x, block, axis).take(range(shape[axis]), axis)
    wide = [1] * len(shape)
    wide[axis] = x.size
    return x.reshape(wide)
