"""Types and shapes of every value, by ONNX's rules and by evaluating shape arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import Graph, ir, static_shape
from edgec.infer import infer_shapes
from edgec.pipeline import Contract, Pass, PassContext, PassResult
from edgec.rewrite import FROM_KEY


@dataclass(frozen=True)
class InferShapes(Pass):
    """Only adds knowledge: declared types stay, and a dimension that is a number stays that number."""

    name: ClassVar[str] = "infer-shapes"
    contract: ClassVar[Contract] = "exact"
    establishes: ClassVar[frozenset[str]] = frozenset({"shapes-inferred"})

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        changed = infer_shapes(graph)
        made = _scalar_ranges(graph)
        return PassResult(changed or made > 0, {"scalar-range": made} if made else {})


def _scalar_ranges(graph: Graph) -> int:
    """Reshape one-element tensors that Range reads to scalars. Returns how many.

    Range wants scalars. Kernels take any tensor of one element, and some exporters (onnx's own AffineGrid function among
    them) pass these; ONNX Runtime refuses such a model once shapes are known.
    """
    made = 0
    for node in list(graph.nodes()):
        if node.op_type != "Range" or node.domain not in ("", "ai.onnx") or node.graph is None:
            continue
        for i, v in enumerate(node.inputs):
            if v is None or not (dims := static_shape(v)) or set(dims) != {1}:
                continue
            name = graph.fresh(f"{v.name}.scalar")
            empty = ir.tensor(np.zeros(0, np.int64), name=graph.fresh("scalar.shape"))
            shape = ir.Value(name=empty.name, shape=ir.Shape((0,)), type=ir.TensorType(empty.dtype), const_value=empty)
            graph.model.graph.register_initializer(shape)
            reshape = ir.node("Reshape", [v, shape], name=f"{name}/Reshape")
            (out,) = reshape.outputs
            out.name, out.type, out.shape = name, v.type, ir.Shape(())
            reshape.metadata_props[FROM_KEY] = node.name or "?"
            node.graph.insert_before(node, reshape)
            node.replace_input_with(i, out)
            made += 1
    return made
