"""The reader of Core ML's model file: what it finds, and that any damage is one error. Files are written here field by field."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from edgec.diagnostics import EdgecError
from edgec.targets.coreml.format import PackageFormat
from edgec.targets.coreml.spec_reader import MODEL, Malformed, read_model

Field = tuple[int, "int | bytes | str | list[Field]"]


def varint(value: int) -> bytes:
    out = b""
    value &= (1 << 64) - 1
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(*fields: Field) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
            continue
        data = message(*value) if isinstance(value, list) else value.encode() if isinstance(value, str) else value
        out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def tensor(dtype: int, *dims: int) -> list[Field]:
    sizes: list[Field] = [(3, [(1, [(1, d)])] if d else [(2, [(1, 0)])]) for d in dims]
    return [(1, [(1, dtype), (2, len(dims)), *sizes])]


def constant(name: str, dtype: int, numbers: list[int]) -> Field:
    packed = b"".join(map(varint, numbers))
    value: list[Field] = [(2, tensor(dtype, len(numbers))), (3, [(1, [(2, [(1, packed)])])])]
    return 3, [(1, "const"), (3, [(1, name), (2, tensor(dtype, len(numbers)))]), (5, [(1, "val"), (2, value)])]


def argument(name: str, *sources: str) -> Field:
    return 2, [(1, name), (2, [(1, [(1, s)]) for s in sources])]


BLOCK: list[Field] = [
    (2, "y"),
    constant("axes", 23, [-1, 2]),
    (3, [(1, "const"), (3, [(1, "w"), (2, tensor(10, 3, 4))]), (5, [(1, "val"), (2, [(5, [(1, "weight.bin"), (2, 64)])])])]),
    (3, [(1, "reduce_sum"), argument("x", "x"), argument("axes", "axes"), (3, [(1, "s"), (2, tensor(10, 1, 0))])]),
    (3, [(1, "concat"), argument("values", "s", "w"), (3, [(1, "y"), (2, tensor(10, 1, 5))])]),
]  # fmt: skip
DESCRIPTION: list[Field] = [
    (1, [(1, "x"), (2, "a picture"), (3, [(4, [(1, 32), (2, 16), (3, 20)]), (1000, 1)])]),
    (10, [(1, "y"), (3, [(5, [(1, varint(1) + varint(5)), (2, 65552)])])]),
    (100, [(1, "what it does"), (3, "somebody"), (100, [(1, "key"), (2, "value")])]),
]
PROGRAM: list[Field] = [(1, 1), (2, [(1, "main"), (2, [(2, "CoreML7"), (3, [(1, "CoreML7"), (2, BLOCK)])])])]
FILE = message((1, 8), (2, DESCRIPTION), (502, PROGRAM))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "net.mlpackage"
    (path / MODEL).parent.mkdir(parents=True)
    (path / MODEL).write_bytes(FILE)
    return path


def test_what_is_in_it(package: Path) -> None:
    model = read_model(package / MODEL)
    assert (model.kind, model.system) == ("an ML Program", "iOS17")
    assert [(f.name, f.about, f.description) for f in model.inputs] == [("x", "image RGB 32x16, optional", "a picture")]
    assert [(f.name, f.about) for f in model.outputs] == [("y", "fp16[1,5]")]
    assert model.metadata == {"description": "what it does", "author": "somebody", "key": "value"}
    assert [o.type for o in model.functions["main"]] == ["const", "const", "reduce_sum", "concat"]


def test_inspection(package: Path) -> None:
    found = PackageFormat(".mlpackage").inspect(package)
    assert found.data["operations"] == {"reduce_sum": 1, "concat": 1}
    assert "  s: fp16[1,?] = reduce_sum(x=x, axes=[-1, 2])" in found.text.splitlines()
    assert "  y: fp16[1,5] = concat(values=(s, w))" in found.text.splitlines()
    assert "  w: fp16[3,4] = const()" in found.text.splitlines()
    said = "\n".join(text for _, text in found.lines)
    assert "x: image RGB 32x16, optional" in said
    assert "author: somebody" in said


def test_a_neural_network_is_told_as_one(package: Path) -> None:
    (package / MODEL).write_bytes(message((1, 4), (2, DESCRIPTION), (500, [])))
    model = read_model(package / MODEL)
    assert (model.kind, model.system) == ("a neural network", "specification version 4")


def test_every_cut_is_an_error_or_a_model(package: Path) -> None:
    for size in range(len(FILE)):
        (package / MODEL).write_bytes(FILE[:size])
        with pytest.raises(Malformed):
            read_model(package / MODEL)


def test_every_change_of_a_byte_is_an_error_or_a_model(package: Path) -> None:
    chance = random.Random(3)
    refused = 0
    for _ in range(600):
        data = bytearray(FILE)
        data[chance.randrange(len(data))] = chance.randrange(256)
        (package / MODEL).write_bytes(bytes(data))
        try:
            PackageFormat(".mlpackage").inspect(package)
        except EdgecError as e:
            assert [d.code for d in e.diagnostics] == ["EC0672"]  # noqa: PT017  both may happen
            refused += 1
    assert 50 < refused < 600


def test_blocks_without_end(package: Path) -> None:
    block: list[Field] = [(3, [(1, "cond")])]
    for _ in range(40):
        block = [(3, [(1, "cond"), (4, block)])]
    program: list[Field] = [(2, [(1, "main"), (2, [(3, [(2, block)])])])]
    (package / MODEL).write_bytes(message((1, 8), (502, program)))
    with pytest.raises(Malformed, match="without end"):
        read_model(package / MODEL)
