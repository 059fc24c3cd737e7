"""A TfliteModel out of the bytes of a .tflite file, of edgec or of others.

Constants are views of the file. What a model does not hold is left out: tensors that nothing names, versions of
operators (the writer finds them again), recorded minima and maxima. What would change its meaning is refused (EC0652).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgec.diagnostics import Location, error
from edgec.targets.tflite import schema
from edgec.targets.tflite.flatbuffer_reader import Bytes, Malformed, TableView
from edgec.targets.tflite.model import DTYPES, Array, Operator, Quant, SubGraph, Tensor, TfliteModel

_DTYPE_NAMES = {tensor_type: name for name, tensor_type in DTYPES.items()}


class _Unsupported(Exception):
    """A part of the format that `model` has no place for."""


def read(source: bytes | Path) -> TfliteModel:
    """Read a model. EC0651 when it is not one or is damaged, EC0652 when it uses what edgec does not know.

    Options are complete: scalars left out in the file have the schema's default. Element types outside of `DTYPES` are
    the schema's names in lower case ("string", "bfloat16"), with the bytes of the file as their constants' data.
    """
    data = source if isinstance(source, bytes) else source.read_bytes()
    where = Location(None if isinstance(source, bytes) else str(source))
    try:
        return _Reader(data).model()
    except Malformed as e:
        raise error("EC0651", f"cannot read the .tflite file: {e}", where, "convert the model again") from e
    except _Unsupported as e:
        raise error("EC0652", f"edgec cannot hold what this .tflite file says: {e}", where) from e


class _Reader:
    def __init__(self, data: bytes) -> None:
        if len(data) < 8 or data[4:8] != schema.IDENTIFIER:
            raise Malformed("it is not a .tflite file: it does not have TFL3 at byte 4")
        self.bytes = Bytes(data)
        self.root = self.bytes.root("Model")
        version = self.root.get("version")
        if version != schema.VERSION:
            raise Malformed(f"it has version {version} of the format, not {schema.VERSION}")
        self.buffers: list[TableView] = self.root.get("buffers") or []
        self.codes = [_operator_code(c) for c in self.root.get("operator_codes") or []]

    def model(self) -> TfliteModel:
        subgraphs = []
        all_tensors = []
        for table in self.root.get("subgraphs") or []:
            graph, tensors = self.subgraph(table)
            subgraphs.append(graph)
            all_tensors.append(tensors)
        if not subgraphs:
            raise Malformed("it has no subgraph")
        inputs, outputs = self.signature(subgraphs[0], all_tensors[0])
        return TfliteModel(subgraphs, inputs, outputs, self.root.get("description") or "", self.metadata())

    def metadata(self) -> dict[str, bytes]:
        result: dict[str, bytes] = {}
        for entry in self.root.get("metadata") or []:
            name = entry.get("name") or ""
            data = self.buffer(entry.get("buffer"), f"metadata {name!r}")
            size = 0 if data is None else data.nbytes
            self.bytes.spend(size, f"metadata {name!r}")
            result[name] = b"" if data is None else data.tobytes()
        return result

    def signature(self, graph: SubGraph, tensors: Sequence[Tensor]) -> tuple[list[str], list[str]]:
        """Names of the first complete signature of subgraph 0, in the order of its inputs and outputs; empty without one."""
        for entry in self.root.get("signature_defs") or []:
            if entry.get("subgraph_index") == 0:
                inputs = _names(entry.get("inputs") or [], tensors, graph.inputs)
                outputs = _names(entry.get("outputs") or [], tensors, graph.outputs)
                if inputs is not None and outputs is not None:
                    return inputs, outputs
        return [], []

    def subgraph(self, table: TableView) -> tuple[SubGraph, list[Tensor]]:
        name = table.get("name") or ""
        tensors = [self.tensor(t, i) for i, t in enumerate(table.get("tensors") or [])]

        def pick(indices: Any, what: str) -> list[Tensor]:
            return [_at(tensors, int(i), what) for i in ([] if indices is None else indices)]

        operators = [self.operator(o, tensors, i) for i, o in enumerate(table.get("operators") or [])]
        where = f"subgraph {name!r}"
        inputs, outputs = (pick(table.get(f), f"{where}, {f}") for f in ("inputs", "outputs"))
        return SubGraph(name, inputs, outputs, operators), tensors

    def tensor(self, table: TableView, number: int) -> Tensor:
        name = table.get("name") or ""
        what = f"tensor {number} ({name!r})"
        if table.has("sparsity"):
            raise _Unsupported(f"{what} has sparsity")
        if table.get("variant_tensors"):
            raise _Unsupported(f"{what} has variant tensors")
        if table.get("external_buffer"):
            raise _Unsupported(f"{what} lies in another file")
        shape = _integers(table.get("shape"))
        if any(d < 0 for d in shape):
            raise Malformed(f"{what} has shape {shape}")
        kind = table.get("type")
        if not isinstance(kind, str):
            raise _Unsupported(f"{what} has element type {kind}")
        dtype = _DTYPE_NAMES.get(kind, kind.lower())
        signature = table.get("shape_signature")
        data = self.buffer(table.get("buffer"), what)
        return Tensor(
            name,
            shape,
            dtype,
            _quant(table.get("quantization"), shape, what),
            None if data is None else _constant(data, dtype, shape, what),
            table.get("is_variable"),
            None if signature is None else _integers(signature),
        )

    def buffer(self, index: int, what: str) -> Array | None:
        """A buffer's bytes; None for one that has none, as buffer 0."""
        if index >= len(self.buffers):
            raise Malformed(f"{what} is in buffer {index} of {len(self.buffers)}")
        table = self.buffers[index]
        offset = table.get("offset")
        if offset > 1:  # 0 and 1 say that the bytes are inside of the flatbuffer
            return self.bytes.view(offset, table.get("size"), what)
        return table.bytes_of("data") if index else None

    def operator(self, table: TableView, tensors: Sequence[Tensor], number: int) -> Operator:
        op, custom = _at(self.codes, table.get("opcode_index"), f"operator {number}'s code")
        what = f"operator {number} ({custom or op})"
        options: dict[str, Any] = {}
        if op == "CUSTOM":
            options["custom_code"] = custom
            if (data := table.get("custom_options")) is not None:
                options["custom_options"] = data.tobytes()
            if table.get("large_custom_options_offset") > 1:
                raise _Unsupported(f"{what} has its options outside of the flatbuffer")
        # Options of another table than the operator's are ignored, as the runtime does.
        for union in (table.get("builtin_options"), table.get("builtin_options_2")):
            if union is not None and union[0] == schema.OPTIONS[op]:
                options.update(union[1].fields())

        def pick(field: str) -> list[int]:
            return list(_integers(table.get(field)))

        return Operator(
            op,
            [None if i == -1 else _at(tensors, i, f"{what}, inputs") for i in pick("inputs")],
            [_at(tensors, i, f"{what}, outputs") for i in pick("outputs")],
            options,
            intermediates=[_at(tensors, i, f"{what}, intermediates") for i in pick("intermediates")],
        )


