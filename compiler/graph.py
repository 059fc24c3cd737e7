"""Graph: the unit every pass and target works on. A thin owner of an `onnx_ir.Model`."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec import _sympy

with _sympy.deferred():
    import onnx_ir as ir

__all__ = [
    "INLINE_LIMIT",
    "IR_OPSET",
    "Graph",
    "attribute",
    "bodies",
    "constant",
    "discard",
    "ir",
    "is_constant",
    "static_shape",
]

if TYPE_CHECKING:
    import onnx

    from edgec.diagnostics import Diagnostics

IR_OPSET = 24
"""The opset the IR is brought to: the first that has Swish, RMSNormalization and Attention as ops (docs/adr/0004)."""

INLINE_LIMIT = 1_900_000_000
"""Bytes of weights above which `save` moves them to a side file: a protobuf message ends at 2 GiB."""


class Graph:
    """An ONNX model in memory, plus what edgec promises about it.

    Nodes and values are plain `onnx_ir` objects, so everything its documentation says holds here. What edgec adds:
    loading that checks hostile input and keeps weights memory-mapped (`load`), names no rewrite can collide with
    (`fresh`), the facts passes have established, and doors to text, bytes and GraphSurgeon.
    """

    def __init__(self, model: ir.Model, *, source: str | None = None) -> None:
        self.model = model
        self.source = source
        self.facts: frozenset[str] = frozenset()
        self._names: set[str] | None = None
        self._taken: dict[str, int] = {}

    # --- doors ---------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, diagnostics: Diagnostics | None = None) -> Graph:
        """Read a model file. Weights of external-data models stay on disk, memory-mapped.

        Raises:
            EdgecError: the file is missing, unreadable, corrupt or hostile; every finding is in it.
        """
        from edgec.load import load

        return load(path, diagnostics)

    @classmethod
    def from_text(cls, text: str) -> Graph:
        """Parse ONNX's textual form (onnx/docs/Syntax.md). Tests and documents use it."""
        return cls(ir.from_onnx_text(text), source="<text>")

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, *, source: str | None = None) -> Graph:
        return cls(ir.from_proto(proto), source=source)

    @classmethod
    def from_graphsurgeon(cls, graph: Any, *, source: str | None = None) -> Graph:
        """From an `onnx_graphsurgeon.Graph`. Weights are shared, not copied, where GraphSurgeon allows."""
        from edgec.graphsurgeon import from_graphsurgeon

        return from_graphsurgeon(graph, source=source)

    def to_graphsurgeon(self) -> Any:
        """This model as an `onnx_graphsurgeon.Graph`, for scripts written on that library."""
        from edgec.graphsurgeon import to_graphsurgeon

        return to_graphsurgeon(self)

    def to_proto(self) -> onnx.ModelProto:
        return ir.to_proto(self.model)

    def to_bytes(self) -> bytes:
        """Serialised deterministically: the same graph gives the same bytes."""
        data: bytes = self.to_proto().SerializeToString(deterministic=True)
        return data

    def to_text(self) -> str:
        return ir.to_onnx_text(self.model, exclude_initializers=False)

    def save(self, path: str | os.PathLike[str], *, external_data: bool | None = None) -> list[Path]:
        """Write the model; weights go to `<name>.data` beside it when they do not fit (or `external_data` says so).

        The target file appears complete or not at all. Returns the files written, the model first.
        """
        path = Path(path)
        if external_data is None:
            external_data = self.weight_bytes() > INLINE_LIMIT
        tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        side = path.with_name(f"{path.name}.data")
        try:
            if external_data:
                ir.save(self.model, tmp, external_data=side.name)
            else:
                tmp.write_bytes(self.to_bytes())
            tmp.replace(path)
        finally:
            tmp.unlink(missing_ok=True)
        return [path, side] if external_data else [path]

    def clone(self) -> Graph:
        """A copy whose structure is its own; weights are shared and immutable."""
        g = Graph(self.model.clone(), source=self.source)
        g.facts = self.facts
        return g

    # --- reading -------------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> list[ir.Value]:
        return list(self.model.graph.inputs)

    @property
    def outputs(self) -> list[ir.Value]:
        return list(self.model.graph.outputs)

    @property
    def opset(self) -> int:
        """Version of the default ONNX operator set the model is written in."""
        return self.model.opset_imports.get("", 1)

    def graphs(self) -> Iterator[ir.Graph | ir.Function]:
        """The main graph, every subgraph (If, Loop, Scan bodies), and the model's functions; outer before inner."""
        roots: list[ir.Graph | ir.Function] = [self.model.graph, *self.model.functions.values()]
        for root in roots:
            yield root
            yield from _bodies(root)

    def nodes(self) -> Iterator[ir.Node]:
        """Every node of every graph, in execution order within each."""
        for g in self.graphs():
            yield from g

    def holders(self) -> dict[ir.Graph, ir.Node]:
        """Each subgraph -> the node (If, Loop, Scan) whose body it is."""
        return {g: node for node in self.nodes() for g in bodies(node)}

    def op_counts(self) -> Counter[str]:
        """How many nodes of each op type; ops outside the ONNX domain are written `domain::Op`."""
        return Counter(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in self.nodes())

    def weight_bytes(self) -> int:
        """Bytes of all initializers, read from their descriptions: no weight is loaded."""
        return sum(
            v.const_value.nbytes
            for g in self.graphs()
            if isinstance(g, ir.Graph)
            for v in g.initializers.values()
            if v.const_value is not None
        )

    # --- keeping it valid ----------------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A value name nothing in the model has. Names once seen stay taken: cheap, and never wrong."""
        if self._names is None:
            self._names = {v.name for v in self._values() if v.name}
        name, i = hint, self._taken.get(hint, 0)
        while name in self._names:
            i += 1
            name = f"{hint}.{i}"
        self._names.add(name)
        self._taken[hint] = i  # where the next search for the same hint begins
        return name

    def _values(self) -> Iterator[ir.Value]:
        for g in self.graphs():
            yield from g.inputs
            if isinstance(g, ir.Graph):
                yield from g.initializers.values()
            for n in g:
                yield from n.outputs

    def remove_dead(self) -> int:
        """Remove nodes nobody uses, then weights nobody uses. Returns how many nodes went."""
        removed = 0
        for g in [*self.graphs()][::-1]:
            for node in reversed(g):
                if any(v.uses() or v.is_graph_output() for v in node.outputs):
                    continue
                discard(node)
                removed += 1
        for g in self.graphs():
            if isinstance(g, ir.Graph):
                for name in [k for k, v in g.initializers.items() if not v.uses() and not v.is_graph_output()]:
                    del g.initializers[name]
        return removed

    def verify(self) -> None:
        """Raise if the graph is not a valid ONNX model: the onnx checker, weights left out."""
        from edgec.infer import check

        check(self)

    def fingerprint(self) -> str:
        """SHA-256 of structure and weights, independent of where the model was loaded from."""
        digest = hashlib.sha256()
        for g in self.graphs():
            for v in g.inputs:
                digest.update(f"in {v.name} {v.dtype} {v.shape}\n".encode())
            if isinstance(g, ir.Graph):
                for name in sorted(g.initializers):
                    t = g.initializers[name].const_value
                    if t is not None:
                        digest.update(f"w {name} {t.dtype} {t.shape}\n".encode())
                        digest.update(_tensor_bytes(t))
            for n in g:
                ins, outs = [v.name if v else "" for v in n.inputs], [v.name for v in n.outputs]
                attrs = sorted((k, _attribute_digest(a)) for k, a in n.attributes.items())
                digest.update(f"n {n.domain}::{n.op_type} {ins} {outs} {attrs}\n".encode())
            for v in g.outputs:
                digest.update(f"out {v.name}\n".encode())
        return digest.hexdigest()


