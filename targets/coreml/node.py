"""What a lowering rule sees: one ONNX node, its inputs as MIL values, and how to write MIL operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgec.graph import constant, ir, is_constant
from edgec.targets.coreml.program import FLOATS, NARROW, NUMPY, Argument, Array, Dim, Value
from edgec.targets.coreml.rules import LoweringRule
from edgec.targets.reading.node import NodeReader
from edgec.targets.reading.windows import Window, window

if TYPE_CHECKING:
    from edgec.targets.coreml.builder import Builder

_RANGE: dict[ir.DataType | None, tuple[int, int]] = {
    ir.DataType.INT4: (-8, 7), ir.DataType.UINT4: (0, 15), ir.DataType.INT8: (-128, 127), ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767), ir.DataType.UINT16: (0, 65535),
}  # fmt: skip


class NodeLowering(NodeReader):
    """One node being lowered. `emit` adds an operation; `result` says which value is an output of the node."""

    def __init__(self, builder: Builder, node: ir.Node, rule: LoweringRule) -> None:
        super().__init__(node)
        self.builder, self.rule = builder, rule
        self._written: dict[int, Value] = {}

    # --- reading ------------------------------------------------------------------------------------------------------

    def x(self, i: int = 0) -> Value:
        """An input as a MIL value, in a type the rule takes."""
        v = self.builder.value(self.value(i))
        if v.dtype in NARROW and v.dtype not in self.rule.dtypes:
            v = self.cast(v, "int32")
        to = self.rule.via.get(v.dtype)
        return v if to is None or v.dtype in self.rule.dtypes else self.cast(v, to)

    def optional(self, i: int) -> Value | None:
        """An input as a MIL value, or None where it is not given."""
        return self.x(i) if self.has(i) else None

    def dtype(self, i: int = 0) -> str:
        """MIL type of an input, as the model has it; int32 for narrower integers that the rule does not take."""
        found = self.builder.dtype(self.value(i))
        return "int32" if found in NARROW and found not in self.rule.dtypes else found

    def out_dtype(self, k: int = 0) -> str:
        """MIL type of an output, as the model has it."""
        return self.builder.dtype(self.node.outputs[k])

    def dims(self, i: int = 0) -> tuple[Dim, ...]:
        """ONNX shape of an input; a dimension known at run time only is its name."""
        return self.builder.dims(self.value(i))

    def out_dims(self, k: int = 0) -> tuple[Dim, ...]:
        """ONNX shape of an output; a dimension known at run time only is its name."""
        return self.builder.dims(self.node.outputs[k])

    def spatial(self, i: int = 0) -> tuple[int, ...]:
        """Sizes of an image behind batch and channels, which must be fixed; those two may be open."""
        sizes = tuple(d for d in self.dims(i)[2:] if isinstance(d, int))
        if len(sizes) != len(self.dims(i)) - 2:
            self.refuse(
                f"the height or width of {self.value(i).name!r} is not fixed", "fix it: --input-shape NAME=1x3x224x224"
            )
        return sizes

    def window(self, kernel: Sequence[int] | None = None) -> Window:
        """Kernel, strides, dilations and padding of a convolution or pool; height and width may be open."""
        spatial = self.dims()[2:]
        if not 1 <= len(spatial) <= 3:
            self.refuse(f"over {len(spatial)} axes; MIL has it over 1 to 3")
        opened = any(isinstance(d, str) for d in spatial)
        same = str(self.attr("auto_pad", "NOTSET")).startswith("SAME")
        if opened and same and any(s != 1 for s in self.attr("strides") or ()):
            self.refuse("auto_pad with strides along axes of open size", "explicit pads, or --input-shape")
        return window(self.node, [d if isinstance(d, int) else 1 for d in spatial], kernel)

    def size_of(self, v: Value, axis: int, dims: Sequence[Dim]) -> Value | Array:
        """The size of an axis of `v`, which is `dims`, as an int32 [1]: a number, or computed where it is open."""
        if isinstance(size := dims[axis], int):
            return np.asarray([size], np.int32)
        whole = self.emit("shape", x=v, out_dtype="int32", out_shape=(len(dims),))
        axis = axis % len(dims)
        return self.emit("gather", x=whole, indices=np.asarray([axis], np.int32), axis=0, out_shape=(1,))

    def is_const(self, i: int) -> bool:
        return self.has(i) and is_constant(self.value(i))

    def has_output(self, k: int) -> bool:
        """Whether anybody reads output `k`."""
        if k >= len(self.node.outputs) or not self.node.outputs[k].name:
            return False
        v = self.node.outputs[k]
        return bool(v.uses()) or v.is_graph_output()

    def since(self, system: str, what: str) -> None:
        """Refuse where the program is for an older system than `system`."""
        if not self.builder.at_least(system):
            self.refuse(f"{what} needs {system}", f"--option minimum={system.lower()}, or a newer target")

    def _constant(self, v: ir.Value) -> Array | None:
        data = constant(v)
        return None if data is None else np.asarray(data)

    # --- writing ------------------------------------------------------------------------------------------------------

    def emit(
        self,
        op: str,
        *,
        out_shape: Sequence[Dim] | None = None,
        out_dtype: str | None = None,
        hint: str = "",
        **inputs: Argument,
    ) -> Value:
        """Add an operation with one output and return that.

        `out_dtype`: the output's type; by default that of `x` (or of the first value among the inputs). `out_shape`: where
        the rule knows it and will ask for it; checked when the package is built. Arguments that are None are left out. Plain
        Python values become parameters as they are; a number whose type matters (epsilon, alpha) is `n.real(number)`.
        """
        return self.emit_many(op, [(out_shape, out_dtype)], hint=hint, **inputs)[0]

    def emit_many(
        self, op: str, outputs: Sequence[tuple[Sequence[Dim] | None, str | None]], *, hint: str = "", **inputs: Argument
    ) -> list[Value]:
        """Add an operation with several outputs, each (shape or None, dtype or None)."""
        return self.builder.emit(op, outputs, inputs, hint or f"{self._label()}_{op}", self.node.name or "")

    def real(self, number: float, like: Value | None = None) -> Array:
        """A number in the float type this node computes in (that of `like`, or of input 0)."""
        dtype = (like or self.x()).dtype
        with np.errstate(over="ignore"):
            return np.asarray(number, NUMPY[dtype] if dtype in FLOATS else "float32")

    def constant(self, data: Array, hint: str) -> Value:
        """A constant as a value with a name: for what several operations read, or a reader of the file should find."""
        return self.builder.constant(np.asarray(data), f"{self._label()}_{hint}")

    def cast(self, v: Value, dtype: str) -> Value:
        """The value in another type; itself where it has it."""
        return self.builder.cast(v, dtype, self.node.name or "")

    def reshape(self, v: Value, shape: Sequence[int]) -> Value:
        """Reshape to fixed sizes; the value itself where it has them."""
        sizes = tuple(int(d) for d in shape)
        if v.shape == sizes:
            return v
        if not sizes:  # coremltools takes no empty shape
            return self.emit("squeeze", x=v, out_shape=())
        return self.emit("reshape", x=v, shape=np.asarray(sizes, np.int32), out_shape=sizes)

    def transpose(self, v: Value, perm: Sequence[int]) -> Value:
        """Transpose; the value itself where the order stays."""
        if list(perm) == sorted(perm):
            return v
        shape = None if v.shape is None else tuple(v.shape[p] for p in perm)
        return self.emit("transpose", x=v, perm=np.asarray(perm, np.int32), out_shape=shape)

    def broadcast(self, v: Value, shape: Sequence[int]) -> Value:
        """Repeated to fixed sizes, as NumPy broadcasts; the value itself where it has them."""
        sizes, have = tuple(int(d) for d in shape), tuple(int(d) for d in v.known)
        if have == sizes:
            return v
        if v.const is not None:
            return self.constant(np.ascontiguousarray(np.broadcast_to(v.const, sizes)), f"{v.name}_wide")
        wide = (1,) * (len(sizes) - len(have)) + have
        x = self.reshape(v, wide)
        reps = np.asarray([s if w == 1 else 1 for s, w in zip(sizes, wide, strict=True)], np.int32)
        return x if wide == sizes else self.emit("tile", x=x, reps=reps, out_shape=sizes)

    def result(self, v: Value, k: int = 0) -> None:
        """Output `k` of the node is `v`."""
        self._written[k] = v

    def _label(self) -> str:
        return self.node.name or self.node.outputs[0].name or self.node.op_type

    # --- after the rule -----------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Give what was written the names and types of the graph."""
        for k, v in self._written.items():
            out = self.node.outputs[k]
            if self.rule.wraps:
                v = self.wrapped(v, k)
            self.builder.keep(out, self.cast(v, self.builder.dtype(out)))

    def wrapped(self, v: Value, k: int = 0) -> Value:
        """An int32 modulo 2^bits, as the integers of 4 to 16 bits that output `k` has are; all else as it is."""
        if self.node.outputs[k].dtype not in _RANGE:
            return v
        least, most = _RANGE[self.node.outputs[k].dtype]
        low, count = np.asarray(least, np.int32), np.asarray(most - least + 1, np.int32)
        if low:
            v = self.emit("sub", x=v, y=low, out_shape=v.shape)
        v = self.emit("mod", x=v, y=count, out_shape=v.shape)
        return self.emit("add", x=v, y=low, out_shape=v.shape) if low else v
