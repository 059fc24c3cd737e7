"""Eight bits with or without a sign: uint8 with zero point z is int8 with zero point z - 128, number for number.

Kernels are choosy: ONNX Runtime multiplies uint8 activations with int8 weights fastest, TensorRT and NPUs read int8 only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edgec.graph import Graph, constant, ir, is_constant
from edgec.passes.quantize.qdq_nodes import initializer
from edgec.pipeline import Contract, Pass, PassContext, PassResult
from edgec.quantization.form import DEQUANTIZE, QUANTIZE, stored_kind

Eight = Literal["keep", "int8", "uint8"]

_TYPES = {"int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8}
_MOVES = frozenset(
    {"Gather", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool", "Identity"}
)


@dataclass(frozen=True)
class Retype(Pass):
    """`activations`, `weights`: the type to store them in; what is not 8 bits wide stays as it is.

    A value some op reads in integers itself, or that is an input or output of the model, keeps its type.
    """

    activations: Eight = "keep"
    weights: Eight = "keep"
    leave: tuple[str, ...] = ()
    """Names of Q and DQ nodes that stay as they are."""

    name: ClassVar[str] = "retype"
    contract: ClassVar[Contract] = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        retyper = _Retyper(graph)
        activations = weights = 0
        for node in list(graph.nodes()):
            if node.domain not in ("", "ai.onnx") or not node.inputs or node.name in self.leave:
                continue
            if node.op_type == QUANTIZE and not is_constant(node.inputs[0]):
                activations += retyper.activation(node, self.activations)
            elif node.op_type == DEQUANTIZE and stored_kind(node) == "weights":
                weights += retyper.weight(node, self.weights)
        graph.remove_dead()
        counts = {"activations": activations, "weights": weights}
        return PassResult(bool(activations or weights), {k: n for k, n in counts.items() if n})


def stored_values(q: ir.Node) -> tuple[list[ir.Value], list[ir.Node]] | None:
    """The stored values a QuantizeLinear leads to, data movement included, and the DequantizeLinear that read them; None
    where something else reads them, or one is an output of the model.
    """
    values, readers = [q.outputs[0]], []
    for v in values:
        if v.is_graph_output():
            return None
        for user, i in v.uses():
            if user.op_type == DEQUANTIZE and i == 0 and user.domain in ("", "ai.onnx"):
                readers.append(user)
            elif user.op_type in _MOVES and i == 0 and len(user.outputs) == 1:
                values.append(user.outputs[0])
            else:
                return None
    return values, readers


class _Retyper:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made: dict[ir.Value, ir.Value] = {}

    def activation(self, q: ir.Node, to: Eight) -> int:
        """QuantizeLinear and what reads it, data movement in between included."""
        if to == "keep" or len(q.inputs) < 3 or not self._changes(q.inputs[2], to):
            return 0
        found = stored_values(q)
        if found is None:
            return 0
        values, readers = found
        if any(len(r.inputs) < 3 or not self._changes(r.inputs[2], to) for r in readers):
            return 0
        for node in (q, *readers):
            node.replace_input_with(2, self._shifted(node.inputs[2], to))
        for v in values:
            v.type = ir.TensorType(_TYPES[to])
        return 1

    def weight(self, dq: ir.Node, to: Eight) -> int:
        stored = dq.inputs[0]
        if to == "keep" or not is_constant(stored) or not self._changes(stored, to) or len(dq.inputs) < 3:
            return 0
        if not self._changes(dq.inputs[2], to):
            return 0
        dq.replace_input_with(0, self._shifted(stored, to))
        dq.replace_input_with(2, self._shifted(dq.inputs[2], to))
        return 1

    def _changes(self, value: ir.Value | None, to: Eight) -> bool:
        """A constant in the other 8-bit type."""
        return is_constant(value) and value is not None and value.dtype in _TYPES.values() and value.dtype != _TYPES[to]

    def _shifted(self, value: ir.Value | None, to: Eight) -> ir.Value:
        assert value is not None  # _changes
        if value not in self.made:
            data = np.asarray(constant(value)).astype(np.int16) + (128 if to == "uint8" else -128)
            self.made[value] = initializer(self.graph, f"{value.name}_{to[0]}8", data.astype(_TYPES[to].numpy()))
        return self.made[value]
