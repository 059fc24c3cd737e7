"""Structured pruning: whole channels, hidden units and attention heads go, and every target runs what is left faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

from edgec.diagnostics import EdgecError, error
from edgec.graph import Graph, ir, is_constant
from edgec.infer import infer_shapes
from edgec.passes.prune.allocation import Allocation, Counts, Room
from edgec.passes.prune.costs import Costs, costs_of
from edgec.passes.prune.goals import MEASURED, Goal, goal_of
from edgec.passes.prune.groups import Group, find_groups, remove
from edgec.passes.prune.measured_goal import Scales, reach_measured
from edgec.passes.prune.option_ranges import require_positive
from edgec.passes.prune.plan import Plan
from edgec.passes.prune.ranking import Data, Importance, rank
from edgec.pipeline import Pass, PassContext, PassResult
from edgec.pruning import PruningRecord
from edgec.rewrite import provenance

if TYPE_CHECKING:
    from edgec.pipeline import Contract

_DEFAULT_ALIGN = 8
"""Channels the vector units of most targets take at a time."""


@dataclass(frozen=True)
class Prune(Pass):
    """Cut the least important channels out of every group that can lose some (`edgec inspect --prunable` lists them).

    The goal is one of `ratio` (part of the channels), `macs` (part of the multiply-accumulates), `params` (part of the
    parameters), `latency` (of the time the target's compiler estimates) and `flash` (of the artifact's bytes), each between 0
    and 1: what is to go; of the last two also what may be left, `latency=5ms`, `flash=200KiB`. They need a target, which is
    built for some times. Of all but `ratio` at least that part goes; the counts that stay are multiples of `align` channels
    (default: what the target's spec says for the precision, and less where that cannot reach the goal; else 8), which rounds
    a `ratio` to the nearest multiple, and leaves groups that are smaller alone.

    `importance`: `l1` or `l2` norm of the weights around a channel; the scale of its BatchNormalization (`bn`: then prune
    before `fold-bn`); the power of its activations (`activation`); how far the outputs move without it, to first order
    (`taylor`, with PyTorch); what the layers that read it lose when the channels that stay make good for it by least squares
    (`reconstruction`). `auto`: `reconstruction` where there is calibration data, else `l2`.

    `allocation`: `uniform`, the same part of every group; `global`, the least important anywhere; `sensitivity`, by how
    far the outputs go when each group alone is cut, for what it saves (needs calibration data). `auto`: `sensitivity`
    where there is calibration data, else `uniform`.

    `keep`: groups or nodes, with wildcards, that stay whole. `least`: part of a group that stays in any case. `samples`:
    calibration inputs looked at, as far as their activations fit `memory` (MiB); `columns`: places (pixels) taken of what a
    layer reads, all samples together.

    Inputs and outputs keep names and shapes. Goes before quantisation: scales and ranges belong to the channels there are.

    Raises:
        EdgecError: EC0204 `samples`, `columns` or `memory` is below 1; EC0333 not one goal, or it cannot be; EC0334 it cannot
            be reached; EC0335 no BatchNormalization is left; EC0336 `keep` names nothing; EC0337 the graph is quantised; EC0363
            nothing measures the goal; EC0731, EC0737 there is no calibration data, or none that is finite.
    """

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    latency: float | str | None = None
    flash: float | str | None = None
    importance: Importance = "auto"
    allocation: Allocation = "auto"
    align: int | None = None
    keep: tuple[str, ...] = ()
    least: float = 0.1
    samples: int = 512
    columns: int = 16384
    memory: int = 2048

    name: ClassVar[str] = "prune"
    contract: ClassVar[Contract] = "lossy"
    requires: ClassVar[frozenset[str]] = frozenset({"opset-current", "constants-as-initializers"})

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        require_positive(self, "samples", "columns", "memory")
        goal = self._goal()
        _refuse_quantised(graph)
        infer_shapes(graph)
        found = find_groups(graph)
        groups = self._free(found)
        if ctx.pruning is None:
            ctx.pruning = PruningRecord(graph.clone())
        if not groups and any(g.fixed is None for g in found):
            raise error("EC0334", f"prune: keep={list(self.keep)} holds all there is to cut", hint="keep fewer")
        if not groups:
            hint = "`edgec inspect --prunable` says why"
            ctx.diagnostics.warn("EC0338", "nothing in this model can be pruned", hint=hint)
            return PassResult(False)
        scales = Scales.of(goal, graph, ctx) if goal.measured else None
        data = None
        if ctx.calibration is not None:
            data = Data.read(graph, ctx.calibration, self.samples, self.columns, self.memory, ctx.seed, ctx.diagnostics)
        allocation = self._allocation(data)
        ranking = rank(graph, groups, self.importance, data, observe=allocation == "sensitivity")
        costs = costs_of(graph, groups)
        cut = self._cut(Plan(graph, groups, (), ranking, costs, allocation, data), goal, scales, ctx)
        if not cut.any():
            message = "no group loses a channel: the goal is below half of the alignment everywhere"
            ctx.diagnostics.warn("EC0338", message, hint="a larger goal, or prune{align=1}")
            return PassResult(False)
        ctx.pruning.cut(remove(graph, ranking.first_atoms(groups, cut)))
        if scales is not None:
            ctx.pruning.promises.append(scales.promise)
        return PassResult(True, _stats(groups, cut, costs))

    def _cut(self, plan: Plan, goal: Goal, scales: Scales | None, ctx: PassContext) -> Counts:
        """How many atoms of each group go: what stays are multiples of what the target computes at once. Where the goal cannot
        be reached that way, multiples of fewer are taken, unless it is one of time, and it is told."""
        align = wanted = self.align or _alignment(ctx)
        while True:
            plan = replace(plan, rooms=[Room.of(len(g.numbers), g.width, align, self.least) for g in plan.groups])
            try:
                found = self._reached(plan, goal, scales, align, ctx)
                break
            except EdgecError as e:
                finer = goal.what != "latency" and not self.align and align > _DEFAULT_ALIGN
                if not finer or e.diagnostics[0].code != "EC0334":
                    raise
                align //= 2
        if align < wanted and ctx.target is not None:
            message = (
                f"prune: {goal} is out of reach in multiples of {wanted} channels, which {ctx.target.name} computes at once: "
                f"multiples of {align} are left"
            )
            hint = f"size goes, time goes by less: prune{{latency=...}} cuts what the target feels; align={wanted} keeps to it"
            ctx.diagnostics.warn("EC0364", message, hint=hint)
        return found

    def _reached(self, plan: Plan, goal: Goal, scales: Scales | None, align: int, ctx: PassContext) -> Counts:
        most, held = plan.most(goal.scale), f"align={align}, least={self.least} and keep"
        if scales is not None:
            return reach_measured(scales, plan.groups, plan.ranking, lambda s: plan.cut(goal.scale, s), most, held, ctx)
        assert goal.part is not None  # only goals that are measured have other amounts
        found = plan.cut(goal.what, goal.part)
        if found is None:
            message = f"prune: {goal.part:.1%} of {goal.what} cannot go, {most:.1%} at most"
            raise error("EC0334", message, hint=f"{held} hold the rest")
        return found

    def _goal(self) -> Goal:
        goal = goal_of({k: getattr(self, k) for k in ("ratio", "macs", "params", *MEASURED)})
        if not 0 <= self.least < 1 or (self.align is not None and self.align < 1):
            message = f"prune: least={self.least} align={self.align} cannot be"
            raise error("EC0333", message, hint="least is a part from 0 to below 1, align is at least 1")
        return goal

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

    def _allocation(self, data: Data | None) -> Allocation:
        if self.allocation == "auto":
            return "uniform" if data is None else "sensitivity"
        if self.allocation == "sensitivity" and data is None:
            hint = "--calib FOLDER_OF_IMAGES | data.npz | module:function, or allocation=uniform"
            raise error("EC0731", "allocation=sensitivity needs calibration data", hint=hint)
        return self.allocation

    @classmethod
    def prunable(cls, graph: Graph) -> list[dict[str, Any]]:
        """What `edgec inspect --prunable` shows: one row a group, its size, where it is cut, what an atom saves
        (`macs_per_atom` is None where input shapes are open), or why not.

        Raises:
            EdgecError: EC0337 the graph is quantised.
        """
        _refuse_quantised(graph)
        infer_shapes(graph)
        groups = find_groups(graph)
        costs = costs_of(graph, groups)
        counted = costs.total("macs", [0] * len(groups)) > 0
        return [
            {
                "name": g.name,
                "channels": g.channels,
                "atoms": len(g.numbers),
                "fixed": g.fixed,
                "writers": [_label(n) for _, n, _ in g.roles("writes")],
                "readers": [_label(n) for _, n, _ in g.roles("reads")],
                "params_per_atom": round(costs.saved_by("params", i)),
                "macs_per_atom": round(costs.saved_by("macs", i)) if counted else None,
            }
            for i, g in enumerate(groups)
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
    """Of the group, of the nodes that write it and their outputs, and of the nodes of the model that those stand for."""
    nodes = [n for _, n, _ in group.roles("writes")]
    own = [group.name, *(n.name for n in nodes if n.name), *(v.name for n in nodes for v in n.outputs if v.name)]
    return [*own, *provenance(nodes).splitlines()]


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
