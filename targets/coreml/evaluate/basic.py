"""Convolution, element by element, activations: what every network has."""

from __future__ import annotations

from collections.abc import Sequence

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates

_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul"}
_UNARY = {"relu": "Relu", "identity": "Identity"}


@evaluates(*_BINARY)
def binary(o: OpReader) -> None:
    o.give(o.emit(_BINARY[o.operation.op], [o.x("x"), o.x("y")]))


@evaluates(*_UNARY)
def unary(o: OpReader) -> None:
    o.give(o.emit(_UNARY[o.operation.op], [o.x()]))


_TYPES = {"fp16": ir.DataType.FLOAT, "fp32": ir.DataType.FLOAT, "int32": ir.DataType.INT64, "bool": ir.DataType.BOOL}


@evaluates("cast")
def cast(o: OpReader) -> None:
    """To an integer: towards zero."""
    to = o.text("dtype")
    if to not in _TYPES:
        o.unknown(f"cast to {to}")
    o.give(o.emit("Cast", [o.x()], to=int(_TYPES[to])))


@evaluates("conv")
def conv(o: OpReader) -> None:
    """x [N, C, *D], weight [C_out, C / groups, *K], bias [C_out]; pad is (before, after) for each axis."""
    weight = o.mil("weight").known
    kernel = [int(k) for k in weight[2:]]
    strides, dilations = o.ints("strides", [1] * len(kernel)), o.ints("dilations", [1] * len(kernel))
    pads = padding(o, kernel, strides, dilations)
    given = [o.x("x"), o.x("weight"), *([o.x("bias")] if o.has("bias") else [])]
    o.give(o.emit("Conv", given, strides=strides, dilations=dilations, group=o.integer("groups", 1), pads=pads))


def padding(o: OpReader, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """ONNX pads of `pad_type` and `pad`. "same": ceil(size / stride) steps, the odd element behind; "same_lower" in front."""
    kind, axes = o.text("pad_type", "valid"), len(kernel)
    if kind == "valid":
        return [0] * (2 * axes)
    if kind == "custom":
        pad = o.ints("pad")
        return [*pad[0::2], *pad[1::2]]
    sizes = o.shape("x")[2:]
    totals = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, s, k, d in zip(sizes, strides, kernel, dilations, strict=True)
    ]
    before = [t // 2 if kind == "same" else t - t // 2 for t in totals]
    return [*before, *(t - b for t, b in zip(totals, before, strict=True))]


@evaluates("quantize")
def quantize(o: OpReader) -> None:
    """round(x / scale) + zero_point, half to even, saturated."""
    _qdq(o, "QuantizeLinear", o.text("output_dtype"))


@evaluates("dequantize")
def dequantize(o: OpReader) -> None:
    """(x - zero_point) * scale."""
    _qdq(o, "DequantizeLinear", o.mil("input").dtype)


def _qdq(o: OpReader, op: str, dtype: str) -> None:
    scale = o.array("scale").astype("float32")
    zero = o.array("zero_point", 0).astype(dtype)
    if zero.shape != scale.shape:
        zero = zero + scale.astype(dtype) * 0
    axis = o.integer("axis") if scale.ndim else None
    o.give(o.emit(op, [o.x("input"), o.exact(scale), o.exact(zero)], axis=axis))
