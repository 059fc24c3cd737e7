"""Placement: who runs each node on a device, why, and what crossing between devices costs.

Predicted from the op table of the target's spec. Where a vendor's compiler tells the real placement afterwards,
`differences` (in actual.py) compares the two.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from edgec.actual_placement import ActualNode, ActualPlacement, Difference, differences
from edgec.diagnostics import Diagnostics, Location
from edgec.graph import Graph, attribute, ir, static_shape
from edgec.units import Unit, find_units

if TYPE_CHECKING:
    from edgec.specs.conditions import Setting
    from edgec.specs.op_table import Decision
    from edgec.specs.schema import TargetSpec

__all__ = [
    "ActualNode", "ActualPlacement", "Difference", "Island", "NodePlacement", "Placement", "differences", "macs", "place",
]  # fmt: skip

Where = Literal["accelerator", "fallback", "impossible"]
CPU = "the CPU"
"""`device` of a target without an accelerator."""


@dataclass(frozen=True)
class NodePlacement:
    """Where one node runs. `certain`: False where the vendor's compiler decides in a way the table does not predict, or
    where a condition could not be decided because a shape is not known."""

    node: str
    op: str
    where: Where
    unit: str | None = None
    reason: str | None = None
    hint: str | None = None
    evidence: str = ""
    rewrite: str | None = None
    certain: bool = True
    confidence: str | None = None
    """high, medium or low, where the device's own partitioner decides and this is a prediction."""

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"node": self.node, "op": self.op, "where": self.where}
        for key in ("unit", "reason", "hint", "evidence", "rewrite", "confidence"):
            if value := getattr(self, key):
                out[key] = value
        if not self.certain:
            out["certain"] = False
        return out


@dataclass(frozen=True)
class Island:
    """Fallback nodes that hang together, and the tensors that cross between them and the accelerator.

    `tensors`: name -> bytes at the precision of the target; 0 where a shape is not known.
    """

    nodes: tuple[str, ...]
    tensors: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.tensors.values())

    def to_json(self) -> dict[str, Any]:
        return {"nodes": list(self.nodes), "tensors": dict(self.tensors), "bytes": self.bytes}


