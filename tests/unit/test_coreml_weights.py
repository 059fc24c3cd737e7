"""How constants of a program are stored: the form of least bytes, no number changed. And weights behind DequantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.runtime import Session
from edgec.targets.coreml.builder import Builder
from edgec.targets.coreml.evaluate.constants import unpacked
from edgec.targets.coreml.evaluate.to_onnx import to_onnx
from edgec.targets.coreml.lower import lower
from edgec.targets.coreml.program import Operation, Packed, Program, Value
from edgec.targets.coreml.weights import StoredWeight, packed, store_weights, stored_facts

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)
LEVELS = np.linspace(-1, 1, 16).astype(np.float16)


def program(data: Array, system: str = "iOS17", *, op: str = "linear") -> Program:
    """x times the constant; op `add`: one that takes no compressed constant."""
    b = Builder(system)
    x = Value("x", (1, data.shape[1]), "fp16")
    b.program.inputs.append(x)
    weight = b.constant(data, "w")
    inputs = {"x": x, "weight": weight} if op == "linear" else {"x": x, "y": weight}
    shape = (1, data.shape[0]) if op == "linear" else data.shape
    b.program.outputs = b.emit(op, [(shape, "fp16")], inputs, "y")
    return b.program


def opened(p: Program) -> dict[str, Array]:
    """Every constant float value of the program, opened by the evaluation's rules."""
    names = [v.name for o in p.operations if o.op.startswith("const") for v in o.outputs if v.dtype in ("fp16", "fp32")]
    graph = to_onnx(p, half=False, inside=names)
    feeds = {v.name: np.zeros([int(d) for d in v.known], np.float32) for v in p.inputs}
    return Session(graph).run(feeds)


def stored(data: Array, system: str = "iOS17") -> tuple[StoredWeight, list[str]]:
    """What became of the constant, and that its numbers are what they were."""
    p = program(data, system)
    (told,) = store_weights(p)
    assert np.array_equal(opened(p)["w"], data.astype(np.float32))
    return told, [o.op for o in p.operations if o.op.startswith("const")]


def dense(rows: int = 64, columns: int = 64) -> Array:
    return RNG.normal(size=(rows, columns)).astype(np.float16)


def palette(rows: int = 64, columns: int = 64, levels: Array = LEVELS) -> Array:
    return levels[RNG.integers(0, len(levels), (rows, columns))]


def pruned(data: Array, sparsity: float) -> Array:
    return np.where(RNG.random(data.shape) < sparsity, 0, data).astype(data.dtype)


