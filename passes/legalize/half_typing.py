"""Carrying out the decision: values, attributes and constants in 16 bits, and Casts where types meet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from edgec.graph import Graph, ir
from edgec.passes.legalize.half_constants import (
    constant_of,
    converted,
    is_constant_value,
    new_initializer,
    to_half,
)
from edgec.passes.legalize.half_decisions import Decisions
from edgec.passes.legalize.half_scales import store_again, unfit_scale
from edgec.passes.legalize.half_slots import HOLDERS, Slots, is_float32
from edgec.rewrite import FROM_KEY, RULE_KEY

_TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype")
_DEFAULT_FLOAT = {
    "RandomNormal": "dtype",
    "RandomUniform": "dtype",
    "HannWindow": "output_datatype",
    "HammingWindow": "output_datatype",
    "BlackmanWindow": "output_datatype",
    "MelWeightMatrix": "output_datatype",
}
"""Attributes whose default is float32."""


@dataclass(frozen=True)
class _Want:
    node: ir.Node
    index: int
    type: ir.DataType


class Typing:
    """`stats` counts what was done; `coarse` lists Q/DQ nodes whose scales 16 bits cannot hold."""

    def __init__(self, decisions: Decisions, rule: str, *, io_half: bool, half_scales: bool) -> None:
        self.graph: Graph = decisions.graph
        self.half = decisions.half
        self.decisions = decisions
        self.slots: dict[ir.Node, Slots] = dict(decisions.slots)
        self.rule = rule
        self.io_half = io_half
        self.half_scales = half_scales
        self.stats: Counter[str] = Counter()
        self.coarse: dict[ir.Node, float] = {}
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._cut: dict[tuple[ir.Value, float], ir.Value] = {}
        self._types: dict[ir.Value, ir.DataType] = {}
        self._precision: dict[ir.Node, ir.DataType] = {}
        self._holders = self.graph.holders()

    def apply(self) -> None:
        self._settle()
        wants = self._wants()
        self._retype()
        self._interface()
        for want in wants:
            v = want.node.inputs[want.index]
            assert v is not None  # only values are wanted
            new = self._given(v, want)
            if new is not v:
                want.node.replace_input_with(want.index, new)
        self._outputs()
        self._drop_idle_casts()

    # --- what type everything has -------------------------------------------------------------------------------

    def _settle(self) -> None:
        kept = self.decisions.kept
        for node in self.graph.nodes():
            if self.slots[node].typed and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                self._precision[node] = ir.DataType.FLOAT if node in kept else self.half
        for node in list(self.graph.nodes()):
            if node.op_type == "DequantizeLinear" and self.slots[node].typed:
                self._settle_dequantize(node)
        for node in self.graph.nodes():
            if node.op_type == "QuantizeLinear" and self.slots[node].typed:
                x = node.inputs[0]
                fine = node not in kept and self._scale_fits(node)
                fine = fine and x is not None and (is_constant_value(x) or self._type(x) is self.half)
                self._precision[node] = self.half if fine else ir.DataType.FLOAT

    def _settle_dequantize(self, node: ir.Node) -> None:
        """The type its readers want, and one node for each type: a Cast behind it would keep TensorRT from fusing it."""
        if node in self.decisions.kept or not self._scale_fits(node):
            self._precision[node] = ir.DataType.FLOAT
            return
        y = node.outputs[0]
        by_type: dict[ir.DataType, list[tuple[ir.Node, int]]] = {}
        for user, i in y.uses():
            wanted = self._wanted(user, i)
            if wanted is not None:
                by_type.setdefault(wanted, []).append((user, i))
        if y.is_graph_output():
            by_type.setdefault(self._public(y), [])
        self._precision[node] = self.half if self.half in by_type or not by_type else ir.DataType.FLOAT
        if len(by_type) == 2:
            copy = ir.node(
                node.op_type,
                list(node.inputs),
                attributes=dict(node.attributes),
                name=self.graph.fresh(f"{node.name}/float32"),
            )
            assert node.graph is not None
            node.graph.insert_after(node, copy)
            out = copy.outputs[0]
            out.name, out.type, out.shape = self.graph.fresh(f"{y.name}.float32"), y.type, y.shape
            self._mark(copy, node.name or y.name or "")
            self.slots[copy], self._precision[copy] = self.slots[node], ir.DataType.FLOAT
            for user, i in by_type[ir.DataType.FLOAT]:
                user.replace_input_with(i, out)
            self.stats["dequantize-twice"] += 1

    def _wanted(self, node: ir.Node, i: int) -> ir.DataType | None:
        """The type a reader wants at one input; None where it takes either."""
        slot = self.slots[node].inputs[i]
        if slot in ("none", "any") or node.op_type == "QuantizeLinear":
            return ir.DataType.FLOAT if slot == "float" else None
        return ir.DataType.FLOAT if slot == "float" else self._precision.get(node, self.half)

    def _scale_fits(self, node: ir.Node) -> bool:
        """Whether the scale may be of 16 bits; stored weights are stored again where it may not."""
        if not self.half_scales:
            return False
        scale = node.inputs[1]
        if scale is None or not is_constant_value(scale):
            return scale is not None and scale.dtype is self.half
        smallest = unfit_scale(node, self.half)
        if smallest is None:
            return True
        if node.op_type == "DequantizeLinear" and store_again(self.graph, node, self.half):
            self.stats["stored-again"] += 1
            return True
        self.coarse[node] = smallest
        return False

    def _type(self, v: ir.Value) -> ir.DataType:
        """The type a float32 value will have."""
        if v not in self._types:
            self._types[v] = self._find_type(v)
        return self._types[v]

    def _find_type(self, v: ir.Value) -> ir.DataType:
        node = v.producer()
        if not is_float32(v):
            return v.dtype or ir.DataType.UNDEFINED
        if node is None:
            return ir.DataType.FLOAT if not v.is_graph_input() else self._public(v)
        if self.slots[node].outputs[v.index() or 0] != "typed" or is_constant_value(v):
            return ir.DataType.FLOAT
        return self._precision[node]

    def _public(self, v: ir.Value) -> ir.DataType:
        """The type of inputs and outputs of the graph a value lies in."""
        owner = v.graph
        if owner is None or owner is self.graph.model.graph:
            return self.half if self.io_half else ir.DataType.FLOAT
        holder = self._holders.get(owner) if isinstance(owner, ir.Graph) else None
        return self._precision.get(holder, ir.DataType.FLOAT) if holder is not None else ir.DataType.FLOAT

    def _wants(self) -> list[_Want]:
        found = []
        for node in self.graph.nodes():
            slots = self.slots[node]
            for i, v in enumerate(node.inputs):
                if v is None or slots.inputs[i] in ("none", "any"):
                    continue
                kind = ir.DataType.FLOAT if slots.inputs[i] == "float" else self._precision[node]
                found.append(_Want(node, i, kind))
        return found

    # --- doing it ------------------------------------------------------------------------------------------------

    def _retype(self) -> None:
        for node in self.graph.nodes():
            for v, slot in zip(node.outputs, self.slots[node].outputs, strict=True):
                if slot != "none":
                    self._type(v)
        for g in self.graph.graphs():
            for v in g.inputs:
                if is_float32(v):
                    self._type(v)
        for v, kind in self._types.items():
            if is_float32(v) and kind is self.half and not is_constant_value(v):
                v.type = ir.TensorType(self.half)
                self.stats["values"] += 1
        for node, kind in self._precision.items():
            if kind is self.half:
                self._attributes(node)

    def _attributes(self, node: ir.Node) -> None:
        for name in _TYPE_ATTRIBUTES:
            a = node.attributes.get(name)
            if (
                a is not None
                and not a.is_ref()
                and a.type is ir.AttributeType.INT
                and a.as_int() == int(ir.DataType.FLOAT)
            ):
                node.attributes[name] = ir.AttrInt64(name, int(self.half))
        default = _DEFAULT_FLOAT.get(node.op_type)
        if default is not None and default not in node.attributes:
            node.attributes[default] = ir.AttrInt64(default, int(self.half))
        if node.op_type == "ConstantOfShape":
            a = node.attributes.get("value")
            data = np.asarray(a.as_tensor().numpy(), np.float32) if a is not None else np.zeros(1, np.float32)
            node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(to_half(data, self.half), dtype=self.half))

    def _given(self, v: ir.Value, want: _Want) -> ir.Value:
        """`v` in the wanted type: itself, what it was cast from, a converted constant, or a Cast."""
        if is_constant_value(v):
            return v if want.type is ir.DataType.FLOAT else self._constant(v, want)
        if v.dtype is want.type or v.dtype not in (ir.DataType.FLOAT, self.half):
            return v
        maker = v.producer()
        if maker is not None and maker.op_type == "Cast" and maker.domain == "":
            source = maker.inputs[0]
            if source is not None and source.dtype is want.type:
                return source
        return self._cast(v, want.type)

    def _constant(self, v: ir.Value, want: _Want) -> ir.Value:
        cut = self.decisions.saturates(want.node, want.index)
        if cut is not None and (found := self._saturated(v, cut)) is not None:
            return found
        if (v, self.half) in self._made:
            return self._made[v, self.half]
        self.stats["weights"] += 1
        if v.is_initializer() and not v.is_graph_output() and all(self._wanted(n, i) is self.half for n, i in v.uses()):
            tensor = converted(v, self.half)
            v.const_value, v.type = tensor, ir.TensorType(self.half)
            self._made[v, self.half] = v
            return v
        owner = v.graph
        assert isinstance(owner, ir.Graph)
        tensor = converted(v, self.half)
        self._made[v, self.half] = new_initializer(self.graph, owner, f"{v.name}.{self.half.name.lower()}", tensor)
        return self._made[v, self.half]

    def _saturated(self, v: ir.Value, cut: float) -> ir.Value | None:
        """A constant cut off at `cut`; None where nothing lies beyond."""
        if (v, cut) in self._cut:
            return self._cut[v, cut]
        data = constant_of(v)
        if data is None or not (np.isfinite(data) & (np.abs(data) > cut)).any():
            return None
        owner = v.graph
        assert isinstance(owner, ir.Graph)
        data = np.where(np.isinf(data), data, np.clip(data, -cut, cut))
        tensor = ir.Tensor(np.asarray(to_half(data, self.half)), dtype=self.half)
        self._cut[v, cut] = new_initializer(self.graph, owner, f"{v.name}.{self.half.name.lower()}", tensor)
        self.stats["saturated"] += 1
        return self._cut[v, cut]

    def _cast(self, v: ir.Value, to: ir.DataType) -> ir.Value:
        """One Cast for all readers, right behind the value."""
        if (v, to) in self._made:
            return self._made[v, to]
        node = ir.node("Cast", [v], attributes={"to": int(to)}, name=self.graph.fresh(f"{v.name}/Cast"))
        out = node.outputs[0]
        out.name = self.graph.fresh(f"{v.name}.{_short(to)}")
        out.type, out.shape = ir.TensorType(to), v.shape
        maker, owner = v.producer(), v.graph
        self._mark(node, (maker.name if maker is not None else None) or v.name or "")
        assert owner is not None  # values of graphs
        if maker is not None:
            owner.insert_after(maker, node)
        elif len(owner):
            owner.insert_before(owner[0], node)
        else:
            owner.append(node)
        self.slots[node] = Slots(("none",), ("none",))
        self._made[v, to] = out
        self.stats["casts"] += 1
        return out

    def _mark(self, node: ir.Node, source: str) -> None:
        node.metadata_props[RULE_KEY] = self.rule
        if source:
            node.metadata_props[FROM_KEY] = source

    # --- interface -----------------------------------------------------------------------------------------------

    def _interface(self) -> None:
        """Outputs of the model keep their names and types behind a Cast."""
        g = self.graph.model.graph
        if self.io_half:
            return
        for v in dict.fromkeys(g.outputs):
            if self._types.get(v) is not self.half or v.is_graph_input():
                continue
            name = v.name
            outside = self._cast(v, ir.DataType.FLOAT)
            for i, out in enumerate(g.outputs):
                if out is v:
                    g.outputs[i] = outside
            v.name = self.graph.fresh(f"{name}.{_short(self.half)}")
            outside.name = name
            self.stats["interface"] += 1

    def _outputs(self) -> None:
        """Outputs of bodies have the type of those of their node; with `io: half` so have those of the model."""
        for owner, holder in self._holders.items():
            if holder.op_type not in HOLDERS or holder.domain:
                continue
            for i, v in enumerate(owner.outputs):
                wanted = self._precision.get(holder, ir.DataType.FLOAT)
                if v.dtype in (ir.DataType.FLOAT, self.half) and v.dtype is not wanted and self.slots[holder].typed:
                    owner.outputs[i] = self._in_body(v, owner, wanted)
        if not self.io_half:
            return
        g = self.graph.model.graph
        for i, v in enumerate(g.outputs):
            if v.dtype is ir.DataType.FLOAT and isinstance(v.type, ir.TensorType):
                name = v.name
                g.outputs[i] = self._cast(v, self.half)
                v.name = self.graph.fresh(f"{name}.float32")
                g.outputs[i].name = name
                self.stats["interface"] += 1

    def _in_body(self, v: ir.Value, owner: ir.Graph, to: ir.DataType) -> ir.Value:
        """A body's output in another type, at the end of the body: the value may come from outside of it."""
        node = ir.node("Cast", [v], attributes={"to": int(to)}, name=self.graph.fresh(f"{v.name}/Cast"))
        out = node.outputs[0]
        out.name, out.type, out.shape = self.graph.fresh(f"{v.name}.{_short(to)}"), ir.TensorType(to), v.shape
        self._mark(node, v.name or "")
        owner.append(node)
        self.slots[node] = Slots(("none",), ("none",))
        self.stats["casts"] += 1
        return out

    def _drop_idle_casts(self) -> None:
        """Casts of a value to the type it has, and Casts nobody reads."""
        for node in list(self.graph.nodes()):
            if node.op_type != "Cast" or node.domain or node.graph is None or self.slots.get(node) is None:
                continue
            x, y = node.inputs[0], node.outputs[0]
            if x is None or x.dtype is None or y.is_graph_output():
                continue
            if x.dtype is y.dtype and x.dtype is self.half:
                y.replace_all_uses_with(x)
            if not y.uses():
                self.stats["casts-removed"] += RULE_KEY not in node.metadata_props
                node.graph.remove(node, safe=True)


def _short(kind: ir.DataType) -> str:
    return {"FLOAT": "float32"}.get(kind.name, kind.name.lower())
