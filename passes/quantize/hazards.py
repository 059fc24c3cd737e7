"""Quantisation hazards: tensors whose one scale destroys a part of what they hold; found before Q/DQ are inserted.

The usual one is a detector's output that holds boxes (0..640) and scores (0..1): stored in 8 bits its step is 2.5, so
that every score is stored as 0. What a part keeps is told by its levels: its width divided by the step it is stored
with. Widths are of the calibration data; steps follow from the scheme, with groups that share parameters taken as one.

A hazard is repaired at the least cost: nodes of the head that move and decode values stay in float from where ranges
mix to the output, and back to the last weights, whose products are stored each with a scale of its own. Convolutions
and matrix products stay integer. What cannot be repaired so is told with what else helps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgec.diagnostics import Diagnostics, Location, Severity
from edgec.graph import Graph, ir
from edgec.passes.quantize.hazard_checks import CHECKS, STATIC_CHECKS, rare_values
from edgec.passes.quantize.hazard_scene import MIN_LEVELS, Finding, Scene
from edgec.passes.quantize.head import WEIGHTED, find_head, last_layers
from edgec.passes.quantize.plan import ActivationSite, Plan, make_plan, node_name

if TYPE_CHECKING:
    from edgec.quantization.statistics import Statistics
    from edgec.specs.conditions import Setting
    from edgec.specs.scheme import Scheme

_ROUNDS = 4
"""Repairs change the plan, and with it what is stored: the search goes on until nothing new is found, or this often."""


@dataclass(frozen=True)
class Hazard:
    """One finding, and what was done about it. `figures`: numbers for tables; ranges are reals, levels are counts."""

    code: str
    severity: Severity
    node: str
    message: str
    hint: str | None
    repaired: bool
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Hazards:
    """All that was found.

    `float_nodes`: node -> why it stays in float, for `make_plan(keep=...)`.
    `limits`: value -> range beyond which its readers cannot tell numbers apart; what is cut off there costs nothing.
    `uncut`: values of which nothing that was seen may be cut off, whatever the method: detections are rare.
    """

    items: list[Hazard] = field(default_factory=list)
    float_nodes: dict[str, str] = field(default_factory=dict)
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    uncut: frozenset[str] = frozenset()

    def report(self, diagnostics: Diagnostics, source: str | None = None) -> None:
        """Tell each hazard."""
        for h in self.items:
            diagnostics.add(h.code, h.severity, h.message, Location(source, node=h.node), h.hint)


def hazard_values(graph: Graph) -> list[str]:
    """Values `find_hazards` wants statistics of besides those a plan stores: what the head computes in float."""
    head = find_head(graph)
    values = (*head.sources, *(v for n in head.nodes for v in n.outputs))
    return [v.name for v in values if v.name and v.dtype is not None and v.dtype.is_floating_point()]


def find_hazards(
    graph: Graph,
    statistics: Statistics,
    scheme: Scheme,
    setting: Setting,
    *,
    keep: Mapping[str, str] | Collection[str] = (),
    min_levels: float = MIN_LEVELS,
) -> Hazards:
    """What storing `graph` as `scheme` wants would destroy, and which nodes have to stay in float for it not to.

    What the plan leaves in float anyway is judged as if it were stored, as compilers do that quantise whole graphs, and
    told as a note. `statistics`: of the values the plan stores, and of `hazard_values`; values without are not judged.
    `keep`: nodes that stay in float anyway. `min_levels`: a part of the head's numbers that gets fewer is a hazard.
    """
    kept = dict(keep) if isinstance(keep, Mapping) else dict.fromkeys(keep, "kept in float as asked")
    out = Hazards()
    scene = Scene.of(graph, statistics, scheme, setting, make_plan(graph, scheme, setting, keep=kept), min_levels)
    whole = replace(scene, plan=_with_head(scene))
    for _ in range(_ROUNDS):
        new: dict[str, str] = {}
        for check in CHECKS:
            for finding in check(scene):
                _settle(finding, scene, out, new)
        if not new:
            break
        out.float_nodes |= new
        scene = replace(scene, plan=make_plan(graph, scheme, setting, keep={**out.float_nodes, **kept}))
    for check in STATIC_CHECKS:
        for finding in check(scene):
            _settle(finding, scene, out, {})
    for check in CHECKS:
        for finding in check(whole):
            _avoided(finding, scene, out)
    out.limits = dict(scene.reader_limits())
    last = [v.name or "" for v in last_layers(scene.head) if v.name in scene.plan.activations]
    out.uncut = frozenset(last)
    for finding in rare_values(scene, last):
        _settle(finding, scene, out, {})
    return out


def _with_head(scene: Scene) -> Plan:
    """The scene's plan with every value of the head stored too."""
    plan = Plan({name: replace(site) for name, site in scene.plan.activations.items()})
    kind = scene.scheme.activations
    if kind is None:
        return plan
    for node in scene.head.nodes:
        rule = scene.scheme.rule(node, scene.setting)
        for v in node.outputs:
            if not v.name or v.dtype is None or not v.dtype.is_floating_point() or v.name in plan.activations:
                continue
            plan.activations[v.name] = ActivationSite(
                kind, max((s.group for s in plan.activations.values()), default=0) + 1
            )
            if rule is not None:
                plan.activations[v.name].fixed, plan.activations[v.name].range = rule.fixed, rule.range
                if rule.share and node.op_type != "Concat":  # which requantises where it has to
                    names = [i.name for i in node.inputs if i is not None and i.name]
                    plan.share(v.name, [n for n in names if n in plan.activations])
    return plan


