"""TensorRT's suppression plugins taken out of a model, so that runtimes without TensorRT can run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from edgec.diagnostics import Location
from edgec.graph import Graph, ir
from edgec.passes.legalize.plugin_reference import PluginReference
from edgec.pipeline import Contract, Pass, PassContext, PassResult
from edgec.plugin_ops import plugin_nodes


@dataclass(frozen=True)
class DetachNms(Pass):
    """`detach-nms{to=reference}`: EfficientNMS_TRT becomes standard ONNX ops with the same outputs.

    `to=heads`: every suppression plugin goes, and the boxes and scores it read become outputs of the model in place of
    the detections. What has no reference stays, with a warning (EC0315).
    """

    to: Literal["reference", "heads"] = "reference"

    name: ClassVar[str] = "detach-nms"
    contract: ClassVar[Contract] = "lossy"

    @property
    def changes_interface(self) -> bool:
        """Only with `to=heads`."""
        return self.to == "heads"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        if self.to == "heads":
            gone = _to_heads(graph)
            return PassResult(bool(gone), {"nms": gone} if gone else {})
        result = PluginReference().run(graph, ctx)
        for node in plugin_nodes(graph):
            why = [w for r in ctx.rejections.values() for n, w in r.items() if n == node.name]
            message = f"plugin {node.op_type} stays: {why[0] if why else 'it has no reference in ONNX ops'}"
            ctx.diagnostics.warn("EC0315", message, Location(graph.source, node=node.name))
        return result


def without_plugins(graph: Graph) -> Graph:
    """A copy of `graph` that ends where suppression plugins begin; `graph` itself where there is none."""
    if not any(_is_nms(n) for n in plugin_nodes(graph)):
        return graph
    copy = graph.clone()
    _to_heads(copy)
    return copy


def _is_nms(node: ir.Node) -> bool:
    return "NMS" in node.op_type


def _to_heads(graph: Graph) -> int:
    """Suppression plugins whose outputs all are outputs of the model, and nothing else, give way to their inputs."""
    g = graph.model.graph
    gone = 0
    for node in [n for n in plugin_nodes(graph) if _is_nms(n) and n.graph is g]:
        if any(v.uses() for v in node.outputs):
            continue
        at = min((i for i, v in enumerate(g.outputs) if v in node.outputs), default=len(g.outputs))
        for v in node.outputs:
            if v in g.outputs:
                g.outputs.remove(v)
        heads = [v for v in node.inputs[:2] if v is not None and not v.is_graph_output()]
        for i, v in enumerate(heads):
            g.outputs.insert(at + i, v)
        g.remove(node, safe=True)
        gone += 1
    if gone:
        graph.remove_dead()
    return gone
