"""The ML Program being written: which MIL value stands for which ONNX value, and the operations between them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from edgec.graph import constant, ir, is_constant
from edgec.targets.coreml.program import (
    FLOATS,
    NARROW,
    NUMPY,
    Argument,
    Array,
    Dim,
    Operation,
    Packed,
    Program,
    Value,
    mil_type,
    spelt,
)
from edgec.targets.coreml.rules import SYSTEMS
from edgec.targets.reading.node import Refused

_INT32 = np.iinfo(np.int32)
_IN_FP32 = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BFLOAT16})


_ALIKE = ("x", "y", "a", "b", "weight", "bias", "gamma", "beta", "mean", "variance", "data", "updates")
"""Arguments that have one type, where an operation has several of them."""


def _agree(op: str, inputs: Mapping[str, Argument]) -> None:
    """A model whose types contradict each other is not handed to coremltools."""
    if op.startswith("constexpr"):
        return
    types: dict[str, str] = {}
    for k in _ALIKE:
        a = inputs.get(k)
        if isinstance(a, (Value, Packed)):
            types[k] = a.dtype
        elif isinstance(a, (np.ndarray, np.generic)):
            types[k] = mil_type(a.dtype)
    if len(set(types.values())) > 1:
        told = ", ".join(f"{k} is {t}" for k, t in types.items())
        raise Refused(f"operands of different types: {told}", "the model is not valid: export it again")


def _quantized(v: ir.Value) -> bool:
    """Whether the integers stand for reals: written by QuantizeLinear or read by DequantizeLinear."""
    producer = v.producer()
    return (producer is not None and producer.op_type == "QuantizeLinear") or any(
        u.node.op_type == "DequantizeLinear" and u.idx == 0 for u in v.uses()
    )


class Builder:
    """`program`: what is being written. Names are unique; those of ONNX values stay where Core ML can have them."""

    def __init__(self, target: str) -> None:
        self.program = Program(target)
        self.operations = self.program.operations
        self.saturated: list[str] = []
        """Constants of more than 32 bits: what does not fit was cut off (limits of slices are so by intention)."""
        self._at: dict[ir.Value, Value] = {}
        self._casts: dict[tuple[Value, str], Value] = {}
        self._names: set[str] = set()
        self._onnx_names: dict[ir.Value, str] = {}
        self._unnamed: set[Value] = set()

    def reserve(self, values: Iterable[ir.Value]) -> None:
        """Keep the names of ONNX values for what will stand for them. Before anything is written."""
        for v in values:
            if v.name and v not in self._onnx_names:
                self._onnx_names[v] = self.name(v.name)

    def at_least(self, system: str) -> bool:
        """Whether the program is for `system` or a newer one."""
        return SYSTEMS.index(self.program.target) >= SYSTEMS.index(system)

    # --- ONNX values --------------------------------------------------------------------------------------------------

    def dims(self, v: ir.Value) -> tuple[Dim, ...]:
        """Shape of an ONNX value; unknown dimensions by name. Refused where not even the rank is known."""
        if v.shape is None:
            raise Refused(f"the shape of {v.name!r} is not known")
        named = ((axis, d if isinstance(d, int) else d.value) for axis, d in enumerate(v.shape))
        return tuple(f"{v.name}_{axis}" if d is None else d for axis, d in named)

    def dtype(self, v: ir.Value) -> str:
        """MIL type that holds an ONNX value: double and bfloat16 are in fp32, integers in int32; those of 8 and 16 bits keep
        their type between QuantizeLinear and DequantizeLinear."""
        if v.dtype is None:
            raise Refused(f"the type of {v.name!r} is not known")
        if v.dtype in _IN_FP32:
            return "fp32"
        try:
            found = mil_type(v.dtype.numpy())
        except (KeyError, TypeError):
            raise Refused(f"{v.name!r} is {v.dtype.name.lower()}, a type Core ML has not") from None
        kept = found not in NARROW or (_quantized(v) and (found in NUMPY or is_constant(v)))
        return found if kept else "int32"

    def keep(self, v: ir.Value, value: Value) -> None:
        """From here on `value` is `v`, and bears its name unless it has one of another ONNX value already."""
        if value in self._unnamed and v in self._onnx_names:
            value.name = self._onnx_names[v]
            self._unnamed.discard(value)
        self._at[v] = value

    @property
    def named(self) -> Collection[ir.Value]:
        """The ONNX values that have a name in the package."""
        return self._onnx_names.keys()

    def feature(self, v: ir.Value) -> str:
        """The name an ONNX value has in the package."""
        return self._onnx_names[v]

    def known(self, v: ir.Value) -> bool:
        return v in self._at or is_constant(v)

    def value(self, v: ir.Value) -> Value:
        """The MIL value of an ONNX value; a constant becomes one when it is read first."""
        if v not in self._at:
            data = constant(v)
            assert data is not None, f"{v.name} is read before it is written"
            data, dtype = np.asarray(data), self.dtype(v)
            if dtype in FLOATS or data.dtype.name in NARROW:  # wider integers: `constant` sees that they fit
                data = data.astype(NUMPY[dtype])
            self._at[v] = self.constant(data, v.name or "constant")
        return self._at[v]

    # --- operations ---------------------------------------------------------------------------------------------------

    def name(self, wanted: str) -> str:
        """A name nobody has yet, of the characters Core ML allows ([A-Za-z0-9_], no digit first)."""
        base = spelt(wanted)
        name, count = base, 1
        while name in self._names:
            name, count = f"{base}_{count}", count + 1
        self._names.add(name)
        return name

    def constant(self, data: Array, hint: str) -> Value:
        """A const operation. Integers become int32: those beyond are cut off and noted in `saturated`."""
        if data.dtype.kind in "iu" and data.dtype.itemsize > 2:
            narrow = np.clip(data, _INT32.min, _INT32.max).astype(np.int32)
            if not np.array_equal(narrow, data):
                self.saturated.append(hint)
            data = narrow
        if data.dtype == np.float64:
            data = data.astype(np.float32)
        out = Value(self.name(hint), data.shape, mil_type(data.dtype), data)
        self.operations.append(Operation("const", {"val": data}, [out]))
        return out

    def emit(
        self,
        op: str,
        outputs: Sequence[tuple[Sequence[Dim] | None, str | None]],
        inputs: Mapping[str, Argument],
        hint: str,
        source: str = "",
    ) -> list[Value]:
        """Add an operation; outputs are (shape or None, dtype or None: that of `x`, else of the first value it reads)."""
        given = {k: a for k, a in inputs.items() if a is not None}
        _agree(op, given)
        operation = Operation(op, given, [], source)
        x = given.get("x")
        first = x if isinstance(x, Value) else next(operation.reads(), None)
        made = []
        for shape, dtype in outputs:
            if dtype is None:
                assert first is not None, f"{op} reads no value: say the type of its output"
                dtype = first.dtype
            made.append(Value(self.name(hint), tuple(shape) if shape is not None else None, dtype))
        operation.outputs = made
        self._unnamed.update(made)
        self.operations.append(operation)
        return made

    def cast(self, v: Value, dtype: str, source: str = "") -> Value:
        """The value in another type, cast once; itself where it has it."""
        if v.dtype == dtype:
            return v
        if (v, dtype) not in self._casts:
            if v.const is not None and v.dtype in NUMPY:
                self._casts[v, dtype] = self.constant(v.const.astype(NUMPY[dtype]), f"{v.name}_{dtype}")
            else:
                made = self.emit("cast", [(v.shape, dtype)], {"x": v, "dtype": dtype}, f"{v.name}_{dtype}", source)
                self._casts[v, dtype] = made[0]
        return self._casts[v, dtype]
