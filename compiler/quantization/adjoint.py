"""Adjoint: for every value of a graph at once, what an error in it does to the outputs.

A graph is extended by nodes that carry a weighting of its outputs backwards, op by op (reverse-mode differentiation).
With random signs u as the weighting, the product of the gradient and an error of a value is, up to terms of second
order, u times the error that arrives at the outputs; its mean square over many u is that error's power. One run
serves every value, where running the network with one error at a time takes as many runs as there are values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from edgec.graph import bodies, ir, is_constant
from edgec.quantization.builder import Builder
from edgec.quantization.derivatives import derivative, difference_rule, stops


@dataclass
class Adjoint:
    """Gradients of a graph that has been extended by the nodes that compute them."""

    seeds: dict[str, str]
    """Value that is weighted (public output, or where differentiation ends) -> graph input that takes the weights."""
    ends: list[str]
    """Those of the values in `seeds` that ops without a derivative read."""
    of_uses: dict[tuple[ir.Node, int], ir.Value] = field(default_factory=dict)
    of_values: dict[ir.Value, ir.Value] = field(default_factory=dict)


def add_adjoint(
    b: Builder,
    nodes: Collection[ir.Node],
    sources: Collection[ir.Value],
    twins: Mapping[ir.Node, ir.Node] | None = None,
) -> Adjoint:
    """Extend the builder's graph by the gradients of all values that depend on `sources`.

    `nodes` are the forward ones, in execution order. An op that has no derivative (an LSTM, TopK, a loop) is assumed to
    hand on relative errors as they are: what it reads is weighted like an output, and listed in `ends`.
    `twins`: the same nodes in a run with errors; gradients are then those of the step from one run to the other, so
    that errors too large to be small (a value cut off before a Relu) count as what they really do.
    """
    return _Builder(b, nodes, sources, twins or {}).build()


class _Builder:
    def __init__(
        self,
        b: Builder,
        nodes: Collection[ir.Node],
        sources: Collection[ir.Value],
        twins: Mapping[ir.Node, ir.Node],
    ) -> None:
        self.b, self.nodes, self.twins = b, list(nodes), twins
        self.varies = set(sources)
        self.made = Adjoint({}, [])
        self.parts: dict[ir.Value, list[ir.Value]] = {}

    def build(self) -> Adjoint:
        for node in self.nodes:
            if not stops(node) and any(v in self.varies for v in _reads(node)):
                self.varies.update(v for v in node.outputs if _float32(v))
        for out in self.b.graph.outputs:
            if out in self.varies and _float32(out):
                self.parts.setdefault(out, []).append(self._seed(out))
        for node in reversed(self.nodes):
            if not stops(node) and any(v in self.varies for v in _reads(node)):
                self._visit(node)
        for v in self.varies:
            self._total(v)
        return self.made

    def _visit(self, node: ir.Node) -> None:
        g = [self._total(v) for v in node.outputs]
        rule = derivative(node)
        grads = None
        if rule is not None and all(_float32(v) for v in node.outputs[:1]):
            if not any(x is not None for x in g):
                return
            twin = self.twins.get(node)
            grads = rule(self.b, node, g) if twin is None else difference_rule(self.b, node, twin, g)
        if grads is None:
            self._end(node)
            return
        for i, grad in grads.items():
            value = node.inputs[i]
            if value in self.varies:
                self.made.of_uses[node, i] = grad
                self.parts.setdefault(value, []).append(grad)

    def _end(self, node: ir.Node) -> None:
        """Weigh what a node without a derivative reads."""
        for value in dict.fromkeys(_reads(node)):
            if value in self.varies and _float32(value):
                name = value.name or ""
                if name not in self.made.ends:
                    self.made.ends.append(name)
                seed = self._seed(value)
                for i, v in enumerate(node.inputs):
                    if v is value:
                        self.made.of_uses.setdefault((node, i), seed)
                if seed not in self.parts.setdefault(value, []):
                    self.parts[value].append(seed)

    def _seed(self, value: ir.Value) -> ir.Value:
        name = value.name or ""
        inputs = self.b.graph.model.graph.inputs
        if name in self.made.seeds:
            return next(v for v in inputs if v.name == self.made.seeds[name])
        seed = ir.Value(name=self.b.graph.fresh(f"{name}_weights"), shape=value.shape, type=value.type)
        inputs.append(seed)
        self.made.seeds[name] = seed.name or ""
        return seed

    def _total(self, value: ir.Value) -> ir.Value | None:
        """The sum of the gradients that arrive by all uses."""
        if value not in self.made.of_values and self.parts.get(value):
            total, *rest = self.parts[value]
            for part in rest:
                total = self.b.op("Add", total, part)
            self.made.of_values[value] = total
        return self.made.of_values.get(value)


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Inputs that are not constant, and what the bodies of a control-flow node take from outside."""
    for v in node.inputs:
        if v is not None and not is_constant(v):
            yield v
    for body in bodies(node):
        inside = {v for n in body.all_nodes() for v in n.outputs} | set(body.inputs)
        for n in body.all_nodes():
            yield from (v for v in n.inputs if v is not None and v not in inside and not is_constant(v))


def _float32(v: ir.Value) -> bool:
    return v.dtype == ir.DataType.FLOAT
