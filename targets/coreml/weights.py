"""How the constants of a program are stored: as they are, as a table and indices, without their zeros; whatever takes least bytes.

No form changes a number. A pass that made few distinct values (`cluster-weights`) or many zeros (`sparsify-weights`) is
found here by its result, as is a model that comes so. The forms are MIL's constexpr operations (coremltools 9.0,
iOS16/constexpr_ops.py and iOS18/compression.py):

| form | system | operations | bytes for n numbers, z of them not zero |
|---|---|---|---|
| table | iOS16 | constexpr_lut_to_dense: 1, 2, 4, 6 or 8 bits, one table | n bits / 8 + 2^bits of the type |
| table | iOS18 | the same, 3 bits too, and a table for each group of channels | the same, groups times 2^bits |
| sparse | iOS16 | constexpr_sparse_to_dense | n / 8 + z of the type |
| sparse table | iOS18 | constexpr_lut_to_sparse, constexpr_sparse_to_dense | n / 8 + z bits / 8 + 2^bits |
| sparse integers | iOS18 | constexpr_sparse_blockwise_shift_scale, constexpr_sparse_to_dense | n / 8 + z + scales |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgec.targets.coreml.program import FLOATS, NUMPY, Argument, Array, Operation, Packed, Program, Value
from edgec.targets.coreml.rules import SYSTEMS

SMALLEST = 2048
"""Numbers below which a constant stays as it is: coremltools' own threshold (OpPalettizerConfig.weight_threshold)."""

WORTH = 0.9
"""Part of its bytes a constant may keep for another form to pay: it is opened when the model is loaded or run."""

READERS = {
    "conv": {"weight"},
    "conv_transpose": {"weight"},
    "linear": {"weight"},
    "matmul": {"x", "y"},
    "gather": {"x"},
    "lstm": {"weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back"},
}
"""The parameters that may be such an operation's output; others must be known numbers when the program is built."""

_ALIGN = 64
"""Each array begins at a multiple of it in weight.bin, behind 64 bytes that describe it."""


@dataclass(frozen=True)
class StoredWeight:
    """One constant of SMALLEST numbers or more. `bytes`: as stored; `dense`: as a plain array of its float type."""

    name: str
    form: str
    elements: int
    bytes: int
    dense: int


@dataclass(frozen=True)
class _Form:
    name: str
    bytes: int
    operations: Sequence[Operation]


def store_weights(program: Program) -> list[StoredWeight]:
    """Give every large constant that only READERS read the form that takes least bytes, in place.

    Returns all of them, those that stay as they are included.
    """
    return _Storing(program).run()


def stored_facts(stored: Sequence[StoredWeight]) -> dict[str, Any]:
    """For the report: of each form, how many constants, of how many numbers, in how many bytes."""
    forms: dict[str, dict[str, int]] = {}
    for w in stored:
        told = forms.setdefault(w.form, {"constants": 0, "numbers": 0, "bytes": 0})
        told["constants"] += 1
        told["numbers"] += w.elements
        told["bytes"] += w.bytes
    return dict(sorted(forms.items(), key=lambda item: -item[1]["bytes"]))