def _operator_code(table: TableView) -> tuple[str, str]:
    """(name of BuiltinOperator, code of a custom one). Old files have the number in the field of 8 bits only."""
    names = schema.ENUMS["BuiltinOperator"].names
    values = schema.ENUMS["BuiltinOperator"].values
    builtin = table.get("builtin_code")
    number = max(values.get(builtin, -1) if isinstance(builtin, str) else builtin, table.get("deprecated_builtin_code"))
    if number not in names:
        raise _Unsupported(f"operator code {number}")
    return names[number], table.get("custom_code") or ""


def _at(items: Sequence[Any], index: int, what: str) -> Any:
    if not 0 <= index < len(items):
        raise Malformed(f"{what}: index {index} of {len(items)}")
    return items[index]


def _integers(array: Array | None) -> tuple[int, ...]:
    return () if array is None else tuple(array.tolist())


def _names(entries: Sequence[TableView], tensors: Sequence[Tensor], interface: Sequence[Tensor]) -> list[str] | None:
    """The interface's names in its order; None where a signature leaves one out."""
    names = {id(_at(tensors, e.get("tensor_index"), "a signature")): e.get("name") or "" for e in entries}
    return [names[id(t)] for t in interface] if all(id(t) in names for t in interface) else None


def _quant(table: TableView | None, shape: tuple[int, ...], what: str) -> Quant | None:
    """None without scales: converters write an empty table for what is not quantised."""
    if table is None:
        return None
    details = table.get("details")
    if details is not None:
        raise _Unsupported(f"{what} has {details[0]}")
    scale, zero_point = table.get("scale"), table.get("zero_point")
    if scale is None or scale.size == 0:
        return None
    if zero_point is None or zero_point.size == 0:
        zero_point = np.zeros(scale.size, np.int64)
    if zero_point.size not in (1, scale.size):
        raise Malformed(f"{what} has {scale.size} scales and {zero_point.size} zero points")
    axis = table.get("quantized_dimension")
    if scale.size > 1 and not (0 <= axis < len(shape) and shape[axis] == scale.size):
        raise Malformed(f"{what} of shape {shape} has {scale.size} scales along axis {axis}")
    return Quant.of(scale, zero_point, axis)


def _constant(data: Array, dtype: str, shape: tuple[int, ...], what: str) -> Array | None:
    """A constant's elements, in its shape. No bytes are no constant: some converters give every tensor a buffer."""
    count = math.prod(shape)
    if data.nbytes == 0 and count:
        return None
    if dtype not in DTYPES:
        return data
    expected = (count + 1) // 2 if dtype == "int4" else count * np.dtype(dtype).itemsize
    if data.nbytes != expected:
        raise Malformed(f"{what}: {data.nbytes} bytes for shape {shape} of {dtype}, which takes {expected}")
    if dtype == "int4":
        return unpack_int4(data, count).reshape(shape)
    return data.view(np.dtype(dtype).newbyteorder("<")).reshape(shape)


def unpack_int4(data: Array, count: int) -> Array:
    """`count` elements of -8..7 as int8, from two a byte, the first in the lower half."""
    halves = np.empty(data.size * 2, np.int8)
    halves[::2] = (data << 4).view(np.int8) >> 4
    halves[1::2] = data.view(np.int8) >> 4
    return halves[:count]
