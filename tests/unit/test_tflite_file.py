"""The .tflite file format: writing, reading back, and reading what is damaged."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import tflite_models as models

from edgec.diagnostics import EdgecError
from edgec.targets.tflite import schema, writer
from edgec.targets.tflite.dump import dump
from edgec.targets.tflite.flatbuffer_reader import Bytes
from edgec.targets.tflite.model import Array, Operator, Quant, SubGraph, Tensor, TfliteModel
from edgec.targets.tflite.reader import read, unpack_int4
from edgec.targets.tflite.writer import pack_int4, pieces, write

MODELS: dict[str, Callable[[], TfliteModel]] = {
    "float": models.float_model, "int8": models.int8_model, "recurrent": models.recurrent_model,
}  # fmt: skip


def _equal(a: Any, b: Any) -> None:
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


def _quant_equal(a: Quant | None, b: Quant | None) -> None:
    assert (a is None) == (b is None)
    if a is not None and b is not None:
        assert a.same(b)


def _tensors_equal(ours: SubGraph, theirs: SubGraph) -> None:
    taken: set[str] = set()
    for a, b in zip(ours.tensors(), theirs.tensors(), strict=True):
        assert b.name not in taken
        taken.add(b.name)
        assert b.name.startswith(a.name)
        assert (a.shape, a.dtype, a.is_variable) == (b.shape, b.dtype, b.is_variable)
        _quant_equal(a.quant, b.quant)
        assert (a.data is None) == (b.data is None)
        if a.data is not None:
            _equal(a.data, b.data)


def _options(o: Operator) -> dict[str, Any]:
    """Complete, as the reader gives them."""
    table = schema.OPTIONS[o.op]
    scalars = {} if table is None else {
        n: schema.ENUMS[f.kind].names[int(f.default)] if f.kind in schema.ENUMS else f.default
        for n, f in schema.TABLES[table].fields.items() if not f.vector and f.kind != "string"
    }  # fmt: skip
    return {**scalars, **o.options}


def assert_same(ours: TfliteModel, theirs: TfliteModel) -> None:
    """Equal in everything that is in the file."""
    assert [len(list(g.tensors())) for g in ours.subgraphs] == [len(list(g.tensors())) for g in theirs.subgraphs]
    for a, b in zip(ours.subgraphs, theirs.subgraphs, strict=True):
        _tensors_equal(a, b)
        places = [{id(t): i for i, t in enumerate(g.tensors())} for g in (a, b)]

        def indices(tensors: Any, place: dict[int, int]) -> list[int]:
            return [-1 if t is None else place[id(t)] for t in tensors]

        assert a.name == b.name
        for p, q in zip(a.operators, b.operators, strict=True):
            assert p.op == q.op
            assert _options(p) == _options(q)
            for field in ("inputs", "outputs", "intermediates"):
                assert indices(getattr(p, field), places[0]) == indices(getattr(q, field), places[1])
        for field in ("inputs", "outputs"):
            assert indices(getattr(a, field), places[0]) == indices(getattr(b, field), places[1])
    assert (list(ours.input_names), list(ours.output_names)) == (list(theirs.input_names), list(theirs.output_names))
    assert ours.description == theirs.description
    theirs_metadata = {k: v for k, v in theirs.metadata.items() if k != "min_runtime_version"}
    assert ours.metadata == theirs_metadata


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name: str, large: bool) -> None:
    model = MODELS[name]()
    data = write(model, large=large)
    again = read(data)
    assert_same(model, again)
    assert write(again, large=large) == data


def test_deterministic() -> None:
    assert write(models.float_model()) == write(models.float_model())


def _data_positions(data: bytes) -> list[tuple[int, int]]:
    """(position, length) of every buffer's bytes."""
    base = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    root = Bytes(data).root("Model")
    views = [b.bytes_of("data") for b in root.get("buffers")]
    return [(v.__array_interface__["data"][0] - base, v.nbytes) for v in views if v is not None]


@pytest.mark.parametrize("name", MODELS)
def test_buffers_are_aligned(name: str) -> None:
    places = _data_positions(write(MODELS[name]()))
    assert len(places) > 1
    assert [at % schema.ALIGNMENT for at, _ in places] == [0] * len(places)


