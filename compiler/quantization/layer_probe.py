"""A float graph extended so that one run tells, for every quantised layer, its own error and what arrives of it at the
outputs. `sensitivity.py` runs it and says what the figures mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgec.diagnostics import Location, error
from edgec.graph import Graph, ir, is_constant
from edgec.quantization.adjoint import Adjoint, add_adjoint
from edgec.quantization.builder import Builder

MOVERS = frozenset({
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Split", "Expand", "Tile", "Concat",
    "MaxPool", "GlobalMaxPool", "DepthToSpace", "SpaceToDepth", "Identity", "Relu", "Clip",
})  # fmt: skip
"""Ops whose outputs are some of their inputs' values: stored with the same parameters, nothing is rounded twice."""

_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass
class Probe:
    """`graph` takes the samples and the values of `seeds`; its outputs are three vectors with one element a layer."""

    graph: Graph
    layers: list[ir.Node]
    """Nodes of the float graph that read something stored, in execution order."""
    followers: dict[str, frozenset[str]]
    """Layers without weights -> the layers that read their outputs; left out where somebody else does too."""
    seeds: dict[str, str]
    """Weighted value -> the input of `graph` that takes its weights, in its shape."""
    ends: list[str]
    contributions: str = ""
    """Output: the weighted error each layer causes."""
    own_errors: str = ""
    """Output: sum of squares of each layer's own error, at its output."""
    signals: str = ""
    """Output: sum of squares of what the own error is to be compared with."""


def layer_name(node: ir.Node) -> str:
    """What a node is called in tables and options: its name, or its first output's."""
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


def align(reference: Graph, quantized: Graph) -> list[tuple[ir.Node, ir.Node]]:
    """The nodes of both main graphs, Q/DQ left out, pair by pair.

    Raises:
        EdgecError: EC0751 they differ by more than Q/DQ nodes.
    """
    a, b = ([n for n in g.model.graph if n.op_type not in _PAIR] for g in (reference, quantized))
    ops_a, ops_b = ([n.op_type for n in nodes] for nodes in (a, b))
    if ops_a != ops_b:
        what = f"the float graph has {len(a)} nodes, the quantised one {len(b)} besides Q/DQ"
        at = next((x for x, y in zip(a, b, strict=False) if x.op_type != y.op_type), None)
        where = Location(reference.source, node=layer_name(at) if at is not None else None)
        raise error("EC0751", what if len(a) != len(b) else "the graphs have other nodes", where)
    return list(zip(a, b, strict=True))


