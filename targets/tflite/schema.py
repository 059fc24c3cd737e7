"""The .tflite format, for the writer and the reader: what each table's fields are and where they lie.

Read from the texts of `schema_tables`, `schema_options` and `schema_metadata`; nothing else knows a slot number or an enumeration's value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgec.targets.tflite import schema_metadata, schema_options, schema_tables

IDENTIFIER = b"TFL3"
"""Bytes 4..8 of every .tflite file."""

VERSION = 3
"""Of the schema; the root table says it."""

ALIGNMENT = 16
"""Of the bytes of every buffer (schema.fbs: force_align), from the start of the file."""

SCALARS: Mapping[str, str] = {
    "bool": "?", "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q",
    "uint64": "Q", "float32": "f",
}  # fmt: skip
"""Scalar kinds and their `struct` codes, little-endian."""


@dataclass(frozen=True, slots=True)
class Enum:
    """An enumeration: `values` by name, `names` by value, kept in the file as scalar `storage`."""

    name: str
    storage: str
    values: Mapping[str, int]
    names: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a table. `kind` names a scalar, "string", an enumeration, a union or a table; `vector`: many of it.

    A union's type lies in the slot before its own. `default` is what an absent scalar means.
    """

    name: str
    slot: int
    kind: str
    vector: bool = False
    default: int | float | bool = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A table's fields by name, in the order of their slots; `slots` counts those no longer used too."""

    name: str
    fields: Mapping[str, Field]
    slots: int


def _entries(text: str) -> Iterator[tuple[str, list[str]]]:
    """(first word, the rest) of every entry; a line that begins with a space continues the one before."""
    for entry in text.strip().replace("\n ", " ").splitlines():
        name, *rest = entry.split()
        yield name, rest


def _enum(head: str, names: list[str]) -> Enum:
    name, storage = head.split(":")
    values = {n: i for i, n in enumerate(names)}
    return Enum(name, storage, values, {i: n for n, i in values.items()})


def _default(kind: str, text: str) -> int | float | bool:
    if kind == "float32":
        return float(text or 0)
    if kind == "bool":
        return text == "true"
    if kind in ENUMS:
        return ENUMS[kind].values[text] if text else 0
    return int(text or 0)


def _table(name: str, words: list[str]) -> Table:
    fields: dict[str, Field] = {}
    slot = 0
    for word in words:
        if word != "-":
            field, _, kind = word.partition(":")
            kind, _, default = kind.partition("=")
            vector = kind.startswith("[")
            kind = kind.strip("[]")
            slot += kind in UNIONS
            fields[field] = Field(field, slot, kind, vector, _default(kind, default))
        slot += 1
    return Table(name, fields, slot)


_operators = list(_entries(schema_options.OPERATORS))
_options = {
    "BuiltinOptions": list(_entries(schema_options.BUILTIN_OPTIONS)),
    "BuiltinOptions2": list(_entries(schema_options.BUILTIN_OPTIONS_2)),
}

ENUMS: Mapping[str, Enum] = {
    e.name: e
    for e in (
        _enum("BuiltinOperator:int32", [name for name, _ in _operators]),
        *(_enum(*e) for module in (schema_tables, schema_metadata) for e in _entries(module.ENUMS)),
    )
}
"""Enumerations by name."""

UNIONS: Mapping[str, tuple[str, ...]] = {
    **{name: tuple(m) for module in (schema_tables, schema_metadata) for name, m in _entries(module.UNIONS)},
    **{union: tuple(name for name, _ in tables) for union, tables in _options.items()},
}
"""Unions by name: the tables that their types 1, 2, 3... stand for."""

TABLES: Mapping[str, Table] = {
    name: _table(name, words)
    for text in (_entries(schema_tables.TABLES), _entries(schema_metadata.TABLES), *_options.values())
    for name, words in text
}
"""Tables by name."""

OPTIONS: Mapping[str, str | None] = {name: (rest[0] if rest else None) for name, rest in _operators}
"""Name of BuiltinOperator -> name of its options table; None where it has none."""

OPTIONS_UNION: Mapping[str, str] = {table: union for union, tables in _options.items() for table, _ in tables}
"""Name of an options table -> the union it belongs to."""


def storage(kind: str) -> str:
    """The scalar an enumeration is kept as, or the scalar itself."""
    return ENUMS[kind].storage if kind in ENUMS else kind
