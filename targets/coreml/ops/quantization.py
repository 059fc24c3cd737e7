"""Q/DQ: activations through MIL's quantize and dequantize, weights as compressed constants.

Stored weights are `constexpr_affine_dequantize` up to iOS 17 (8 bits, a scale for the tensor or for each channel) and
`constexpr_blockwise_shift_scale` from iOS 18 on (4 bits too, blocks along any axis). Numbers stay what they were: scales of
blocks that do not divide an axis are repeated until they do.
"""

from __future__ import annotations

import math
from typing import NoReturn

import numpy as np

from edgec.graph import constant
from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.program import NUMPY, Argument, Array, Operation, Packed, Value
from edgec.targets.coreml.rules import ANY, lowers

_STORED = ("int8", "uint8")
_AFFINE, _BLOCKWISE = "constexpr_affine_dequantize", "constexpr_blockwise_shift_scale"


@lowers("QuantizeLinear", since="iOS17")
def quantize(n: NodeLowering) -> None:
    zero = _zero_point(n)
    if n.out_dtype() not in _STORED:
        _not_eight_bits(n, n.out_dtype(), "quantises to")
    scale, axis = _scale(n)
    n.result(
        n.emit(
            "quantize", input=n.x(0), scale=scale, zero_point=zero if zero.any() else None, axis=axis,
            output_dtype=n.out_dtype(), out_dtype=n.out_dtype(), out_shape=n.out_dims(),
        )
    )  # fmt: skip


@lowers("DequantizeLinear", dtypes=(*ANY, *_STORED, "int16", "uint16", "int4", "uint4"), since="iOS16")
def dequantize(n: NodeLowering) -> None:
    stored = constant(n.value(0))
    if stored is not None:
        n.result(_weight(n, np.asarray(stored)))
        return
    n.since("iOS17", "dequantize")
    if n.dtype() not in _STORED:
        _not_eight_bits(n, n.dtype(), "dequantises")
    scale, axis = _scale(n)
    zero = _zero_point(n)
    n.result(
        n.emit(
            "dequantize", input=n.x(0), scale=scale, zero_point=zero if zero.any() else None, axis=axis,
            out_dtype=n.out_dtype(), out_shape=n.out_dims(),
        )
    )  # fmt: skip


def _not_eight_bits(n: NodeLowering, dtype: str, does: str) -> NoReturn:
    n.refuse(f"MIL {does} 8 bits only, not {dtype}", "`dequantize{what=activations}` leaves them in float")


def _weight(n: NodeLowering, stored: Array) -> Value:
    """A stored constant, to be opened by Core ML."""
    scale, zero, axis, block = n.const(1), _zero_point(n), int(n.attr("axis", 1)), int(n.attr("block_size", 0))
    kind = stored.dtype.name
    if kind not in (*_STORED, "int4", "uint4") or not stored.ndim:  # biases in int32
        along = scale if block else _shaped(scale, stored.ndim, axis)
        real = (stored.astype(np.float64) - _shaped(zero, stored.ndim, axis)) * along.astype(np.float64)
        return n.constant(real.astype(NUMPY[n.out_dtype()]), "value")
    if n.builder.at_least("iOS18"):
        return _blockwise(n, stored, scale, zero, axis, block)
    if kind not in _STORED:
        n.since("iOS18", f"a weight in {kind}")
    if block:
        n.since("iOS18", "scales in blocks")
    scale = scale.reshape(()) if scale.size == 1 else scale
    zero = zero.reshape(()) if zero.size == 1 else zero
    if scale.ndim != zero.ndim:  # one a tensor, the other a channel
        size = max(scale.size, zero.size)
        scale, zero = (np.broadcast_to(a, (size,)).copy() for a in (scale, zero))
    return n.emit(
        _AFFINE, quantized_data=stored, zero_point=zero.astype(stored.dtype), scale=scale,
        axis=axis % stored.ndim if scale.ndim else 0, out_dtype=n.out_dtype(), out_shape=n.out_dims(),
    )  # fmt: skip


