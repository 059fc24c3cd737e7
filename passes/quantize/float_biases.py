"""Biases stored as int32 behind DequantizeLinear become the floats they stand for.

TensorRT refuses DequantizeLinear of int32; it adds biases in float. The numbers are those the DQ would compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import Graph, constant, ir, is_constant
from edgec.passes.quantize.qdq_nodes import Array, initializer
from edgec.pipeline import Contract, Pass, PassContext, PassResult
from edgec.quantization.form import DEQUANTIZE
from edgec.quantization.pairs import Linear


@dataclass(frozen=True)
class FloatBiases(Pass):
    """No DequantizeLinear reads an int32 constant; what it put out is a float constant."""

    name: ClassVar[str] = "float-biases"
    contract: ClassVar[Contract] = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        made = 0
        for node in list(graph.model.graph):
            if node.op_type != DEQUANTIZE or node.domain not in ("", "ai.onnx"):
                continue
            stored, out = node.inputs[0], node.outputs[0]
            if not is_constant(stored) or stored is None or stored.dtype != ir.DataType.INT32 or out.is_graph_output():
                continue
            data = _floats(Linear(node, graph.opset))
            if data is None:
                continue
            out.replace_all_uses_with(initializer(graph, f"{stored.name}_float", data))
            made += 1
        if made:
            graph.remove_dead()
        return PassResult(made > 0, {"biases": made} if made else {})


def _floats(lin: Linear) -> Array | None:
    """(stored - zero point) * scale in the type of the scale."""
    stored, scale, zero = constant(lin.stored), constant(lin.node.inputs[1]), lin.zero
    if stored is None or scale is None or zero is None or lin.block:
        return None
    if scale.size > 1 and stored.ndim > 1:
        shape = [1] * stored.ndim
        shape[lin.axis or 0] = scale.size
        scale, zero = scale.reshape(shape), np.reshape(zero, shape) if np.size(zero) > 1 else zero
    elif scale.size == 1:
        scale = scale.reshape(())
    return np.asarray((stored - zero).astype(scale.dtype) * scale)
