"""Ops by the function body that their ONNX operator definition gives.

The definition of an op may be a function of simpler ops, with a body that depends on attributes and types (Attention with
caches, RotaryEmbedding). It is exact, but general: shapes are computed in the graph, which `fold-constants` works out
where they are known. The expansions of `expand-composites` are shorter and come first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edgec.graph import Graph, ir
from edgec.passes.prepare.inline_functions import InlineFunctions
from edgec.pipeline import Contract, Pass, PassContext, PassResult

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class ExpandDefinitions(Pass):
    """No node of `ops` whose definition is a function; those whose input types are not known stay."""

    ops: tuple[str, ...] = ("Attention", "RotaryEmbedding", "DynamicQuantizeLinear")

    name: ClassVar[str] = "expand-definitions"
    contract: ClassVar[Contract] = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        counts: dict[str, int] = {}
        for node in list(graph.nodes()):
            if node.domain or node.op_type not in self.ops:
                continue
            body = _definition(node, graph.opset)
            if body is None:
                continue
            overload = f"definition_{sum(counts.values())}"
            function = ir.Function("", node.op_type, overload, graph=body.graph, attributes=body.attributes.values())
            graph.model.functions[function.identifier()] = function
            node.overload = overload
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
        if counts:
            InlineFunctions().run(graph, ctx)
        return PassResult(bool(counts), counts)


def _definition(node: ir.Node, opset: int) -> ir.Function | None:
    """The body for this node's attributes and types."""
    import onnx

    schema: Any = onnx.defs.get_schema(node.op_type, opset, "")
    if schema.has_context_dependent_function:
        if any(v is not None and (v.type is None or v.dtype is None) for v in node.inputs):
            return None
        types = [
            (onnx.TypeProto() if v is None else ir.serde.serialize_value(v).type).SerializeToString()
            for v in node.inputs
        ]
        text = ir.to_proto(node).SerializeToString()
        found = schema.get_context_dependent_function(text, types)
        return _function(onnx.FunctionProto.FromString(found), node) if found else None
    return _function(schema.function_body, node) if schema.has_function else None


def _function(body: onnx.FunctionProto, node: ir.Node) -> ir.Function:
    """The body, with the outputs the node has; what of them it does not compute is a constant that nobody reads."""
    from onnx import helper

    del body.output[len(node.outputs) :]

    made = {name for n in body.node for name in n.output} | set(body.input)
    for name in body.output:
        if name not in made:
            body.node.append(helper.make_node("Constant", [], [name], value_float=0.0))
    return ir.serde.deserialize_function(body)
