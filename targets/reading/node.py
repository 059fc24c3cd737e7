"""One ONNX node as a lowering rule reads it: attributes with their defaults, inputs, shapes, constants, and how to refuse."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, ir, static_shape

Array = npt.NDArray[Any]


class Refused(Exception):
    """A rule cannot say this node in the target's operators."""

    def __init__(self, why: str, hint: str | None = None) -> None:
        super().__init__(why)
        self.why, self.hint = why, hint


class NodeReader:
    """What a node says. Targets that lower ops themselves add how to write: their own values, storage and operators."""

    def __init__(self, node: ir.Node) -> None:
        self.node = node

    def refuse(self, why: str, hint: str | None = None) -> NoReturn:
        """Give up on this node: `why` and `hint` reach the user with its name."""
        raise Refused(why, hint)

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or its ONNX default, or `default`."""
        value = attribute(self.node, name)
        return default if value is None else value

    def has(self, i: int) -> bool:
        """Whether input `i` is given."""
        return i < len(self.node.inputs) and self.node.inputs[i] is not None

    def value(self, i: int) -> ir.Value:
        """The ONNX value of input `i`."""
        v = self.node.inputs[i] if i < len(self.node.inputs) else None
        if v is None:
            self.refuse(f"input {i} is missing")
        return v

    def shape(self, i: int = 0) -> tuple[int, ...]:
        """ONNX shape of an input."""
        return self._shape(self.value(i))

    def out_shape(self, k: int = 0) -> tuple[int, ...]:
        """ONNX shape of an output."""
        return self._shape(self.node.outputs[k])

    def const(self, i: int, default: Any = None) -> Array:
        """A constant input as reals, in ONNX order; `default` where it is missing. Refuses where it is not constant."""
        if not self.has(i):
            return np.asarray(default)
        data = self._constant(self.value(i))
        if data is None:
            self.refuse(f"input {i} ({self.value(i).name!r}) must be a constant")
        return data

    def _constant(self, v: ir.Value) -> Array | None:
        """A value known now, as reals; None where it is not."""
        raise NotImplementedError

    def _shape(self, v: ir.Value) -> tuple[int, ...]:
        found = static_shape(v)
        if found is None:
            self.refuse(f"the shape of {v.name!r} is not fixed", "fix the inputs: --input-shape NAME=1x3x224x224")
        return found
