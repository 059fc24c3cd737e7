"""The TFLite subgraph being written: which tensor stands for which value in which storage, and the ops between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgec.diagnostics import Location, error
from edgec.graph import constant, ir, is_constant, static_shape
from edgec.targets.tflite import plain_quantization
from edgec.targets.tflite.absorb import DQ, Forms, params, stored_value
from edgec.targets.tflite.model import Array, Operator, Quant, Tensor
from edgec.targets.tflite.storage import Perm, between, moves_nothing, stored

FOLDED = 1024
"""Elements up to which a constant stored in integers is written as float where a float op reads it."""


class Builder:
    """`hybrid`: float kernels that can read weights in int8 or int4 as they are (dynamic range); else all are dequantised."""

    def __init__(self, forms: Forms, *, hybrid: bool = False, xnnpack: bool = False) -> None:
        self.forms, self.hybrid, self.xnnpack = forms, hybrid, xnnpack
        self.operators: list[Operator] = []
        self.narrowed: list[str] = []
        """What is int64 in the model and computed in int32."""
        self._at: dict[ir.Value, dict[Perm | None, Tensor]] = {}
        self._constants: dict[tuple[object, ...], Tensor] = {}
        self._weights: dict[tuple[ir.Value, Perm, int], Tensor] = {}
        self._reshaped: dict[int, Tensor] = {}
        self._in_front: dict[int, Tensor] = {}

    # --- values -------------------------------------------------------------------------------------------------------

    def shape(self, v: ir.Value) -> tuple[int, ...]:
        found = static_shape(v)
        assert found is not None, f"{v.name} has no fixed shape"  # lower() checks all of them
        return found

    def dtype(self, v: ir.Value) -> str:
        """Element type by NumPy's name."""
        assert v.dtype is not None, f"{v.name} has no type"  # the same
        return dtype_name(v.dtype)

    def keep(self, v: ir.Value, perm: Perm | None, t: Tensor) -> None:
        """From here on `t` is `v`, stored by `perm`."""
        self._at.setdefault(v, {})[perm] = t

    def known(self, v: ir.Value) -> bool:
        return v in self._at

    def is_written(self, t: Tensor) -> bool:
        """Whether an operator writes the tensor: no constant and no input."""
        return any(t is out for o in reversed(self.operators) for out in o.outputs)

    def storage(self, v: ir.Value) -> Perm | None:
        """How a value is stored: the storage it was written in."""
        return next(iter(self._at[v]), None)

    def tensor(self, v: ir.Value, perm: Perm | None) -> Tensor:
        """The value in a storage; converted once, where it is not there yet."""
        at = self._at.setdefault(v, {})
        if perm in at:
            return at[perm]
        if is_constant(v):
            at[perm] = self._constant_value(v, perm)
        elif not at and (base := stored_value(v)) is not None:
            at[perm] = self._dequantised(v, base, perm)
        else:
            if not at:
                raise AssertionError(f"{v.name} is read before it is written")
            have, t = next(iter(at.items()))
            rank = len(self.shape(v))
            name, shape, order = (
                f"{v.name}_{'last' if perm is not None else 'raw'}",
                stored(self.shape(v), perm),
                between(have, perm, rank),
            )
            same = shape == t.shape and moves_nothing(t.shape, order)
            at[perm] = t if same else self.transpose(t, order, Tensor(name, shape, t.dtype, t.quant))
        return at[perm]

    def real_constant(self, v: ir.Value) -> Array | None:
        """A constant as reals in ONNX order, stored in integers or not; None where it is none."""
        data = constant(v)
        if data is not None:
            return np.asarray(data)
        base = stored_value(v)
        if base is None or not is_constant(base):
            return None
        return dequantised(v)

    def _constant_value(self, v: ir.Value, perm: Perm | None) -> Tensor:
        data = np.asarray(constant(v))
        return self.constant(data if perm is None else data.transpose(perm), v.name or "", self.dtype(v))

    def stored_weight(self, v: ir.Value, order: Perm, channels: int = 1) -> Tensor:
        """A weight behind DequantizeLinear as it is stored, its axes in `order`; once for all who read it.

        `channels`: how many scales it is to have at least, along its first axis.
        """
        base, producer = stored_value(v), v.producer()
        found = params(producer) if producer is not None else None
        assert base is not None  # absorb looked
        assert found is not None
        q = found[0]
        key = (v, order, channels)
        if key not in self._weights:
            data = np.asarray(constant(base)).transpose(order)
            repeat = channels if q.per_tensor else 1
            scale, zero = np.repeat(q.scale, repeat), np.repeat(q.zero_point, repeat)
            quant = Quant(scale, zero, 0 if q.per_tensor else order.index(q.axis))
            self._weights[key] = self.constant(data, base.name or "", self.dtype(base), quant)
        return self._weights[key]

    def _dequantised(self, v: ir.Value, base: ir.Value, perm: Perm | None) -> Tensor:
        producer = v.producer()
        if producer is not None and not all(is_constant(p) for p in producer.inputs[1:] if p is not None):
            plain = plain_quantization.dequantize(self, producer)
            return plain if perm is None else self.transpose(plain, perm)
        if is_constant(base) and (math.prod(self.shape(base)) <= FOLDED or self._blocked(v)):
            data = dequantised(v)
            return self.constant(data if perm is None else data.transpose(perm), v.name or "")
        if is_constant(base):
            t = self.stored_weight(v, perm if perm is not None else tuple(range(len(self.shape(base)))))
        else:
            t = self.tensor(base, perm)
            found = params(producer) if producer is not None else None
            if producer is not None and (found is None or t.quant is None or not t.quant.same(found[0])):
                plain = plain_quantization.dequantize(self, producer)
                return plain if perm is None else self.transpose(plain, perm)
        out = Tensor(f"{v.name}", t.shape, "float32")
        self.operators.append(Operator("DEQUANTIZE", [t], [out], {}, v.name or ""))
        return out

    def _blocked(self, v: ir.Value) -> bool:
        producer = v.producer()
        return producer is not None and params(producer) is None

    # --- constants and conversions ------------------------------------------------------------------------------------

    def constant(self, data: Array, name: str, dtype: str = "float32", quant: Quant | None = None) -> Tensor:
        """A constant tensor. Equal ones without scales are one."""
        data = np.asarray(data)
        key: tuple[object, ...] = (name, dtype, data.shape) if data.size > FOLDED or quant is not None else (
            data.tobytes(), str(data.dtype), dtype, data.shape,
        )  # fmt: skip
        if quant is None and data.size <= FOLDED and key in self._constants:
            return self._constants[key]
        if dtype != "int4":
            data = np.ascontiguousarray(data, dtype=dtype).reshape(data.shape)
        t = Tensor(name, tuple(data.shape), dtype, quant, data)
        if quant is None and data.size <= FOLDED:
            self._constants[key] = t
        return t

    def reshape(self, t: Tensor, shape: tuple[int, ...], out: Tensor | None = None) -> Tensor:
        if t.shape == shape and out is None:
            return t
        if t.data is not None and out is None:
            return self.constant(t.data.reshape(shape), f"{t.name}_reshaped", t.dtype, t.quant)
        out = out or Tensor(f"{t.name}_reshaped", shape, t.dtype, t.quant)
        t = self._reshaped.get(id(t), t)  # of a chain of RESHAPEs only the last counts
        if t.data is None:
            self._reshaped[id(out)] = t
        self._emit(
            "RESHAPE", [t, self.constant(np.asarray(shape, np.int32), "shape", "int32")], out, new_shape=list(shape)
        )
        return out

    def transpose(self, t: Tensor, perm: Sequence[int], out: Tensor | None = None) -> Tensor:
        perm = tuple(perm)
        shape = tuple(t.shape[a] for a in perm)
        if perm == tuple(range(len(perm))) and out is None:
            return t
        if t.data is not None and out is None:
            quant = t.quant if t.quant is None or t.quant.per_tensor else Quant(
                t.quant.scale, t.quant.zero_point, perm.index(t.quant.axis)
            )  # fmt: skip
            return self.constant(t.data.transpose(perm), f"{t.name}_transposed", t.dtype, quant)
        if moves_nothing(t.shape, perm):
            return self.reshape(t, shape, out or Tensor(f"{t.name}_reshaped", shape, t.dtype, t.quant))
        out = out or Tensor(f"{t.name}_transposed", shape, t.dtype, t.quant)
        self._emit("TRANSPOSE", [t, self.constant(np.asarray(perm, np.int32), "perm", "int32")], out)
        return out

    def in_front(self, t: Tensor) -> Tensor:
        """The last axis first, by one TRANSPOSE for all who ask."""
        if id(t) not in self._in_front:
            self._in_front[id(t)] = self.transpose(t, (t.rank - 1, *range(t.rank - 1)))
        return self._in_front[id(t)]

    def requantise(self, t: Tensor, wanted: Quant, name: str | None = None, dtype: str | None = None) -> Tensor:
        """The same reals at another scale, or in another `dtype`; `t` itself where both are the same."""
        dtype = dtype or t.dtype
        if t.quant is None or (t.dtype == dtype and t.quant.same(wanted)):
            return t
        if t.data is not None:
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            real = (t.data.astype(np.float64) - t.quant.zero_point[0]) * np.float64(t.quant.scale[0])
            data = np.clip(np.rint(real / np.float64(wanted.scale[0])) + wanted.zero_point[0], low, high)
            return self.constant(data.astype(dtype), name or f"{t.name}_rescaled", dtype, wanted)
        out = Tensor(name or f"{t.name}_rescaled", t.shape, dtype, wanted)
        self._emit("QUANTIZE", [t], out)
        return out

    def _emit(self, op: str, inputs: list[Tensor | None], out: Tensor, **options: object) -> None:
        self.operators.append(Operator(op, inputs, [out], options, out.name))


def dequantised(v: ir.Value) -> Array:
    """The reals of a constant behind DequantizeLinear, blocked ones too."""
    from edgec.passes.quantize.quantized_input import params_of

    producer = v.producer()
    assert producer is not None and producer.op_type == DQ  # noqa: PT018 - stored_value looked
    found = params_of(producer)
    if found is None:
        raise error(
            "EC0641",
            "DequantizeLinear: its scale is computed at run time, or does not fit",
            Location(node=producer.name),
        )
    return found.dequantize(np.asarray(constant(producer.inputs[0])).astype(np.int32))


def dtype_name(dtype: ir.DataType) -> str:
    """NumPy's name of an element type."""
    name = dtype.name.lower()
    return {"float": "float32", "double": "float64"}.get(name, name)
