"""A Program as two files, JSON and numbers: what travels to and from the environment coremltools lives in.

`program.json` has operations; `weights.bin` has every array, 64-byte aligned, little endian. An argument is one of
    {"v": name}                            a value
    {"a": [offset, shape, dtype]}          an array; dtype by MIL's name, less than a byte: one number to a byte
    {"l": [arguments]}                     a list
    {"p": null | bool | int | float | str} a plain value
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgec.targets.coreml.program import NUMPY, Argument, Array, Operation, Packed, Program, Value, mil_type

PROGRAM, WEIGHTS = "program.json", "weights.bin"
_ALIGN = 64


def write_program(program: Program, folder: Path) -> list[str]:
    """Write both files into `folder`; returns their names. Constants are written once, in the order of their first use."""
    with (folder / WEIGHTS).open("wb") as weights:
        writer = _Writer(weights)
        data = {
            "target": program.target,
            "inputs": [writer.value(v) for v in program.inputs],
            "outputs": [v.name for v in program.outputs],
            "operations": [
                {
                    "op": o.op,
                    "inputs": {k: writer.argument(a) for k, a in o.inputs.items() if a is not None},
                    "outputs": [writer.value(v) for v in o.outputs],
                    "source": o.source,
                }
                for o in program.operations
            ],
        }
    (folder / PROGRAM).write_text(json.dumps(data), encoding="utf-8")
    return [PROGRAM, WEIGHTS]


class _Writer:
    def __init__(self, weights: BinaryIO) -> None:
        self._weights = weights
        self._at: dict[int, tuple[Array, int]] = {}

    def value(self, v: Value) -> dict[str, Any]:
        return {"name": v.name, "shape": list(v.shape) if v.shape is not None else None, "dtype": v.dtype}

    def argument(self, a: Argument) -> dict[str, Any]:
        if isinstance(a, Value):
            return {"v": a.name}
        if isinstance(a, Packed):
            return {"a": [self._offset(a.data), list(a.data.shape), a.dtype]}
        if isinstance(a, (np.ndarray, np.generic)):
            dtype = mil_type(a.dtype)
            data = np.asarray(a)
            stored = data if data.dtype.name == NUMPY[dtype] else data.astype(NUMPY[dtype])
            return {"a": [self._offset(stored), list(stored.shape), dtype]}
        if isinstance(a, (list, tuple)):
            return {"l": [self.argument(part) for part in a]}
        return {"p": a}

    def _offset(self, data: Array) -> int:
        if id(data) in self._at:
            return self._at[id(data)][1]
        at = -(-self._weights.tell() // _ALIGN) * _ALIGN
        self._weights.write(b"\0" * (at - self._weights.tell()))
        np.ascontiguousarray(data).astype(data.dtype.newbyteorder("<"), copy=False).tofile(self._weights)
        self._at[id(data)] = (data, at)  # holding the array keeps its id its own
        return at


def read_program(program_file: Path, weights_file: Path) -> Program:
    """What `write_program`, or the decoder in the SDK's environment, wrote. Arrays are memory-mapped, read-only."""
    data = json.loads(program_file.read_text(encoding="utf-8"))
    empty = weights_file.stat().st_size == 0
    weights: Array = np.zeros(0, np.uint8) if empty else np.memmap(weights_file, np.uint8, "r")
    known: dict[str, Value] = {}
    program = Program(data["target"])
    program.inputs = [_value(v, known) for v in data["inputs"]]
    for o in data["operations"]:
        inputs = {k: _argument(a, known, weights) for k, a in o["inputs"].items()}
        outputs = [_value(v, known) for v in o["outputs"]]
        if o["op"] == "const":
            const = inputs["val"]
            outputs[0].const = const if isinstance(const, np.ndarray) else None
        program.operations.append(Operation(o["op"], inputs, outputs, o.get("source", "")))
    program.outputs = [known[name] for name in data["outputs"]]
    return program


def _value(v: Mapping[str, Any], known: dict[str, Value]) -> Value:
    made = Value(v["name"], tuple(v["shape"]) if v["shape"] is not None else None, v["dtype"])
    known[made.name] = made
    return made


def _argument(a: Mapping[str, Any], known: Mapping[str, Value], weights: Array) -> Argument:
    ((kind, content),) = a.items()
    if kind == "v":
        return known[content]
    if kind == "l":
        return [_argument(part, known, weights) for part in content]
    if kind == "p":
        plain: Argument = content
        return plain
    offset, shape, dtype = content
    numpy = np.dtype(NUMPY.get(dtype, "uint8" if dtype.startswith("u") else "int8"))
    count = int(np.prod(shape, dtype=np.int64))
    array = weights[offset : offset + count * numpy.itemsize].view(numpy).reshape(shape)
    return array if dtype in NUMPY else Packed(array, dtype)
