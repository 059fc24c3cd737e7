"""Plugin nodes: ops of a vendor's runtime that ONNX has no schema for (specs/plugins). They stay as they are; edgec knows
what they put out, so shapes, checks and rewrites go on behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgec.graph import Graph, ir

if TYPE_CHECKING:
    import onnx

    from edgec.specs.plugin_table import PluginOp

STAND_IN = "trt.plugins"
"""The domain plugin nodes of the default domain get in front of onnx's checker, which refuses names it does not know there."""

REFERENCE = "plugin-reference"
"""The pass that writes plugin nodes in ONNX ops."""


def plugin_op(node: ir.Node) -> PluginOp | None:
    """The table's row for a node, whatever its domain, unless ONNX itself has an op of that name there."""
    if not _unknown(node.op_type, node.domain):
        return None
    from edgec.specs.plugin_table import plugin_tables

    return next((t.ops[node.op_type] for t in plugin_tables() if node.op_type in t.ops), None)


def is_plugin(node: ir.Node) -> bool:
    """Whether a node is one of the tables' or has an attribute that only plugin nodes have."""
    return _is_plugin(node.op_type, node.domain, node.attributes)


def plugin_nodes(graph: Graph) -> list[ir.Node]:
    """All plugin nodes of a graph, in execution order."""
    return [n for n in graph.nodes() if is_plugin(n)]


def runnable(graph: Graph) -> Graph:
    """What of a graph runs without the vendor's runtime: a copy in which plugin nodes are standard ops, where there is a
    reference for them; the graph itself where it has no plugin nodes.
    """
    if not plugin_nodes(graph):
        return graph
    from edgec.pipeline import PassContext, PassManager
    from edgec.plugins import Registry
    from edgec.recipe import build_passes

    copy = graph.clone()
    PassManager(build_passes([REFERENCE], Registry().passes())).run(copy, PassContext())
    return copy


def _unknown(op_type: str, domain: str) -> bool:
    import onnx

    if domain in ("", "ai.onnx"):
        return not onnx.defs.has(op_type, "")
    return domain not in ("com.microsoft", "ai.onnx.ml")


def _is_plugin(op_type: str, domain: str, attributes: Any) -> bool:
    if not _unknown(op_type, domain):
        return False
    from edgec.specs.plugin_table import plugin_tables

    return any(op_type in t.ops or any(m in attributes for m in t.marks) for t in plugin_tables())


def infer_plugin(node: ir.Node) -> bool:
    """Give the outputs of a plugin node their types and shapes, where its row and its inputs tell. True if that is new."""
    row = plugin_op(node)
    if row is None:
        return False
    from edgec.specs.plugin_table import output_shape

    shapes = [
        None
        if v is None or v.shape is None
        else [d if isinstance(d, int) else d.value if isinstance(d.value, str) else None for d in v.shape]
        for v in node.inputs
    ]
    attributes = {**row.defaults, **{k: a.value for k, a in node.attributes.items()}}
    changed = False
    for value, output in zip(node.outputs, row.outputs, strict=False):
        changed |= _type(value, _dtype(output.dtype, node))
        found = output_shape(output, shapes, attributes)
        if found is None:
            continue
        have = value.shape
        if have is None:
            value.shape = ir.Shape(found)
            changed = True
        elif have.rank() == len(found):
            dims = [b if not isinstance(a, int) and isinstance(b, int) else a for a, b in zip(have, found, strict=True)]
            if dims != list(have):
                value.shape = ir.Shape(dims)
                changed = True
    return changed


def _dtype(name: str, node: ir.Node) -> ir.DataType | None:
    if not name.startswith("in") or name.startswith("int"):
        return ir.DataType[{"float32": "FLOAT"}.get(name, name.upper())]
    i = int(name[2:])
    source = node.inputs[i] if i < len(node.inputs) else None
    return source.dtype if source is not None else None


def _type(value: ir.Value, dtype: ir.DataType | None) -> bool:
    if value.type is not None or dtype is None:
        return False
    value.type = ir.TensorType(dtype)
    return True


def disguise(proto: onnx.ModelProto) -> None:
    """Move plugin nodes of the default domain to one onnx's checker leaves alone, and import the domains of all of them."""
    domains = {o.domain for o in proto.opset_import}
    for node in _nodes(proto.graph):
        if node.domain in domains and node.domain not in ("", "ai.onnx"):
            continue
        if not _is_plugin(node.op_type, node.domain, {a.name for a in node.attribute}):
            continue
        if node.domain in ("", "ai.onnx"):
            node.domain = STAND_IN
        if node.domain not in domains:
            domains.add(node.domain)
            proto.opset_import.add(domain=node.domain, version=1)


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    out = []
    for node in graph.node:
        out.append(node)
        for a in node.attribute:
            for body in (*([a.g] if a.HasField("g") else []), *a.graphs):
                out += _nodes(body)
    return out
