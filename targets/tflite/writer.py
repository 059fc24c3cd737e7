"""A TfliteModel as the bytes of a .tflite file.

The file is a flatbuffer (tables, names, shapes) with the constants behind it, each at a multiple of 16 bytes, as the
schema's force_align asks and microcontrollers need. Constants are copied once, into the file. Over 2 GB a flatbuffer's
offsets end: the large form keeps the constants outside of it (schema.fbs: Buffer.offset and Buffer.size).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgec.diagnostics import error
from edgec.targets.tflite import schema, versions
from edgec.targets.tflite.flatbuffer import Builder, Deferred
from edgec.targets.tflite.model import DTYPES, Array, Operator, Quant, SubGraph, Tensor, TfliteModel

SIGNATURE = "serving_default"
"""Name of the one signature, as TensorFlow's own converter calls it."""

LIMIT = 2**31 - 1
"""Bytes a flatbuffer may have: readers take offsets as signed 32-bit numbers."""

_MIN_RUNTIME_VERSION = "min_runtime_version"


def write(model: TfliteModel, *, large: bool = False) -> bytes:
    """The file's bytes; the same model always gives the same bytes. EC0650 when it does not fit the form.

    `large`: constants outside of the flatbuffer, for models over 2 GB; LiteRT reads it, tflite-micro and Vela do not.
    """
    return b"".join(pieces(model, large=large))


def pieces(model: TfliteModel, *, large: bool = False) -> list[Any]:
    """The file in consecutive parts (bytes and views of the constants), for writing without another copy."""
    return _Writer(large).pieces(model)


class _Writer:
    def __init__(self, large: bool) -> None:
        self.large = large
        self.builder = Builder()
        self.constants = _Constants()
        self.codes: dict[tuple[str, str, int], int] = {}

    def pieces(self, model: TfliteModel) -> list[Any]:
        indices = [{id(t): i for i, t in enumerate(g.tensors())} for g in model.subgraphs]
        subgraphs = [self.subgraph(g, index) for g, index in zip(model.subgraphs, indices, strict=True)]
        metadata = dict(model.metadata)
        used = [(op, version) for op, _, version in self.codes]
        metadata[_MIN_RUNTIME_VERSION] = versions.min_runtime_version(used).encode().ljust(16, b"\0")
        root = self.builder.table(
            "Model",
            {
                "version": schema.VERSION,
                "operator_codes": [_operator_code(*key) for key in self.codes],
                "subgraphs": subgraphs,
                "description": model.description or None,
                "metadata": [
                    {"name": name, "buffer": self.constants.add(np.frombuffer(data, np.uint8))}
                    for name, data in metadata.items()
                ],
                "signature_defs": _signatures(model, indices[0]) or None,
                "buffers": self.buffers(),
            },
        )
        head, references = self.builder.finish(root, schema.IDENTIFIER, schema.ALIGNMENT)
        return self.lay_out(head, references)

    def subgraph(self, graph: SubGraph, index: dict[int, int]) -> dict[str, Any]:
        names: set[str] = set()
        return {
            "tensors": [self.tensor(t, _unique(t.name, names)) for t in graph.tensors()],
            "inputs": [index[id(t)] for t in graph.inputs],
            "outputs": [index[id(t)] for t in graph.outputs],
            "operators": [self.operator(o, index) for o in graph.operators],
            "name": graph.name,
        }

    def tensor(self, t: Tensor, name: str) -> dict[str, Any]:
        return {
            "shape": t.shape,
            "type": DTYPES.get(t.dtype, t.dtype.upper()),
            "buffer": 0 if t.data is None else self.constants.add(_stored(t, t.data)),
            "name": name,
            "quantization": None if t.quant is None else _quantization(t.quant),
            "is_variable": t.is_variable,
            "shape_signature": t.shape_signature,
            "has_rank": True,
        }

    def operator(self, o: Operator, index: dict[int, int]) -> dict[str, Any]:
        options = dict(o.options)
        code = (o.op, options.pop("custom_code", ""), versions.op_version(o))
        custom = options.pop("custom_options", None)
        table = schema.OPTIONS[o.op]
        if options and table is None:
            raise ValueError(f"{o.op} takes no options, but has {sorted(options)}")
        fields: dict[str, Any] = {
            "opcode_index": self.codes.setdefault(code, len(self.codes)),
            "inputs": [-1 if t is None else index[id(t)] for t in o.inputs],
            "outputs": [index[id(t)] for t in o.outputs],
            "custom_options": custom,
            "intermediates": [index[id(t)] for t in o.intermediates] or None,
        }
        if table is not None:
            union = "builtin_options" if schema.OPTIONS_UNION[table] == "BuiltinOptions" else "builtin_options_2"
            fields[union] = (table, options)
        return fields

    def buffers(self) -> list[dict[str, Any]]:
        """Buffer 0 is the empty one; every other refers to its constant, which `lay_out` places."""
        tables: list[dict[str, Any]] = [{}]
        for key, data in enumerate(self.constants.arrays):
            if self.large:
                # Any offset over 1 says "outside"; the true one is known once the flatbuffer's length is.
                tables.append({"offset": Deferred(key), "size": data.nbytes})
            else:
                tables.append({"data": Deferred(key)})
        return tables

    def lay_out(self, head: bytearray, references: list[tuple[int, int]]) -> list[Any]:
        """The constants behind the flatbuffer, and the references to them."""
        parts: list[Any] = [head]
        end = len(head)
        starts: list[int] = []
        for data in self.constants.arrays:
            prefix = b"" if self.large else struct.pack("<I", data.nbytes)
            padding = -(end + len(prefix)) % schema.ALIGNMENT
            starts.append(end + padding)
            parts += [bytes(padding) + prefix, data.data]
            end += padding + len(prefix) + data.nbytes
        if end > LIMIT and not self.large:
            raise error(
                "EC0650", f"the model takes {end:,} bytes and a .tflite file in its usual form holds {LIMIT:,}",
                hint="--option large=true writes the large form, which LiteRT alone reads; or quantise the weights",
            )  # fmt: skip
        for key, at in references:
            if self.large:
                struct.pack_into("<Q", head, at, starts[key])
            else:
                struct.pack_into("<I", head, at, starts[key] - at)
        return parts


