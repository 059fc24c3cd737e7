"""Evaluation rules: MIL operation -> ONNX nodes. And what a rule sees of its operation.

    @evaluates("leaky_relu")
    def leaky_relu(o: OpReader) -> None:
        o.give(o.emit("LeakyRelu", [o.x()], alpha=o.number("alpha")))

In the ONNX graph every float is float32 (fp16 values are rounded to fp16 where that is asked for), integers of more than 8
bits are int64, int8, uint8 and bool stay. What a rule writes in several nodes is computed in float32 throughout and rounded
once, at its end: whether Core ML's kernels accumulate in fp16 or in fp32 is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.program import FLOATS, Argument, Array, Dim, Operation, Packed, Value, mil_type

if TYPE_CHECKING:
    from edgec.targets.coreml.evaluate.to_onnx import Evaluator

Evaluate = Callable[["OpReader"], None]

RULES: dict[str, Evaluate] = {}
"""MIL operation -> its rule. Filled by the modules of `edgec.targets.coreml.evaluate`."""


def evaluates(*ops: str) -> Callable[[Evaluate], Evaluate]:
    """Register a function as the rule of MIL operations."""

    def register(rule: Evaluate) -> Evaluate:
        for op in ops:
            if op in RULES:
                raise ValueError(f"{op} has two evaluation rules")
            RULES[op] = rule
        return rule

    return register


class NotEvaluated(Exception):
    """An operation, or a use of it, that has no evaluation rule."""


class OpReader:
    """One MIL operation: its arguments as ONNX values or as numbers, and how to write ONNX nodes."""

    def __init__(self, evaluator: Evaluator, operation: Operation) -> None:
        self.evaluator, self.operation = evaluator, operation

    def unknown(self, why: str) -> NoReturn:
        """Give up on this operation."""
        raise NotEvaluated(f"{self.operation.op} {self.operation.outputs[0].name!r}: {why}")

    # --- arguments ----------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        return self.operation.inputs.get(name) is not None

    def mil(self, name: str = "x") -> Value:
        """An argument as a MIL value; numbers as one that is known."""
        found = self.operation.inputs.get(name)
        if isinstance(found, Value):
            return found
        if isinstance(found, Packed):
            return Value(name, found.data.shape, found.dtype, found.data)
        if found is None or isinstance(found, (str, list, tuple)):
            self.unknown(f"{name} is no tensor")
        data = np.asarray(found)
        return Value(name, data.shape, "fp32" if data.dtype == np.float64 else mil_type(data.dtype), data)

    def x(self, name: str = "x") -> ir.Value:
        """An argument as an ONNX value; numbers become constants."""
        found = self.operation.inputs.get(name)
        if isinstance(found, Value):
            return self.evaluator.value(found)
        return self.const(self.array(name))

    def integers(self, name: str) -> ir.Value:
        """An argument of whole numbers (indices, sizes) as int64, whatever type it has."""
        known = self.known(name)
        if known is not None:
            return self.const(known.astype(np.int64))
        v = self.x(name)
        return self.emit("Cast", [v], to=int(ir.DataType.INT64)) if self.mil(name).dtype in ("int8", "uint8") else v

    def optional(self, name: str) -> ir.Value | None:
        return self.x(name) if self.has(name) else None

    def list(self, name: str) -> Sequence[ir.Value]:
        """An argument that is a list of tensors."""
        found = self.operation.inputs.get(name)
        if not isinstance(found, (list, tuple)):
            self.unknown(f"{name} is no list")
        return [self.evaluator.value(v) if isinstance(v, Value) else self.const(np.asarray(v)) for v in found]

    def listed(self, name: str) -> Sequence[Argument]:
        """The members of such an argument as they are."""
        found = self.operation.inputs.get(name)
        if not isinstance(found, (list, tuple)) or not found:
            self.unknown(f"{name} is no list")
        return found

    def numbers(self, name: str) -> Sequence[float]:
        """An argument that is a list of numbers known now."""
        made = []
        for member in self.listed(name):
            found = self.evaluator.number(member) if isinstance(member, Value) else np.asarray(member)
            if found is None:
                self.unknown(f"{name} is not known")
            made.append(float(found))
        return made

    def shape(self, name: str = "x") -> tuple[int, ...]:
        """Fixed shape of an argument."""
        shape = self.mil(name).known
        if not all(isinstance(d, int) for d in shape):
            self.unknown(f"the shape of {name} is not fixed")
        return tuple(int(d) for d in shape)

    def array(self, name: str, default: Any = None) -> Array:
        """An argument known now, as numbers; `default` where it is not given."""
        found: Any = self.operation.inputs.get(name)
        if isinstance(found, Value):
            found = self.evaluator.number(found)
        if isinstance(found, Packed):
            found = found.data
        if found is None:
            if default is None:
                self.unknown(f"{name} is not known")
            return np.asarray(default)
        return np.asarray(found)

    def known(self, name: str) -> Array | None:
        """The same, or None where it is computed."""
        found = self.operation.inputs.get(name)
        if isinstance(found, Value) and self.evaluator.number(found) is None:
            return None
        return self.array(name)

    def number(self, name: str, default: float | None = None) -> float:
        return float(self.array(name, default))

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self.array(name, default))

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.array(name, default))

    def ints(self, name: str, default: Any = None) -> Sequence[int]:
        return [int(d) for d in np.ravel(self.array(name, default))]

    def text(self, name: str, default: str | None = None) -> str:
        found = self.operation.inputs.get(name, default)
        if not isinstance(found, str):
            self.unknown(f"{name} is no text")
        return found

    def dims(self, name: str = "x") -> tuple[Dim, ...]:
        """Shape of an argument; a dimension known at run time only is its name."""
        return self.mil(name).known

    def axis(self, name: str = "axis", default: int | None = None, rank: int | None = None) -> int:
        """An axis, counted from the front; of `x` unless `rank` is given."""
        return self.integer(name, default) % (self.mil().rank if rank is None else rank)

    @property
    def out(self) -> Value:
        """The first output."""
        return self.operation.outputs[0]

    # --- writing ------------------------------------------------------------------------------------------------------

    def const(self, data: Any) -> ir.Value:
        """Numbers as an ONNX constant: floats as float32, integers as int64 (8-bit ones stay)."""
        return self.evaluator.constant(np.asarray(data))

    def exact(self, data: Array) -> ir.Value:
        """Numbers as an ONNX constant of their own type."""
        return self.evaluator.initializer(data)

    def emit(self, op: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """Add an ONNX node with one output."""
        return self.emit_many(op, inputs, 1, **attributes)[0]

    def emit_many(
        self, op: str, inputs: Sequence[ir.Value | None], outputs: int, **attributes: Any
    ) -> Sequence[ir.Value]:
        """Add an ONNX node with several outputs."""
        return self.evaluator.node(op, inputs, outputs, attributes)

    def give(self, *values: ir.Value) -> None:
        """These are the operation's outputs, in order. fp16 ones are rounded where the evaluation is in fp16."""
        for mil, v in zip(self.operation.outputs, values, strict=True):
            self.evaluator.keep(mil, v)

    def move(self, *values: ir.Value) -> None:
        """The same for values that are among the operation's inputs already: there is nothing to round."""
        for mil, v in zip(self.operation.outputs, values, strict=True):
            self.evaluator.keep(mil, v, exact=True)


def is_float(v: Value) -> bool:
    return v.dtype in FLOATS