def _attribute_digest(a: ir.Attr) -> str:
    """An attribute's value, tensors by all of their bytes. Subgraphs count where they are visited."""
    if a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return "graph"
    if a.type is ir.AttributeType.TENSOR and not a.is_ref():
        t = a.as_tensor()
        return f"{t.dtype} {t.shape} {hashlib.sha256(_tensor_bytes(t)).hexdigest()}"
    return str(a.ref_attr_name or a.value)


def _tensor_bytes(t: ir.TensorProtocol) -> bytes:
    """The data; of strings, their text: arrays of them hold addresses."""
    return repr(t.numpy().tolist()).encode() if t.dtype == ir.DataType.STRING else t.numpy().tobytes()


def _bodies(g: ir.Graph | ir.Function) -> Iterator[ir.Graph]:
    """Subgraphs of the nodes of `g`, each before those inside it."""
    for node in g:
        if node.op_type not in _HOLDERS and node.domain == "":
            continue
        for body in bodies(node):
            yield body
            yield from _bodies(body)


_HOLDERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""The ops of the ONNX domain that have subgraphs: all others need not be looked at."""


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The subgraphs a node carries as attributes: branches of an If, bodies of Loop and Scan."""
    if node.op_type not in _HOLDERS and node.domain == "":
        return
    for a in node.attributes.values():
        if a.type is ir.AttributeType.GRAPH and not a.is_ref():
            yield a.as_graph()
        elif a.type is ir.AttributeType.GRAPHS and not a.is_ref():
            yield from a.as_graphs()


def discard(node: ir.Node, keep: Collection[ir.Graph] = ()) -> None:
    """Remove a node nobody uses from its graph. Its subgraphs, save those in `keep`, stop using outer values too."""
    assert node.graph is not None  # only nodes of a graph can be removed from it
    node.graph.remove(node, safe=True)
    for body in bodies(node):
        if body in keep:
            continue
        for inner in body.all_nodes():
            for i in range(len(inner.inputs)):
                inner.replace_input_with(i, None)
        body.outputs.clear()


def constant(value: ir.Value | None) -> Any | None:
    """The numpy array of a value known at compile time, else None. Reads the weight: mind its size."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is known at compile time. Reads no weight."""
    return value is not None and value.const_value is not None and not value.is_graph_input()


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape if every dimension is a number, else None."""
    if value is None or value.shape is None:
        return None
    dims = tuple(d for d in value.shape if isinstance(d, int))
    return dims if len(dims) == value.shape.rank() else None


def attribute(node: ir.Node, name: str, opset: int = IR_OPSET) -> Any:
    """An attribute's value, or the default the ONNX schema gives it at `opset`, or None."""
    a = node.attributes.get(name)
    if a is not None:
        return a.value
    return _default(node.op_type, node.domain, name, opset)


@lru_cache(maxsize=4096)
def _default(op_type: str, domain: str, name: str, opset: int) -> Any:
    import onnx

    if not onnx.defs.has(op_type, domain):
        return None
    schema = onnx.defs.get_schema(op_type, opset, domain) if domain == "" else onnx.defs.get_schema(op_type, domain)
    spec = schema.attributes.get(name)
    if spec is None or not spec.default_value.name:
        return None
    return ir.serde.deserialize_attribute(spec.default_value).value
