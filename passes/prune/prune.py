"""Structured pruning: whole channels, hidden units and attention heads go, and every target runs what is left faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgec.diagnostics import error
from edgec.graph import Graph, ir, is_constant
from edgec.infer import infer_shapes
from edgec.passes.prune.allocation import Allocation, Counts, Room, globally, reach, uniform
from edgec.passes.prune.costs import Costs, costs_of
from edgec.passes.prune.groups import Atom, Group, find_groups, remove
from edgec.passes.prune.importance import Importance, Scores, scores
from edgec.pipeline import Pass, PassContext, PassResult
from edgec.pruning import PruningRecord

if TYPE_CHECKING:
    from edgec.pipeline import Contract

_DEFAULT_ALIGN = 8
"""Channels the vector units of most targets take at a time."""


@dataclass(frozen=True)
class Prune(Pass):
    """Cut the least important channels out of every group that can lose some (`edgec inspect --prunable` lists them).

    The goal is one of `ratio` (part of the channels), `macs` (part of the multiply-accumulates) and `params` (part of the
    parameters), each between 0 and 1: what is to go. Of `macs` and `params` at least that part goes; the counts that stay
    are multiples of `align` channels (default: what the target's spec says for the precision, else 8), which rounds a
    `ratio` to the nearest multiple, and leaves groups that are smaller alone.

    `importance`: l1 or l2 norm of the weights around a channel, or the scale of its BatchNormalization (`bn`: then prune
    before `fold-bn`). `allocation`: `uniform`, the same part of every group; `global`, the least important anywhere, scores
    relative to their group. `keep`: groups or nodes, with wildcards, that stay whole. `least`: part of a group that stays
    in any case.

    Inputs and outputs keep names and shapes. Goes before quantisation: scales and ranges belong to the channels there are.

    Raises:
        EdgecError: EC0333 not one goal, or it cannot be; EC0334 it cannot be reached; EC0335 no BatchNormalization is
            left; EC0336 `keep` names nothing; EC0337 the graph is quantised.
    """

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    importance: Importance = "l2"
    allocation: Allocation = "uniform"
    align: int | None = None
    keep: tuple[str, ...] = ()
    least: float = 0.1

    name: ClassVar[str] = "prune"
    contract: ClassVar[Contract] = "lossy"
    requires: ClassVar[frozenset[str]] = frozenset({"opset-current", "constants-as-initializers"})

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        what, goal = self._goal()
        _refuse_quantised(graph)
        infer_shapes(graph)
        groups = self._free(find_groups(graph))
        if not groups:
            hint = "`edgec inspect --prunable` says why"
            ctx.diagnostics.warn("EC0338", "nothing in this model can be pruned", hint=hint)
            return PassResult(False)
        matters = self._scores(groups, ctx)
        align = self.align or _alignment(ctx)
        rooms = [Room.of(len(g.numbers), g.width, align, self.least) for g in groups]
        counts = uniform(rooms) if self.allocation == "uniform" else globally(rooms, matters)
        costs = costs_of(graph, groups)
        cut = counts(goal) if what == "ratio" else self._reach(counts, costs, what, goal, len(groups))
        if not cut.any():
            message = f"no group loses a channel: the goal is below half of {align} channels everywhere"
            ctx.diagnostics.warn("EC0338", message, hint="a larger goal, or prune{align=1}")
            return PassResult(False)
        if ctx.pruning is None:
            ctx.pruning = PruningRecord(graph.clone())
        ctx.pruning.cut(remove(graph, least_important(groups, matters, cut)))
        return PassResult(True, _stats(groups, cut, costs))

    def _goal(self) -> tuple[str, float]:
        given = {k: v for k in ("ratio", "macs", "params") if (v := getattr(self, k)) is not None}
        if len(given) != 1:
            raise error("EC0333", "prune takes one goal: ratio, macs or params", hint="prune{ratio=0.3}")
        what, goal = given.popitem()
        if not 0 < goal < 1 or not 0 <= self.least < 1 or (self.align is not None and self.align < 1):
            message = f"prune: {what}={goal} least={self.least} align={self.align} cannot be"
            raise error("EC0333", message, hint="goals are parts between 0 and 1, align is at least 1")
        return what, goal

    def _free(self, groups: Sequence[Group]) -> list[Group]:
        names = {g.name: _names(g) for g in groups}
        for pattern in self.keep:
            if not any(fnmatchcase(n, pattern) for known in names.values() for n in known):
                hint = "`edgec inspect --prunable` lists the groups"
                raise error("EC0336", f"prune: keep={pattern!r} names no group and no node", hint=hint)
        return [
            g
            for g in groups
            if g.fixed is None and not any(fnmatchcase(n, p) for p in self.keep for n in names[g.name])
        ]

    def _scores(self, groups: Sequence[Group], ctx: PassContext) -> list[Scores]:
        found = [scores(g, self.importance) for g in groups]
        if self.importance == "bn":
            if all(s is None for s in found):
                hint = "prune before fold-bn, or with importance=l2"
                raise error("EC0335", "no BatchNormalization follows anything that can be pruned", hint=hint)
            found = [scores(g, "l2") if s is None else s for g, s in zip(groups, found, strict=True)]
        return [np.ones(len(g.numbers)) if s is None else s for g, s in zip(groups, found, strict=True)]

    def _reach(self, counts: Any, costs: Costs, what: str, goal: float, groups: int) -> Counts:
        full = costs.total(what, [0] * groups)
        if full == 0:
            hint = "fix the input shapes: --input-shape"
            raise error("EC0334", "the multiply-accumulates of this model are not known", hint=hint)

        def saved(cut: Counts) -> float:
            return 1 - costs.total(what, cut) / full

        found = reach(counts, saved, goal)
        if found is None:
            most = saved(counts(1.0))
            message = f"prune: {goal:.1%} of {what} cannot go, {most:.1%} at most"
            raise error("EC0334", message, hint=f"least={self.least} and keep hold the rest")
        return found

    @classmethod
    def prunable(cls, graph: Graph) -> list[dict[str, Any]]:
        """What `edgec inspect --prunable` shows: one row a group, its size, where it is cut, what an atom saves, or why not."""
        infer_shapes(graph)
        groups = find_groups(graph)
        costs = costs_of(graph, groups)
        return [
            {
                "name": g.name,
                "channels": g.channels,
                "atoms": len(g.numbers),
                "fixed": g.fixed,
                "writers": [_label(n) for _, n, _ in g.roles("writes")],
                "readers": [_label(n) for _, n, _ in g.roles("reads")],
                "params_per_atom": round(costs.saved_by("params", i)),
                "macs_per_atom": round(costs.saved_by("macs", i)),
            }
            for i, g in enumerate(groups)
        ]


def least_important(groups: Sequence[Group], matters: Sequence[Scores], cut: Sequence[int] | Counts) -> list[Atom]:
    """Of every group the atoms of least score, as many as `cut` says."""
    return [
        Atom(g, int(g.numbers[i]))
        for g, score, n in zip(groups, matters, cut, strict=True)
        for i in np.argsort(score, kind="stable")[: int(n)]
    ]


def _alignment(ctx: PassContext) -> int:
    table = ctx.target.alignment if ctx.target is not None else {}
    return table.get(f"{ctx.precision} channels") or table.get("channels") or _DEFAULT_ALIGN


def _refuse_quantised(graph: Graph) -> None:
    for node in graph.nodes():
        op = node.op_type
        stored = op == "DequantizeLinear" and is_constant(node.inputs[0])
        if not stored and (op.startswith(("QLinear", "DynamicQuantize")) or op in _QUANTISED):
            hint = "prune, recover, then quantise: move prune before quantize, or start from the float model"
            raise error("EC0337", f"prune: the model is quantised already ({_label(node)})", hint=hint)


_QUANTISED = frozenset({"QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger", "MatMulNBits"})


def _names(group: Group) -> list[str]:
    nodes = [n for _, n, _ in group.roles("writes")]
    return [group.name, *(n.name for n in nodes if n.name), *(v.name for n in nodes for v in n.outputs if v.name)]


def _label(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type


def _stats(groups: Sequence[Group], cut: Counts, costs: Costs) -> dict[str, int]:
    none = [0] * len(groups)
    return {
        "groups": int((cut > 0).sum()),
        "channels": int(sum(int(n) * g.width for g, n in zip(groups, cut, strict=True))),
        "parameters": round(costs.total("params", none) - costs.total("params", cut)),
        "macs": round(costs.total("macs", none) - costs.total("macs", cut)),
    }
