"""What an .rknn file says of itself: platform, versions, and where each operator runs.

Layout as observed on files of RKNN-Toolkit2 2.5.0 (288 files, 1,120 operators agreed with the compiler's own table):
64 bytes of header ("RKNN", version at 8, length of the flatbuffer at 16, little-endian), a flatbuffer, then text.
Root table: 2 is the subgraphs, 7 toolkit and compiler version, 8 platform. A subgraph: 0 tensors (5 is the name),
1 operators (1 type, 2 name, 3 where: 2 is the NPU and absent the CPU, 4 and 5 input and output tensor indices).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from edgec.diagnostics import EdgecError, Location, error

_HEADER = 64
_NPU = 2
_ABSENT = 0xFFFFFFFF
"""The tensor index of an output that nobody reads."""


@dataclass(frozen=True, slots=True)
class RknnOperator:
    """One operator of the artifact. `target` is "NPU" or "CPU"; inputs and outputs are tensor names."""

    type: str
    name: str
    target: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RknnFile:
    """`format_version` is the file format's; `version` the toolkit's own sentence, with its compiler's."""

    format_version: int
    version: str
    platform: str
    operators: tuple[RknnOperator, ...]


COMPACT_FORMAT = 0x1004
"""What rk2118, rv1103b and rv1106b take: a bare program, without a list of operators (seen in rknn-toolkit2 2.5.0)."""


def format_version(source: Path) -> int:
    """The version field of an artifact's header; EC0631 when it is not an .rknn file."""
    with source.open("rb") as f:
        head = f.read(_HEADER)
    if len(head) < _HEADER or head[:4] != b"RKNN":
        raise _bad("it is not an .rknn file", Location(str(source)))
    return int(struct.unpack_from("<I", head, 8)[0])


def read_rknn(source: Path | bytes) -> RknnFile:
    """Read an artifact; EC0631 when it is not one, is cut short, or has a layout not known here."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    where = Location(None if isinstance(source, bytes) else str(source))
    if len(data) < _HEADER or data[:4] != b"RKNN":
        raise _bad("it is not an .rknn file", where)
    format_version, length = struct.unpack_from("<I4xQ", data, 8)
    if _HEADER + length > len(data):
        raise _bad(f"it is cut short: {len(data)} bytes of at least {_HEADER + length}", where)
    try:
        buffer = _Buffer(data[_HEADER : _HEADER + length])
        root = buffer.table(buffer.u32(0))
        operators: list[RknnOperator] = []
        for subgraph in buffer.tables(root, 2):
            names = [buffer.text(t, 5) for t in buffer.tables(subgraph, 0)]
            operators += [_operator(buffer, o, names) for o in buffer.tables(subgraph, 1)]
        return RknnFile(format_version, buffer.text(root, 7), buffer.text(root, 8), tuple(operators))
    except (struct.error, IndexError, UnicodeDecodeError) as e:
        raise _bad(f"its contents are damaged or of an unknown layout: {e}", where) from e


def _operator(buffer: _Buffer, table: dict[int, int], names: list[str]) -> RknnOperator:
    target = "NPU" if 3 in table and buffer.data[table[3]] == _NPU else "CPU"
    inputs, outputs = (tuple(names[i] for i in buffer.numbers(table, f) if i != _ABSENT) for f in (4, 5))
    return RknnOperator(buffer.text(table, 1), buffer.text(table, 2), target, inputs, outputs)


class _Buffer:
    """Just enough of flatbuffers; every read is checked against the end (struct.error, IndexError)."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def u32(self, at: int) -> int:
        if at < 0:  # struct would read from the end
            raise IndexError(f"offset {at}")
        return int(struct.unpack_from("<I", self.data, at)[0])

    def table(self, at: int) -> dict[int, int]:
        """Field number -> position of its value."""
        vtable = at - int(struct.unpack_from("<i", self.data, at)[0])
        if vtable < 0 or at < 0:
            raise IndexError(f"vtable at {vtable}")
        (size,) = struct.unpack_from("<H", self.data, vtable)
        slots = struct.unpack_from(f"<{max(0, size - 4) // 2}H", self.data, vtable + 4)
        return {i: at + slot for i, slot in enumerate(slots) if slot}

    def _follow(self, at: int) -> int:
        return at + self.u32(at)

    def _vector(self, table: dict[int, int], field: int) -> tuple[int, int]:
        """(position of the first element, count); elements are four bytes or more each."""
        if field not in table:
            return 0, 0
        start = self._follow(table[field])
        count = self.u32(start)
        if start + 4 + 4 * count > len(self.data):
            raise IndexError(f"a vector of {count} elements does not fit")
        return start + 4, count

    def tables(self, table: dict[int, int], field: int) -> list[dict[int, int]]:
        start, count = self._vector(table, field)
        return [self.table(self._follow(start + 4 * i)) for i in range(count)]

    def numbers(self, table: dict[int, int], field: int) -> tuple[int, ...]:
        start, count = self._vector(table, field)
        return struct.unpack_from(f"<{count}I", self.data, start)

    def text(self, table: dict[int, int], field: int) -> str:
        if field not in table:
            return ""
        at = self._follow(table[field])
        size = self.u32(at)
        if at + 4 + size > len(self.data):
            raise IndexError(f"a text of {size} bytes does not fit")
        return self.data[at + 4 : at + 4 + size].decode("utf-8")


def _bad(what: str, where: Location) -> EdgecError:
    return error("EC0631", f"cannot read the RKNN artifact: {what}", where, "compile it again")