def test_equal_constants_are_kept_once() -> None:
    sizes = [size for _, size in _data_positions(write(models.float_model()))]
    assert sizes.count(8 * 4) == 1  # b and b2


def test_first_buffer_is_empty() -> None:
    first = Bytes(write(models.float_model())).root("Model").get("buffers")[0]
    assert not first.has("data")


def test_names_are_made_unique() -> None:
    graph = read(write(models.float_model())).main
    names = [t.name for t in graph.tensors()]
    assert names[0] == "x"
    assert len(set(names)) == len(names)


def test_operator_codes_are_kept_once_and_say_both_numbers() -> None:
    x, y, z = (models.tensor(n, (2,)) for n in "xyz")
    graph = SubGraph("main", [x], [z], [Operator("GELU", [x], [y]), Operator("GELU", [y], [z])])
    (code,) = Bytes(write(TfliteModel([graph]))).root("Model").get("operator_codes")
    assert (code.get("deprecated_builtin_code"), code.get("builtin_code")) == (127, "GELU")


def test_min_runtime_version() -> None:
    data = read(write(models.float_model())).metadata["min_runtime_version"]
    assert data == b"1.5.0".ljust(16, b"\0")


@pytest.mark.parametrize("count", [0, 1, 2, 5, 16])
def test_int4_packing(count: int) -> None:
    values = np.arange(count, dtype=np.int8) % 16 - 8
    packed = pack_int4(values)
    assert packed.nbytes == (count + 1) // 2
    np.testing.assert_array_equal(unpack_int4(packed, count), values)


def test_int4_order() -> None:
    assert pack_int4(np.array([1, -1, 7], np.int8)).tobytes() == b"\xf1\x07"


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (Operator("CONV_2D", [], [], {"stride": 1}), "Conv2DOptions has no field 'stride'"),
        (Operator("CONV_2D", [], [], {"padding": "FULL"}), "Padding has no value 'FULL'"),
        (Operator("RELU", [], [], {"alpha": 1}), "RELU takes no options"),
    ],
)
def test_mistakes_in_options_are_found(operator: Operator, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(TfliteModel([SubGraph(operators=[operator])]))


def test_constants_must_fill_their_shape() -> None:
    w = Tensor("w", (3,), "float32", data=np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="shape"):
        write(TfliteModel([SubGraph(outputs=[w])]))


def test_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LIMIT", 1000)
    with pytest.raises(EdgecError, match="EC0650"):
        write(models.float_model())
    assert_same(models.float_model(), read(write(models.float_model(), large=True)))


def _heavy_model() -> TfliteModel:
    x = models.tensor("x", (1, 512))
    operators = []
    before = x
    for i in range(8):
        w = models.constant(f"w{i}", np.full((512, 512), i, np.float32))
        after = models.tensor(f"y{i}", (1, 512))
        operators.append(Operator("FULLY_CONNECTED", [before, w, None], [after]))
        before = after
    return TfliteModel([SubGraph("main", [x], [before], operators)])


def test_writing_copies_constants_once() -> None:
    model = _heavy_model()
    weights = 8 * 512 * 512 * 4
    tracemalloc.start()
    try:
        data = write(model)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data) > weights
    assert peak < 1.2 * weights


def test_pieces_are_views_and_make_the_same_file() -> None:
    model = _heavy_model()
    parts = pieces(model)
    assert b"".join(parts) == write(model)
    first = model.main.operators[0].inputs[1]
    assert first is not None
    assert any(np.shares_memory(np.asarray(p), first.data) for p in parts if isinstance(p, memoryview) and p.nbytes)


def test_reading_copies_no_constant() -> None:
    data = write(_heavy_model())
    whole = np.frombuffer(data, np.uint8)
    constants: list[Array] = [t.data for t in read(data).main.tensors() if t.data is not None]
    assert len(constants) == 8
    assert all(np.shares_memory(c, whole) for c in constants)


# --- files that nobody vouches for -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x08\0\0\0TFL3", b"\x10\0\0\0TFL4" + bytes(64), b"PK\3\4" * 20])
def test_not_a_model(data: bytes) -> None:
    with pytest.raises(EdgecError, match="EC0651"):
        read(data)