def dequantized(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes a value."""
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def quantizer(value: ir.Value | None) -> ir.Node | None:
    """The QuantizeLinear of the pair that makes a value; None for stored weights."""
    dq = dequantized(value)
    producer = dq.inputs[0].producer() if dq is not None and dq.inputs[0] is not None else None
    return producer if producer is not None and producer.op_type == "QuantizeLinear" else None


def output_layers(reference: Graph, quantized: Graph) -> dict[str, str]:
    """Public outputs that are stored -> the layer that computes them: the nearest one upstream that reads integers."""
    pairs = align(reference, quantized)
    layers = {a for a, b in pairs if any(dequantized(v) for v in b.inputs)}
    out: dict[str, str] = {}
    for value, stored in zip(reference.outputs, quantized.outputs, strict=True):
        if quantizer(stored) is None:
            continue
        node = value.producer()
        while node is not None and node not in layers:
            node = next((v.producer() for v in node.inputs if v is not None and not is_constant(v)), None)
        if node is not None:
            out[value.name or ""] = layer_name(node)
    return out


def build_probe(reference: Graph, quantized: Graph) -> Probe:
    """The graph to run. See `sensitivity` for what is raised."""
    return _Probe(reference, quantized).build()


class _Probe:
    def __init__(self, reference: Graph, quantized: Graph) -> None:
        self.graph = reference.clone()
        self.pairs = align(self.graph, quantized)
        self.stored_outputs = _stored_outputs(self.graph, quantized)
        self.b = Builder(self.graph)
        self.stored: dict[ir.Value, ir.Value] = {}  # float value -> what is left of it
        self.constants: dict[ir.Value, ir.Value] = {}  # initializers of `quantized` -> ours

    def build(self) -> Probe:
        forward = list(self.graph.model.graph)
        reads = {a: [self._fresh_read(a, b, i) for i in range(len(b.inputs))] for a, b in self.pairs}
        layers = [a for a, b in self.pairs if any(dequantized(v) for v in b.inputs)]
        if not layers:
            return Probe(self.graph, [], {}, {}, [])
        stored = dict(self.pairs)
        branches = {n: self._branch(n, stored[n], reads[n]) for n in layers if self._has_weight(n, stored[n])}
        sources = {
            v for n in layers if n not in branches for v, new in zip(n.inputs, reads[n], strict=True) if new and v
        }
        sources |= {n.outputs[0] for n in branches}
        adjoint = add_adjoint(self.b, forward, sources)
        made = Probe(self.graph, layers, self._followers(layers, branches), adjoint.seeds, adjoint.ends)
        self._measure(made, branches, reads, adjoint)
        return made

    def _has_weight(self, node: ir.Node, stored: ir.Node) -> bool:
        return any(dequantized(v) and is_constant(a) for a, v in zip(node.inputs, stored.inputs, strict=True))

    def _fresh_read(self, node: ir.Node, stored: ir.Node, i: int) -> ir.Value | None:
        """What is left of an activation that is read stored; None where it is not, or was rounded so before."""
        value = node.inputs[i] if i < len(node.inputs) else None
        q = quantizer(stored.inputs[i])
        if value is None or q is None or _rounded_before(q):
            return None
        return self._round(value, q)

    def _round(self, value: ir.Value, q: ir.Node) -> ir.Value:
        if value not in self.stored:
            rest = [self._constant(v) for v in q.inputs[1:]]
            attributes = {k: a.value for k, a in q.attributes.items()}
            stored = self.b.node("QuantizeLinear", [value, *rest], attributes, 1).outputs[0]
            self.stored[value] = self.b.node("DequantizeLinear", [stored, *rest], attributes, 1).outputs[0]
        return self.stored[value]

    def _constant(self, value: ir.Value | None) -> ir.Value | None:
        """An initializer of the quantised graph in ours."""
        if value is None:
            return None
        if value not in self.constants:
            made = ir.Value(
                name=self.graph.fresh(value.name or "c"),
                shape=value.shape,
                type=value.type,
                const_value=value.const_value,
            )
            self.graph.model.graph.register_initializer(made)
            self.constants[value] = made
        return self.constants[value]

    def _branch(self, node: ir.Node, stored: ir.Node, reads: list[ir.Value | None]) -> ir.Value:
        """The layer's own error at its output: its quantised form on exact inputs, minus what it should be."""
        inputs: list[ir.Value | None] = []
        for i, value in enumerate(node.inputs):
            dq = dequantized(stored.inputs[i])
            if dq is not None and is_constant(value):
                parts = [self._constant(v) for v in dq.inputs]
                attributes = {k: a.value for k, a in dq.attributes.items()}
                inputs.append(self.b.node("DequantizeLinear", parts, attributes, 1).outputs[0])
            elif dq is None and is_constant(value) and stored.inputs[i] is not None and is_constant(stored.inputs[i]):
                inputs.append(self._constant(stored.inputs[i]))  # a bias that a correction changed
            else:
                inputs.append(reads[i] or value)
        return self.b.op("Sub", self.b.copy(node, inputs).outputs[0], node.outputs[0])

    def _followers(self, layers: list[ir.Node], branches: dict[ir.Node, ir.Value]) -> dict[str, frozenset[str]]:
        known = set(layers)
        out: dict[str, frozenset[str]] = {}
        for n in layers:
            users = {u for v in n.outputs for u, _ in v.uses()}
            if n in branches or any(v.is_graph_output() for v in n.outputs) or not users <= known:
                continue
            out[layer_name(n)] = frozenset(map(layer_name, users))
        return out

    def _measure(
        self,
        made: Probe,
        branches: dict[ir.Node, ir.Value],
        reads: dict[ir.Node, list[ir.Value | None]],
        adjoint: Adjoint,
    ) -> None:
        """The three vectors, as the graph's only outputs."""
        b, zero = self.b, self.b.array([0.0])
        errors: dict[ir.Value, ir.Value] = {}

        def rounding(value: ir.Value) -> ir.Value:
            if value not in errors:
                errors[value] = b.op("Sub", self.stored[value], value)
            return errors[value]

        rows: list[tuple[ir.Value, ir.Value, ir.Value]] = []
        for n in made.layers:
            terms: list[ir.Value] = []
            if n in branches:
                g = adjoint.of_values.get(n.outputs[0])
                terms += [self._dot(g, branches[n])] if g is not None else []
                own, signal = self._power(branches[n]), self._power(n.outputs[0])
            else:
                own = signal = zero
                for i, new in enumerate(reads[n]):
                    value = n.inputs[i]
                    if new is None or value is None:
                        continue
                    g = adjoint.of_uses.get((n, i))
                    terms += [self._dot(g, rounding(value))] if g is not None else []
                    own, signal = (
                        b.op("Add", own, self._power(rounding(value))),
                        b.op("Add", signal, self._power(value)),
                    )
            for value, q in self.stored_outputs.get(layer_name(n), ()):
                if not _rounded_before(q):
                    seed = next(v for v in self.graph.inputs if v.name == adjoint.seeds[value.name or ""])
                    self._round(value, q)
                    terms.append(self._dot(seed, rounding(value)))
            total = zero
            for t in terms:
                total = b.op("Add", total, t)
            rows.append((total, own, signal))
        outputs = self.graph.model.graph.outputs
        outputs.clear()
        for field, column in zip(("contributions", "own_errors", "signals"), zip(*rows, strict=True), strict=True):
            vector = b.op("Concat", *column, axis=0)
            vector.type, vector.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([len(column)])
            outputs.append(vector)
            setattr(made, field, vector.name)

    def _dot(self, a: ir.Value, c: ir.Value) -> ir.Value:
        """The sum of products, [1]. (A MatMul of a row and a column is several times slower in ONNX Runtime.)"""
        return self._flat(self.b.op("ReduceSum", self.b.op("Mul", a, c), keepdims=0))

    def _power(self, a: ir.Value) -> ir.Value:
        return self._flat(self.b.op("ReduceSumSquare", a, keepdims=0))

    def _flat(self, a: ir.Value) -> ir.Value:
        return self.b.op("Reshape", a, self.b.ints(1))


def _stored_outputs(graph: Graph, quantized: Graph) -> dict[str, list[tuple[ir.Value, ir.Node]]]:
    """Layer -> the public outputs that are stored on its account, and the QuantizeLinear that does it."""
    layers = output_layers(graph, quantized)
    out: dict[str, list[tuple[ir.Value, ir.Node]]] = {}
    for value, stored in zip(graph.outputs, quantized.outputs, strict=True):
        q = quantizer(stored)
        if q is not None and value.name in layers:
            out.setdefault(layers[value.name], []).append((value, q))
    return out


def _rounded_before(q: ir.Node) -> bool:
    """Whether what a QuantizeLinear reads is on its grid already: moved there from values stored the same way."""
    value = q.inputs[0]
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in MOVERS:
        return False
    moved = [v for i, v in enumerate(node.inputs) if v is not None and (i == 0 or node.op_type == "Concat")]
    before = [quantizer(v) for v in moved]
    return bool(before) and all(p is not None and _same(p, q) for p in before)


def _same(p: ir.Node, q: ir.Node) -> bool:
    """Equal scale and zero point."""
    for a, b in zip(p.inputs[1:3], q.inputs[1:3], strict=True):
        if a is b:
            continue
        x, y = (v.const_value.numpy() if v is not None and v.const_value is not None else None for v in (a, b))
        if x is None or y is None or not np.array_equal(x, y):
            return False
    return len(p.inputs) == len(q.inputs)
