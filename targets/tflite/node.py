"""What a lowering rule sees: one node, its inputs as TFLite tensors in the storage and number form decided for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.graph import ir, is_constant
from edgec.targets.reading.node import NodeReader
from edgec.targets.tflite.absorb import Fused, Q, params, stored_value
from edgec.targets.tflite.layout import NodeLayout
from edgec.targets.tflite.model import DTYPES, Array, Operator, Quant, Tensor
from edgec.targets.tflite.rules import LoweringRule
from edgec.targets.tflite.storage import Perm, dropped, moves_nothing, stored

if TYPE_CHECKING:
    from edgec.targets.tflite.builder import Builder


class NodeLowering(NodeReader):
    """One node being lowered. Axes and shapes named "ONNX" are the model's; tensors have their stored shape.

    `integer`: the element type of the integer kernel, None in float. `activation`: what to pass as
    fused_activation_function.
    """

    def __init__(self, builder: Builder, node: ir.Node, rule: LoweringRule, layout: NodeLayout) -> None:
        super().__init__(node)
        self.builder, self.rule, self.layout = builder, rule, layout
        self.integer = builder.forms.integer.get(node)
        self._fused = builder.forms.fused.get(node, Fused(node.outputs[0]))
        self.activation = "NONE" if self._fused.activation == "RANGE" else self._fused.activation
        self._written: dict[int, Tensor] = {}

    # --- reading the node ---------------------------------------------------------------------------------------------

    def dtype(self, i: int = 0) -> str:
        """Element type of an input, as the ONNX model has it."""
        found = self.value(i).dtype
        return found.name.lower().replace("float", "float32") if found is ir.DataType.FLOAT else str(found).lower()

    def is_const(self, i: int) -> bool:
        """Whether an input is known now, stored in integers or not."""
        return self.has(i) and (is_constant(self.value(i)) or is_constant(stored_value(self.value(i))))

    def _constant(self, v: ir.Value) -> Array | None:
        return self.builder.real_constant(v)

    # --- storage ------------------------------------------------------------------------------------------------------

    @property
    def perm(self) -> Perm | None:
        """Storage of output 0: of all ends, for rules that follow."""
        return self.layout.outputs[0]

    def in_perm(self, i: int = 0) -> Perm | None:
        return self.layout.inputs[i]

    def axis(self, onnx_axis: int, *, of_input: int | None = 0) -> int:
        """Where an ONNX axis is in storage: of an input, or (None) of output 0."""
        perm = self.perm if of_input is None else self.in_perm(of_input)
        rank = len(self.out_shape() if of_input is None else self.shape(of_input))
        a = onnx_axis % max(rank, 1)
        return a if perm is None else perm.index(a)

    def axes(self, onnx_axes: Iterable[int], *, of_input: int | None = 0) -> list[int]:
        return sorted(self.axis(int(a), of_input=of_input) for a in onnx_axes)

    def stored(self, shape: Sequence[int], perm: Perm | None) -> tuple[int, ...]:
        return stored(shape, perm)

    # --- tensors ------------------------------------------------------------------------------------------------------

    def x(self, i: int = 0) -> Tensor:
        """An input, in the storage and number form of this node."""
        return self._in_form(self.value(i), self.in_perm(i), i)

    def x_without(self, axes: Iterable[int]) -> tuple[Tensor, list[int]]:
        """Input 0 for a kernel that takes ONNX `axes` away, and where they are in it.

        As the model has it where the axes left would otherwise come out in another order.
        """
        rank, perm = len(self.shape()), self.in_perm()
        gone = {int(a) % rank for a in axes}
        if dropped(perm, gone) != self.perm:
            perm = None
        at = sorted(gone) if perm is None else sorted(perm.index(a) for a in gone)
        return self._in_form(self.value(0), perm, 0), at

    def operand(self, i: int) -> Tensor:
        """An input that is broadcast against output 0: of its rank, in its storage. A scalar stays one."""
        v, perm, rank = self.value(i), self.perm, len(self.out_shape())
        shape = self.shape(i)
        if perm is None or math.prod(shape) == 1:
            return self._in_form(v, None, i)
        if len(shape) == rank:
            return self._in_form(v, perm, i)
        full = (1,) * (rank - len(shape)) + shape
        t = self._in_form(v, None, i)
        if t.data is not None:
            return self.builder.constant(np.reshape(t.data, full).transpose(perm), f"{t.name}_last", t.dtype, t.quant)
        wide = self.reshape(t, full)
        if moves_nothing(full, perm):
            return self.reshape(wide, stored(full, perm))
        return self.transpose(wide, perm)

    def _in_form(self, v: ir.Value, perm: Perm | None, i: int) -> Tensor:
        q = self.rule.quantised
        if self.integer and q is not None and (base := stored_value(v)) is not None:
            if is_constant(base):  # with its scale: LiteRT ends the process on an integer operand that has none
                t = self.builder.stored_weight(
                    v, perm if perm is not None else tuple(range(len(self.builder.shape(v))))
                )
            else:
                t = self.builder.tensor(base, perm)
            if q.scales == "as-output":
                t = self._requantised(t, self._wanted(0))
            return t
        return self._widened(self.builder.tensor(v, perm))

    def _widened(self, t: Tensor) -> Tensor:
        """In the type the rule computes in."""
        to = self.rule.via.get(t.dtype)
        if to is None or t.dtype in self.rule.dtypes:
            return t
        if (t.dtype, to) == ("int64", "int32"):
            if t.data is not None and not np.array_equal(t.data, t.data.astype(np.int32)):
                self.refuse(f"{t.name!r} does not fit 32 bits, and LiteRT has no int64 kernel for it")
            self.builder.narrowed.append(f"{self.node.outputs[0].name!r} of {self.node.op_type}")
        return self.cast(t, to)

    def y(self, k: int = 0) -> Tensor:
        """Output `k`, to be written by the last operator emitted for it."""
        if k not in self._written:
            v = self._output(k)
            shape = stored(self.builder.shape(v), self.layout.outputs[k])
            if self.integer and self._is_real(v):
                wanted = self._wanted(k)
                kept = self._kernel_scale(k, wanted)
                name = v.name if kept.same(wanted) else f"{v.name}_kernel"
                self._written[k] = Tensor(name or "", shape, self.integer, kept)
            else:
                dtype = self.builder.dtype(v)
                dtype = dtype if dtype in self.rule.dtypes else self.rule.via.get(dtype, dtype)
                self._written[k] = Tensor(v.name or "", shape, dtype)
        return self._written[k]

    def has_output(self, k: int) -> bool:
        """Whether anybody reads output `k`."""
        if k >= len(self.node.outputs) or not self.node.outputs[k].name:
            return False
        v = self._output(k)
        return bool(v.uses()) or v.is_graph_output()

    def temp(
        self, shape: Sequence[int], dtype: str | None = None, quant: Quant | None = None, *, hint: str | None = None
    ) -> Tensor:
        """A new tensor between operators of this node; float, or of the kernel's type where `quant` is given."""
        dtype = dtype or ((self.integer or "int8") if quant is not None else "float32")
        return Tensor(
            hint or f"{self.node.name or self.node.outputs[0].name}_{self.node.op_type}", tuple(shape), dtype, quant
        )

    def constant(
        self, data: Any, dtype: str = "float32", *, hint: str | None = None, quant: Quant | None = None
    ) -> Tensor:
        """A constant tensor; equal ones are stored once."""
        return self.builder.constant(np.asarray(data), hint or f"{self._fused.output.name}_const", dtype, quant)

    def ints(self, data: Any) -> Tensor:
        """int32 parameters: shapes, axes, paddings."""
        return self.constant(np.asarray(data, np.int32), "int32", hint="shape")

    # --- weights ------------------------------------------------------------------------------------------------------

    def weights(self, i: int, order: Sequence[int]) -> Tensor:
        """A constant weight with its axes in `order`; stored in integers for integer and hybrid kernels."""
        v = self.value(i)
        base = stored_value(v)
        if base is not None and is_constant(base) and self.integer:
            return self.builder.stored_weight(v, tuple(order))
        if (channels := self._hybrid_channels(v, order)) is not None:
            return self.builder.stored_weight(v, tuple(order), channels)
        if not is_constant(v) and not is_constant(base):
            return self.transpose(self.x(i), order)
        return self.builder.tensor(v, None if tuple(order) == tuple(range(len(order))) else tuple(order))

    def is_hybrid(self, w: Tensor) -> bool:
        """Whether the kernel that reads weight `w` computes in integers between float ends."""
        return not self.integer and w.dtype in ("int8", "int4")

    def _hybrid_channels(self, v: ir.Value, order: Sequence[int]) -> int | None:
        """How many scales a weight has that a hybrid kernel reads; None where it is to be dequantised.

        Its first axis in `order` must be the one of its scales. A single scale is repeated: grouped convolutions refuse one.
        """
        q, base, producer = self.rule.quantised, stored_value(v), v.producer()
        if not self.builder.hybrid or q is None or q.hybrid is None or base is None or not is_constant(base):
            return None
        found = params(producer) if producer is not None else None
        if found is None or found[1] not in q.hybrid(self.node) or np.any(found[0].zero_point):
            return None
        quant = found[0]
        return self.builder.shape(base)[order[0]] if quant.per_tensor or quant.axis == order[0] else None

    def bias(self, i: int, x: Tensor, w: Tensor, channels: int) -> Tensor:
        """The bias: float, or int32 (int64 beside int16) at the scale of input times weights; zeros where there is none."""
        v = self._fused.bias or (self.value(i) if self.has(i) else None)
        if self._fused.bias is not None and self.has(i):
            self.refuse("it has a bias already, and another behind it")
        name = v.name if v is not None and v.name else f"{w.name}_bias"
        data = np.zeros(channels, np.float32) if v is None else self.builder.real_constant(v)
        if data is None:
            if self.integer:
                self.refuse("its bias is computed at run time")
            assert v is not None  # a missing one has data
            return self.builder.tensor(v, None)
        if np.size(data) not in (1, channels):
            self.refuse(f"its bias has {np.size(data)} elements for {channels} channels")
        data = np.broadcast_to(np.reshape(data, -1), (channels,))
        if not self.integer:
            return self.constant(data, "float32", hint=name)
        assert x.quant is not None  # an integer kernel's operands
        assert w.quant is not None
        scale = x.quant.scale * w.quant.scale
        dtype = "int32" if self.integer == "int8" else "int64"
        stored_bias = np.rint(np.asarray(data, np.float64) / scale.astype(np.float64))
        limit = np.iinfo(dtype)
        stored_bias = np.clip(stored_bias, float(limit.min), float(limit.max if dtype == "int32" else 2**53))
        return self.constant(stored_bias.astype(dtype), dtype, hint=name, quant=Quant.of(scale))

    # --- operators ----------------------------------------------------------------------------------------------------

    def emit(
        self, op: str, inputs: Sequence[Tensor | None], outputs: Tensor | Sequence[Tensor], **options: Any
    ) -> Tensor:
        """Add an operator; returns its first output. Options are fields of the op's options table (the TFLite schema)."""
        outs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        self.builder.operators.append(Operator(op, list(inputs), outs, options, self.node.name or ""))
        return outs[0]

    def reshape(self, t: Tensor, shape: Sequence[int], out: Tensor | None = None) -> Tensor:
        """RESHAPE to a stored shape; `t` itself where it has it."""
        return self.builder.reshape(t, tuple(shape), out)

    def transpose(self, t: Tensor, perm: Sequence[int], out: Tensor | None = None) -> Tensor:
        """TRANSPOSE (RESHAPE where the data stay in order)."""
        return self.builder.transpose(t, tuple(perm), out)

    def cast(self, t: Tensor, dtype: str, out: Tensor | None = None) -> Tensor:
        """CAST to another element type; `t` itself where it has it."""
        if t.dtype == dtype and out is None:
            return t
        if t.data is not None and out is None:
            return self.builder.constant(t.data.astype(dtype), f"{t.name}_{dtype}", dtype)
        for kind in (t.dtype, dtype):
            if kind in ("int4", "uint64"):
                self.refuse(f"LiteRT has no CAST of {kind}")
        out = out or self.temp(t.shape, dtype, hint=f"{t.name}_{dtype}")
        return self.emit("CAST", [t], out, in_data_type=DTYPES[t.dtype], out_data_type=DTYPES[dtype])

    def alias(self, t: Tensor, k: int = 0) -> None:
        """Output `k` is `t`, stored as this node's output is: no operator needed."""
        self._written[k] = t

    def result(self, t: Tensor, k: int = 0) -> None:
        """Output `k` has the elements of `t` in their order: `t` itself, or a RESHAPE of it."""
        y = self.y(k)
        if t.shape == y.shape and t.dtype == y.dtype and t.data is None and self.builder.is_written(t):
            self.alias(t, k)
        else:
            self.reshape(t, y.shape, y)

    # --- after the rule -----------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Give what was written the names of the graph, requantised or cast where the graph says other than the kernel."""
        for k, t in self._written.items():
            v, perm = self._output(k), self.layout.outputs[k]
            if self.integer and self._is_real(v):
                wanted = self._wanted(k)
                t = self._requantised(t, wanted, name=v.name)
                for use in v.uses():
                    self.builder.keep(use.node.outputs[0], perm, t)
            else:
                dtype = self.builder.dtype(v)
                if t.dtype != dtype:
                    t = self.cast(t, dtype, Tensor(v.name or "", t.shape, dtype))
                self.builder.keep(v, perm, t)

    def _output(self, k: int) -> ir.Value:
        return self._fused.output if k == 0 else self.node.outputs[k]

    def _is_real(self, v: ir.Value) -> bool:
        return v.dtype is None or v.dtype.is_floating_point()

    def _wanted(self, k: int) -> Quant:
        """The parameters the graph asks for an output: those of the QuantizeLinear that reads it."""
        for use in self._output(k).uses():
            if use.node.op_type == Q and (found := params(use.node)) is not None:
                return found[0]
        return self._input_scale()  # an output nobody reads

    def _kernel_scale(self, k: int, wanted: Quant) -> Quant:
        q = self.rule.quantised
        assert q is not None  # an integer kernel's rule
        if self.integer is not None and self.integer in q.fixed:
            return Quant.of(*q.fixed[self.integer])
        return self._input_scale() if q.scales == "same" else wanted

    def _input_scale(self) -> Quant:
        base = stored_value(self.value(0))
        producer = self.value(0).producer()
        found = params(producer) if producer is not None and base is not None else None
        assert found is not None  # absorb looked
        return found[0]

    def _requantised(self, t: Tensor, wanted: Quant, name: str | None = None) -> Tensor:
        return self.builder.requantise(t, wanted, name)
