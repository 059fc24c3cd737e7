"""What a .tflite file holds, as Python objects. `writer` turns it into bytes, `reader` back.

Names of ops, options and their fields are those of the TFLite schema (`schema`), so that its documentation applies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DTYPES: Mapping[str, str] = {
    "float32": "FLOAT32", "float16": "FLOAT16", "float64": "FLOAT64", "int4": "INT4", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "bool": "BOOL", "complex64": "COMPLEX64",
}  # fmt: skip
"""NumPy's name of an element type (and int4) -> TensorType's."""


@dataclass(frozen=True, eq=False)
class Quant:
    """real = (stored - zero_point) * scale. float32 [1] or [channels along `axis`]; zero points int64, one for each scale."""

    scale: Array
    zero_point: Array
    axis: int = 0

    @classmethod
    def of(cls, scale: Any, zero_point: Any = 0, axis: int = 0) -> Quant:
        s = np.atleast_1d(np.asarray(scale, np.float32))
        # XNNPACK takes no tensor with one scale whose quantized_dimension is not 0 (measured with ai-edge-litert 2.3.0).
        return cls(s, np.array(np.broadcast_to(np.asarray(zero_point, np.int64), s.shape)), axis if s.size > 1 else 0)

    @property
    def per_tensor(self) -> bool:
        return self.scale.size == 1

    def same(self, other: Quant | None) -> bool:
        """Whether both store the same real as the same number."""
        return (
            other is not None
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
            and (self.per_tensor or self.axis == other.axis)
        )


@dataclass(eq=False)
class Tensor:
    """A value of a subgraph. `dtype` as in `DTYPES`; `data` of constants only (int4: one int8 per element, in -8..7)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quant: Quant | None = None
    data: Array | None = None
    is_variable: bool = False
    """State that outlives an invocation, zero at first (LSTM)."""
    shape_signature: tuple[int, ...] | None = None
    """The shape with -1 for what is not known before a run; only files of others have it."""

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file or the arena."""
        n = math.prod(self.shape)
        return (n + 1) // 2 if self.dtype == "int4" else n * np.dtype(self.dtype).itemsize


@dataclass(eq=False)
class Operator:
    """`op`: a name of BuiltinOperator. `inputs` may hold None where the op allows. `options`: fields of its options table."""

    op: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    """Name of the ONNX node it was made for; not in the file."""
    intermediates: list[Tensor] = field(default_factory=list)
    """Tensors that only carry quantisation, of values inside the operator (integer LSTM)."""


@dataclass(eq=False)
class SubGraph:
    """Operators in execution order. Every tensor they or the interface name is written, no other."""

    name: str = "main"
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)

    def tensors(self) -> Iterator[Tensor]:
        """Each tensor once: inputs, then as operators name them, then outputs."""
        seen: set[int] = set()
        groups: list[Sequence[Tensor | None]] = [self.inputs]
        for o in self.operators:
            groups += [o.inputs, o.outputs, o.intermediates]
        groups.append(self.outputs)
        for group in groups:
            for t in group:
                if t is not None and id(t) not in seen:
                    seen.add(id(t))
                    yield t


@dataclass(eq=False)
class TfliteModel:
    """`subgraphs[0]` is the model; others are bodies of WHILE and IF. `metadata`: name -> bytes, as the schema's Metadata."""

    subgraphs: list[SubGraph]
    input_names: Sequence[str] = ()
    """Names of the signature's inputs: those of the ONNX model, in the order of subgraphs[0].inputs."""
    output_names: Sequence[str] = ()
    description: str = ""
    metadata: dict[str, bytes] = field(default_factory=dict)

    @property
    def main(self) -> SubGraph:
        return self.subgraphs[0]
