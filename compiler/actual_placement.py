"""What the vendor's compiler really did, against what the op table predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from edgec.diagnostics import Diagnostics
    from edgec.placement import Placement


@dataclass(frozen=True)
class ActualNode:
    """One layer of the artifact: its name and type as the vendor's compiler writes them, and who runs it.

    `sources`: names of the graph's nodes it does the work of, as far as the layer's name tells; empty for layers the
    compiler added (format conversions, model inputs and outputs).
    """

    name: str
    op: str
    where: Literal["accelerator", "fallback"]
    sources: tuple[str, ...] = ()
    device: str = ""
    """By its own name, where there are more than two."""
    cost: float | None = None
    """Share of the whole model's work, 0 to 1, as the vendor estimates it."""

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"name": self.name, "op": self.op, "where": self.where, "sources": list(self.sources)}
        out |= {"device": self.device} if self.device else {}
        return out if self.cost is None else out | {"cost": self.cost}


@dataclass(frozen=True)
class ActualPlacement:
    """All layers of an artifact. `source`: where this was read from, for people."""

    nodes: tuple[ActualNode, ...]
    source: str

    @property
    def added(self) -> tuple[ActualNode, ...]:
        """Layers the compiler added."""
        return tuple(n for n in self.nodes if not n.sources)

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "nodes": [n.to_json() for n in self.nodes]}


@dataclass(frozen=True)
class Difference:
    """One node the table was wrong about."""

    node: str
    op: str
    predicted: str
    actual: str
    explanation: str

    def to_json(self) -> dict[str, str]:
        return {
            "node": self.node,
            "op": self.op,
            "predicted": self.predicted,
            "actual": self.actual,
            "explanation": self.explanation,
        }


def differences(
    placement: Placement, actual: ActualPlacement, diagnostics: Diagnostics | None = None
) -> list[Difference]:
    """Nodes whose predicted and actual place differ; each is a warning EC0410 in `diagnostics`.

    A node without a layer of its own was fused into another or folded away: it agrees with any prediction but
    "impossible". Nodes whose prediction is not certain are not differences.
    """
    layers: dict[str, list[ActualNode]] = {}
    for layer in actual.nodes:
        for name in layer.sources:
            layers.setdefault(name, []).append(layer)
    out: list[Difference] = []
    for p in placement.nodes:
        found = layers.get(p.node, [])
        places = {layer.where for layer in found}
        if p.where == "impossible":
            layer_names = ", ".join(layer.name for layer in found) or "no layer of its own"
            out.append(Difference(p.node, p.op, p.where, "compiled", f"the compiler took it ({layer_names})"))
            continue
        if not places or p.where in places or not p.certain:
            continue
        (where,) = places
        kinds = ", ".join(dict.fromkeys(f"{layer.op} layer {layer.name}" for layer in found))
        devices = " and the ".join(dict.fromkeys(layer.device or _device(where) for layer in found))
        out.append(Difference(p.node, p.op, p.where, where, f"{kinds} runs on the {devices}"))
    if diagnostics is not None:
        from edgec.diagnostics import Location

        for d in out:
            told = placement.other if d.predicted == "fallback" else f"the {_device(d.predicted)}"
            message = f"the op table of {placement.target} was wrong: {d.op} was predicted on {told}, {d.explanation}"
            diagnostics.warn("EC0410", message, Location(node=d.node), "please report it, with the model if you can")
    return out


def _device(where: str) -> str:
    return {"fallback": "CPU", "impossible": "nobody"}.get(where, where)