@pytest.mark.parametrize("name", MODELS)
def test_cut_short_anywhere(name: str) -> None:
    """Cut after the tables, only constants are missing; anywhere, it is said."""
    data = write(MODELS[name]())
    for end in range(0, len(data) - 16, 7):
        with pytest.raises(EdgecError, match="EC0651"):
            read(data[:end])


@pytest.mark.parametrize("name", MODELS)
def test_mutations_give_a_model_or_a_diagnostic(name: str) -> None:
    """Nothing but EC0651 and EC0652, and no memory to speak of."""
    data = write(MODELS[name]())
    rng = random.Random(name)
    refused = 0
    codes: set[str] = set()
    for _ in range(1500):
        mutated = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(mutated))
            if rng.random() < 0.5:
                mutated[at] = rng.randrange(256)
            else:
                word = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, len(data), rng.randrange(2**32)))
                mutated[at : at + 4] = word.to_bytes(4, "little")
        try:
            dump(read(bytes(mutated)))
        except EdgecError as e:
            codes.update(d.code for d in e.diagnostics)
            refused += 1
    assert refused > 100
    assert codes <= {"EC0651", "EC0652"}


def test_a_signature_that_leaves_an_output_out_is_no_signature() -> None:
    data = write(models.float_model())
    root = Bytes(data).root("Model")
    (signature,) = root.get("signature_defs")
    (output,) = signature.get("outputs")
    hostile = bytearray(data)
    at = output._at + output._slots[1]
    hostile[at : at + 4] = bytes(4)  # the input again
    again = read(bytes(hostile))
    assert (again.input_names, again.output_names) == ([], [])
    write(again)


def test_amplification_is_refused() -> None:
    """A vector of many references to one table of many: a small file that would be many objects."""
    graph = SubGraph("main", [], [], [Operator("RELU", [], []) for _ in range(200)])
    data = write(TfliteModel([graph]))
    root = Bytes(data).root("Model")
    (one,) = root.get("subgraphs")
    count = 5000
    # Behind the file: a vector of `count` references, each to the one subgraph; the root's field is led to it.
    start = len(data) + -len(data) % 4
    field = root._at + root._slots[2]
    vector = count.to_bytes(4, "little")
    for i in range(count):
        vector += ((one._at - (start + 4 + 4 * i)) % 2**32).to_bytes(4, "little")
    hostile = bytearray(data.ljust(start, b"\0") + vector)
    hostile[field : field + 4] = (start - field).to_bytes(4, "little")
    with pytest.raises(EdgecError, match="EC0651"):
        read(bytes(hostile))


def test_what_is_named_in_the_message() -> None:
    model = models.float_model()
    data = bytearray(write(model))
    bias = np.arange(8, dtype=np.float32).tobytes()
    at = data.index(bias) - 4
    data[at : at + 4] = (28).to_bytes(4, "little")
    with pytest.raises(EdgecError, match=r"tensor \d+ \('b'\): 28 bytes for shape \(8,\) of float32, which takes 32"):
        read(bytes(data))


def test_dump() -> None:
    assert dump(models.int8_model()) == (
        "main(x: float32[2,6])\n"
        "  xq: int8[2,6] (0.05, 3) = QUANTIZE(x)\n"
        "  y: int8[2,5] (0.5, -2) = FULLY_CONNECTED(xq, w: const int4[5,6] (axis 0: 0.1..0.5, 0), "
        "b: const int32[5] (axis 0: 0.005..0.025, 0))\n"
        "  return y\n"
    )


def test_dump_shows_options_that_say_something() -> None:
    first = read(write(models.float_model())).main.operators[0]
    assert set(first.options) == set(schema.TABLES["Conv2DOptions"].fields)
    text = dump(read(write(models.float_model())))
    assert "{padding=SAME stride_w=1 stride_h=1 fused_activation_function=RELU6}" in text


def test_every_field_of_a_tensor_is_compared() -> None:
    """A new field of Tensor must be written, read, and compared above."""
    assert {f.name for f in fields(Tensor)} == {
        "name", "shape", "dtype", "quant", "data", "is_variable", "shape_signature",
    }  # fmt: skip