@dataclass(frozen=True)
class Placement:
    """Who runs each node of a graph on one target at one precision."""

    target: str
    precision: str
    nodes: tuple[NodePlacement, ...]
    islands: tuple[Island, ...] = ()
    macs: int = 0
    macs_on_accelerator: int = 0
    units: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Unit id -> the names of its nodes; the first is the one the kernel is named after."""
    device: str = "the accelerator"
    """What is meant by it, for people: `the CPU` on a target that has nothing else."""
    other: str = CPU
    """Who runs what falls back, for people."""
    predicted: str | None = None
    """Who decides on the device, where this is a prediction only."""

    @property
    def on_cpu(self) -> bool:
        """Whether the target is the CPU itself: then nothing falls back to it."""
        return self.device == CPU

    @property
    def alone(self) -> bool:
        """Whether everything runs on `device`, whatever falls back included: the CPU itself, or `the GPU or the CPU`."""
        return self.other in self.device

    @property
    def boundary_bytes(self) -> int:
        """Bytes that cross between the accelerator and fallback nodes, once each way."""
        return sum(i.bytes for i in self.islands)

    @property
    def counts(self) -> dict[Where, int]:
        found = Counter(n.where for n in self.nodes)
        return {"accelerator": found["accelerator"], "fallback": found["fallback"], "impossible": found["impossible"]}

    @property
    def mac_share(self) -> float:
        """The share of multiply-accumulates the accelerator runs; 1 where the model has none."""
        return self.macs_on_accelerator / self.macs if self.macs else 1.0

    def of(self, node: str) -> NodePlacement | None:
        return next((n for n in self.nodes if n.node == node), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "precision": self.precision,
            "device": self.device,
            "fallback": self.other,
            **({"predicted": self.predicted} if self.predicted else {}),
            "counts": dict(self.counts),
            "mac_share": self.mac_share,
            "macs": self.macs,
            "boundary_bytes": self.boundary_bytes,
            "islands": [i.to_json() for i in self.islands],
            "units": {k: list(v) for k, v in self.units.items()},
            "nodes": [n.to_json() for n in self.nodes],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Placement:
        """The inverse of `to_json`. KeyError, TypeError: it is none."""
        nodes = tuple(NodePlacement(**n) for n in data["nodes"])
        islands = tuple(Island(tuple(i["nodes"]), i["tensors"]) for i in data["islands"])
        share = round(data["mac_share"] * data["macs"])
        units = {k: tuple(v) for k, v in data["units"].items()}
        return cls(
            data["target"], data["precision"], nodes, islands, data["macs"], share, units, data["device"],
            data["fallback"], data.get("predicted"),
        )  # fmt: skip

    def diagnose(self, diagnostics: Diagnostics, no_fallback: bool = False) -> None:
        """Add one message for each group of nodes that share an op and a reason: impossible is an error (EC0401), fallback a
        warning or, with `no_fallback`, an error (EC0402), an undecided condition a note (EC0406)."""
        groups: dict[tuple[str, str, str | None, str | None, str | None], list[str]] = {}
        for n in self.nodes:
            kind: str = n.where if n.where != "accelerator" or n.certain or n.unit else "unknown"
            if kind in ("fallback", "impossible") or (kind == "unknown" and n.reason):
                groups.setdefault((kind, n.op, n.reason, n.hint, n.rewrite), []).append(n.node)
        for (kind, op, reason, hint, rewrite), nodes in groups.items():
            place = Location(node=nodes[0])
            many = f"{len(nodes)} {op} nodes ({_listed(nodes)})" if len(nodes) > 1 else f"{op} node {nodes[0]!r}"
            why = f": {reason}" if reason else ""
            advice = "; ".join(x for x in (hint, f"pass {rewrite} rewrites it" if rewrite else None) if x) or None
            if kind == "impossible":
                diagnostics.error("EC0401", f"{self.target} cannot run {many}{why}", place, advice)
            elif kind == "fallback":
                report = diagnostics.error if no_fallback else diagnostics.warn
                verb = "run" if len(nodes) > 1 else "runs"
                if self.predicted:
                    verb = "will probably run"
                report("EC0402", f"on {self.target} {many} {verb} on {self.other}{why}", place, advice)
            else:
                diagnostics.note("EC0406", f"where {self.target} runs {many} is not certain{why}", place, advice)


def _listed(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def place(
    graph: Graph,
    spec: TargetSpec,
    precision: str | None = None,
    decide: Callable[[ir.Node, Setting], Decision] | None = None,
) -> Placement:
    """Who runs each node, by the op table of `spec`. The graph should be the one that is handed to the vendor's compiler.

    `decide`: for targets that know more of a node than its row. Nodes in subgraphs run where the node that owns the subgraph runs, unless that is the accelerator.

    Raises:
        EdgecError: EC0403 the target does not offer the precision.
    """
    from edgec.specs.conditions import Setting

    precision, how = spec.precision(precision)
    setting = Setting(precision, spec.platform, graph.opset)
    table = spec.table(precision)
    units = find_units(graph, table.units, setting)
    decide = decide or table.decide
    decisions: dict[ir.Node, Decision] = {}
    placed: dict[ir.Node, NodePlacement] = {}
    holders = graph.holders()
    for node in graph.nodes():
        holder = holders.get(node.graph) if isinstance(node.graph, ir.Graph) else None
        owner = placed.get(holder) if holder is not None else None
        if owner is not None and owner.where != "accelerator":
            reason = f"it is inside {owner.op} {owner.node!r}"
            placed[node] = NodePlacement(_name(node), _op(node), owner.where, reason=reason, evidence=owner.evidence)
            continue
        unit = units.of.get(node)
        kernel = unit.main if unit else node
        if kernel not in decisions:
            decisions[kernel] = decide(kernel, setting)
        own = decide(node, setting)
        if how.device is not None and how.op_table is not None and own.run == "fallback":
            own = _nobody(own, spec.op_table.decide(node, setting))
        placed[node] = _placement(node, unit, decisions[kernel], own)
    work = {n: macs(n) for n in placed}
    return Placement(
        spec.name,
        precision,
        tuple(placed.values()),
        tuple(_islands(placed, how.activations)),
        sum(work.values()),
        sum(m for n, m in work.items() if placed[n].where == "accelerator"),
        {u.id: tuple(map(_name, (u.main, *(n for n in u.nodes if n is not u.main)))) for u in units},
        how.device or spec.device,
        how.fallback,
        table.predicted,
    )


def _name(node: ir.Node) -> str:
    return node.name or (node.outputs[0].name if node.outputs else None) or "?"


def _op(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _nobody(own: Decision, other: Decision) -> Decision:
    """What falls back from a device of a precision's own is for the target's table: it may be impossible there too."""
    return replace(own, run="impossible", reason=other.reason, hint=other.hint) if other.run == "impossible" else own


def _placement(node: ir.Node, unit: Unit | None, kernel: Decision, own: Decision) -> NodePlacement:
    """A node alone goes by its row; a node in a unit goes where the unit goes."""
    if unit is not None:
        run = unit.spec.run or kernel.run
        if run in ("accelerator", "either"):
            evidence = unit.spec.evidence if unit.spec.run else kernel.evidence
            return NodePlacement(
                _name(node), _op(node), "accelerator", unit.id, evidence=evidence, certain=run != "either"
            )
    where: Where = "accelerator" if own.run == "either" else own.run
    certain = own.run != "either" and not own.unknown
    reason = own.reason
    if own.unknown:
        reason = "; ".join(dict.fromkeys(filter(None, (reason, *own.unknown))))
    return NodePlacement(
        _name(node), _op(node), where, None, reason, own.hint, own.evidence, own.rewrite, certain, own.confidence
    )


def _islands(placed: Mapping[ir.Node, NodePlacement], activations: str) -> Iterable[Island]:
    """Connected fallback nodes; tensors between them and accelerator nodes, each counted once an island."""
    seen: set[ir.Node] = set()
    for start, p in placed.items():
        if p.where != "fallback" or start in seen:
            continue
        seen.add(start)
        island, stack = [start], [start]
        while stack:
            for other in _neighbours(stack.pop()):
                if other not in seen and other in placed and placed[other].where == "fallback":
                    seen.add(other)
                    island.append(other)
                    stack.append(other)
        names = {placed[n].node for n in island}
        ordered = tuple(q.node for n, q in placed.items() if q.node in names and n in seen)
        yield Island(ordered, _crossing(island, placed, activations))


def _neighbours(node: ir.Node) -> Iterable[ir.Node]:
    for v in node.inputs:
        if v is not None and (producer := v.producer()) is not None:
            yield producer
    for v in node.outputs:
        yield from (use.node for use in v.uses())


def _crossing(island: list[ir.Node], placed: Mapping[ir.Node, NodePlacement], activations: str) -> dict[str, int]:
    def accelerated(n: ir.Node | None) -> bool:
        return n is not None and n in placed and placed[n].where == "accelerator"

    tensors: dict[str, int] = {}
    for n in island:
        for v in n.inputs:
            if v is not None and accelerated(v.producer()) and v.name:
                tensors[v.name] = tensor_bytes(v, activations)
        for v in n.outputs:
            if v.name and any(accelerated(use.node) for use in v.uses()):
                tensors[v.name] = tensor_bytes(v, activations)
    return tensors


_ITEM_BITS = {
    "float64": 64,
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "int8": 8,
    "uint8": 8,
    "int16": 16,
    "uint16": 16,
}


def tensor_bytes(value: ir.Value, activations: str) -> int:
    """Bytes of a tensor on the device: floats in the element type activations have there. 0 if the shape is not known."""
    shape = static_shape(value)
    if shape is None or value.dtype is None:
        return 0
    bits = _ITEM_BITS.get(activations, 32) if value.dtype.is_floating_point() else int(value.dtype.bitwidth)
    return (math.prod(shape) * bits + 7) // 8


def macs(node: ir.Node, *, batch: int | None = None) -> int:
    """Multiply-accumulates of a Conv, ConvTranspose, Gemm or MatMul with known shapes; 0 for everything else.

    `batch`: what an unknown first dimension counts as.
    """
    if node.domain or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    shapes = [_known_shape(v, batch) for v in node.inputs]
    out = _known_shape(node.outputs[0], batch)
    a, b = shapes[0], shapes[1] if len(shapes) > 1 else None
    if a is None or b is None or out is None:
        return 0
    if node.op_type == "Conv":  # weight: (M, C/group, *kernel)
        return math.prod(out) * math.prod(b[1:])
    if node.op_type == "ConvTranspose":  # weight: (C, M/group, *kernel)
        return math.prod(a) * math.prod(b[1:])
    if node.op_type == "Gemm":
        return math.prod(out) * a[0 if attribute(node, "transA") else 1]
    return math.prod(out) * a[-1]


def _known_shape(value: ir.Value | None, batch: int | None) -> tuple[int, ...] | None:
    """The shape, with an unknown first dimension as `batch`; None where another one is unknown."""
    shape = value.shape if value is not None else None
    if shape is None or batch is None or not shape.rank() or isinstance(shape[0], int):
        return static_shape(value)
    rest = [d for d in shape[1:] if isinstance(d, int)]
    return (batch, *rest) if len(rest) == shape.rank() - 1 else None
