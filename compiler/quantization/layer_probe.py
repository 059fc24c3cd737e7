"""A float graph extended so that one run tells, for every rounding of a quantised graph, how large it is and what
arrives of it at the outputs. `sensitivity.py` runs it and says what the figures mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgec.graph import Graph, ir, is_constant
from edgec.quantization.adjoint import Adjoint, add_adjoint
from edgec.quantization.builder import Builder
from edgec.quantization.terms import Term, Terms, align, find_terms, paired

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
    """The graph to run: both graphs side by side, and the way back. See `sensitivity` for what is raised."""
    graph = reference.clone()
    stored = quantized.clone()
    found = find_terms(graph, stored, scheme)
    return _Probe(graph, stored, found).build() if found.terms else Probe(graph, found)


class _Probe:
    def __init__(self, graph: Graph, stored: Graph, found: Terms) -> None:
        self.graph, self.found = graph, found
        self.b = Builder(graph)
        self.forward = list(graph.model.graph)
        self.twins = dict(align(graph, stored))
        move_in(stored, graph)

    def build(self) -> Probe:
        values = {v.name: v for v in [*self.graph.inputs, *(v for n in self.forward for v in n.outputs)] if v.name}
        branches = {name: self._branch(*nodes) for name, nodes in self.found.weights.items()}
        sources = {values[t.value] for t in self.found.terms if t.value is not None}
        sources |= {node.outputs[0] for node, _ in self.found.weights.values()}
        adjoint = add_adjoint(self.b, self.forward, sources, self.twins)
        made = Probe(self.graph, self.found, adjoint.seeds, adjoint.ends)
        self._measure(made, branches, values, adjoint)
        return made

    def _branch(self, node: ir.Node, stored: ir.Node) -> ir.Value:
        """What the stored weights (and biases) change in a layer's output, of the inputs it really gets."""
        inputs = [a if is_constant(a) else v for a, v in paired(node, stored)]
        return self.b.op("Sub", stored.outputs[0], self.b.copy(node, inputs).outputs[0])

    def _measure(
        self, made: Probe, branches: dict[str, ir.Value], values: dict[str, ir.Value], adjoint: Adjoint
    ) -> None:
        """The three vectors, as the graph's only outputs."""
        b, powers, roundings = self.b, dict[ir.Value, ir.Value](), dict[str, ir.Value]()

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
                out, gradients = values[term.value], self._gradients(term, adjoint)
                if term.value not in roundings:
                    q = self.found.quantizers[term.value]
                    ((dq, _),) = q.outputs[0].uses()
                    roundings[term.value] = b.op("Sub", dq.outputs[0], q.inputs[0])
                change = roundings[term.value]
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


def move_in(guest: Graph, host: Graph) -> None:
    """Make the nodes of `guest` compute beside those of `host`, on the same inputs. `guest` is used up."""
    g, h = guest.model.graph, host.model.graph
    shared = {v.name: v for v in h.inputs}
    for v in list(g.inputs):
        v.replace_all_uses_with(shared[v.name], replace_graph_outputs=True)
    g.outputs.clear()
    for v in list(g.initializers.values()):
        del g.initializers[v.name or ""]
        v.name = host.fresh(v.name or "c")
        h.register_initializer(v)
    nodes = list(g)
    g.remove(nodes)
    for node in nodes:
        for v in node.outputs:
            if v.name:
                v.name = host.fresh(v.name)
        node.name = next((v.name for v in node.outputs if v.name), None)
        h.append(node)
