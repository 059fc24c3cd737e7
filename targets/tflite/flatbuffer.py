"""Tables of the schema into flatbuffer bytes.

Values are dicts of a table's fields, with the names of `schema`; enumerations by name or number; a union's value is a
pair (name of the table, dict); bytes and NumPy arrays may stand for vectors of scalars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np

from edgec.targets.tflite import schema
from edgec.targets.tflite.schema import Field


class Deferred:
    """A vector (4 bytes of reference) or a 64-bit number that is known only when the flatbuffer's length is."""

    __slots__ = ("key",)

    def __init__(self, key: int) -> None:
        self.key = key


class Builder:
    """Builds tables from the last to the first, as flatbuffers are. Equal strings are kept once."""

    def __init__(self) -> None:
        self._b = flatbuffers.Builder(1 << 16)
        self._strings: dict[str, int] = {}
        self._deferred: list[tuple[int, int]] = []

    def table(self, name: str, values: Mapping[str, Any]) -> int:
        """Write a table and what it refers to; fields that are None, or a scalar's default, are left out."""
        table = schema.TABLES[name]
        ready: list[tuple[Field, Any, str]] = []
        for key, value in values.items():
            field = table.fields.get(key)
            if field is None:
                raise ValueError(f"{name} has no field {key!r}")
            if value is None:
                continue
            ready += self._prepare(field, value)
        b = self._b
        b.StartObject(table.slots)
        for field, value, kind in ready:
            if kind == "offset":
                b.PrependUOffsetTRelativeSlot(field.slot, value, 0)
            elif kind == "deferred":
                # A placeholder; the caller of `finish` replaces it.
                (b.PrependUint32Slot if field.vector else b.PrependUint64Slot)(field.slot, 1, 0)
                self._deferred.append((value, b.Offset()))
            elif kind == "type":
                b.PrependUint8Slot(field.slot - 1, value, 0)
            else:
                getattr(b, f"Prepend{kind.capitalize()}Slot")(field.slot, value, field.default)
        return int(b.EndObject())

    def _prepare(self, field: Field, value: Any) -> list[tuple[Field, Any, str]]:
        """(field, what to put into its slot, how); what lies outside of the table is written on the way."""
        kind = field.kind
        if isinstance(value, Deferred):
            return [(field, value.key, "deferred")]
        if field.vector:
            return [(field, self._vector(kind, value), "offset")]
        if kind == "string":
            return [(field, self._string(value), "offset")]
        if kind in schema.UNIONS:
            member, fields = value
            number = schema.UNIONS[kind].index(member) + 1
            return [(field, number, "type"), (field, self.table(member, fields), "offset")]
        if kind in schema.TABLES:
            return [(field, self.table(kind, value), "offset")]
        return [(field, _scalar(kind, value), schema.storage(kind))]

    def _vector(self, kind: str, value: Any) -> int:
        if kind == "string":
            return self._offsets([self._string(v) for v in value])
        if kind in schema.TABLES:
            return self._offsets([self.table(kind, v) for v in value])
        dtype = np.dtype(schema.SCALARS[schema.storage(kind)])
        array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value, dtype)
        return int(self._b.CreateNumpyVector(np.ascontiguousarray(array.reshape(-1))))

    def _offsets(self, offsets: Sequence[int]) -> int:
        self._b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._b.PrependUOffsetTRelative(offset)
        return int(self._b.EndVector())

    def _string(self, text: str) -> int:
        if text not in self._strings:
            self._strings[text] = int(self._b.CreateString(text))
        return self._strings[text]

    def finish(self, root: int, identifier: bytes, alignment: int) -> tuple[bytearray, list[tuple[int, int]]]:
        """The flatbuffer, a multiple of `alignment` long, and (key, position) of every deferred field."""
        self._b.Prep(alignment, 0)
        self._b.Finish(root, file_identifier=identifier)
        data = self._b.Output()
        return data, [(key, len(data) - back) for key, back in self._deferred]


def _scalar(kind: str, value: Any) -> int | float | bool:
    """A scalar as the builder takes it. ValueError for a name or a number that the kind does not have."""
    if kind in schema.ENUMS:
        enum = schema.ENUMS[kind]
        if isinstance(value, str):
            if value not in enum.values:
                raise ValueError(f"{kind} has no value {value!r}")
            return enum.values[value]
        return int(value)
    if kind == "float32":
        return float(value)
    if kind == "bool":
        return bool(value)
    return int(value)
