"""NumPy kernels for the ops shapes are computed with: what most constant nodes of exported models are.

Each gives bit for bit what ONNX Runtime gives, or declines with `NotHere`. Sizes are checked before anything is
allocated: `TooLarge` says how large the result would have been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, ir

Array = npt.NDArray[Any]
Inputs = Sequence[Array | None]


class NotHere(Exception):
    """This case is left to ONNX Runtime."""


class TooLarge(Exception):
    """The result would exceed the limit. `nbytes`: its size."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(f"{nbytes} bytes")
        self.nbytes = nbytes


def evaluate(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    """The output of a single-output node of the default domain.

    Raises:
        NotHere: no kernel covers this op, dtype or spelling.
        TooLarge: the result would have more than `limit` bytes.
        ValueError, IndexError, TypeError: the inputs do not fit the op.
    """
    kernel = _KERNELS.get(node.op_type)
    if kernel is None or len(node.outputs) != 1:
        raise NotHere
    return kernel(node, inputs, opset, limit)


def _need(inputs: Inputs, i: int) -> Array:
    a = inputs[i] if i < len(inputs) else None
    if a is None:
        raise NotHere
    return a


def _maybe(inputs: Inputs, i: int) -> Array | None:
    return inputs[i] if i < len(inputs) else None


def _ints(node: ir.Node, inputs: Inputs, i: int, name: str) -> list[int] | None:
    """Integers that are an attribute in old opsets and an input in new ones."""
    if (a := _maybe(inputs, i)) is not None:
        return [int(v) for v in a.reshape(-1)]
    value = node.attributes.get(name)
    return None if value is None else [int(v) for v in value.value]


def _room(shape: Sequence[int], itemsize: int, limit: int) -> None:
    nbytes = math.prod(shape) * itemsize
    if nbytes > limit:
        raise TooLarge(nbytes)


def _identity(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    return _need(inputs, 0)


def _cast(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    a = _need(inputs, 0)
    to = ir.DataType(attribute(node, "to"))
    if to in (ir.DataType.STRING, ir.DataType.UNDEFINED) or to.bitwidth < 8 or "FLOAT8" in to.name:
        raise NotHere
    dtype = to.numpy()
    _room(a.shape, dtype.itemsize, limit)
    if dtype.kind in "fV" and dtype.itemsize == 2 and a.dtype not in (np.float32, np.bool_, dtype):
        raise NotHere  # ONNX Runtime goes through float32 and rounds twice
    if dtype.kind in "iu" and a.dtype.kind not in "iufb":
        raise NotHere
    if dtype.kind in "iu" and a.dtype.kind in "iuf" and a.size:
        info = np.iinfo(dtype)
        low, high = a.min(), a.max()
        if not (np.isfinite(low) and np.isfinite(high) and int(low) >= info.min and int(high) <= info.max):
            raise NotHere  # what overflow gives is the runtime's business
    return a.astype(dtype)


def _reshape(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    a, shape = _need(inputs, 0), [int(d) for d in _need(inputs, 1)]
    if not attribute(node, "allowzero"):
        shape = [a.shape[i] if d == 0 else d for i, d in enumerate(shape)]
    return a.reshape(shape)


def _flatten(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    a, axis = _need(inputs, 0), int(attribute(node, "axis"))
    axis += a.ndim if axis < 0 else 0
    return a.reshape(math.prod(a.shape[:axis]), math.prod(a.shape[axis:]))


def _squeeze(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    a, axes = _need(inputs, 0), _ints(node, inputs, 1, "axes")
    return np.squeeze(a) if axes is None else np.squeeze(a, tuple(axes))


def _unsqueeze(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    axes = _ints(node, inputs, 1, "axes")
    if axes is None:
        raise NotHere
    return np.expand_dims(_need(inputs, 0), tuple(axes))


def _transpose(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    return np.transpose(_need(inputs, 0), attribute(node, "perm"))


def _concat(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    parts = [_need(inputs, i) for i in range(len(inputs))]
    _room((sum(p.size for p in parts),), parts[0].itemsize, limit)
    return np.concatenate(parts, int(attribute(node, "axis")))


def _gather(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    a, indices, axis = _need(inputs, 0), _need(inputs, 1), int(attribute(node, "axis"))
    row = a.size // a.shape[axis] if a.shape[axis] else 0
    _room((row, indices.size), a.itemsize, limit)
    return np.take(a, indices, axis)


def _slice(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    a = _need(inputs, 0)
    starts, ends = _ints(node, inputs, 1, "starts"), _ints(node, inputs, 2, "ends")
    if starts is None or ends is None:
        raise NotHere
    axes = _ints(node, inputs, 3, "axes") or list(range(len(starts)))
    steps = _ints(node, inputs, 4, "steps") or [1] * len(starts)
    index: list[slice] = [slice(None)] * a.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        dim = a.shape[axis]
        if step < 0:  # ONNX clamps to [-1, dim-1]; a Python slice spells "before the first" as None
            if start < -dim:
                raise NotHere  # ONNX clamps to 0, Python to nothing
            end = end + dim if end < 0 else end
            index[axis] = slice(start, None if end < 0 else end, step)
        else:
            index[axis] = slice(start, end, step)
    return a[tuple(index)]


def _expand(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    a = _need(inputs, 0)
    shape = np.broadcast_shapes(a.shape, tuple(int(d) for d in _need(inputs, 1)))
    _room(shape, a.itemsize, limit)
    return np.broadcast_to(a, shape).copy()


def _tile(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    a, repeats = _need(inputs, 0), [int(r) for r in _need(inputs, 1)]
    _room([d * r for d, r in zip(a.shape, repeats, strict=True)], a.itemsize, limit)
    return np.tile(a, repeats)


def _constant_of_shape(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    shape = [int(d) for d in _need(inputs, 0)]
    value = node.attributes.get("value")
    fill = np.zeros(1, np.float32) if value is None else value.as_tensor().numpy()
    _room(shape, fill.itemsize, limit)
    return np.full(shape, fill.reshape(-1)[0], fill.dtype)


def _range(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    start, stop, step = (_need(inputs, i) for i in range(3))
    if start.dtype.kind not in "iu" or int(step) == 0:
        raise NotHere  # floats accumulate rounding in the runtime's own way
    count = max(0, -((int(start) - int(stop)) // int(step)))
    _room((count,), start.itemsize, limit)
    return (int(start) + int(step) * np.arange(count, dtype=np.int64)).astype(start.dtype)


def _reduce(function: Callable[..., Array]) -> _Kernel:
    def kernel(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
        a = _need(inputs, 0)
        if a.dtype.kind not in "iu":
            raise NotHere  # the order of a float sum is the runtime's
        axes = _ints(node, inputs, 1, "axes")
        if not axes:
            if attribute(node, "noop_with_empty_axes"):
                return a
            axes = list(range(a.ndim))
        return np.asarray(function(a, axis=tuple(axes), keepdims=bool(attribute(node, "keepdims")))).astype(a.dtype)

    return kernel


def _pair(inputs: Inputs, limit: int) -> tuple[Array, Array]:
    a, b = _need(inputs, 0), _need(inputs, 1)
    _room(np.broadcast_shapes(a.shape, b.shape), max(a.itemsize, b.itemsize), limit)
    return a, b


def _binary(function: Callable[[Array, Array], Any]) -> _Kernel:
    def kernel(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
        a, b = _pair(inputs, limit)
        if a.dtype != b.dtype or a.dtype.kind not in "iuf":
            raise NotHere
        with np.errstate(all="ignore"):
            return np.asarray(function(a, b))

    return kernel


def _div(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    if not b.all():
        raise NotHere
    if a.dtype.kind == "i" and (a == np.iinfo(a.dtype).min).any():
        raise NotHere  # it has no absolute value
    quotient = np.abs(a) // np.abs(b)  # towards zero, as C does
    return np.asarray(quotient * np.sign(a) * np.sign(b)).astype(a.dtype)


def _mod(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    a, b = _pair(inputs, limit)
    if a.dtype.kind not in "iu" or attribute(node, "fmod") or not b.all():
        raise NotHere
    return np.asarray(np.mod(a, b))


def _logic(function: Callable[[Array, Array], Any]) -> _Kernel:
    def kernel(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
        a, b = _pair(inputs, limit)
        if a.dtype != b.dtype or a.dtype.kind not in "iufb":
            raise NotHere
        return np.asarray(function(a, b))

    return kernel


def _unary(function: Callable[[Array], Any], kinds: str) -> _Kernel:
    def kernel(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
        a = _need(inputs, 0)
        if a.dtype.kind not in kinds:
            raise NotHere
        return np.asarray(function(a))

    return kernel


def _where(node: ir.Node, inputs: Inputs, opset: int, limit: int) -> Array:
    condition, a, b = (_need(inputs, i) for i in range(3))
    _room(np.broadcast_shapes(condition.shape, a.shape, b.shape), a.itemsize, limit)
    return np.where(condition, a, b)


_Kernel = Callable[[ir.Node, Inputs, int, int], Array]

_KERNELS: dict[str, _Kernel] = {
    "Identity": _identity,
    "Cast": _cast,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _binary(_div),
    "Mod": _mod,
    "Equal": _logic(np.equal),
    "Less": _logic(np.less),
    "LessOrEqual": _logic(np.less_equal),
    "Greater": _logic(np.greater),
    "GreaterOrEqual": _logic(np.greater_equal),
    "And": _logic(np.logical_and),
    "Or": _logic(np.logical_or),
    "Not": _unary(np.logical_not, "b"),
    "Neg": _unary(np.negative, "if"),
    "Abs": _unary(np.abs, "if"),
    "Where": _where,
}
