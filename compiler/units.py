"""Fused units: the nodes a device's compiler turns into one kernel. Found, never made: the graph stays as it is.

Quantisation puts nothing inside a unit, placement counts one kernel, an emitter may write the fused form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from edgec.graph import Graph, ir
from edgec.pattern import COMMUTATIVE, Literal, NodePattern, Rest, Term, Var, match

if TYPE_CHECKING:
    from edgec.specs.conditions import Setting
    from edgec.specs.op_table import UnitSpec
    from edgec.specs.unit_pattern import Term as UnitTerm


@dataclass(frozen=True)
class Unit:
    """Some nodes of one graph that become one kernel: `id` is unique in the model, `nodes` are in execution order."""

    id: str
    spec: UnitSpec
    nodes: tuple[ir.Node, ...]
    main: ir.Node


@dataclass(frozen=True)
class Units:
    """All units of a model. A node is in at most one."""

    units: tuple[Unit, ...]
    of: dict[ir.Node, Unit]

    def __iter__(self) -> Iterator[Unit]:
        return iter(self.units)

    def __len__(self) -> int:
        return len(self.units)


def find_units(graph: Graph, specs: Iterable[UnitSpec], setting: Setting | None = None) -> Units:
    """The units of a graph, largest first where patterns overlap, patterns of equal size in the order given.

    Inner values of a unit have exactly one use and are not public. `setting`: what conditions of units (`when`) are
    evaluated in; units whose conditions do not hold, or cannot be decided, are not formed.
    """
    from edgec.specs.conditions import applies
    from edgec.specs.unit_pattern import parse

    patterns = [(spec, pattern) for spec in specs for pattern in _compile(parse(spec.pattern), spec)]
    patterns.sort(key=lambda p: -_size(p[1]))
    position = {n: i for i, n in enumerate(graph.nodes())}
    by_op: dict[str, list[ir.Node]] = {}
    for n in position:
        by_op.setdefault(n.op_type, []).append(n)
    of: dict[ir.Node, Unit] = {}
    found: list[tuple[UnitSpec, tuple[ir.Node, ...], ir.Node]] = []
    taken: set[ir.Node] = set()
    for spec, pattern in patterns:
        for op in pattern.ops:
            for root in by_op.get(op, ()):
                if root in taken:
                    continue
                m = match(pattern, root)
                if m is None or any(n in taken for n in m.nodes):
                    continue
                nodes = tuple(sorted(m.nodes, key=position.__getitem__))
                main = next((n for n in nodes if n.op_type == spec.main), nodes[0])
                if spec.when is not None and (setting is None or applies(spec.when, main, setting) is not True):
                    continue
                taken.update(nodes)
                found.append((spec, nodes, main))
    found.sort(key=lambda f: position[f[1][0]])
    units = []
    counts: dict[str, int] = {}
    for spec, nodes, main in found:
        i = counts[spec.name] = counts.get(spec.name, 0) + 1
        unit = Unit(f"{spec.name}-{i}", spec, nodes, main)
        units.append(unit)
        of.update(dict.fromkeys(nodes, unit))
    return Units(tuple(units), of)


def _size(p: Term | Rest) -> int:
    return 1 + sum(_size(t) for t in p.inputs) if isinstance(p, NodePattern) else 0


def _compile(term: UnitTerm, spec: UnitSpec) -> list[NodePattern]:
    """The matcher's patterns for a unit: more than one where an op of a chain is one of commutative and other ops."""
    return [p for p in _variants(term, count(), {}) if isinstance(p, NodePattern)]


def _variants(term: UnitTerm, fresh: Iterator[int], named: dict[str, NodePattern]) -> list[Term]:
    from edgec.specs.unit_pattern import Any_, Number

    if isinstance(term, Any_):
        if term.name in named:  # the output of a node of the unit: the very same pattern, so the very same node
            return [named[term.name]]
        return [Var(term.name or f"_{next(fresh)}", constant=term.constant)]
    if isinstance(term, Number):
        return [Literal(term.value)]
    inputs: list[list[Term]] = [[]]
    for t in term.inputs:
        inputs = [[*before, v] for before in inputs for v in _variants(t, fresh, named)]
    out: list[Term] = []
    for terms in inputs:
        if not term.rest:
            out.append(NodePattern(term.ops, tuple(terms)))
            continue
        binary = tuple(op for op in term.ops if op in COMMUTATIVE) if len(terms) == 1 else ()
        others = tuple(op for op in term.ops if op not in binary)
        if binary:  # `Conv -> Add`: the matcher tries both sides of a two-input commutative op
            out.append(NodePattern(binary, (*terms, Var(f"_{next(fresh)}"))))
        if others:
            out.append(NodePattern(others, (*terms, Rest(f"_{next(fresh)}"))))
    if term.name is not None:
        first = out[0]
        assert isinstance(first, NodePattern)
        assert len(out) == 1  # a named node is no link of a chain
        named[term.name] = first
    return out