class _Constants:
    """The contents of buffers 1, 2, 3...; equal ones are kept once."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self._alike: dict[tuple[int, bytes, bytes], list[int]] = {}

    def add(self, data: Array) -> int:
        """The number of the buffer that holds these bytes (a flat uint8 array)."""
        key = (data.nbytes, data[:64].tobytes(), data[-64:].tobytes())
        alike = self._alike.setdefault(key, [])
        for i in alike:
            if np.array_equal(self.arrays[i], data):
                return i + 1
        alike.append(len(self.arrays))
        self.arrays.append(data)
        return len(self.arrays)


def _stored(t: Tensor, data: Array) -> Array:
    """The bytes of a constant as they are in the file, flat; a view where that is possible."""
    if t.dtype == "int4":
        return pack_int4(data)
    dtype = np.dtype(t.dtype) if t.dtype in DTYPES else np.dtype(np.uint8)
    array = np.ascontiguousarray(data, dtype.newbyteorder("<"))
    if t.dtype in DTYPES and array.size != int(np.prod(t.shape, dtype=np.int64)):
        raise ValueError(f"tensor {t.name!r} has shape {t.shape} and {array.size} elements")
    return array.reshape(-1).view(np.uint8)


def pack_int4(data: Array) -> Array:
    """Two elements of -8..7 a byte, the first in the lower half; the last half of an odd number is zero."""
    low = np.ascontiguousarray(data).reshape(-1).astype(np.uint8) & 0xF
    packed = low[::2].copy()
    packed[: low.size // 2] |= low[1::2] << 4
    return packed


def _quantization(q: Quant) -> dict[str, Any]:
    return {"scale": q.scale, "zero_point": q.zero_point, "quantized_dimension": q.axis}


def _operator_code(op: str, custom: str, version: int) -> dict[str, Any]:
    """The code lies in two fields: old readers know the one of 8 bits, which says 127 for operators they cannot know."""
    code = schema.ENUMS["BuiltinOperator"].values[op]
    return {
        "deprecated_builtin_code": min(code, 127),
        "custom_code": custom or None,
        "version": version,
        "builtin_code": code,
    }


def _signatures(model: TfliteModel, index: dict[int, int]) -> list[dict[str, Any]]:
    if not model.input_names and not model.output_names:
        return []

    def entries(names: Any, tensors: list[Tensor]) -> list[dict[str, Any]]:
        return [{"name": n, "tensor_index": index[id(t)]} for n, t in zip(names, tensors, strict=True)]

    return [
        {
            "signature_key": SIGNATURE,
            "inputs": entries(model.input_names, model.main.inputs),
            "outputs": entries(model.output_names, model.main.outputs),
            "subgraph_index": 0,
        }
    ]


def _unique(name: str, taken: set[str]) -> str:
    """The name, or with the first free number behind it; tools take two tensors of one name for one."""

    def candidates() -> Iterator[str]:
        yield name
        i = 2
        while True:
            yield f"{name}_{i}"
            i += 1

    free = next(c for c in candidates() if c not in taken)
    taken.add(free)
    return free
