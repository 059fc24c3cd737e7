"""How the inputs and outputs of a .tflite file hold those of the ONNX model, and the way from one to the other.

The file may store an image channels last, a float as int8, an int64 as int32. Samples and verification speak ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.affine import Affine
from edgec.diagnostics import error
from edgec.targets.tflite.model import Array, Quant

if TYPE_CHECKING:
    from edgec.graph import Graph, ir
    from edgec.targets.tflite.lower import LoweredModel, Port


@dataclass(frozen=True, eq=False)
class Endpoint:
    """One input or output. `name`: in the ONNX model, and in the file's signature.

    `shape`, `onnx_dtype`: of the ONNX value. `dtype`: of the file's tensor, by NumPy's name. `perm`: the file's axis i is
    the ONNX value's axis perm[i]; None: the same order. `quant`: the file holds integers for a float of the ONNX model.
    `affine`: the file's real number is value * scale + offset, each [channels] along an axis of the ONNX value (inputs).
    """

    name: str
    shape: tuple[int, ...]
    onnx_dtype: str
    dtype: str
    perm: tuple[int, ...] | None = None
    quant: Quant | None = None
    affine: Affine | None = None

    def store(self, array: Array) -> Array:
        """An ONNX value as the file takes it. EC0660 where an integer does not fit.

        Floats are quantised as QuantizeLinear does it: x / scale in float32, half to even, saturated.
        """
        if array.shape != self.shape:
            what = f"input {self.name!r} is {list(self.shape)} in the artifact, the sample is {list(array.shape)}"
            raise error("EC0660", what)
        if self.affine is not None:
            scale, offset = (
                _along(part, self.affine.axis, array.ndim) for part in (self.affine.scale, self.affine.offset)
            )
            array = (array * scale + offset).astype(np.float32)
        if self.quant is not None:
            scale, zero = _parameters(self.quant, array.ndim)
            limits = np.iinfo(self.dtype)
            array = np.rint(array.astype(np.float32) / scale).astype(np.float64) + zero
            array = np.clip(array, limits.min, limits.max)
        stored = array.astype(self.dtype)
        if self.quant is None and array.dtype.kind in "iu" and not np.array_equal(stored, array):
            what = f"input {self.name!r} is stored as {self.dtype}, and a sample's {array.dtype} values do not fit"
            raise error("EC0660", what, hint="the artifact cannot take them on the device either")
        return np.array(stored if self.perm is None else stored.transpose(self.perm), order="C")  # a number stays 0-d

    def restore(self, array: Array) -> Array:
        """What the file gave as the ONNX value."""
        if self.perm is not None:
            array = array.transpose(np.argsort(self.perm))
        if array.shape != self.shape:
            what = f"output {self.name!r} has shape {list(array.shape)}, in the ONNX model it is {list(self.shape)}"
            raise error("EC0660", what)
        if self.quant is not None:
            scale, zero = _parameters(self.quant, array.ndim)
            array = (array.astype(np.float32) - zero.astype(np.float32)) * scale
        return array.astype(self.onnx_dtype)

    def to_json(self) -> dict[str, Any]:
        q = self.quant
        return {
            "name": self.name,
            "shape": list(self.shape),
            "onnx_dtype": self.onnx_dtype,
            "dtype": self.dtype,
            "perm": list(self.perm) if self.perm is not None else None,
            "scale": [float(s) for s in q.scale] if q is not None else None,
            "zero_point": [int(z) for z in q.zero_point] if q is not None else None,
            "axis": q.axis if q is not None else None,
            "affine": self.affine.to_json() if self.affine is not None else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Endpoint:
        perm, scale, affine = data["perm"], data["scale"], data.get("affine")
        return cls(
            data["name"],
            tuple(data["shape"]),
            data["onnx_dtype"],
            data["dtype"],
            tuple(perm) if perm is not None else None,
            Quant.of(scale, data["zero_point"], data["axis"]) if scale is not None else None,
            Affine(np.asarray(affine["scale"]), np.asarray(affine["offset"]), affine["axis"]) if affine else None,
        )


def _parameters(q: Quant, rank: int) -> tuple[Array, Array]:
    """Scale and zero point, shaped to broadcast against the ONNX value; the axis is the ONNX value's."""
    return _along(q.scale, q.axis, rank), _along(q.zero_point, q.axis, rank)


def _along(values: Array, axis: int, rank: int) -> Array:
    return values.reshape([-1 if i == axis and values.size > 1 else 1 for i in range(rank)])


@dataclass(frozen=True)
class Interface:
    """All of them, in the order of the file. Written into the report, from which it can be read back."""

    inputs: Sequence[Endpoint]
    outputs: Sequence[Endpoint]

    @classmethod
    def of(cls, lowered: LoweredModel, graph: Graph, affine: Mapping[str, Affine] | None = None) -> Interface:
        """That of a lowering: `graph` is what was lowered. `affine`: what its inputs are of those of the ONNX model."""
        inputs = [replace(e, affine=(affine or {}).get(e.name)) for e in _endpoints(lowered.inputs, graph.inputs)]
        return cls(inputs, _endpoints(lowered.outputs, graph.outputs))

    def store(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """The file's inputs. A sample may hold more: inputs that nothing reads are not in the file."""
        return {e.name: e.store(sample[e.name]) for e in self.inputs}

    def restore(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The ONNX model's outputs; EC0660 where the file gave none of a name."""
        missing = [e.name for e in self.outputs if e.name not in outputs]
        if missing:
            raise error("EC0660", f"the file gave no output {missing[0]!r}; it gave {', '.join(sorted(outputs))}")
        return {e.name: e.restore(outputs[e.name]) for e in self.outputs}

    def to_json(self) -> dict[str, Any]:
        return {"inputs": [e.to_json() for e in self.inputs], "outputs": [e.to_json() for e in self.outputs]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Interface:
        return cls(*([Endpoint.from_json(e) for e in data[end]] for end in ("inputs", "outputs")))


def _endpoints(ports: Sequence[Port], values: Sequence[ir.Value]) -> list[Endpoint]:
    from edgec.graph import static_shape

    by_name = {v.name: v for v in values}
    endpoints = []
    for port in ports:
        value = by_name[port.name]
        shape = static_shape(value)
        assert shape is not None  # else `lower` had refused it
        assert value.dtype is not None
        onnx_dtype = value.dtype.numpy().name
        endpoints.append(Endpoint(port.name, shape, onnx_dtype, port.tensor.dtype, port.perm, port.quant))
    return endpoints
