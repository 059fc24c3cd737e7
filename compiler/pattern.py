"""Patterns: the left side of a rewrite rule, as data.

    x, w, b = var("x"), const("w"), opt(const("b"))
    P.Relu(P.Conv(x, w, b, as_="conv"))                      # a node by its op type; inputs by position
    P.Mul(x, P.Sigmoid(x))                                   # commutative ops match either way round
    P.Add(x, lit(3.0)), P.Softmax(x, axis=-1)                # a scalar constant; an attribute (or its ONNX default)
    P.Slice(x, rest("params")), anyof(P.Relu(x), P.Clip(x, rest("limits")))
    P.Split(x, rest("s"), as_="split").out(1)                # the second output of a node

Keywords ending in `_` speak to the matcher, every other keyword is an attribute. A variable and an `as_` stand for one
value or node however often they are written; patterns without `as_` that look alike are different nodes. Matching backtracks fully, so nested
commutative ops and alternatives are found whatever their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, constant, ir, is_constant

COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min", "And", "Or", "Xor", "Equal", "Sum", "Mean"})

Predicate = Callable[[npt.NDArray[Any]], bool]


@dataclass(frozen=True, slots=True)
class Var:
    """Any value. With `constant`, only one whose data is known at compile time (and, with `where`, that satisfies it)."""

    name: str
    constant: bool = False
    optional: bool = False
    where: Predicate | None = None
    check: Callable[[ir.Value], bool] | None = None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant with one element, equal to `value` up to the rounding of its own dtype."""

    value: float

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Rest:
    """All inputs from here on, none included. Only as the last input."""

    name: str

    def __str__(self) -> str:
        return f"*{self.name}"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Alternatives, tried in order. `as_` names the one that matched: `m.choice(name)` is its index."""

    terms: tuple[Term, ...]
    as_: str | None = None

    def __str__(self) -> str:
        return "(" + " | ".join(map(str, self.terms)) + ")"


@dataclass(frozen=True, slots=True)
class NodePattern:
    """A node of one of `ops`, with its inputs in order.

    `shared`: the node may have uses outside the match; it then stays in the graph. `out`: which output the consuming
    pattern reads; `any_out`: whichever.
    """

    ops: tuple[str, ...]
    inputs: tuple[Term | Rest, ...]
    attrs: tuple[tuple[str, Any], ...] = ()
    as_: str | None = None
    domain: str = ""
    where: Callable[[ir.Node], bool] | None = None
    shared: bool = False
    index: int = 0

    def out(self, index: int) -> NodePattern:
        return replace(self, index=index)

    def __str__(self) -> str:
        return f"{'|'.join(self.ops)}({', '.join(map(str, self.inputs))})"


Term = Var | Literal | AnyOf | NodePattern


class _P:
    """`P.Conv(x, w)` builds a NodePattern: the attribute name is the ONNX op type. `P.op("A", "B")(...)`: either op."""

    def op(self, *ops: str) -> Callable[..., NodePattern]:
        def make(
            *inputs: Term | Rest,
            as_: str | None = None,
            domain_: str = "",
            where_: Callable[[ir.Node], bool] | None = None,
            shared_: bool = False,
            **attrs: Any,
        ) -> NodePattern:
            return NodePattern(ops, inputs, tuple(attrs.items()), as_, domain_, where_, shared_)

        return make

    def __getattr__(self, op: str) -> Callable[..., NodePattern]:
        return self.op(op)


P = _P()


def var(name: str, check: Callable[[ir.Value], bool] | None = None) -> Var:
    """Any value; `check` may look at the value (dtype, shape), never at weights."""
    return Var(name, check=check)


def const(name: str, where: Predicate | None = None) -> Var:
    """A value known at compile time."""
    return Var(name, constant=True, where=where)


def opt(term: Var) -> Var:
    """The input may be absent."""
    return replace(term, optional=True)


def lit(value: float) -> Literal:
    return Literal(value)


def rest(name: str) -> Rest:
    return Rest(name)


def anyof(*terms: Term, as_: str | None = None) -> AnyOf:
    return AnyOf(terms, as_)


@dataclass(slots=True)
class Match:
    """What a pattern matched. Values and nodes by the names the pattern gave them."""

    root: ir.Node
    values: dict[str, ir.Value | None] = field(default_factory=dict)
    named: dict[str, ir.Node] = field(default_factory=dict)
    rests: dict[str, tuple[ir.Value | None, ...]] = field(default_factory=dict)
    choices: dict[str, int] = field(default_factory=dict)
    matched: dict[ir.Node, NodePattern] = field(default_factory=dict)

    @property
    def nodes(self) -> list[ir.Node]:
        """The matched nodes, the root first."""
        return list(self.matched)

    def value(self, name: str) -> ir.Value:
        v = self.values[name]
        if v is None:
            raise KeyError(f"optional {name!r} is absent in this match")
        return v

    def get(self, name: str) -> ir.Value | None:
        return self.values.get(name)

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def array(self, name: str) -> npt.NDArray[Any]:
        """The data of a constant."""
        data = constant(self.value(name))
        if data is None:
            raise KeyError(f"{name!r} is not a constant in this match")
        return data  # type: ignore[no-any-return]

    def scalar(self, name: str) -> float | None:
        """The single element of a constant, or None if it has another number of elements."""
        v = self.value(name)
        if v.const_value is None or v.const_value.size != 1:
            return None
        return float(self.array(name).reshape(-1)[0])

    def rest(self, name: str) -> tuple[ir.Value | None, ...]:
        return self.rests[name]

    def node(self, as_: str) -> ir.Node:
        return self.named[as_]

    def choice(self, as_: str) -> int:
        return self.choices[as_]


_Goals = tuple[Any, ...]  # a linked list: () or ((term, value), rest)


def match(pattern: NodePattern, root: ir.Node) -> Match | None:
    """The first way the pattern fits with `root` as its last node, or None."""
    m = Match(root)
    return m if _node(pattern, root, (), m) else None


def _solve(goals: _Goals, m: Match) -> bool:
    """Prove the goals one after another; undo and try the next alternative where one fails."""
    if not goals:
        return _closed(m)
    (term, value), others = goals
    if isinstance(term, NodePattern):
        node = value.producer() if value is not None else None
        if node is None or node.graph is not m.root.graph or value.index() != term.index:
            return False
        return _node(term, node, others, m)
    if isinstance(term, Var):
        return _var(term, value, others, m)
    if isinstance(term, Literal):
        return _literal(term.value, value) and _solve(others, m)
    for i, alternative in enumerate(term.terms):
        if term.as_:
            m.choices[term.as_] = i
        if _solve(((alternative, value), others), m):
            return True
    return False


def _var(term: Var, value: ir.Value | None, others: _Goals, m: Match) -> bool:
    if not _admits(term, value):
        return False
    if term.name in m.values:
        return m.values[term.name] is value and _solve(others, m)
    if term.where is not None:
        data = constant(value)
        if data is not None and not term.where(data):
            return False
    m.values[term.name] = value
    if _solve(others, m):
        return True
    del m.values[term.name]
    return False


def _admits(term: Var, value: ir.Value | None) -> bool:
    if value is None:
        return term.optional
    if term.constant and not is_constant(value):
        return False
    return term.check is None or term.check(value)


def _literal(want: float, value: ir.Value | None) -> bool:
    if value is None or not is_constant(value) or value.const_value is None or value.const_value.size != 1:
        return False
    data = np.asarray(constant(value)).reshape(-1)[0]
    eps = float(np.finfo(data.dtype).eps) if data.dtype.kind == "f" else 0.0
    return data.dtype.kind in "fiu" and abs(float(data) - want) <= 4 * eps * abs(want)


def _node(p: NodePattern, node: ir.Node, others: _Goals, m: Match) -> bool:
    if node.op_type not in p.ops or node.domain != p.domain or not _attributes(p, node):
        return False
    if p.where is not None and not p.where(node):
        return False
    if node in m.matched:  # one node may not play two parts, unless it is the same pattern (or another output of it)
        return _same(m.matched[node], p) and _solve(others, m)
    if p.as_ and p.as_ in m.named:  # a name stands for one node
        return False
    inputs = list(node.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    terms = list(p.inputs)
    tail: Rest | None = None
    if terms and isinstance(terms[-1], Rest):
        tail = terms.pop()  # type: ignore[assignment]
    elif len(inputs) > len(terms):
        return False
    inputs += [None] * (len(terms) - len(inputs))
    m.matched[node] = p
    if p.as_:
        m.named[p.as_] = node
    if tail is not None:
        m.rests[tail.name] = tuple(inputs[len(terms) :])
    orders = [inputs[: len(terms)]]
    if len(terms) == 2 and node.op_type in COMMUTATIVE and node.domain == "" and inputs[0] is not inputs[1]:
        orders.append([inputs[1], inputs[0]])
    for order in orders:
        goals = others
        for term, value in zip(reversed(terms), reversed(order), strict=True):
            goals = ((term, value), goals)
        if _solve(goals, m):
            return True
    del m.matched[node]
    if p.as_:
        m.named.pop(p.as_, None)
    return False


def _same(a: NodePattern, b: NodePattern) -> bool:
    """Whether one pattern is the other, or `.out(k)` of it: `out` keeps the very tuples."""
    return a is b or (a.ops is b.ops and a.inputs is b.inputs and a.attrs is b.attrs and a.as_ == b.as_)


def _attributes(p: NodePattern, node: ir.Node) -> bool:
    for name, want in p.attrs:
        have = attribute(node, name)
        if callable(want):
            if not want(have):
                return False
        elif (tuple(have) if isinstance(have, (list, tuple)) else have) != (
            tuple(want) if isinstance(want, list) else want
        ):
            return False
    return True


def _closed(m: Match) -> bool:
    """Nothing outside the match may use an inner value: rewriting would lose it or do the work twice."""
    for node, p in m.matched.items():
        if node is m.root or p.shared:
            continue
        for value in node.outputs:
            if value.is_graph_output() or any(user.node not in m.matched for user in value.uses()):
                return False
    return True


def attributes_of(node: ir.Node) -> Mapping[str, ir.Attr]:
    """All attributes of a node, to hand on to its replacement."""
    return dict(node.attributes.items())
