"""How an ONNX op is said in torch: one function an op, found by its name.

    @op("LeakyRelu")
    def leaky_relu(call: Call, x: Tensor) -> Tensor:
        return F.leaky_relu(x, call["alpha"])

Semantics are those of opset `IR_OPSET`; a function gets one argument an input, None for an omitted one. Shape arithmetic
runs on the CPU in integers, as in ONNX. Numbers agree with ONNX Runtime up to float rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from edgec.diagnostics import EdgecError, Location, error
from edgec.graph import attribute, ir

Tensor: TypeAlias = torch.Tensor
OpFunction = Callable[..., Any]

OPS: dict[str, OpFunction] = {}
"""ONNX op -> the function that computes it; a tuple where the op has several outputs."""


def op(*names: str) -> Callable[[OpFunction], OpFunction]:
    """Register a function for the ONNX ops `names`."""

    def register(function: OpFunction) -> OpFunction:
        for name in names:
            assert name not in OPS, f"{name} has two functions"
            OPS[name] = function
        return function

    return register


@dataclass
class Call:
    """One node about to be computed: its attributes by name, defaults filled in from the ONNX schema."""

    node: ir.Node
    source: str | None
    float_dtype: Any = torch.float32
    """What every floating-point type of the model is computed in."""
    _attributes: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        if name not in self._attributes:
            self._attributes[name] = attribute(self.node, name)
        return self._attributes[name]

    @property
    def op_type(self) -> str:
        return self.node.op_type

    def used(self, output: int) -> bool:
        """Whether anything reads that output."""
        outs = self.node.outputs
        return (
            output < len(outs)
            and bool(outs[output].name)
            and bool(outs[output].uses() or outs[output].is_graph_output())
        )

    def dtype(self, onnx_type: int) -> Any:
        """The torch dtype a Cast to `onnx_type` gives here."""
        return torch_dtype(ir.DataType(onnx_type), self.float_dtype)

    def unsupported(self, what: str) -> EdgecError:
        """The error for a form of the op that has no differentiable counterpart here."""
        where = Location(self.source, node=self.node.name or self.node.outputs[0].name)
        return error("EC0321", f"{self.op_type} {what} cannot be trained through", where)


_INTEGERS = {
    "BOOL": torch.bool, "INT8": torch.int8, "UINT8": torch.uint8, "INT16": torch.int16, "INT32": torch.int32,
}  # fmt: skip


def torch_dtype(dtype: ir.DataType, float_dtype: Any) -> Any:
    """Floating-point types become `float_dtype`; integers torch computes little with become int64."""
    if dtype.is_floating_point():
        return float_dtype
    return _INTEGERS.get(dtype.name, torch.int64)


def ints(value: Tensor | None) -> list[int] | None:
    """A tensor of axes, sizes or repeats as a list; None stays None."""
    if value is None:
        return None
    listed = value.reshape(-1).tolist()
    return [int(v) for v in listed]
