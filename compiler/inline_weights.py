"""Large weights inside a model file, read once: the protobuf library would hold them two times over while parsing.

The wire format (https://protobuf.dev/programming-guides/encoding) is walked down to `ModelProto.graph.initializer[i]
.raw_data`; what is left without those bytes is a small protobuf for the library to parse.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

MIN_FILE_BYTES = 16 << 20
"""Smaller files are parsed as they are."""

MIN_WEIGHT_BYTES = 4096

_LIFTED_TYPES = frozenset({
    TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32,
    TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT32,
    TensorProto.UINT64, TensorProto.BFLOAT16,
})  # fmt: skip
"""Types of whole bytes. Strings have no raw bytes, and 4-bit weights are unpacked by the library."""

_GRAPH = 7  # ModelProto.graph
_INITIALIZER = 5  # GraphProto.initializer
_DATA_TYPE, _RAW_DATA, _DATA_LOCATION = 2, 9, 14  # TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Span = tuple[int, int]
Weights = dict[int, npt.NDArray[np.uint8]]
"""Position in the list of initializers -> its bytes."""


class _Malformed(Exception):
    """Not the wire format we know; the protobuf library says what is wrong."""


def split(data: mmap.mmap, file: io.BufferedReader) -> tuple[bytes, Weights] | None:
    """The serialised model without the raw bytes of its large weights, and those weights, each read once from `file`.

    None if there is nothing to gain or the bytes are not a plain protobuf: parse the whole file then.
    """
    try:
        structure, spans = _without_weights(data)
    except _Malformed:
        return None
    if not spans:
        return None
    weights: Weights = {}
    for i, (start, end) in spans.items():
        buffer = np.empty(end - start, np.uint8)
        file.seek(start)
        if file.readinto(buffer.data) != end - start:
            return None  # the file shrank meanwhile
        buffer.flags.writeable = False
        weights[i] = buffer
    return structure, weights


def _without_weights(data: mmap.mmap) -> tuple[bytes, dict[int, Span]]:
    pieces: list[bytes] = []
    spans: dict[int, Span] = {}
    count = 0
    for start, number, body, end in _fields(data, 0, len(data)):
        if number != _GRAPH or body is None:
            pieces.append(data[start:end])
            continue
        graph: list[bytes] = []
        for s, n, b, e in _fields(data, body, end):
            if n != _INITIALIZER or b is None:
                graph.append(data[s:e])
                continue
            raw = _raw_data(data, b, e)
            if raw is None:
                graph.append(data[s:e])
            else:
                (tag, first, last) = raw
                spans[count] = (first, last)
                tensor = data[b:tag] + data[last:e]
                graph.append(_header(_INITIALIZER, len(tensor)) + tensor)
            count += 1
        inner = b"".join(graph)
        pieces += [_header(_GRAPH, len(inner)), inner]
    return b"".join(pieces), spans


def _raw_data(data: mmap.mmap, start: int, end: int) -> tuple[int, int, int] | None:
    """(tag, first byte, end) of a tensor's raw data if it is large, the only one, and not overruled by other fields."""
    found: list[tuple[int, int, int]] = []
    data_type = 0
    for s, number, body, e in _fields(data, start, end):
        if number == _RAW_DATA and body is not None:
            found.append((s, body, e))
        elif number == _DATA_TYPE:
            data_type = _varint(data, _varint(data, s, e)[1], e)[0]
        elif number == _DATA_LOCATION:
            return None
    if len(found) != 1 or found[0][2] - found[0][1] < MIN_WEIGHT_BYTES or data_type not in _LIFTED_TYPES:
        return None
    return found[0]


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int | None, int]]:
    """(start, field number, first byte of the contents if it is a byte field, end) of every field of a message."""
    while at < end:
        start = at
        tag, at = _varint(data, at, end)
        kind, body = tag & 7, None
        if kind == _BYTES:
            length, body = _varint(data, at, end)
            at = body + length
        elif kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise _Malformed  # groups, which ONNX never had
        if at > end or tag >> 3 == 0:
            raise _Malformed
        yield start, tag >> 3, body, at


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _Malformed


def _header(number: int, length: int) -> bytes:
    out = bytearray([number << 3 | _BYTES])
    while length > 127:
        out.append(length & 127 | 128)
        length >>= 7
    out.append(length)
    return bytes(out)