def _blockwise(n: NodeLowering, stored: Array, scale: Array, zero: Array, axis: int, block: int) -> Value:
    kind, rank = stored.dtype.name, stored.ndim
    if block:
        size, parts = stored.shape[axis], np.arange(stored.shape[axis])
        each = math.gcd(size, block) if size > block else size
        chosen = parts[::each] // block  # the block of ONNX that each of ours lies in
        scale = np.take(scale, chosen, axis)
        zero = np.take(zero, chosen, axis) if zero.ndim else zero
    scale = _shaped(scale, rank, axis)
    offset = np.broadcast_to(_shaped(zero, rank, axis), scale.shape) if zero.any() else None
    whole = kind in _STORED

    def kept(a: Array) -> Array | Packed:
        return a.astype(kind) if whole else Packed(a.astype("int8" if kind == "int4" else "uint8"), kind)

    return n.emit(
        _BLOCKWISE, data=kept(stored), scale=np.ascontiguousarray(scale), offset=None if offset is None else kept(offset),
        out_dtype=n.out_dtype(), out_shape=n.out_dims(),
    )  # fmt: skip


def _shaped(a: Array, rank: int, axis: int) -> Array:
    """Parameters with the rank of what they belong to; a scalar is 1 everywhere."""
    if a.size == 1:
        return a.reshape((1,) * rank)
    return a if a.ndim == rank and rank > 1 else a.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def is_weight(n: NodeLowering, i: int) -> bool:
    """Whether input `i` is a constant, or one that is opened by Core ML."""
    return n.is_const(i) or (n.has(i) and _opening(n, n.x(i)) is not None)


def _opening(n: NodeLowering, v: Value) -> Operation | None:
    return next((o for o in reversed(n.builder.operations) if v in o.outputs and o.op in (_AFFINE, _BLOCKWISE)), None)


def transposed(n: NodeLowering, i: int) -> Value | None:
    """A constant matrix the other way round, stored the way it is stored; None where input `i` is computed."""
    v = n.x(i)
    if v.const is not None:
        return n.constant(np.ascontiguousarray(v.const.T), f"{v.name}_transposed")
    opened = _opening(n, v)
    if opened is None:
        return None
    return n.emit(opened.op, out_dtype=v.dtype, out_shape=v.known[::-1], hint=f"{v.name}_transposed", **_turned(opened))


def _turned(o: Operation) -> dict[str, Argument]:
    def turn(a: Argument) -> Argument:
        if isinstance(a, Packed):
            return Packed(np.ascontiguousarray(a.data.T), a.dtype)
        return np.ascontiguousarray(a.T) if isinstance(a, np.ndarray) else a

    if o.op == _BLOCKWISE:
        return {k: turn(a) for k, a in o.inputs.items()}
    scale = o.inputs["scale"]
    along = isinstance(scale, np.ndarray) and scale.ndim == 1
    axis = o.inputs["axis"]
    assert isinstance(axis, int)  # as `_weight` wrote it
    return {**o.inputs, "quantized_data": turn(o.inputs["quantized_data"]), "axis": 1 - axis if along else 0}


def _scale(n: NodeLowering) -> tuple[Array, int | None]:
    """In the float type of the real side, and the axis it runs along; a scale for the whole tensor is a scalar."""
    scale = n.const(1)
    if scale.ndim > 1 or n.attr("block_size", 0):
        n.refuse("activations with scales in blocks", "Core ML has blocks for weights only")
    if scale.size == 1:
        return scale.reshape(()), None
    return scale, int(n.attr("axis", 1)) % len(n.dims())


def _zero_point(n: NodeLowering) -> Array:
    """As ONNX has it; without one, 0 in the stored type."""
    if not n.has(2):
        return np.zeros((), np.uint8 if "uint8" in (n.dtype(), n.out_dtype()) else np.int8)
    zero = n.const(2)
    return zero.reshape(()) if zero.size == 1 else zero
