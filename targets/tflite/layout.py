"""Which values are stored channels last, and which as the ONNX model has them: the fewest TRANSPOSEs.

Each value has at most two storages: as it is (raw), and with its channel axes behind its spatial ones (last). Convolutions
and poolings work on the latter, matrix products on the former, most others on either. A TRANSPOSE is paid once for a value
that is stored one way and read the other way, so the cheapest choice is a minimum cut between "raw" and "last" (networkx),
exact but where Transposes of the model itself lead to contradictions (a cycle that turns a layout once).

A Transpose of the model costs nothing where its input's other storage is its output's: NCHW -> NHWC is a change of name
for a value stored channels last. In the cut, what lies behind such a Transpose has its two labels exchanged.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from edgec.graph import attribute, ir, is_constant, static_shape
from edgec.targets.tflite.storage import (
    Perm,
    channels_last,
    dropped,
    inverse,
    moves_nothing,
    stored,
    through_transpose,
)

if TYPE_CHECKING:
    import networkx as nx


class Side(Enum):
    """What an op wants of one of its inputs or outputs."""

    RAW = "raw"
    LAST = "last"
    FOLLOW = "follow"
    """All ends of the node that say so are stored alike, either way."""
    FREE = "free"
    """Either way, whatever the others are."""


@dataclass(frozen=True)
class Sides:
    """`drops`: axes of input 0 that its outputs have not (reductions); what is left keeps its order in storage."""

    inputs: Sequence[Side]
    outputs: Sequence[Side]
    drops: frozenset[int] = frozenset()


@dataclass(frozen=True)
class NodeLayout:
    """How a node reads its inputs and stores its outputs; None is raw."""

    inputs: list[Perm | None]
    outputs: list[Perm | None]


Wishes = Callable[[ir.Node], Sides]

_REGROUPS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(eq=False)
class Layouts:
    """The result: the layout of every node, and of model inputs and outputs."""

    of: dict[ir.Node, NodeLayout]
    inputs: dict[ir.Value, Perm | None]
    outputs: dict[ir.Value, Perm | None]


def assign(
    nodes: Iterable[ir.Node],
    wishes: Wishes,
    *,
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    last: Collection[str] = (),
    same: Callable[[ir.Value], ir.Value] = lambda v: v,
) -> Layouts:
    """Choose storages. `last`: names of inputs and outputs that shall be stored channels last at the interface, if they
    can be. `same`: value -> the value whose storage it shares (Q/DQ)."""
    return _Assignment(list(nodes), wishes, inputs, outputs, last, same).solve()


_FIXED = 10**15
_ONE = 10**9
"""Cost of a TRANSPOSE; the elements it moves are added, to choose among equally many. One that moves nothing costs 1."""


@dataclass(eq=False)
class _End:
    """A variable of the cut: the storage that one or more ends of nodes share. `fixed`: its label, if it has no choice."""

    fixed: int | None = None
    turned: bool = False


@dataclass(eq=False)
class _Ends:
    inputs: list[_End | None] = field(default_factory=list)
    outputs: list[_End | None] = field(default_factory=list)


class _Assignment:
    def __init__(
        self,
        nodes: list[ir.Node],
        wishes: Wishes,
        inputs: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        last: Collection[str],
        same: Callable[[ir.Value], ir.Value],
    ) -> None:
        self.nodes, self.inputs, self.outputs, self.last, self.same = nodes, inputs, outputs, last, same
        self.sides = {n: wishes(n) for n in nodes}
        self.alt: dict[ir.Value, Perm] = {}
        self.users: dict[ir.Value, list[ir.Node]] = defaultdict(list)
        for n in nodes:
            for v in (*n.inputs, *n.outputs):
                if v is not None:
                    self.users[same(v)].append(n)

    def solve(self) -> Layouts:
        self._spread_alternatives()
        ends, interface = self._variables()
        label = self._cut(ends, interface)

        def perm(v: ir.Value | None, end: _End | None) -> Perm | None:
            return self._alt(v) if v is not None and end is not None and label(end) else None

        of = {
            n: NodeLayout(
                [perm(v, e) for v, e in zip(n.inputs, ends[n].inputs, strict=True)],
                [perm(v, e) for v, e in zip(n.outputs, ends[n].outputs, strict=True)],
            )
            for n in self.nodes
        }
        return Layouts(
            of,
            {v: perm(v, interface[v, "in"]) for v in self.inputs},
            {v: perm(v, interface[v, "out"]) for v in self.outputs},
        )

    def _alt(self, v: ir.Value | None) -> Perm | None:
        return None if v is None else self.alt.get(self.same(v))

    # --- which values have a second storage ---------------------------------------------------------------------------

    def _spread_alternatives(self) -> None:
        """From the ops that want channels last, along the ops that do not care."""
        todo: deque[ir.Value] = deque()

        def give(v: ir.Value | None, perm: Perm | None) -> None:
            if v is None or perm is None or is_constant(v):
                return
            v = self.same(v)
            if v not in self.alt and _rank(v) == len(perm):
                self.alt[v] = perm
                todo.append(v)

        for n in self.nodes:
            sides = self.sides[n]
            for values, wanted in ((n.inputs, sides.inputs), (n.outputs, sides.outputs)):
                for v, side in zip(values, wanted, strict=True):
                    if side is Side.LAST and v is not None:
                        give(v, channels_last(_rank(v)))
        while todo:
            v = todo.popleft()
            for n in self.users[v]:
                for other, perm in self._along(n, v):
                    give(other, perm)

    def _along(self, n: ir.Node, v: ir.Value) -> list[tuple[ir.Value | None, Perm | None]]:
        """What the second storage of `v` means for the other values of `n`."""
        perm, sides = self.alt[v], self.sides[n]
        forward = n.inputs and n.inputs[0] is not None and self.same(n.inputs[0]) is v
        if n.op_type == "Transpose":
            order = attribute(n, "perm")
            if forward:
                return [(n.outputs[0], _behind_transpose(perm, order))]
            return [(n.inputs[0], _behind_transpose(perm, inverse(order)))]
        if n.op_type in _REGROUPS:
            return [(n.outputs[0], _regrouped(v, n.outputs[0], perm))] if forward else [
                (n.inputs[0], _regrouped(v, n.inputs[0], perm))
            ]  # fmt: skip
        if sides.drops:
            return [(w, dropped(perm, sides.drops)) for w in n.outputs] if forward else []
        ends = [*zip(n.inputs, sides.inputs, strict=True), *zip(n.outputs, sides.outputs, strict=True)]
        if not any(e is not None and self.same(e) is v and side is Side.FOLLOW for e, side in ends):
            return []
        return [(e, perm) for e, side in ends if side is Side.FOLLOW and e is not None]

    # --- the cut ------------------------------------------------------------------------------------------------------

    def _variables(self) -> tuple[dict[ir.Node, _Ends], dict[tuple[ir.Value, str], _End]]:
        ends: dict[ir.Node, _Ends] = {}
        for n in self.nodes:
            sides, follow = self.sides[n], _End()
            if n.op_type == "Transpose":
                sides = Sides([Side.FREE], [Side.FREE])
            elif n.op_type in _REGROUPS:
                data = n.inputs[0]
                regroups = data is not None and _regroups(data, n.outputs[0], self._alt(data), self._alt(n.outputs[0]))
                side = Side.FOLLOW if regroups else Side.RAW
                sides = Sides([side] + [Side.RAW] * (len(n.inputs) - 1), [side])
            elif sides.drops:
                left = dropped(self._alt(n.inputs[0]), sides.drops)
                side = Side.FREE if left is None else Side.FOLLOW if left == self._alt(n.outputs[0]) else Side.RAW
                rest = [Side.RAW] * (len(n.inputs) - 1)
                sides = Sides([side, *rest], [Side.FOLLOW if side is Side.FOLLOW else Side.RAW] * len(n.outputs))
            elif len({self._alt(v) for v in self._following(n)}) > 1:
                # One node stores all alike: ends whose second storages differ can only be raw together.
                follow.fixed = 0
            row = _Ends()
            for values, wanted, out in ((n.inputs, sides.inputs, row.inputs), (n.outputs, sides.outputs, row.outputs)):
                for v, side in zip(values, wanted, strict=True):
                    if v is None or self._alt(v) is None:
                        out.append(None)
                    elif side is Side.FOLLOW:
                        out.append(follow)
                    else:
                        out.append(_End({Side.RAW: 0, Side.LAST: 1}.get(side)))
            ends[n] = row
        interface = {(v, "in"): _End(int(v.name in self.last)) for v in self.inputs}
        interface |= {(v, "out"): _End(int(v.name in self.last)) for v in self.outputs}
        return ends, interface

    def _following(self, n: ir.Node) -> list[ir.Value]:
        sides = self.sides[n]
        ends = [*zip(n.inputs, sides.inputs, strict=True), *zip(n.outputs, sides.outputs, strict=True)]
        return [v for v, side in ends if side is Side.FOLLOW and v is not None and not is_constant(v)]

    def _cut(
        self, ends: Mapping[ir.Node, _Ends], interface: Mapping[tuple[ir.Value, str], _End]
    ) -> Callable[[_End], int]:
        writers: dict[ir.Value, _End] = {}
        readers: dict[ir.Value, list[_End]] = defaultdict(list)
        for v in self.inputs:
            writers[self.same(v)] = interface[v, "in"]
        for n in self.nodes:
            for v, e in zip(n.outputs, ends[n].outputs, strict=True):
                if e is not None:
                    writers.setdefault(self.same(v), e)
            for read, e in zip(n.inputs, ends[n].inputs, strict=True):
                if e is not None and read is not None:
                    readers[self.same(read)].append(e)
        for v in self.outputs:
            readers[self.same(v)].append(interface[v, "out"])
        links = [(v, writers[v], readers[v]) for v in self.alt if v in writers and readers[v]]
        renames = self._turn(ends, links)

        import networkx as nx

        g: nx.DiGraph[object] = nx.DiGraph()
        g.add_nodes_from((_RAW, _LAST))
        for end in {e for _, w, rs in links for e in (w, *rs)} | {e for a, b, *_ in renames for e in (a, b)}:
            if end.fixed is not None:
                label = end.fixed ^ end.turned
                _add(g, end if label else _RAW, _LAST if label else end, _FIXED)
        for v, w, rs in links:
            cost = 1 if moves_nothing(_shape(v), self.alt[v]) else _ONE + math.prod(_shape(v))
            _pay_if_any(g, w, rs, cost, ("to last", v))
            _pay_if_any(g, w, rs, cost, ("to raw", v), up=True)
        for a, b, cost, free in renames:
            if free == (True, True):
                _add(g, a, b, cost)
                _add(g, b, a, cost)
            elif free[0]:  # paid if any of the two is at label 1
                _pay_if_any(g, _RAW, (a, b), cost, ("rename", a, b))
            else:
                _pay_if_any(g, _LAST, (a, b), cost, ("rename", a, b), up=True)
        _, (raw, _last) = nx.minimum_cut(g, _RAW, _LAST)
        return lambda end: int(end not in raw) ^ end.turned if end in g else (end.fixed or 0)

    def _turn(
        self, ends: Mapping[ir.Node, _Ends], links: Sequence[tuple[ir.Value, _End, list[_End]]]
    ) -> list[tuple[_End, _End, int, tuple[bool, bool]]]:
        """Exchange labels behind Transposes that only rename.

        Returns their terms: the ends, the cost of a TRANSPOSE, whether it is spared where both ends have (exchanged) label 0,
        and where both have 1. It is paid where they differ.
        """
        near: dict[_End, list[tuple[_End, bool]]] = defaultdict(list)
        for _, w, rs in links:
            for r in rs:
                near[w].append((r, False))
                near[r].append((w, False))
        found: list[tuple[_End, _End, int, list[list[bool]], bool]] = []
        for n in self.nodes:
            a, b = (ends[n].inputs[0], ends[n].outputs[0]) if n.op_type == "Transpose" else (None, None)
            if a is None or b is None:
                continue
            perm, shape = attribute(n, "perm"), _shape(n.inputs[0])
            reads, writes = (None, self._alt(n.inputs[0])), (None, self._alt(n.outputs[0]))
            free = [[_free(shape, perm, read, write) for write in writes] for read in reads]
            turn = free[0][1] or free[1][0]
            if turn or free[0][0] or free[1][1]:
                near[a].append((b, turn))
                near[b].append((a, turn))
                found.append((a, b, _ONE + math.prod(shape), free, turn))
        seen: set[_End] = set()
        for start in list(near):
            if start in seen:
                continue
            seen.add(start)
            todo = deque([start])
            while todo:
                e = todo.popleft()
                for other, turn in near[e]:
                    if other not in seen:
                        seen.add(other)
                        other.turned = e.turned ^ turn
                        todo.append(other)
        return [
            (a, b, cost, (free[a.turned][b.turned], free[not a.turned][not b.turned]))
            for a, b, cost, free, turn in found
            if a.turned ^ b.turned == turn  # else a contradiction: paid whatever is chosen
        ]


_RAW, _LAST = "raw", "last"
"""The terminals of the cut: what stays on the side of the first has label 0."""


def _pay_if_any(
    g: nx.DiGraph[object], one: object, others: Iterable[object], cost: int, aux: object, *, up: bool = False
) -> None:
    """`cost` where `one` has label 0 and any of `others` 1; with `up`, where it has 1 and any of them 0."""
    _add(g, aux if up else one, one if up else aux, cost)
    for other in others:
        _add(g, other if up else aux, aux if up else other, _FIXED)


def _add(g: nx.DiGraph[object], a: object, b: object, capacity: int) -> None:
    if g.has_edge(a, b):
        g[a][b]["capacity"] += capacity
    else:
        g.add_edge(a, b, capacity=capacity)


def _free(shape: Sequence[int], perm: Sequence[int], read: Perm | None, write: Perm | None) -> bool:
    left = through_transpose(perm, read, write)
    return moves_nothing(stored(shape, read), left)


def _behind_transpose(perm: Perm, order: Sequence[int]) -> Perm:
    """The second storage of a Transpose's output, given its input's."""
    rank = len(perm)
    channels = {order_at for order_at in range(rank) if order[order_at] in perm[_spatial_end(perm) :]}
    count = len(channels)
    if channels == set(range(1, count + 1)):
        return channels_last(rank, count)
    return inverse(order)  # stored as the input is


def _spatial_end(perm: Perm) -> int:
    """How many stored axes come before the channels, in a permutation of `channels_last`."""
    return perm.index(1)


def _regrouped(v: ir.Value, other: ir.Value | None, perm: Perm) -> Perm | None:
    """The second storage of a reshaped value: the same split into batch, channels and the rest, elements unmoved."""
    if other is None:
        return None
    channel_axes = len(perm) - _spatial_end(perm)
    if perm != channels_last(len(perm), channel_axes):
        return None
    have, want = _shape(v), _shape(other)
    if not have or not want or have[0] != want[0]:
        return None
    channels = math.prod(have[1 : channel_axes + 1])
    product = 1
    for i, d in enumerate(want[1:], start=1):
        product *= d
        if product == channels and i < len(want) - 1:
            return channels_last(len(want), i)
        if product > channels:
            break
    return None


def _regroups(v: ir.Value, other: ir.Value, perm: Perm | None, other_perm: Perm | None) -> bool:
    if perm is None or other_perm is None:
        return False
    return _regrouped(v, other, perm) == other_perm or _regrouped(other, v, other_perm) == perm


def _rank(v: ir.Value) -> int:
    return 0 if v.shape is None else v.shape.rank()


def _shape(v: ir.Value | None) -> tuple[int, ...]:
    return static_shape(v) or ()
