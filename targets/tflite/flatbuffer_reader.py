"""Tables of the schema out of flatbuffer bytes that nobody vouches for.

Every read is checked against the end, and all reads together against a budget: a few bytes that many offsets point to
could stand for any amount of memory. What does not hold raises `Malformed`, nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgec.targets.tflite import schema
from edgec.targets.tflite.model import Array
from edgec.targets.tflite.schema import Field


class Malformed(Exception):
    """What is wrong with the bytes, and at which of them."""


class Bytes:
    """The file. `budget`: bytes that may still be read out of tables and vectors; honest files share next to nothing."""

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.budget = 4 * len(data) + 4096

    def scalar(self, kind: str, at: int) -> Any:
        """A scalar of `schema.SCALARS` at a position."""
        code = "<" + schema.SCALARS[kind]
        self.check(at, struct.calcsize(code), f"a {kind}")
        return struct.unpack_from(code, self.data, at)[0]

    def check(self, at: int, size: int, what: str) -> None:
        if at < 0 or at + size > len(self.data):
            raise Malformed(f"{what} of {size} bytes at {at} ends behind the file's {len(self.data)} bytes")

    def spend(self, size: int, what: str) -> None:
        """Count bytes that become Python objects."""
        self.budget -= size
        if self.budget < 0:
            raise Malformed(f"{what}: its tables hold more than a file of {len(self.data)} bytes can")

    def vector(self, at: int, size: int, what: str) -> tuple[int, int]:
        """(position of the first element, count) of a vector with elements of `size` bytes."""
        count = self.scalar("uint32", at)
        self.check(at + 4, count * size, f"{what}: a vector of {count} elements")
        return at + 4, count

    def view(self, at: int, size: int, what: str) -> Array:
        """Bytes as they lie in the file, without copying."""
        self.check(at, size, what)
        return np.frombuffer(self.data[at : at + size], np.uint8)

    def root(self, table: str) -> TableView:
        return TableView(self, table, self.scalar("uint32", 0))


class TableView:
    """A table at a position. `name`: which of the schema's."""

    __slots__ = ("_at", "_bytes", "_slots", "name")

    def __init__(self, data: Bytes, name: str, at: int) -> None:
        data.spend(4, name)
        self._bytes, self.name, self._at = data, name, at
        vtable = at - data.scalar("int32", at)
        size = data.scalar("uint16", vtable)
        if size < 4 or size % 2:
            raise Malformed(f"{name} at {at}: a vtable of {size} bytes")
        data.check(vtable, size, f"{name}: a vtable")
        self._slots: tuple[int, ...] = struct.unpack_from(f"<{size // 2 - 2}H", data.data, vtable + 4)

    def has(self, field: str) -> bool:
        return self._position(self._field(field).slot) is not None

    def get(self, field: str) -> Any:
        """A field's value: scalars (default where absent), text, tables, arrays, lists; None where it is absent.

        Enumerations are names, numbers where the schema has no name; a union is (table's name, TableView).
        """
        f = self._field(field)
        at = self._position(f.slot)
        what = f"{self.name}.{field}"
        if not f.vector and f.kind in (*schema.SCALARS, *schema.ENUMS):
            value = f.default if at is None else self._bytes.scalar(schema.storage(f.kind), at)
            return schema.ENUMS[f.kind].names.get(int(value), value) if f.kind in schema.ENUMS else value
        if at is None:
            return None
        target = at + self._bytes.scalar("uint32", at)
        if f.vector:
            return self._vector(f, target, what)
        if f.kind == "string":
            return self._string(target, what)
        if f.kind in schema.UNIONS:
            return self._union(f, target, what)
        return TableView(self._bytes, f.kind, target)

    def fields(self) -> Mapping[str, Any]:
        """All scalars, defaults included, and whatever else is there; for tables of scalars, texts and their vectors."""
        values = {name: self.get(name) for name in schema.TABLES[self.name].fields}
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}
        return {k: v for k, v in plain.items() if v is not None}

    def bytes_of(self, field: str) -> Array | None:
        """A vector of bytes without copying, however long; None where it is absent."""
        at = self._position(self._field(field).slot)
        if at is None:
            return None
        what = f"{self.name}.{field}"
        start, count = self._bytes.vector(at + self._bytes.scalar("uint32", at), 1, what)
        return self._bytes.view(start, count, what)

    def _field(self, name: str) -> Field:
        return schema.TABLES[self.name].fields[name]

    def _position(self, slot: int) -> int | None:
        offset = self._slots[slot] if slot < len(self._slots) else 0
        return self._at + offset if offset else None

    def _vector(self, f: Field, at: int, what: str) -> Any:
        if f.kind == "string" or f.kind in schema.TABLES:
            start, count = self._bytes.vector(at, 4, what)
            self._bytes.spend(4 * count, what)
            places = [start + 4 * i for i in range(count)]
            targets = [p + self._bytes.scalar("uint32", p) for p in places]
            if f.kind == "string":
                return [self._string(t, what) for t in targets]
            return [TableView(self._bytes, f.kind, t) for t in targets]
        dtype = np.dtype("<" + schema.SCALARS[schema.storage(f.kind)])
        start, count = self._bytes.vector(at, dtype.itemsize, what)
        self._bytes.spend(count * dtype.itemsize, what)
        return np.frombuffer(self._bytes.data, dtype, count, start)

    def _string(self, at: int, what: str) -> str:
        start, count = self._bytes.vector(at, 1, what)
        self._bytes.spend(count, what)
        try:
            return bytes(self._bytes.data[start : start + count]).decode("utf-8")
        except UnicodeDecodeError as e:
            raise Malformed(f"{what} at {at}: not UTF-8 ({e.reason})") from e

    def _union(self, f: Field, target: int, what: str) -> tuple[str, TableView] | None:
        at = self._position(f.slot - 1)
        number = 0 if at is None else self._bytes.scalar("uint8", at)
        if number == 0:
            return None
        members = schema.UNIONS[f.kind]
        if number > len(members):
            raise Malformed(f"{what}: type {number} of {len(members)}; a newer version of the format?")
        return members[number - 1], TableView(self._bytes, members[number - 1], target)
