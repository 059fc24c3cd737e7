"""Structured pruning: whole channels, hidden units and attention heads go, and every target runs what is left faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from edgec.passes.prune.option_ranges import require_positive
from edgec.passes.prune.ranking import Data, Importance, Ranking, rank
from edgec.passes.prune.sensitivity import HarmMeter, by_harm, following
from edgec.pipeline import Pass, PassContext, PassResult
from edgec.pruning import PruningRecord

if TYPE_CHECKING:
    from edgec.pipeline import Contract

_PROBED = 32
"""Samples that the harm of cutting a group is measured on."""

_ROUNDS = 3
"""How often an allocation by harm is decided on, each time knowing more."""

_DEFAULT_ALIGN = 8
"""Channels the vector units of most targets take at a time."""


@dataclass(frozen=True)
class Prune(Pass):
    """Cut the least important channels out of every group that can lose some (`edgec inspect --prunable` lists them).

    The goal is one of `ratio` (part of the channels), `macs` (part of the multiply-accumulates) and `params` (part of the
    parameters), each between 0 and 1: what is to go. Of `macs` and `params` at least that part goes; the counts that stay
    are multiples of `align` channels (default: what the target's spec says for the precision, else 8), which rounds a
    `ratio` to the nearest multiple, and leaves groups that are smaller alone.

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
        EdgecError: EC0204 `samples`, `columns` or `memory` is below 1; EC0333 not one goal, or it cannot be; EC0334 it cannot be reached; EC0335 no BatchNormalization is
            left; EC0336 `keep` names nothing; EC0337 the graph is quantised; EC0731 there is no calibration data.
    """

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
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
        self._goal()
        _refuse_quantised(graph)
        infer_shapes(graph)
        groups = self._free(find_groups(graph))
        if not groups:
            hint = "`edgec inspect --prunable` says why"
            ctx.diagnostics.warn("EC0338", "nothing in this model can be pruned", hint=hint)
            return PassResult(False)
        data = None
        if ctx.calibration is not None:
            data = Data.read(graph, ctx.calibration, self.samples, self.columns, self.memory, ctx.seed)
        allocation = self._allocation(data)
        ranking = rank(graph, groups, self.importance, data, observe=allocation == "sensitivity")
        align = self.align or _alignment(ctx)
        rooms = [Room.of(len(g.numbers), g.width, align, self.least) for g in groups]
        costs = costs_of(graph, groups)
        cut = self._cut(graph, groups, rooms, ranking, costs, data, allocation)
        if not cut.any():
            message = f"no group loses a channel: the goal is below half of {align} channels everywhere"
            ctx.diagnostics.warn("EC0338", message, hint="a larger goal, or prune{align=1}")
            return PassResult(False)
        if ctx.pruning is None:
            ctx.pruning = PruningRecord(graph.clone())
        ctx.pruning.cut(remove(graph, first_atoms(groups, ranking, cut)))
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

    def _allocation(self, data: Data | None) -> Allocation:
        if self.allocation == "auto":
            return "uniform" if data is None else "sensitivity"
        if self.allocation == "sensitivity" and data is None:
            hint = "--calib FOLDER_OF_IMAGES | data.npz | module:function, or allocation=uniform"
            raise error("EC0731", "allocation=sensitivity needs calibration data", hint=hint)
        return self.allocation

    def _cut(
        self, graph: Graph, groups: Sequence[Group], rooms: Sequence[Room], ranking: Ranking, costs: Costs,
        data: Data | None, allocation: Allocation,
    ) -> Counts:  # fmt: skip
        """How many atoms of each group go."""
        what, goal = self._goal()
        counts = globally(rooms, ranking.costs) if allocation == "global" else uniform(rooms)
        saved = _saving(what, groups, costs)
        found = counts(goal) if what == "ratio" else reach(counts, saved, goal)  # a ratio: the nearest multiples
        if found is not None and allocation == "sensitivity" and data is not None:
            meter = HarmMeter(graph, groups, ranking, data.judged[:_PROBED])
            meter.measure([n or following(r, 0) or 0 for n, r in zip(found, rooms, strict=True)])
            for _ in range(_ROUNDS):
                found = by_harm(rooms, meter.harms(), saved, min(goal, saved(counts(1.0))))
                if found is not None:
                    meter.measure(found)
        if found is None:
            message = f"prune: {goal:.1%} of {what} cannot go, {saved(counts(1.0)):.1%} at most"
            raise error("EC0334", message, hint=f"least={self.least} and keep hold the rest")
        return found

    @classmethod
    def prunable(cls, graph: Graph) -> list[dict[str, Any]]:
        """What `edgec inspect --prunable` shows: one row a group, its size, where it is cut, what an atom saves, or why not.

        Raises:
            EdgecError: EC0337 the graph is quantised.
        """
        _refuse_quantised(graph)
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


def first_atoms(groups: Sequence[Group], ranking: Ranking, cut: Sequence[int] | Counts) -> list[Atom]:
    """Of every group the first atoms to go, as many as `cut` says."""
    return [
        Atom(g, int(g.numbers[i]))
        for g, order, n in zip(groups, ranking.orders, cut, strict=True)
        for i in order[: int(n)]
    ]


def _saving(what: str, groups: Sequence[Group], costs: Costs) -> Callable[[Counts], float]:
    """Cut -> the part it saves."""
    if what == "ratio":
        widths = np.asarray([g.width for g in groups])
        channels = sum(g.width * len(g.numbers) for g in groups)
        return lambda cut: float((cut * widths).sum() / channels)
    full = costs.total(what, [0] * len(groups))
    if full == 0:
        hint = "fix the input shapes: --input-shape"
        raise error("EC0334", "the multiply-accumulates of this model are not known", hint=hint)
    return lambda cut: 1 - costs.total(what, cut) / full


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
