"""No model output is one of the model's inputs: a Reshape stands between them.

Measured: rknn-toolkit2 2.5.0 fails with an IndexError on a model whose output is an input; its loader removes Identity,
while a Reshape to the same shape is exact and stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import Graph, ir, static_shape
from edgec.passes.legalize.opset_changes import add_weight
from edgec.pipeline import Contract, Pass, PassContext, PassResult


@dataclass(frozen=True)
class AvoidIdentityOutput(Pass):
    """Every output that is an input, directly or through Identity, is read through a Reshape instead."""

    name: ClassVar[str] = "avoid-identity-output"
    contract: ClassVar[Contract] = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        changed = 0
        for node in list(graph.model.graph):
            source, out = node.inputs[0] if node.inputs else None, node.outputs[0]
            if node.op_type != "Identity" or node.domain != "" or source is None or not out.is_graph_output():
                continue
            shape = static_shape(source)
            if shape is None or not (source.is_graph_input() or source.is_graph_output()):
                continue
            weight = add_weight(graph, np.array(shape, np.int64), f"{out.name}.shape")
            reshape = ir.node("Reshape", [source, weight], num_outputs=1)
            reshape.name = node.name
            new = reshape.outputs[0]
            new.type, new.shape, name = out.type, out.shape, out.name
            graph.model.graph.insert_after(node, [reshape])
            out.replace_all_uses_with(new, replace_graph_outputs=True)
            out.name, new.name = None, name
            graph.model.graph.remove(node, safe=True)
            changed += 1
        return PassResult(bool(changed), {"avoid-identity-output": changed} if changed else {})
