"""A graph that measures all layers of a model at once: see `layer_errors`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgec.graph import Graph, ir, is_constant

REFERENCE = "edgec.reference/"
"""Inputs of the measuring graph that take the reference's values are called this and the value's name."""

SUMS = ("rr", "xx", "total", "own", "inherited", "kernel")
"""Sums of squares the measuring graph gives for each site, as outputs called `sum:site`; kernel where there is Q/DQ."""

_LARGEST = 1e15
"""Squares of larger values, infinities and masks, would leave float32."""


@dataclass(frozen=True, eq=False)
class Site:
    """A common value in the other model: `before` and `after` its Q/DQ, the same value where it has none.

    `fed`: what is replaced by the reference's value for the layers behind it.
    """

    name: str
    before: ir.Value
    after: ir.Value
    fed: tuple[ir.Value, ...]

    @property
    def is_free(self) -> bool:
        """An input of the model that is not quantised: no layer."""
        return self.before is self.after and self.before.is_graph_input()


def sites_of(other: Graph, known: Collection[str]) -> Iterator[Site]:
    """In execution order, inputs of the model first."""
    g = other.model.graph
    for v in [*g.inputs, *(v for node in g for v in node.outputs)]:
        if v.name is None or v.name not in known:
            continue
        behind = _quantizer_behind(v)
        if behind is not None:  # v is what DequantizeLinear gives: an output of the model
            before = behind.inputs[0]
            assert before is not None  # QuantizeLinear has an input
            yield Site(v.name, before, v, (before, *_dequantized(behind)))
            continue
        after = next((d for d in _quantized(v) if d.name not in known), v)
        quantizer = _quantizer_behind(after) if after is not v else None
        yield Site(v.name, v, after, (v, *(_dequantized(quantizer) if quantizer is not None else ())))


def _quantizer_behind(v: ir.Value) -> ir.Node | None:
    """The QuantizeLinear of an activation whose DequantizeLinear makes `v`."""
    node = v.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    quantizer = node.inputs[0].producer()
    if quantizer is None or quantizer.op_type != "QuantizeLinear" or is_constant(quantizer.inputs[0]):
        return None
    return quantizer


def _quantized(v: ir.Value) -> Iterator[ir.Value]:
    """What DequantizeLinear makes of `v`."""
    for user, i in v.uses():
        if user.op_type == "QuantizeLinear" and i == 0:
            yield from _dequantized(user)


def _dequantized(quantizer: ir.Node) -> Iterator[ir.Value]:
    for user, i in quantizer.outputs[0].uses():
        if user.op_type == "DequantizeLinear" and i == 0:
            yield user.outputs[0]


def measuring_graph(other: Graph, sites: Sequence[Site], kinds: Mapping[str, str]) -> Graph:
    """`other` as it is and once more cut open at `sites`, with the sums of squares as its only outputs."""
    whole, cut = other.clone(), other.clone()
    here = _same_sites(whole, sites)
    open_ = _same_sites(cut, sites)
    g = whole.model.graph
    references: dict[str, ir.Value] = {}
    for s in open_:
        r = ir.Value(name=REFERENCE + s.name, type=ir.TensorType(ir.DataType.FLOAT))
        references[s.name] = r
        _feed(cut, s, r, kinds[s.name])
    _move(cut, g)
    g.inputs.extend(references.values())
    g.outputs.clear()
    build = _Builder(g, kinds)
    for x, o in zip(here, open_, strict=True):
        build.sums(x, o, references[x.name])
    whole.remove_dead()
    used = {v for v in g.inputs if v.uses() or not (v.name or "").startswith(REFERENCE)}
    for v in [v for v in g.inputs if v not in used]:
        g.inputs.remove(v)
    return whole


def _same_sites(copy: Graph, sites: Sequence[Site]) -> list[Site]:
    """`sites` in a copy of their graph, where values have the same names."""
    g = copy.model.graph
    values = {v.name: v for v in [*g.inputs, *(v for node in g for v in node.outputs)]}

    def here(v: ir.Value) -> ir.Value:
        return values[v.name]

    return [replace(s, before=here(s.before), after=here(s.after), fed=tuple(map(here, s.fed))) for s in sites]


def _feed(cut: Graph, site: Site, reference: ir.Value, dtype: str) -> None:
    """Readers of the site read the reference's value; the site's own quantizer still reads what the layer made."""
    g = cut.model.graph
    given = reference
    if dtype != "float32":
        cast = ir.node("Cast", [reference], attributes={"to": ir.DataType[_ONNX_NAME[dtype]].value})
        cast.outputs[0].name = f"{reference.name}/{dtype}"
        g.insert_before(g[0], cast)
        given = cast.outputs[0]
    quantizer = _quantizer_behind(site.after) if site.after is not site.before else None
    for value in site.fed:
        for user, i in list(value.uses()):
            if user is not quantizer:
                user.replace_input_with(i, given)


_ONNX_NAME = {"float16": "FLOAT16", "float64": "DOUBLE"}
_PREFIX = "edgec.cut/"


def _move(cut: Graph, into: ir.Graph) -> None:
    """All nodes of `cut` to `into`, under other names; inputs and weights are those `into` already has."""
    g = cut.model.graph
    g.outputs.clear()
    shared = {v.name: v for v in [*into.inputs, *into.initializers.values()]}
    for v in [*g.inputs, *g.initializers.values()]:
        v.replace_all_uses_with(shared[v.name])
    for graph in cut.graphs():
        inner = [] if graph is g or not isinstance(graph, ir.Graph) else [*graph.inputs, *graph.initializers.values()]
        for v in [*inner, *(v for node in graph for v in node.outputs)]:
            if v.name:
                v.name = _PREFIX + v.name
        for node in graph:
            node.name = _PREFIX + node.name if node.name else None
    nodes = list(g)
    g.remove(nodes)
    into.extend(nodes)


@dataclass
class _Builder:
    """Appends nodes to a graph."""

    graph: ir.Graph
    kinds: Mapping[str, str]
    count: int = 0

    def sums(self, x: Site, o: Site, r: ir.Value) -> None:
        """The six sums of one site as outputs."""
        dtype = self.kinds[x.name]
        want, run, own = self._bounded(r, "float32"), self._bounded(x.after, dtype), self._bounded(o.after, dtype)
        found = {
            "rr": want,
            "xx": run,
            "total": self._op("Sub", run, want),
            "own": self._op("Sub", own, want),
            "inherited": self._op("Sub", run, own),
        }
        if o.before is not o.after:
            found["kernel"] = self._op("Sub", self._bounded(o.before, dtype), want)
        for kind, value in found.items():
            total = self._op("ReduceSumSquare", value, keepdims=0)
            total.name = f"{kind}:{x.name}"
            total.type = ir.TensorType(ir.DataType.FLOAT)
            self.graph.outputs.append(total)

    def _bounded(self, v: ir.Value, dtype: str) -> ir.Value:
        """`v` as float32 without infinities."""
        if dtype != "float32":
            v = self._op("Cast", v, to=ir.DataType.FLOAT.value)
        v = self._op("Min", v, self._constant("edgec.largest", _LARGEST))
        return self._op("Max", v, self._constant("edgec.smallest", -_LARGEST))

    def _constant(self, name: str, number: float) -> ir.Value:
        found = self.graph.initializers.get(name)
        if found is None:
            tensor = ir.tensor(np.float32(number), name=name)
            found = ir.Value(name=name, type=ir.TensorType(tensor.dtype), const_value=tensor)
            self.graph.register_initializer(found)
        return found

    def _op(self, op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(op, list(inputs), attributes=attributes)
        node.outputs[0].name = f"edgec.sum/{self.count}"
        self.count += 1
        self.graph.append(node)
        return node.outputs[0]