class TestForms:
    """Which form wins."""

    @pytest.mark.parametrize("system", ["iOS16", "iOS17", "iOS18"])
    def test_many_values_stay(self, system: str) -> None:
        """Numbers that are all different are stored as they are."""
        assert stored(dense(), system) == (StoredWeight("w", "fp16", 4096, 8256, 8256), ["const"])

    @pytest.mark.parametrize("system", ["iOS16", "iOS17", "iOS18"])
    @pytest.mark.parametrize(("values", "bits"), [(2, 1), (3, 2), (16, 4), (17, 6), (64, 6), (200, 8)])
    def test_few_values_are_a_table(self, system: str, values: int, bits: int) -> None:
        """The fewest bits that index them: 4096 numbers, and a table of fp16."""
        told, ops = stored(palette(levels=np.arange(1, values + 1, dtype=np.float16)), system)
        assert told.form == f"{bits}-bit table"
        assert ops == ["constexpr_lut_to_dense"]
        assert told.bytes == 64 + 4096 * bits // 8 + 64 + max(64, 2 << bits)

    def test_three_bits_are_of_ios18(self) -> None:
        """iOS16's tables have 1, 2, 4, 6 or 8 bits."""
        data = palette(levels=np.arange(1, 9, dtype=np.float16))
        assert stored(data, "iOS17")[0].form == "4-bit table"
        assert stored(data, "iOS18")[0].form == "3-bit table"

    def test_ios15_has_no_forms(self) -> None:
        """constexpr operations came with iOS16."""
        assert stored(palette(), "iOS15")[0].form == "fp16"

    @pytest.mark.parametrize("system", ["iOS16", "iOS18"])
    def test_zeros_are_left_out(self, system: str) -> None:
        """Three of four numbers zero: a bit each, and the others."""
        told, ops = stored(pruned(dense(), 0.75), system)
        assert (told.form, ops) == ("sparse", ["constexpr_sparse_to_dense"])
        assert told.bytes < 0.4 * told.dense

    def test_few_zeros_do_not_pay(self) -> None:
        """A mask costs a sixteenth of fp16, opening it something too."""
        assert stored(pruned(dense(), 0.1))[0].form == "fp16"

    def test_all_zeros(self) -> None:
        """No array of the package may be empty; one number is left."""
        for system in ("iOS17", "iOS18"):
            assert stored(np.zeros((64, 64), np.float16), system)[0].bytes < 1024

    def test_groups_of_channels_have_tables(self) -> None:
        """From iOS18 on: each half of the channels its own 16 values; before, a table of 32 in 6 bits."""
        data = np.concatenate([palette(32), palette(32, levels=LEVELS * np.float16(0.37))])
        assert stored(data, "iOS17")[0].form == "6-bit table"
        assert stored(data, "iOS18")[0].form == "4-bit tables"
        assert stored(np.ascontiguousarray(data.T), "iOS18")[0].form == "4-bit tables"

    def test_sparse_tables(self) -> None:
        """From iOS18 on: pruned and clustered."""
        data = pruned(palette(levels=LEVELS[:15]), 0.75)
        assert stored(data, "iOS17")[0].form == "4-bit table"
        told, ops = stored(data, "iOS18")
        assert told.form == "sparse 4-bit table"
        assert ops == ["constexpr_lut_to_sparse", "constexpr_sparse_to_dense"]

    def test_small_constants_stay(self) -> None:
        """Below 2048 numbers nothing is done, and nothing told."""
        p = program(palette(32, 32))
        assert store_weights(p) == []
        assert [o.op for o in p.operations] == ["const", "linear"]

    def test_only_where_the_reader_takes_it(self) -> None:
        """`add` has no parameter that is opened later; neither has an output."""
        p = program(palette(), op="add")
        assert store_weights(p)[0].form == "fp16"
        p = program(palette())
        p.outputs.append(p.operations[0].outputs[0])
        assert store_weights(p)[0].form == "fp16"

    def test_what_is_not_finite_stays(self) -> None:
        """NaN is no table's entry."""
        data = palette()
        data[0, 0] = np.nan
        p = program(data)
        assert store_weights(p)[0].form == "fp16"

    def test_facts(self) -> None:
        """Of each form how many, the largest first."""
        told = stored_facts([stored(dense())[0], stored(palette())[0], stored(palette())[0]])
        assert told == {
            "fp16": {"constants": 1, "numbers": 4096, "bytes": 8256},
            "4-bit table": {"constants": 2, "numbers": 8192, "bytes": 2 * (2112 + 128)},
        }

    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(0, 2**31), st.integers(1, 300), st.sampled_from([0.0, 0.3, 0.8]), st.sampled_from([1, 2, 4]),
        st.sampled_from(["iOS16", "iOS18"]),
    )  # fmt: skip
    def test_no_form_changes_a_number(self, seed: int, values: int, zeros: float, groups: int, system: str) -> None:
        """Whatever the values, zeros and groups; and no form is larger than the plain one."""
        rng = np.random.default_rng(seed)
        levels = rng.normal(size=(groups, values)).astype(np.float16)
        data = np.concatenate([one[rng.integers(0, values, (32 // groups, 96))] for one in levels])
        data = np.where(rng.random(data.shape) < zeros, 0, data).astype(np.float16)
        told, _ = stored(data, system)
        assert told.bytes <= told.dense


class TestPacking:
    """iOS16's bits."""

    @given(st.sampled_from([1, 2, 4, 6, 8]), st.lists(st.integers(0, 255), min_size=1, max_size=40))
    def test_packed_and_unpacked(self, bits: int, numbers: list[int]) -> None:
        """The evaluation's own unpacking, written from the definition, gives them back."""
        kept = np.asarray(numbers) % (1 << bits)
        bytes_ = packed(kept.astype(np.uint8), bits)
        assert len(bytes_) == -(-len(kept) * bits // 8)
        assert np.array_equal(unpacked(bytes_, bits, len(kept)), kept)

    def test_the_example_of_the_definition(self) -> None:
        """coremltools, constexpr_lut_to_dense: 2 bits, (0, 3, 2, 1, 3)."""
        assert packed(np.asarray([0, 3, 2, 1, 3], np.uint8), 2).tolist() == [0b01101100, 0b11]


def quantised(
    op: str, shape: str, kind: str, scale: str, attributes: str = "", block: str = "", x: str = "2,64"
) -> Graph:
    """x times a matrix stored in integers of `kind`."""
    rows, columns = map(int, shape.split(","))
    graph = Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[{x}] x) => (float[{x.rpartition(",")[0]},96] y)
        <int8[1] q = {{0}}, {scale}> {{
            w = DequantizeLinear {block} (q, s)
            y = {op} {attributes} (x, w)
        }}""")
    numbers = np.arange(rows * columns).reshape(rows, columns) * 7 % 5 - (0 if kind.startswith("u") else 2)
    q = graph.model.graph.initializers["q"]
    q.const_value = ir.tensor(numbers.astype(ir.DataType[kind.upper()].numpy()), name="q")
    q.shape, q.dtype = ir.Shape(numbers.shape), ir.DataType[kind.upper()]
    infer_shapes(graph)
    return graph


def scales(shape: str) -> str:
    sizes = [int(d) for d in shape.split(",")]
    count = int(np.prod(sizes))
    return f"float[{shape}] s = {{{','.join(f'{0.01 + 0.001 * (i % 13):.4f}' for i in range(count))}}}"


CASES = {
    "MatMul, a scale a column": quantised("MatMul", "64,96", "int8", scales("96"), block="<axis = 1>"),
    "MatMul of three axes": quantised("MatMul", "64,96", "int8", scales("96"), block="<axis = 1>", x="2,3,64"),
    "Gemm": quantised("Gemm", "64,96", "uint8", scales("96"), block="<axis = 1>"),
    "Gemm, transposed": quantised("Gemm", "96,64", "int8", scales("96"), "<transB = 1>", "<axis = 0>"),
}
BLOCKS = {
    "int4 blocks": quantised("MatMul", "64,96", "int4", scales("2,96"), block="<axis = 0, block_size = 32>"),
    "int8 blocks": quantised("MatMul", "64,96", "int8", scales("2,96"), block="<axis = 0, block_size = 32>"),
    "blocks that do not divide": quantised("MatMul", "80,96", "int4", scales("3,96"), block="<axis = 0, block_size = 32>", x="2,80"),
    "one block": quantised("MatMul", "24,96", "uint4", scales("1,96"), block="<axis = 0, block_size = 32>", x="2,24"),
}  # fmt: skip


class TestStoredWeights:
    """DequantizeLinear of a constant."""

    @pytest.mark.parametrize("system", ["iOS16", "iOS17", "iOS18"])
    @pytest.mark.parametrize("name", CASES)
    def test_products_become_linear(self, name: str, system: str) -> None:
        """With the weight as a compressed constant, turned where it must be, in the form of the system."""
        self.check(CASES[name], system)

    @pytest.mark.parametrize("name", BLOCKS)
    def test_blocks(self, name: str) -> None:
        """From iOS18 on; 4 bits keep 4 bits."""
        self.check(BLOCKS[name], "iOS18")

    def check(self, graph: Graph, system: str) -> None:
        p = lower(graph, system).program
        form = "constexpr_blockwise_shift_scale" if system == "iOS18" else "constexpr_affine_dequantize"
        assert [o.op for o in p.operations] == [form, "linear"]
        data = p.operations[0].inputs["data" if system == "iOS18" else "quantized_data"]
        kind = next(n for n in graph.model.graph if n.op_type == "DequantizeLinear").inputs[0].dtype
        assert (data.dtype if isinstance(data, Packed) else data.dtype.name) == kind.name.lower()  # type: ignore[union-attr]
        store_weights(p)
        rng = np.random.default_rng(1)
        feeds = {v.name: rng.normal(size=[int(d) for d in v.known]).astype(np.float32) for v in p.inputs}
        want, got = Session(graph).run(feeds)["y"], Session(to_onnx(p, half=False)).run(feeds)["y"]
        assert np.allclose(want, got, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("name", BLOCKS)
    def test_older_systems_refuse(self, name: str) -> None:
        """With what they lack, and where it is."""
        with pytest.raises(EdgecError, match="needs iOS18"):
            lower(BLOCKS[name], "iOS17")

    def test_zeros_of_integers_are_left_out(self) -> None:
        """From iOS18 on."""
        q = np.where(RNG.random((64, 64)) < 0.8, 0, RNG.integers(-127, 128, (64, 64))).astype(np.int8)
        scale = np.linspace(0.01, 0.02, 64, dtype=np.float16).reshape(64, 1)
        p = program(dense(), "iOS18")
        w = p.operations[0].outputs[0]
        w.const = None
        p.operations[0] = Operation("constexpr_blockwise_shift_scale", {"data": q, "scale": scale}, [w])
        before = opened(p)["w"]
        (told,) = store_weights(p)
        assert told.form == "sparse int8"
        assert [o.op for o in p.operations][:2] == [
            "constexpr_sparse_blockwise_shift_scale",
            "constexpr_sparse_to_dense",
        ]
        assert np.array_equal(opened(p)["w"], before)

    @pytest.mark.parametrize("value", [1e-9, 2e-6])
    def test_tiny_scales_are_kept_in_float32(self, value: float) -> None:
        """No clamp, no rounding: the program says the types, and nothing converts them."""
        graph = quantised("MatMul", "64,96", "int8", f"float[1] s = {{{value:.9f}}}")
        p = lower(graph, "iOS17").program
        scale = p.operations[0].inputs["scale"]
        assert isinstance(scale, np.ndarray)
        assert scale.dtype == np.float32
        assert float(scale) == float(np.float32(value))
