"""What the hazard checks look at: a graph, what was seen of its values, and how a plan would store them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from edgec.graph import Graph, constant, ir, is_constant
from edgec.passes.quantize.head import WEIGHTED, Head, find_head
from edgec.passes.quantize.reader_limits import limits_of
from edgec.quantization.params import limits, params_of_range
from edgec.units import Units, find_units

if TYPE_CHECKING:
    from edgec.passes.quantize.plan import ActivationSite, Plan
    from edgec.quantization.statistics import Statistics
    from edgec.specs.conditions import Setting
    from edgec.specs.scheme import Scheme

MIN_LEVELS = 16.0
"""Levels a part of the head's numbers needs: with 16, rounding leaves 34 dB of a value spread evenly."""

SENTINEL = -1000.0
"""Values below are no data but marks: exp() of them is 0 beside anything else. Masks use -1e4, -1e9, -3.4e38 and -inf."""

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Finding:
    """What a check says. `start`: nodes to keep in float; empty where that is no repair. `short`: the cause, for tables."""

    code: str
    node: ir.Node
    message: str
    short: str
    start: tuple[ir.Node, ...] = ()
    hint: str | None = None
    mild: bool = False
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """Immutable; `replace(scene, plan=...)` looks at another plan."""

    graph: Graph
    statistics: Statistics
    scheme: Scheme
    setting: Setting
    plan: Plan
    min_levels: float
    head: Head
    units: Units

    @classmethod
    def of(
        cls, graph: Graph, statistics: Statistics, scheme: Scheme, setting: Setting, plan: Plan, min_levels: float
    ) -> Scene:
        units = find_units(graph, scheme.units, setting)
        return cls(graph, statistics, scheme, setting, plan, min_levels, find_head(graph), units)

    def nodes(self) -> Iterator[ir.Node]:
        """Nodes of the main graph: only they are quantised."""
        yield from self.graph.model.graph

    @cached_property
    def barred(self) -> frozenset[ir.Node]:
        """Pointwise nodes that are one kernel with weights: in float they would take those along."""
        return frozenset(n for u in self.units if u.main.op_type in WEIGHTED for n in u.nodes)

    def value(self, name: str) -> ir.Value | None:
        """A value of the main graph by name."""
        return self._values.get(name)

    def bounds(self, value: ir.Value | None) -> Bounds | None:
        """Extremes of a value: of the constant, or of what calibration saw; None where nothing is known."""
        if value is None:
            return None
        if is_constant(value):
            data = np.asarray(constant(value))
            if data.dtype.kind not in "fiu" or not data.size:
                return None
            finite = data[np.isfinite(data)]
            return (float(finite.min()), float(finite.max())) if finite.size else None
        sketch = self.statistics.tensors.get(value.name or "")
        if sketch is not None and not sketch.empty:
            return sketch.low, sketch.high
        site = self.plan.activations.get(value.name or "")
        return None if site is None else prescribed(site)

    def width(self, value: ir.Value | None) -> float | None:
        b = self.bounds(value)
        return None if b is None else b[1] - b[0]

    def step(self, value: ir.Value | None) -> float | None:
        """The distance of two stored values that follow each other; None where the value stays in float or is unseen."""
        site = self.plan.activations.get(value.name or "") if value is not None else None
        if site is None:
            return None
        members = self._groups[site.group]
        sites = [self.plan.activations[n] for n in members]
        known = [r for s in sites if (r := prescribed(s)) is not None]
        seen = [t for n in members if (t := self.statistics.tensors.get(n)) is not None and not t.empty]
        if known:
            low, high = known[0]
        elif seen:
            low, high = min(t.low for t in seen), max(t.high for t in seen)
        else:
            return None
        if low == high == 0 or not np.isfinite([low, high]).all():
            return None
        return float(params_of_range(low, high, site.kind).scale)

    @cached_property
    def _groups(self) -> dict[int, list[str]]:
        out: dict[int, list[str]] = {}
        for name, site in self.plan.activations.items():
            out.setdefault(site.group, []).append(name)
        return out

    def own_step(self, value: ir.Value) -> float | None:
        """The step the value would have with a scale of its own."""
        b = self.bounds(value)
        kind = self.scheme.activations
        if b is None or kind is None or b[0] == b[1]:
            return None
        return float(params_of_range(*b, kind).scale)

    def reader_limits(self) -> Iterator[tuple[str, Bounds]]:
        """Stored values whose readers all saturate: where. Of values that share parameters, all must be such."""
        for names in self.plan.groups:
            found = [b for n in names if (b := self._reader_limits(n)) is not None]
            if len(found) == len(names):
                hull = min(f[0] for f in found), max(f[1] for f in found)
                yield from ((n, hull) for n in names)

    def _reader_limits(self, name: str) -> Bounds | None:
        value = self._values.get(name)
        seen = self.bounds(value)
        return limits_of(value, self.step, seen[1]) if value is not None and seen is not None else None

    @cached_property
    def _values(self) -> dict[str, ir.Value]:
        g = self.graph.model.graph
        return {v.name: v for v in (*g.inputs, *(v for n in g for v in n.outputs)) if v.name}


def prescribed(site: ActivationSite) -> Bounds | None:
    """The range a target fixes or that is known of an op without calibration, None where data decide."""
    if site.fixed is not None:
        low, high = limits(site.kind)
        return (low - site.fixed.zero_point) * site.fixed.scale, (high - site.fixed.zero_point) * site.fixed.scale
    return site.range
