"""Cheap nodes between nodes that stay in float32 stay too, where that saves Casts."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edgec.graph import Graph, ir
from edgec.passes.legalize.half_constants import is_constant_value
from edgec.passes.legalize.half_decisions import QDQ
from edgec.passes.legalize.half_slots import Slots

CHEAP = frozenset(
    {
        "Abs", "Add", "Cast", "Ceil", "Clip", "Concat", "ConstantOfShape", "Div", "Equal", "Erf", "Exp", "Expand", "Flatten",
        "Floor", "Gather", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less",
        "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Pad", "Pow", "PRelu", "Reciprocal", "Relu", "Reshape", "Round",
        "Sigmoid", "Sign", "Slice", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Swish", "Tanh", "Tile", "Transpose",
        "Unsqueeze", "Where",
    }
)  # fmt: skip
"""Ops that wait for memory rather than compute."""


def islands(
    graph: Graph, slots: Mapping[ir.Node, Slots], kept: Collection[ir.Node], public_half: bool
) -> list[set[ir.Node]]:
    """Groups of cheap nodes, joined by float values, that touch a kept node and need fewer Casts in float32."""
    cheap = dict.fromkeys(
        n for n in graph.nodes() if n.op_type in CHEAP and n.domain == "" and slots[n].typed and n not in kept
    )
    found: list[set[ir.Node]] = []
    done: set[ir.Node] = set()
    for node in cheap:
        if node in done:
            continue
        group = _group(node, cheap)
        done |= group
        view = _View(graph, slots, kept, public_half)
        touches = any(n in kept for m in group for n in _neighbours(m))
        if touches and view.casts(group, in_float=True) < view.casts(group, in_float=False):
            found.append(group)
    return found


def _group(start: ir.Node, cheap: Collection[ir.Node]) -> set[ir.Node]:
    group, stack = {start}, [start]
    while stack:
        for n in _neighbours(stack.pop()):
            if n in cheap and n not in group and n.graph is start.graph:
                group.add(n)
                stack.append(n)
    return group


def _neighbours(node: ir.Node) -> list[ir.Node]:
    """Those it has a float32 value in common with as maker and reader."""
    found = [p for v in node.inputs if _float(v) and v is not None and (p := v.producer()) is not None]
    return found + [u.node for v in node.outputs if _float(v) for u in v.uses()]


def _float(v: ir.Value | None) -> bool:
    return v is not None and v.dtype is ir.DataType.FLOAT and not is_constant_value(v)


class _View:
    def __init__(
        self, graph: Graph, slots: Mapping[ir.Node, Slots], kept: Collection[ir.Node], public_half: bool
    ) -> None:
        self.graph, self.slots, self.kept, self.public_half = graph, slots, kept, public_half

    def casts(self, group: set[ir.Node], in_float: bool) -> int:
        """Casts at the edges of the group, those that are there anyway left out."""
        entering = {v for n in group for v in n.inputs if v is not None and _float(v) and v.producer() not in group}
        count = 0
        for v in entering:
            is_float = self._is_float(v)
            if is_float is None or is_float == in_float:
                continue
            count += not any(self._wants(u.node, u.idx) is in_float for u in v.uses() if u.node not in group)
        for v in (v for n in group for v in n.outputs if _float(v)):
            wants = {self._wants(u.node, u.idx) for u in v.uses() if u.node not in group}
            if v.is_graph_output():
                wants.add(not self.public_half)
            count += (not in_float) in wants
        return count

    def _is_float(self, v: ir.Value) -> bool | None:
        """Whether a value will be float32; None: whatever its readers want."""
        node = v.producer()
        if node is None:
            return not self.public_half
        if node.op_type == "DequantizeLinear":
            return None
        return self.slots[node].outputs[v.index() or 0] == "float" or node in self.kept

    def _wants(self, node: ir.Node, i: int) -> bool | None:
        """Whether a reader wants float32; None: it takes either."""
        slot = self.slots[node].inputs[i]
        if slot in ("any", "none") or node.op_type in QDQ:
            return None
        return slot == "float" or node in self.kept