def _avoided(finding: Finding, scene: Scene, out: Hazards) -> None:
    """Note a hazard of the head that the plan does not run into."""
    name = node_name(finding.node)
    stored = [
        v for v in (*finding.node.inputs, *finding.node.outputs) if v is not None and v.name in scene.plan.activations
    ]
    if not finding.start or any(h.node == name for h in out.items) or any(v in finding.node.outputs for v in stored):
        return
    message = f"{finding.message}; it stays in float"
    out.items.append(Hazard(finding.code, Severity.NOTE, name, message, None, True, finding.figures))


def _settle(finding: Finding, scene: Scene, out: Hazards, new: dict[str, str]) -> None:
    """Decide on the repair of one finding and note both."""
    name = node_name(finding.node)
    if any(h.code == finding.code and h.node == name for h in out.items):
        return
    if finding.start and all(node_name(n) in new for n in finding.start):
        return  # another finding has the same cause
    message, hint, repaired = finding.message, finding.hint, False
    if finding.start:
        region = scene.head.region(finding.start, scene.barred)
        extra = [n for n in finding.start if n not in scene.head and n not in scene.barred]
        nodes = [*extra, *region]
        if nodes:
            why = f"{finding.short} at {name}"
            new.update({node_name(n): why for n in nodes if node_name(n) not in out.float_nodes})
            message += f"; {_told(nodes)} in float"
            repaired, hint = True, None
    severity = Severity.NOTE if finding.mild else Severity.WARNING
    out.items.append(Hazard(finding.code, severity, name, message, hint, repaired, finding.figures))


def _told(nodes: list[ir.Node]) -> str:
    lost = sum(n.op_type in WEIGHTED for n in nodes)
    text = "1 node stays" if len(nodes) == 1 else f"{len(nodes)} nodes stay"
    return text + (f" ({lost} of them with weights)" if lost else "")


def hazard_counts(hazards: Hazards) -> Iterator[tuple[str, int]]:
    """For pass statistics: how many were found, repaired, and how many nodes that keeps in float."""
    yield "hazards", len(hazards.items)
    yield "repaired", sum(h.repaired for h in hazards.items)
    yield "float-nodes", len(hazards.float_nodes)
