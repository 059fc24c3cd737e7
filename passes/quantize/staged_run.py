"""A graph run stage by stage over some samples, every node once: between stages, what lies ahead may be changed.

Correcting layer after layer needs what each layer reads after all before it were corrected. Running the graph from its
start for every layer would cost layers/2 full runs; here the values alive between two stages are kept for all samples.
Activations of a quantised graph are kept in the integers they are stored in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy.typing as npt

from edgec.graph import Graph, ir, is_constant
from edgec.runtime import Session

Arrays = dict[str, npt.NDArray[Any]]


class StagedRun:
    """`samples` feeds, held for as long as a node still reads them. The graph's nodes must be in execution order."""

    def __init__(self, graph: Graph, samples: Sequence[Arrays]) -> None:
        self.graph = graph
        names = {v.name for v in graph.inputs}
        self.alive: list[Arrays] = [{k: a for k, a in s.items() if k in names} for s in samples]

    def nbytes(self) -> int:
        """Bytes kept between stages."""
        return sum(a.nbytes for s in self.alive for a in s.values())

    def values(self, wanted: Sequence[ir.Value], at: ir.Node | None) -> Iterator[Arrays]:
        """Run what comes before `at` (None: everything); the wanted values (all of them computed before it) for one sample after another.

        The iterator must be exhausted. Nodes before `at` may not be changed afterwards.
        """
        if not self.alive:
            return
        have = set(self.alive[0])
        keep = self._alive_at(at)
        names = [v.name or "" for v in wanted]
        new = [n for n in dict.fromkeys([*keep, *names]) if n not in have]
        session = _part(self.graph, new, have) if new else None
        needed = session.inputs if session is not None else ()
        for i, values in enumerate(self.alive):
            made = session.session.run({n: values[n] for n in needed}) if session is not None else {}
            everything = {**values, **made}
            self.alive[i] = {n: everything[n] for n in keep}
            yield {n: everything[n] for n in names}

    def _alive_at(self, at: ir.Node | None) -> list[str]:
        """Values made before `at` that it or a later node reads. DequantizeLinear is repeated where its output is read."""
        position = {n: i for i, n in enumerate(self.graph.model.graph)}
        here = position[at] if at is not None else len(position)
        made = [*self.graph.inputs]
        for node, i in position.items():
            if i >= here:
                break
            if node.op_type != "DequantizeLinear":
                made.extend(node.outputs)
        return [v.name or "" for v in made if any(i >= here for i in _reads(v, position))]


class _Part:
    def __init__(self, session: Session, inputs: list[str]) -> None:
        self.session, self.inputs = session, inputs


def _reads(value: ir.Value, position: dict[ir.Node, int]) -> Iterator[int]:
    """Positions of the nodes that read a value, directly or dequantised."""
    for user, _ in value.uses():
        if user.op_type == "DequantizeLinear":
            for out in user.outputs:
                yield from _reads(out, position)
        elif user in position:
            yield position[user]
        else:
            yield len(position)  # inside the body of a later node, or an earlier one: kept to be safe


def _part(graph: Graph, outputs: Sequence[str], given: set[str]) -> _Part:
    """The nodes that compute `outputs` from the values `given`, as a model of its own. Weights are shared."""
    g = graph.model.graph
    values = {v.name: v for n in g for v in n.outputs} | {v.name: v for v in g.inputs}
    order: dict[ir.Node, None] = {}
    wanted = [values[n] for n in outputs]
    needed: set[ir.Node] = set()
    inputs: dict[str, ir.Value] = {}
    initializers: dict[str, ir.Value] = {}
    stack = list(wanted)
    while stack:
        v = stack.pop()
        if v.name in given:
            inputs[v.name] = v
            continue
        if is_constant(v) and v.producer() is None:
            initializers[v.name or ""] = v
            continue
        node = v.producer()
        if node is None or node in needed:
            continue
        needed.add(node)
        stack.extend(i for i in node.inputs if i is not None)
        for body in _bodies(node):
            stack.extend(i for n in body.all_nodes() for i in n.inputs if i is not None and i.graph is not body)
    for node in g:
        if node in needed:
            order[node] = None
    new: dict[ir.Value, ir.Value] = {}

    def fresh(v: ir.Value) -> ir.Value:
        if v not in new:
            new[v] = ir.Value(name=v.name, shape=v.shape, type=v.type, const_value=v.const_value)
        return new[v]

    nodes = [
        ir.Node(
            n.domain, n.op_type, [None if v is None else fresh(v) for v in n.inputs], dict(n.attributes.items()),
            outputs=[fresh(v) for v in n.outputs], name=n.name, version=n.version,
        )
        for n in order
    ]  # fmt: skip
    part = ir.Graph(
        [fresh(v) for v in inputs.values()], [fresh(v) for v in wanted], nodes=nodes,
        initializers=[fresh(v) for v in initializers.values()], opset_imports=dict(g.opset_imports), name="part",
    )  # fmt: skip
    model = ir.Model(part, ir_version=graph.model.ir_version)
    return _Part(Session(Graph(model, source=graph.source)), list(inputs))


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    from edgec.graph import bodies

    yield from bodies(node)
