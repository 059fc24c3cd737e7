"""A float graph extended so that one run tells, for every rounding of a quantised graph, how large it is and what
arrives of it at the outputs. `sensitivity.py` runs it and says what the figures mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgec.graph import Graph, ir, is_constant
from edgec.quantization.adjoint import Adjoint, add_adjoint
from edgec.quantization.builder import Builder
from edgec.quantization.terms import MOVERS, Term, Terms, dequantized, find_terms, quantizer

if TYPE_CHECKING:
    from edgec.specs.scheme import Scheme


@dataclass
class Probe:
    """`graph` takes the samples and the values of `seeds`; its outputs are three vectors with one element a term."""

    graph: Graph
    found: Terms
    seeds: dict[str, str] = field(default_factory=dict)
    """Weighted value -> the input of `graph` that takes its weights, in its shape."""
    ends: list[str] = field(default_factory=list)
    contributions: str = ""
    """Output: the weighted error each rounding causes."""
    errors: str = ""
    """Output: sum of squares of each error where it arises: of the value, or of what the weights make."""
    signals: str = ""
    """Output: sum of squares of what the error is in."""


def build_probe(reference: Graph, quantized: Graph, scheme: Scheme | None = None) -> Probe:
    """The graph to run. See `sensitivity` for what is raised."""
    graph = reference.clone()
    found = find_terms(graph, quantized, scheme)
    return _Probe(graph, found).build() if found.terms else Probe(graph, found)


class _Probe:
    def __init__(self, graph: Graph, found: Terms) -> None:
        self.graph, self.found = graph, found
        self.b = Builder(graph)
        self.roundings: dict[str, ir.Value] = {}
        self.constants: dict[ir.Value, ir.Value] = {}  # initializers of the quantised graph -> ours

    def build(self) -> Probe:
        forward = list(self.graph.model.graph)
        values = {v.name: v for v in [*self.graph.inputs, *(v for n in forward for v in n.outputs)] if v.name}
        branches = {name: self._branch(*nodes) for name, nodes in self.found.weights.items()}
        sources = {values[t.value] for t in self.found.terms if t.value is not None}
        sources |= {node.outputs[0] for node, _ in self.found.weights.values()}
        adjoint = add_adjoint(self.b, forward, sources)
        made = Probe(self.graph, self.found, adjoint.seeds, adjoint.ends)
        self._measure(made, branches, values, adjoint)
        return made

    def _rounding(self, value: ir.Value) -> ir.Value:
        """What storing a value changes. Nothing where it was moved from values stored the same way."""
        name = value.name or ""
        if name not in self.roundings:
            q = self.found.quantizers[name]
            if _rounded_before(q):
                self.roundings[name] = self.b.array([0.0])
            else:
                rest = [self._constant(v) for v in q.inputs[1:]]
                attributes = {k: a.value for k, a in q.attributes.items()}
                stored = self.b.node("QuantizeLinear", [value, *rest], attributes, 1).outputs[0]
                back = self.b.node("DequantizeLinear", [stored, *rest], _of_dq(attributes), 1).outputs[0]
                self.roundings[name] = self.b.op("Sub", back, value)
        return self.roundings[name]

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

    def _branch(self, node: ir.Node, stored: ir.Node) -> ir.Value:
        """What the stored weights (and biases) change in a layer's output, its inputs exact."""
        inputs: list[ir.Value | None] = []
        for value, other in zip(node.inputs, stored.inputs, strict=True):
            dq = dequantized(other)
            if not is_constant(value):
                inputs.append(value)
            elif dq is None:
                inputs.append(self._constant(other))  # a bias that a correction may have changed
            else:
                parts = [self._constant(v) for v in dq.inputs]
                attributes = {k: a.value for k, a in dq.attributes.items()}
                inputs.append(self.b.node("DequantizeLinear", parts, attributes, 1).outputs[0])
        return self.b.op("Sub", self.b.copy(node, inputs).outputs[0], node.outputs[0])

    def _measure(
        self, made: Probe, branches: dict[str, ir.Value], values: dict[str, ir.Value], adjoint: Adjoint
    ) -> None:
        """The three vectors, as the graph's only outputs."""
        b, powers = self.b, dict[ir.Value, ir.Value]()

        def power(v: ir.Value) -> ir.Value:
            if v not in powers:
                powers[v] = self._flat(b.op("ReduceSumSquare", v, keepdims=0))
            return powers[v]

        rows: list[tuple[ir.Value, ir.Value, ir.Value]] = []
        for term in self.found.terms:
            if term.value is None:
                out = self.found.weights[term.reader][0].outputs[0]
                change, gradients = branches[term.reader], [adjoint.of_values.get(out)]
            else:
                out = values[term.value]
                change, gradients = self._rounding(out), self._gradients(term, adjoint)
            arriving = b.array([0.0])
            for g in gradients:
                if g is not None:
                    arriving = b.op("Add", arriving, self._dot(g, change))
            rows.append((arriving, power(change), power(out)))
        outputs = self.graph.model.graph.outputs
        outputs.clear()
        for name, column in zip(("contributions", "errors", "signals"), zip(*rows, strict=True), strict=True):
            vector = b.op("Concat", *column, axis=0)
            vector.type, vector.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([len(column)])
            outputs.append(vector)
            setattr(made, name, vector.name)

    def _gradients(self, term: Term, adjoint: Adjoint) -> list[ir.Value | None]:
        """By the uses a term is about; of a public output, its own weights."""
        uses = self.found.reads[term]
        if uses:
            return [adjoint.of_uses.get(use) for use in uses]
        seed = adjoint.seeds.get(term.value or "")
        return [next((v for v in self.graph.inputs if v.name == seed), None)]

    def _dot(self, a: ir.Value, c: ir.Value) -> ir.Value:
        """The sum of products, [1]. (A MatMul of a row and a column is several times slower in ONNX Runtime.)"""
        return self._flat(self.b.op("ReduceSum", self.b.op("Mul", a, c), keepdims=0))

    def _flat(self, a: ir.Value) -> ir.Value:
        return self.b.op("Reshape", a, self.b.ints(1))


def _of_dq(attributes: dict[str, object]) -> dict[str, object]:
    """Those of a QuantizeLinear's attributes that DequantizeLinear has too."""
    return {k: v for k, v in attributes.items() if k in ("axis", "block_size")}


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
