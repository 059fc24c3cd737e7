"""Copies of the nodes of a body (of If, Loop, Scan) as new nodes of the graph around it."""

from __future__ import annotations

from collections.abc import Mapping

from edgec.graph import ir
from edgec.infer import infer_node
from edgec.rewrite import Rewriter


def copy_body(rw: Rewriter, body: ir.Graph, inputs: Mapping[ir.Value, ir.Value]) -> list[ir.Value]:
    """The values that stand for the outputs of `body` when its inputs are `inputs`.

    Nodes are copied, values of the graphs around are read as they are. The nodes must have no bodies of their own. Shapes
    are inferred anew from those of the inputs.
    """
    known: dict[ir.Value, ir.Value] = dict(inputs)
    for v in body.initializers.values():
        if v not in known:
            assert v.const_value is not None  # an initializer has data
            known[v] = rw.const(v.const_value.numpy(), v.name or "constant")
    for node in body:
        read = [known.get(v, v) if v is not None else None for v in node.inputs]
        new = ir.node(
            node.op_type, read, attributes=dict(node.attributes), domain=node.domain, num_outputs=len(node.outputs)
        )
        rw.new.append(new)
        if not all(v.dtype is not None and v.shape is not None for v in new.outputs):
            infer_node(new, rw.opset)
        for old, value in zip(node.outputs, new.outputs, strict=True):
            if value.type is None:
                value.type = old.type
            if value.shape is None:
                value.shape = old.shape
            known[old] = value
    return [known.get(v, v) for v in body.outputs]
