"""Weights that are stored in few bits already, in a model whose activations are not: quantised with the parameters they have.

    stored = StoredWeights(graph)        # they are float weights from here on, so plans see them as weights
    ...  stored.params(value, kind)      # their own parameters, where the scheme's kind allows them
    stored.restore()                     # what nobody stored again is as it was

So no weight is rounded twice: storing q * scale with that scale gives q.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgec.graph import Graph, ir, is_constant
from edgec.passes.quantize.dequantize import real_name, real_weight
from edgec.passes.quantize.qdq_nodes import initializer
from edgec.passes.quantize.quantized_input import params_of
from edgec.quantization.form import DEQUANTIZE, quantization_form
from edgec.quantization.params import LIMITS, QuantParams

if TYPE_CHECKING:
    from edgec.specs.scheme import QuantKind


class StoredWeights:
    """Weights behind DequantizeLinear become float weights, in models of the form weight-only; others are left alone."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._found: dict[ir.Value, tuple[ir.Node, QuantParams]] = {}
        if quantization_form(graph).form == "weight-only":
            for node in list(graph.model.graph):
                if node.op_type == DEQUANTIZE and node.domain == "" and is_constant(node.inputs[0]):
                    self._unfold(node)

    def __len__(self) -> int:
        return len(self._found)

    def _unfold(self, dq: ir.Node) -> None:
        stored, out, params = dq.inputs[0], dq.outputs[0], params_of(dq)
        if stored is None or params is None or out.is_graph_output() or not out.uses():
            return
        real = real_weight(dq, stored)
        if real is None:
            return
        value = initializer(self.graph, real_name(stored), real)
        out.replace_all_uses_with(value)
        self._found[value] = dq, params

    def params(self, value: ir.Value, kind: QuantKind) -> QuantParams | None:
        """The parameters `value` was stored with; None if it was not, or if `kind` forbids them."""
        if value not in self._found:
            return None
        params = self._found[value][1]
        middle = 0 if LIMITS[params.dtype][0] < 0 else (LIMITS[params.dtype][1] + 1) // 2
        if params.dtype != kind.dtype or (kind.symmetric and np.any(params.zero_point != middle)):
            return None
        if params.block is not None or kind.per == "block" or (kind.per == "tensor" and params.axis is not None):
            return None
        if kind.nonzero and np.any(params.zero_point == 0):
            return None
        return params

    def restore(self) -> None:
        """Weights still read in float are read from where they were stored; the others' nodes go."""
        for value, (dq, _) in self._found.items():
            if value.uses():
                value.replace_all_uses_with(dq.outputs[0])
        self._found.clear()
        self.graph.remove_dead()
