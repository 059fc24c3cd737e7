"""The model file of a package, read without coremltools: what `edgec inspect` shows.

Protocol Buffers' wire format (https://protobuf.dev/programming-guides/encoding) of Core ML's public schema (Model.proto, MIL.proto),
by field numbers. Nothing is decoded that is not shown; weights stay where they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MODEL = Path("Data", "com.apple.CoreML", "model.mlmodel")
_LIMIT = 1 << 31
"""Protocol Buffers' own limit of a message."""

_SYSTEMS = {6: "iOS15", 7: "iOS16", 8: "iOS17", 9: "iOS18", 10: "iOS26"}

_KINDS = {200: "a pipeline classifier", 201: "a pipeline regressor", 202: "a pipeline", 500: "a neural network",
          403: "a neural network classifier", 303: "a neural network regressor", 502: "an ML Program"}  # fmt: skip

_TYPES = {
    1: "bool", 2: "string", 10: "fp16", 11: "fp32", 12: "fp64", 13: "bf16", 21: "int8", 22: "int16", 23: "int32", 24: "int64",
    25: "int4", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4", 36: "uint2", 37: "uint1", 38: "uint6",
    39: "uint3",
}  # fmt: skip

_ARRAYS = {65568: "fp32", 65600: "fp64", 131104: "int32", 131080: "int8", 65552: "fp16"}
_COLOURS = {10: "grayscale", 20: "RGB", 30: "BGR", 40: "grayscale fp16"}


_SHOWN = 8


class Malformed(ValueError):
    """The bytes are no such message."""


Fields = Mapping[int, Sequence["int | bytes"]]


@dataclass(frozen=True)
class Feature:
    """An input, output or state. `shape`: of its default; `about`: its type in words."""

    name: str
    about: str
    description: str = ""


@dataclass(frozen=True)
class OperationText:
    """One operation: its type, names of what it writes with their types, names of what it reads. `value`: of a constant in
    the file itself, shortened."""

    type: str
    outputs: Sequence[tuple[str, str]]
    inputs: Mapping[str, Sequence[str]]
    value: str | None = None


@dataclass
class ModelText:
    """What is in the file. `functions`: the operations of each, in order, those in blocks behind their owner."""

    version: int
    kind: str
    inputs: list[Feature] = field(default_factory=list)
    outputs: list[Feature] = field(default_factory=list)
    states: list[Feature] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    functions: dict[str, list[OperationText]] = field(default_factory=dict)

    @property
    def system(self) -> str:
        return _SYSTEMS.get(self.version, f"specification version {self.version}")


def read_model(path: Path) -> ModelText:
    """The model file.

    Raises:
        Malformed: it is none, or cut off.
        OSError: it cannot be read.
    """
    if path.stat().st_size >= _LIMIT:
        raise Malformed("it has more than 2 GiB")
    top = _fields(path.read_bytes())
    kinds = [_KINDS.get(n, f"a model of kind {n}") for n in top if n >= 200 and n not in (100, 2000)]
    if 1 not in top or not kinds:
        raise Malformed("it has no specification version, or no model")
    model = ModelText(_int(top, 1), kinds[0])
    description = _message(top, 2)
    model.inputs = [_feature(f) for f in _messages(description, 1)]
    model.outputs = [_feature(f) for f in _messages(description, 10)]
    model.states = [_feature(f) for f in _messages(description, 13)]
    told = _message(description, 100)
    for number, key in ((1, "description"), (2, "version"), (3, "author"), (4, "license")):
        if _text(told, number):
            model.metadata[key] = _text(told, number)
    model.metadata.update({_text(e, 1): _text(e, 2) for e in _messages(told, 100)})
    if 502 in top:
        for entry in _messages(_message(top, 502), 2):
            blocks = _messages(_message(entry, 2), 3)
            model.functions[_text(entry, 1)] = [o for b in blocks for o in _operations(_message(b, 2))]
    return model


def _operations(block: Fields, depth: int = 0) -> Iterator[OperationText]:
    if depth > 32:
        raise Malformed("blocks inside blocks without end")
    for o in _messages(block, 3):
        outputs = [(_text(v, 1), _value_type(_message(v, 2))) for v in _messages(o, 3)]
        inputs = {_text(e, 1): [_binding(b) for b in _messages(_message(e, 2), 1)] for e in _messages(o, 2)}
        attributes = {_text(e, 1): _message(e, 2) for e in _messages(o, 5)}
        yield OperationText(_text(o, 1), outputs, inputs, _value(attributes["val"]) if "val" in attributes else None)
        for inner in _messages(o, 4):
            yield from _operations(inner, depth + 1)


