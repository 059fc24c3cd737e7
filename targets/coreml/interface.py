"""How the features of a package hold the inputs and outputs of the ONNX model, and the way from one to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgec.diagnostics import error
from edgec.targets.coreml.program import NUMPY, Array, Dim

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Port:
    """One input or output.

    `name`: in the ONNX model. `feature`: in the package, where only [A-Za-z0-9_] is allowed. `shape`, `dtype`: in the
    package: a scalar is [1] there, and integers and bools are int32. `onnx_dtype`: by NumPy's name.
    """

    name: str
    feature: str
    shape: tuple[Dim, ...]
    dtype: str
    onnx_shape: tuple[Dim, ...]
    onnx_dtype: str

    def store(self, array: Array) -> Array:
        """An ONNX value as the package takes it. EC0660 where an integer does not fit 32 bits."""
        if array.dtype.kind in "iu" and array.size and (array.min() < _INT32.min or array.max() > _INT32.max):
            what = f"input {self.name!r} is int32 in the package, and a sample's {array.dtype} values do not fit"
            raise error("EC0660", what, hint="the package cannot take them on the device either")
        stored = array.astype(NUMPY[self.dtype])
        return stored.reshape(1) if not self.onnx_shape else stored

    def restore(self, array: Array) -> Array:
        """What the package gave as the ONNX value."""
        shaped = array.reshape(()) if not self.onnx_shape else array
        return shaped.astype(self.onnx_dtype)


@dataclass(frozen=True)
class Interface:
    """All of them. Written into the report, from which it can be read back."""

    inputs: Sequence[Port]
    outputs: Sequence[Port]

    def store(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """The package's inputs by feature. A sample may hold more: inputs that nothing reads are in no package."""
        return {p.feature: p.store(sample[p.name]) for p in self.inputs}

    def restore(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The ONNX model's outputs by name; EC0660 where the package gave none."""
        missing = [p.feature for p in self.outputs if p.feature not in outputs]
        if missing:
            raise error("EC0660", f"the package gave no output {missing[0]!r}; it gave {', '.join(sorted(outputs))}")
        return {p.name: p.restore(outputs[p.feature]) for p in self.outputs}

    def to_json(self) -> dict[str, Any]:
        return {"inputs": [asdict(p) for p in self.inputs], "outputs": [asdict(p) for p in self.outputs]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Interface:
        return cls(*([_port(p) for p in data[end]] for end in ("inputs", "outputs")))


def _port(p: Mapping[str, Any]) -> Port:
    return Port(**{**p, "shape": tuple(p["shape"]), "onnx_shape": tuple(p["onnx_shape"])})
