"""Common subexpressions: nodes that do the same with the same inputs become one, and so do equal weights.

Weights are compared by type, shape and a few elements first; only where two agree in these is their content read and
hashed, so a memory-mapped weight without a twin is never read. A node of a body (If, Loop, Scan) is merged with one of the same body or of a
graph around it, never the other way: what a branch computes is not known outside.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from edgec.graph import Graph, ir
from edgec.pipeline import Contract, Pass, PassContext, PassResult
from edgec.rewrite import FROM_KEY, provenance

_RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "Dropout",
}
_SAMPLED = 32  # elements looked at before two weights are read in full
_Key = tuple[Any, ...]


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """`max_bytes`: weights above this size are not compared."""

    max_bytes: int = 1 << 30

    name: ClassVar[str] = "cse"
    contract: ClassVar[Contract] = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        weights = _merge_weights(graph, self.max_bytes)
        nodes = _merge_nodes(graph.model.graph, {})
        for function in graph.model.functions.values():
            nodes += _merge_nodes(function, {})
        counts = {"nodes": nodes, "weights": weights}
        return PassResult(bool(nodes or weights), {k: n for k, n in counts.items() if n})


def _merge_weights(graph: Graph, max_bytes: int) -> int:
    """Weights of the main graph; the first one of each kind stays."""
    g = graph.model.graph
    twins: dict[_Key, list[ir.Value]] = defaultdict(list)
    for v in g.initializers.values():
        t = v.const_value
        if (
            t is None
            or v.is_graph_input()
            or v.is_graph_output()
            or t.nbytes > max_bytes
            or t.dtype == ir.DataType.STRING
        ):
            continue
        twins[t.dtype, tuple(t.shape)].append(v)
    merged = 0
    for group in _alike(twins.values()):
        seen: dict[bytes, ir.Value] = {}
        for v in group:
            assert v.const_value is not None  # looked at above
            digest = hashlib.sha256(v.const_value.numpy().tobytes()).digest()
            first = seen.setdefault(digest, v)
            if first is not v:
                v.replace_all_uses_with(first)
                del g.initializers[v.name or ""]
                merged += 1
    return merged


def _alike(groups: Iterable[list[ir.Value]]) -> Iterator[list[ir.Value]]:
    """Groups of weights that also agree in a few elements: weights that differ are then not read, let alone hashed."""
    for group in groups:
        if len(group) < 2:
            continue
        samples: dict[bytes, list[ir.Value]] = defaultdict(list)
        for v in group:
            assert v.const_value is not None  # looked at by the caller
            flat = v.const_value.numpy().reshape(-1)
            samples[flat[:: max(1, flat.size // _SAMPLED)].tobytes()].append(v)
        yield from (g for g in samples.values() if len(g) > 1)


def _merge_nodes(g: ir.Graph | ir.Function, outer: dict[_Key, ir.Node]) -> int:
    seen = dict(outer) if outer else outer
    merged = 0
    for node in list(g):
        bodies = [b for a in node.attributes.values() for b in _bodies(a)]
        if bodies:
            merged += sum(_merge_nodes(b, dict(seen)) for b in bodies)
            continue
        if node.op_type in _RANDOM:
            continue
        key = _key(node)
        first = seen.setdefault(key, node) if key is not None else node
        if first is not node and _mergeable(first, node):
            _merge(first, node)
            g.remove(node, safe=True)
            merged += 1
    return merged


def _bodies(a: ir.Attr) -> list[ir.Graph]:
    if a.type == ir.AttributeType.GRAPH:
        return [a.as_graph()]
    return list(a.as_graphs()) if a.type == ir.AttributeType.GRAPHS else []


def _key(node: ir.Node) -> _Key | None:
    attributes: list[_Key] = []
    for name in sorted(node.attributes):
        a = node.attributes[name]
        if a.type in (ir.AttributeType.TYPE_PROTO, ir.AttributeType.TYPE_PROTOS):
            return None
        if a.is_ref() or a.type in (ir.AttributeType.TENSOR, ir.AttributeType.SPARSE_TENSOR, ir.AttributeType.TENSORS):
            if a.type != ir.AttributeType.TENSOR or a.is_ref():
                return None
            t = a.as_tensor()
            if t.nbytes > 1024 or t.dtype == ir.DataType.STRING:
                return None
            attributes.append((name, t.dtype, tuple(t.shape), t.numpy().tobytes()))
        else:
            value = a.value
            attributes.append((name, a.type, tuple(value) if isinstance(value, (list, tuple)) else value))
    used = tuple(bool(v.name) for v in node.outputs)
    return node.domain, node.op_type, node.overload, node.inputs, tuple(attributes), used


def _mergeable(first: ir.Node, node: ir.Node) -> bool:
    """A public name cannot be given up: of two public outputs both stay."""
    for a, b in zip(first.outputs, node.outputs, strict=True):
        if b.is_graph_output() and (a.is_graph_output() or first.graph is not node.graph):
            return False
    return True


def _merge(first: ir.Node, node: ir.Node) -> None:
    for a, b in zip(first.outputs, node.outputs, strict=True):
        public, name = b.is_graph_output(), b.name
        if a.shape is None or (public and b.shape is not None):
            a.shape = b.shape
        a.type = a.type or b.type
        b.replace_all_uses_with(a, replace_graph_outputs=public)
        if public:
            b.name, a.name = None, name
    first.metadata_props[FROM_KEY] = provenance([first, node])
