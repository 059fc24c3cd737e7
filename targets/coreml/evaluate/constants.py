"""Compressed constants, opened: each by the formula of its operation's definition, computed in float32 and rounded once."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.evaluate.rules import OpReader, evaluates
from edgec.targets.coreml.program import NUMPY, Array


@evaluates("constexpr_affine_dequantize")
def affine(o: OpReader) -> None:
    """(quantized_data - zero_point) scale; scale and zero_point scalars, or vectors along `axis`."""
    data = o.array("quantized_data")
    scale, zero = o.array("scale"), o.array("zero_point")
    along = [1] * data.ndim
    if scale.ndim or zero.ndim:
        along[o.integer("axis")] = -1
    _keep(o, (data.astype(np.float32) - _on(zero, along)) * _on(scale, along))


def _on(values: Array, along: list[int]) -> Array:
    wide = values.astype(np.float32)
    return wide.reshape(along) if wide.ndim else wide


@evaluates("constexpr_cast")
def cast(o: OpReader) -> None:
    """fp16 as fp32."""
    _keep(o, o.array("source_val"))


@evaluates("constexpr_blockwise_shift_scale")
def blockwise(o: OpReader) -> None:
    """(data - offset) scale; each axis of scale divides that of data into blocks."""
    offset = o.array("offset") if o.has("offset") else None
    _keep(o, _shifted(o.array("data"), o.array("scale"), offset))


@evaluates("constexpr_lut_to_dense")
def lut(o: OpReader) -> None:
    """iOS16: indices packed, `shape` of the result. iOS18: indices [*D], tables [*G, entries, vector], where G divides D into
    groups; each entry a vector along `vector_axis`."""
    table = o.array("lut")
    if o.has("shape"):
        shape = o.ints("shape")
        bits = int(table.size - 1).bit_length()
        indices = unpacked(o.array("indices"), bits, int(np.prod(shape)))
        _keep(o, table[indices].reshape(shape))
        return
    _keep(o, _looked_up(o.array("indices"), table, o.integer("vector_axis", -1)))


@evaluates("constexpr_sparse_to_dense")
def sparse(o: OpReader) -> None:
    """The numbers where the mask has ones, zero elsewhere. iOS16: the mask in packed bits and a `shape`."""
    mask = o.array("mask")
    if o.has("shape"):
        shape = o.ints("shape")
        mask = unpacked(mask, 1, int(np.prod(shape))).reshape(shape)
    _keep(o, _dense(o.array("nonzero_data"), mask))


@evaluates("constexpr_lut_to_sparse")
def sparse_lut(o: OpReader) -> None:
    """The same look-up where the mask has ones: a mask, repeated along `vector_axis`, and the numbers."""
    mask, table = o.array("indices_mask"), o.array("lut")
    axis = o.integer("vector_axis", -1)
    values = _looked_up(_dense(o.array("indices_nonzero_data"), mask), table, axis)
    wide = np.repeat(mask, table.shape[-1], axis)
    _keep(o, wide, values[wide != 0])


@evaluates("constexpr_sparse_blockwise_shift_scale")
def sparse_blockwise(o: OpReader) -> None:
    """(data - offset) scale where the mask has ones: that mask, and the numbers."""
    mask = o.array("data_mask")
    offset = o.array("offset") if o.has("offset") else None
    values = _shifted(_dense(o.array("nonzero_data"), mask), o.array("scale"), offset)
    _keep(o, mask, values[mask != 0])


def unpacked(packed: Array, bits: int, count: int) -> Array:
    """`count` numbers of `bits` bits each, the lowest bits first, over the borders of bytes."""
    places = np.unpackbits(packed.astype(np.uint8), bitorder="little")[: bits * count].reshape(count, bits)
    return places.astype(np.int64) @ (1 << np.arange(bits))


def _shifted(data: Array, scale: Array, offset: Array | None) -> Array:
    real = data.astype(np.float32)
    if offset is not None:
        real = real - _in_blocks(offset.astype(np.float32), data.shape)
    return real * _in_blocks(scale.astype(np.float32), data.shape)


def _in_blocks(values: Array, shape: tuple[int, ...]) -> Array:
    """Each number as often along each axis as the shape has it."""
    for axis, size in enumerate(shape):
        values = np.repeat(values, size // values.shape[axis], axis)
    return values


def _looked_up(indices: Array, table: Array, axis: int) -> Array:
    """table [*G, entries, vector] at indices [*D]: the vectors along `axis`, one behind the other."""
    entries, vector = table.shape[-2:]
    groups = table.reshape(-1, entries, vector)
    group = _in_blocks(np.arange(len(groups)).reshape(table.shape[:-2]), indices.shape)
    found = groups[group, indices.astype(np.int64)]  # [*D, vector]
    axis %= indices.ndim
    placed = np.moveaxis(found, -1, axis + 1)
    shape = list(indices.shape)
    shape[axis] *= vector
    return placed.reshape(shape)


def _dense(values: Array, mask: Array) -> Array:
    dense = np.zeros(mask.shape, values.dtype)
    dense[mask != 0] = values
    return dense


def _keep(o: OpReader, *values: Array) -> None:
    for mil, data in zip(o.operation.outputs, values, strict=True):
        dtype = NUMPY.get(mil.dtype, "uint8" if mil.dtype.startswith("u") else "int8")
        o.evaluator.keep_number(mil, data.astype(dtype))
