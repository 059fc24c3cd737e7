"""Constants in 16 bits: what of them is lost, and the converted tensors, one at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, constant, ir

WEIGHT_SNR_DB = 50.0
"""A weight must keep this much of itself. Rounding to the 11 bits of normal float16 leaves 66 to 78 dB; numbers below
2^-14 have fewer bits, those below 2^-25 none."""

BFLOAT16_SNR_DB = 35.0
"""The same for the 8 bits of bfloat16, which leave 48 to 60 dB."""


@dataclass(frozen=True)
class Loss:
    """What conversion does to a constant: `overflow` is the largest finite number that becomes infinite, or 0; `snr_db`
    is of the finite elements that do not; `largest_error` is absolute, in those too."""

    overflow: float
    snr_db: float
    largest_error: float


def largest(half: ir.DataType) -> float:
    """The largest finite number of the type."""
    return 65504.0 if half is ir.DataType.FLOAT16 else 3.3895313892515355e38


def to_half(data: npt.NDArray[np.float32], half: ir.DataType) -> npt.NDArray[np.generic]:
    with np.errstate(over="ignore"):
        return data.astype(half.numpy())


def loss(data: npt.NDArray[np.float32], half: ir.DataType) -> Loss:
    if not data.size:
        return Loss(0.0, np.inf, 0.0)
    back = to_half(data, half).astype(np.float32)
    finite = np.isfinite(data)
    lost = finite & ~np.isfinite(back)
    overflow = float(np.abs(data[lost]).max()) if lost.any() else 0.0
    kept = finite & ~lost
    x = data[kept].astype(np.float64)
    error = back[kept].astype(np.float64) - x
    noise, signal = float(error @ error), float(x @ x)
    snr = np.inf if noise == 0 else 10 * np.log10(signal / noise)
    return Loss(overflow, float(snr), float(np.abs(error).max(initial=0.0)))


def constant_of(v: ir.Value) -> npt.NDArray[np.float32] | None:
    """The array of a float32 initializer or of a Constant node's output; None where it is no constant."""
    if v.dtype is not ir.DataType.FLOAT:
        return None
    data = constant(v)
    if data is not None:
        return np.asarray(data, np.float32)
    producer = v.producer()
    if producer is None or producer.op_type != "Constant" or producer.domain != "":
        return None
    if (a := producer.attributes.get("value")) is not None and a.type is ir.AttributeType.TENSOR:
        return np.asarray(a.as_tensor().numpy(), np.float32)
    if (a := producer.attributes.get("value_float")) is not None:
        return np.asarray(a.as_float(), np.float32)
    if (a := producer.attributes.get("value_floats")) is not None:
        return np.asarray(a.as_floats(), np.float32)
    return None


def is_constant_value(v: ir.Value) -> bool:
    """Whether `constant_of` has an array, without reading it."""
    producer = v.producer()
    if producer is not None:
        return producer.op_type == "Constant" and producer.domain == "" and v.dtype is ir.DataType.FLOAT
    return v.const_value is not None and not v.is_graph_input() and v.dtype is ir.DataType.FLOAT


def converted(v: ir.Value, half: ir.DataType, saturate: bool = False) -> ir.TensorProtocol:
    """The constant in 16 bits. One that lies in a file stays there until it is written: its numbers are read, converted
    and let go when asked for."""
    source = v.const_value

    def make() -> ir.TensorProtocol:
        data = constant_of(v) if source is None else np.asarray(source.numpy(), np.float32)
        assert data is not None  # the caller looked
        if saturate:
            data = np.where(np.isinf(data), data, np.clip(data, -largest(half), largest(half)))
        return ir.Tensor(np.asarray(to_half(data, half)), dtype=half, name=v.name)

    if isinstance(source, ir.ExternalTensor):
        return ir.LazyTensor(make, dtype=half, shape=source.shape, cache=False, name=v.name)
    return make()


def new_initializer(graph: Graph, owner: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A weight beside the others of `owner`."""
    unique = graph.fresh(name)
    tensor.name = unique
    value = ir.Value(name=unique, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)  # type: ignore[arg-type]
    owner.register_initializer(value)
    return value
