"""An ML Program as edgec writes it: MIL operations in order, with names and types of their own. No SDK is needed for it.

The operations are those of coremltools' MIL (https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html);
`builder_worker.py` makes a package of a Program, `decoder_worker.py` makes a Program of a package.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Dim = int | str
"""A size, or the name of a dimension that is known at run time."""

FLOATS = ("fp16", "fp32")
NARROW = ("int4", "uint4", "int8", "uint8", "int16", "uint16")
"""Integers that hardly any operation takes: all others compute with int32."""

NUMPY = {
    "fp16": "float16",
    "fp32": "float32",
    "int32": "int32",
    "int16": "int16",
    "uint16": "uint16",
    "int8": "int8",
    "uint8": "uint8",
    "bool": "bool",
}
"""MIL type -> NumPy's name. Types of less than a byte (int4, uint4, uint2, uint1 ...) are kept one to a byte."""


@dataclass(eq=False)
class Value:
    """What an operation writes, or an input of the program. `shape`: None where nobody needed to know it."""

    name: str
    shape: tuple[Dim, ...] | None
    dtype: str
    const: Array | None = None
    """The numbers of a constant."""

    @property
    def rank(self) -> int:
        return len(self.known)

    @property
    def known(self) -> tuple[Dim, ...]:
        """The shape, which must be known here."""
        assert self.shape is not None, f"the shape of {self.name} is not known"
        return self.shape

    @property
    def elements(self) -> int:
        """Of a value whose sizes are all fixed."""
        return math.prod(int(d) for d in self.known)


@dataclass(frozen=True, eq=False)
class Packed:
    """A constant argument in a type of less than a byte, one number to a byte."""

    data: Array
    dtype: str
    """MIL type: int4, uint4, uint2, uint1 ..."""


Argument = Value | Packed | Array | bool | int | float | str | Sequence["Argument"] | None
"""An operation's parameter: a value, numbers with their own type (NumPy), or what MIL takes as a plain Python value."""


@dataclass(eq=False)
class Operation:
    """One MIL operation. `source`: the ONNX node it stands for."""

    op: str
    inputs: Mapping[str, Argument]
    outputs: Sequence[Value]
    source: str = ""

    def reads(self) -> Iterator[Value]:
        """The values among the arguments."""
        for argument in self.inputs.values():
            yield from values_in(argument)


def values_in(argument: Argument) -> Iterator[Value]:
    """The values in an argument, lists included."""
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for part in argument:
            yield from values_in(part)


@dataclass(eq=False)
class Program:
    """One function, `main`. `target`: the oldest system that runs it, by coremltools' name (`iOS17`)."""

    target: str
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)


def mil_type(dtype: npt.DTypeLike) -> str:
    """The MIL type that holds a NumPy type as the program has it: every integer of 32 or 64 bits is int32.

    Raises:
        KeyError: MIL has no such type.
    """
    name = np.dtype(dtype).name
    wide = {"int64": "int32", "uint32": "int32", "uint64": "int32"}
    if name in wide:
        return wide[name]
    if name in ("int4", "uint4"):
        return name
    return {numpy: mil for mil, numpy in NUMPY.items()}[name]


_RESERVED = frozenset((
    "any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state",
    "bf16", "fp16", "fp32", "fp64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
))  # fmt: skip
"""Words of MIL's text form. coremltools 9.0 renames values that have them (NameSanitizer), inputs and outputs too."""


def spelt(name: str) -> str:
    """A name as Core ML allows it: [A-Za-z0-9_], no digit first, no word of MIL's."""
    base = re.sub(r"\W", "_", name, flags=re.ASCII) or "value"
    base = f"_{base}" if base[0].isdigit() else base
    return f"{base}_" if base in _RESERVED else base