class _Storing:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.system = SYSTEMS.index(program.target)
        self.names = {v.name for o in program.operations for v in o.outputs} | {v.name for v in program.inputs}
        self.compressible = _compressible(program)

    def run(self) -> list[StoredWeight]:
        stored: list[StoredWeight] = []
        made: list[Operation] = []
        for o in self.program.operations:
            form = self._form(o)
            if form is None:
                made.append(o)
                continue
            made.extend(form.operations)
            out = o.outputs[0]
            elements = out.elements
            dense = _blob(elements * np.dtype(NUMPY[out.dtype]).itemsize)
            stored.append(StoredWeight(out.name, form.name, elements, form.bytes, dense))
        self.program.operations[:] = made
        return stored

    def _form(self, o: Operation) -> _Form | None:
        """How the constant an operation makes is stored; None where it is no large constant."""
        if not (o.op == "const" or o.op.startswith("constexpr_")) or o.outputs[0].dtype not in FLOATS:
            return None
        out = o.outputs[0]
        if out.elements < SMALLEST:
            return None
        if o.op == "const":
            return self._float(o) if out in self.compressible else _Form(out.dtype, _blob(_array(o).nbytes), [o])
        if o.op in ("constexpr_affine_dequantize", "constexpr_blockwise_shift_scale"):
            return self._integers(o)
        return None

    def _float(self, o: Operation) -> _Form:
        data, out = _array(o), o.outputs[0]
        plain = _Form(out.dtype, _blob(data.nbytes), [o])
        if self.system < SYSTEMS.index("iOS16") or not np.isfinite(data).all():
            return plain
        found = [f for f in (self._table(data, out), self._sparse(data, out), self._sparse_table(data, out)) if f]
        best = min(found, key=lambda f: f.bytes, default=plain)
        if best.bytes > WORTH * plain.bytes:
            return plain
        out.const = None
        return best

    # --- tables ---------------------------------------------------------------------------------------------------

    def _table(self, data: Array, out: Value) -> _Form | None:
        modern = self.system >= SYSTEMS.index("iOS18")
        found = min(_tables(data, grouped=modern, widths=(1, 2, 3, 4, 6, 8) if modern else (1, 2, 4, 6, 8)),
                    key=lambda t: t.bytes, default=None)  # fmt: skip
        if found is None:
            return None
        inputs: dict[str, Argument]
        if modern:
            inputs = {"indices": Packed(found.indices, f"uint{found.bits}"), "lut": found.lut[..., None]}
            if found.bits == 8:
                inputs["indices"] = found.indices
        else:
            inputs = {
                "indices": packed(found.indices, found.bits), "lut": found.lut.reshape(-1),
                "shape": Packed(np.asarray(data.shape, np.uint32), "uint32"),
            }  # fmt: skip
        name = f"{found.bits}-bit table" + ("s" if found.lut.size > 1 << found.bits else "")
        return _Form(name, found.bytes, [Operation("constexpr_lut_to_dense", inputs, [out])])

    # --- zeros ----------------------------------------------------------------------------------------------------

    def _sparse(self, data: Array, out: Value) -> _Form:
        keep = data != 0
        values = data[keep] if keep.any() else data.reshape(-1)[:1]
        if not keep.any():  # no array may be empty
            keep = np.zeros(data.shape, bool)
            keep.reshape(-1)[0] = True
        mask = keep.astype(np.uint8)
        if self.system >= SYSTEMS.index("iOS18"):
            inputs: dict[str, Any] = {"nonzero_data": values, "mask": Packed(mask, "uint1")}
        else:
            shape = Packed(np.asarray(data.shape, np.uint32), "uint32")
            inputs = {"nonzero_data": values, "mask": packed(mask, 1), "shape": shape}
        size = _blob(values.nbytes) + _blob(-(-data.size // 8))
        return _Form("sparse", size, [Operation("constexpr_sparse_to_dense", inputs, [out])])

    def _sparse_table(self, data: Array, out: Value) -> _Form | None:
        """The numbers that are not zero by one table: what pruning before clustering makes."""
        keep = data != 0
        values = data[keep]
        if self.system < SYSTEMS.index("iOS18") or values.size < SMALLEST // 4 or 4 * values.size > 3 * data.size:
            return None
        entries, indices = np.unique(values, return_inverse=True)
        bits = next((b for b in (1, 2, 3, 4, 6, 8) if len(entries) <= 1 << b), None)
        if bits is None:
            return None
        lut = np.pad(entries, (0, (1 << bits) - len(entries)), mode="edge").reshape(*[1] * data.ndim, -1, 1)
        stored = indices.astype(np.uint8).reshape(-1)
        mask = self._value(f"{out.name}_mask", data.shape, "uint1")
        dense = self._value(f"{out.name}_values", values.shape, out.dtype)
        opened = Operation(
            "constexpr_lut_to_sparse",
            {
                "indices_mask": Packed(keep.astype(np.uint8), "uint1"), "lut": lut,
                "indices_nonzero_data": stored if bits == 8 else Packed(stored, f"uint{bits}"),
            },
            [mask, dense],
        )  # fmt: skip
        spread = Operation("constexpr_sparse_to_dense", {"nonzero_data": dense, "mask": mask}, [out])
        size = _blob(-(-data.size // 8)) + _blob(-(-values.size * bits // 8)) + _blob(lut.nbytes)
        return _Form(f"sparse {bits}-bit table", size, [opened, spread])

    # --- integers -------------------------------------------------------------------------------------------------

    def _integers(self, o: Operation) -> _Form:
        """Q/DQ made integers: they stay, without their zeros where that pays."""
        out, found = o.outputs[0], o.inputs["quantized_data" if "quantized_data" in o.inputs else "data"]
        data, kind = (found.data, found.dtype) if isinstance(found, Packed) else (_numbers(found), "")
        bits = 4 if kind.endswith("int4") else 8
        scale = _numbers(o.inputs["scale"])
        blocks = scale.ndim == data.ndim and sum(d > 1 for d in scale.shape) > 1
        name = f"int{bits}" + (" in blocks" if blocks else "")
        plain = _Form(name, _blob(data.size * bits // 8) + _blob(scale.nbytes), [o])
        if o.op != "constexpr_blockwise_shift_scale" or o.inputs.get("offset") is not None:
            return plain
        keep = data != 0
        size = _blob(-(-data.size // 8)) + _blob(int(keep.sum()) * bits // 8) + _blob(scale.nbytes)
        if out not in self.compressible or not keep.any() or size > WORTH * plain.bytes:
            return plain
        values: Array | Packed = data[keep] if not kind else Packed(data[keep], kind)
        mask = self._value(f"{out.name}_mask", data.shape, "uint1")
        dense = self._value(f"{out.name}_values", (int(keep.sum()),), out.dtype)
        opened = Operation(
            "constexpr_sparse_blockwise_shift_scale",
            {"data_mask": Packed(keep.astype(np.uint8), "uint1"), "nonzero_data": values, "scale": o.inputs["scale"]},
            [mask, dense],
            o.source,
        )
        spread = Operation("constexpr_sparse_to_dense", {"nonzero_data": dense, "mask": mask}, [out], o.source)
        return _Form(f"sparse {name}", size, [opened, spread])

    def _value(self, wanted: str, shape: tuple[int, ...], dtype: str) -> Value:
        name, count = wanted, 1
        while name in self.names:
            name, count = f"{wanted}_{count}", count + 1
        self.names.add(name)
        return Value(name, shape, dtype)


@dataclass(frozen=True, eq=False)
class _Table:
    """`lut`: [groups of axis 0, groups of axis 1 ..., entries]."""

    bits: int
    indices: Array
    lut: Array
    bytes: int


def _tables(data: Array, *, grouped: bool, widths: Sequence[int]) -> Iterator[_Table]:
    """The ways to write `data` with tables: one, and where `grouped` one for each of equal groups of its first or second axis."""
    one = _table(data, (1,) * data.ndim, widths)
    if one is not None:
        yield one
    if not grouped or (one is not None and one.bits <= 4):
        return
    for axis in range(min(2, data.ndim)):
        for groups in _divisors(data.shape[axis]):
            if data.size // groups < 64:
                break
            split = tuple(groups if i == axis else 1 for i in range(data.ndim))
            found = _table(data, split, widths)
            if found is not None:
                yield found


def _table(data: Array, split: tuple[int, ...], widths: Sequence[int]) -> _Table | None:
    """Tables for the blocks that `split` cuts `data` into, of as few bits as the worst of them needs."""
    axis = next((i for i, g in enumerate(split) if g > 1), 0)
    groups = split[axis]
    rows = np.moveaxis(data, axis, 0).reshape(groups, -1)
    if np.unique(rows[0]).size > 1 << widths[-1]:
        return None
    found = [np.unique(row, return_inverse=True) for row in rows]
    most = max(len(entries) for entries, _ in found)
    bits = next((b for b in widths if most <= 1 << b), None)
    if bits is None:
        return None
    lut = np.stack([np.pad(e, (0, (1 << bits) - len(e)), mode="edge") for e, _ in found])
    indices = np.stack([i.reshape(-1) for _, i in found]).astype(np.uint8)
    moved = (data.shape[axis], *np.delete(data.shape, axis))
    placed = np.ascontiguousarray(np.moveaxis(indices.reshape(moved), 0, axis))
    size = _blob(-(-data.size * bits // 8)) + _blob(lut.nbytes)
    return _Table(bits, placed, lut.reshape(*split, 1 << bits), size)


def _divisors(n: int) -> list[int]:
    return [d for d in range(2, n + 1) if n % d == 0]


def packed(numbers: Array, bits: int) -> Array:
    """Numbers of `bits` bits one behind the other, the lowest bits first, over the borders of bytes."""
    places = (numbers.reshape(-1, 1).astype(np.uint8) >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(places.reshape(-1), bitorder="little")


def _compressible(program: Program) -> set[Value]:
    """Constants whose every reader takes one that is opened later."""
    good: set[Value] = set()
    bad: set[Value] = set(program.outputs)
    for o in program.operations:
        for key, argument in o.inputs.items():
            if isinstance(argument, Value):
                (good if key in READERS.get(o.op, ()) else bad).add(argument)
            elif isinstance(argument, (list, tuple)):
                bad.update(v for v in argument if isinstance(v, Value))
    return good - bad


def _blob(size: int) -> int:
    return _ALIGN + -(-size // _ALIGN) * _ALIGN


def _array(o: Operation) -> Array:
    return _numbers(o.inputs["val"])


def _numbers(argument: Any) -> Array:
    assert isinstance(argument, (np.ndarray, np.generic)), "constants are numbers"
    return np.asarray(argument)