def _binding(b: Fields) -> str:
    if 1 in b:
        return _text(b, 1)
    value = _message(b, 2)
    return _value(value) or _value_type(_message(value, 2))


def _value(value: Fields) -> str | None:
    """Numbers and texts in the file itself; None for those in the weights."""
    if 3 not in value:
        return None
    tensor = _message(_message(value, 3), 1)
    found: list[str] = []
    for number, kind in ((1, "<f"), (6, "<d")):  # floats, doubles: packed
        for packed in (v for m in _messages(tensor, number) for v in m.get(1, ()) if isinstance(v, bytes)):
            whole = len(packed) // struct.calcsize(kind) * struct.calcsize(kind)
            found += [f"{x[0]:g}" for x in struct.iter_unpack(kind, packed[:whole])]
    for number in (2, 3, 5):  # integers, bools, long integers
        found += [str(_signed(i)) for m in _messages(tensor, number) for i in _ints(m, 1)]
    for m in _messages(tensor, 4):
        found += [f'"{v.decode("utf-8", "replace")}"' for v in m.get(1, ()) if isinstance(v, bytes)]
    for m in _messages(tensor, 7):
        found += [f"0x{v.hex()}" for v in m.get(1, ()) if isinstance(v, bytes)]
    shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    return shown if len(found) == 1 else f"[{shown}]"


def _signed(value: int) -> int:
    """Negative integers are written in two's complement of 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def _value_type(t: Fields) -> str:
    if 1 not in t:
        return {2: "list", 3: "tuple", 4: "dictionary", 5: "state"}.get(next(iter(t), 0), "?")
    tensor = _message(t, 1)
    dims = [str(_int(_message(d, 1), 1)) if 1 in d else "?" for d in _messages(tensor, 3)]
    return f"{_TYPES.get(_int(tensor, 1), '?')}[{','.join(dims)}]"


def _feature(f: Fields) -> Feature:
    kind = _message(f, 3)
    about = "?"
    if 5 in kind:
        about = _array(_message(kind, 5))
    elif 4 in kind:
        image = _message(kind, 4)
        about = f"image {_COLOURS.get(_int(image, 3), '?')} {_int(image, 1)}x{_int(image, 2)}"
    elif 8 in kind:
        about = f"state {_array(_message(_message(kind, 8), 1))}"
    else:
        about = {1: "int64", 2: "double", 3: "string", 6: "dictionary", 7: "sequence"}.get(next(iter(kind), 0), "?")
    if _int(kind, 1000):
        about += ", optional"
    return Feature(_text(f, 1), about, _text(f, 2))


def _array(a: Fields) -> str:
    shape = ",".join(map(str, _ints(a, 1)))
    more = ", enumerated shapes" if 21 in a else ", a range of shapes" if 31 in a else ""
    return f"{_ARRAYS.get(_int(a, 2), '?')}[{shape}]{more}"


# --- the wire format ----------------------------------------------------------------------------------------------------


def _fields(data: bytes) -> Fields:
    """Field number -> what it holds, in order: numbers as they are, the rest as bytes."""
    found: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise Malformed("a field without a number")
        value: int | bytes
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, at = data[at : at + size], at + size
        elif wire == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            raise Malformed(f"wire type {wire}")
        if at > len(data):
            raise Malformed("it ends in the middle of a field")
        found.setdefault(number, []).append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Malformed("it ends in the middle of a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _messages(fields: Fields, number: int) -> list[Fields]:
    return [_fields(v) for v in fields.get(number, ()) if isinstance(v, bytes)]


def _message(fields: Fields, number: int) -> Fields:
    """The last one, as Protocol Buffers has it; an empty one where there is none."""
    found = _messages(fields, number)
    return found[-1] if found else {}


def _text(fields: Fields, number: int) -> str:
    value = fields.get(number, [b""])[-1]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _int(fields: Fields, number: int) -> int:
    value = fields.get(number, [0])[-1]
    if isinstance(value, bytes):
        return int(struct.unpack("<q" if len(value) == 8 else "<i", value)[0]) if len(value) in (4, 8) else 0
    return value


def _ints(fields: Fields, number: int) -> list[int]:
    """Repeated numbers, packed or not."""
    out: list[int] = []
    for value in fields.get(number, ()):
        if isinstance(value, int):
            out.append(value)
            continue
        at = 0
        while at < len(value):
            one, at = _varint(value, at)
            out.append(one)
    return out
