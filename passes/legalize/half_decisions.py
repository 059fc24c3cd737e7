"""Which nodes stay in float32, each with its reason: overflow, underflow, precision, constants, or the user's wish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgec.graph import Graph, attribute, ir, static_shape
from edgec.passes.legalize.half_constants import (
    BFLOAT16_SNR_DB,
    WEIGHT_SNR_DB,
    constant_of,
    is_constant_value,
    largest,
    loss,
)
from edgec.passes.legalize.half_ranges import MOVES, Ranges, elements
from edgec.passes.legalize.half_scales import can_store_again, unfit_scale
from edgec.passes.legalize.half_slots import Slots

KEPT_KEY = "edgec.float32"
"""Key in a node's `metadata_props`: why it stays in float32."""

QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})

_LOG_LARGEST = 11.0
"""exp of more than this is above 65504."""

_SMALLEST_NORMAL = 2.0**-14
"""Below it float16 has fewer than 11 bits, below 2^-25 it is 0."""

_ANGLE = 64.0
"""An angle above this is wrong by more than 1/64 in 11 bits."""

_WEIGHTED = {
    "Conv": 2,
    "ConvTranspose": 2,
    "Gemm": 2,
    "LayerNormalization": 2,
    "InstanceNormalization": 2,
    "BatchNormalization": 2,
}
"""Op -> the input that is added to its result."""

_RISKY = frozenset(
    {
        "Exp", "Pow", "ReduceSum", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp", "ReduceProd", "Reciprocal", "CumSum",
        "Softplus", "Cosh", "Sinh", "Tan", "Div", "Log", "ReduceMean", "ReduceLogSum", "CumProd", "GlobalAveragePool",
    }
)  # fmt: skip
"""Ops that may leave the range of float16 for ordinary inputs: float32 where their numbers were not seen."""

_ARITHMETIC = MOVES | {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Floor",
    "Ceil",
    "Round",
    "Min",
    "Max",
    "Concat",
    "Cast",
    "Where",
    "Clip",
    "Mod",
}
_DENOMINATORS = {"Div": 1, "Reciprocal": 0, "Log": 0}
_TO_DENOMINATOR = frozenset(
    {
        "Sqrt",
        "Add",
        "Pow",
        "Mul",
        "Max",
        "Clip",
        "Abs",
        "Neg",
        "Exp",
        "Expand",
        "Unsqueeze",
        "Reshape",
        "Identity",
        "Squeeze",
    }
)
_MASKED = MOVES | {"Add", "Where", "Mul"}
_SATURATED = {"Clip": (1, 2), "Max": None, "Min": None}
"""Ops whose constants may end at the largest float16: what they limit never gets there."""


@dataclass(frozen=True)
class Kept:
    """Why a node stays in float32; `code` "" is said by nobody: asked for, or found in an earlier run."""

    why: str
    code: str = "EC0240"
    hint: str = ""


@dataclass
class Decisions:
    graph: Graph
    half: ir.DataType
    ranges: Ranges
    slots: Mapping[ir.Node, Slots]
    kept: dict[ir.Node, Kept] = field(default_factory=dict)
    masks: set[ir.Value] = field(default_factory=set)
    """Values that hold large negative numbers for a Softmax to turn into zeros."""

    @property
    def limit(self) -> float:
        return largest(self.half)

    @property
    def counts_to(self) -> float:
        """Integers up to here are exact."""
        return 2048.0 if self.half is ir.DataType.FLOAT16 else 256.0

    def decide(self, keep: Mapping[ir.Node, str]) -> None:
        """Fill `kept`. `keep`: nodes the user wants in float32, and by which name."""
        nodes = [n for n in self.graph.nodes() if self.slots[n].typed]
        for node in nodes:
            self._find_mask(node)
        for node in nodes:
            found = self._kept_before(node, keep) or (None if node.op_type in QDQ else self._reason(node))
            if found is not None:
                self.kept[node] = found
        for node in nodes:
            if node.op_type == "DequantizeLinear" and node not in self.kept:
                self._coarse_scale(node)
        for node in self.graph.nodes():
            self._exact_integers(node)
            if node in self.slots and self.half is ir.DataType.FLOAT16:
                self._denominator(node)

    def saturates(self, node: ir.Node, i: int) -> float | None:
        """The magnitude a constant input ends at, where that changes nothing; None where it may not be cut."""
        if node.op_type in _SATURATED:
            where = _SATURATED[node.op_type]
            return self.limit if where is None or i in where else None
        return self.limit / 4 if node.outputs and node.outputs[0] in self.masks else None

    # --- one node ------------------------------------------------------------------------------------------------

    def _kept_before(self, node: ir.Node, keep: Mapping[ir.Node, str]) -> Kept | None:
        if node in keep:
            return Kept(f"kept in float32 as asked: {keep[node]}", "")
        why = node.metadata_props.get(KEPT_KEY)
        return Kept(why, "") if why else None

    def _reason(self, node: ir.Node) -> Kept | None:
        return self._constants(node) or self._overflow(node) or self._inside(node) or self._unseen(node)

    def _constants(self, node: ir.Node) -> Kept | None:
        for i, v in enumerate(node.inputs):
            if v is None or self.slots[node].inputs[i] != "typed" or not is_constant_value(v):
                continue
            data = constant_of(v)
            if data is None:
                continue
            found = loss(data, self.half)
            if found.overflow and self.saturates(node, i) is None:
                return Kept(
                    f"constant {v.name} reaches {found.overflow:.4g}, {self._name} ends at {self.limit:.5g}",
                    "EC0241",
                    "scale it down, or leave the node in float32",
                )
            least = WEIGHT_SNR_DB if self.half is ir.DataType.FLOAT16 else BFLOAT16_SNR_DB
            if found.snr_db < least and not self._harmless(node, i, found.largest_error):
                lost = "becomes 0" if found.snr_db <= 0 else f"keeps {found.snr_db:.0f} dB"
                at = float(np.abs(data[np.isfinite(data)]).max(initial=0.0))
                return Kept(
                    f"constant {v.name} (at most {at:.3g}) {lost} in {self._name}",
                    "EC0241",
                    "a larger constant, where the model allows one, or float32",
                )
        return None

    def _harmless(self, node: ir.Node, i: int, error: float) -> bool:
        """Whether what is added is wrong by less than the result's own rounding."""
        if not (node.op_type in ("Add", "Sub") or _WEIGHTED.get(node.op_type) == i):
            return False
        v = node.outputs[0]
        return v in self.ranges.seen and error <= 2.0**-12 * max(map(abs, self.ranges.seen[v]))

    def _overflow(self, node: ir.Node) -> Kept | None:
        slots = self.slots[node]
        ins = [(v, "input") for v, s in zip(node.inputs, slots.inputs, strict=True) if v is not None and s == "typed"]
        outs = [(v, "output") for v, s in zip(node.outputs, slots.outputs, strict=True) if s == "typed"]
        for v, side in (*outs, *ins):
            if is_constant_value(v):
                continue
            reach = self._reach(v)
            if reach > self.limit:
                return Kept(
                    f"{side} {v.name} reaches {self._seen(v):.4g}{self._with_margin}, {self._name} ends at {self.limit:.5g}",
                    hint="scale the layers before it down, or use bfloat16 (to=bfloat16)",
                )
        return None

    def _reach(self, v: ir.Value) -> float:
        if v in self.masks:
            return abs(max(0.0, self.ranges.seen[v][1])) * self.ranges.margin if v in self.ranges.seen else 0.0
        return self.ranges.largest(v)

    def _seen(self, v: ir.Value) -> float:
        if v in self.ranges.seen:
            return max(map(abs, self.ranges.seen[v]))
        return self.ranges.largest(v)

    @property
    def _name(self) -> str:
        return self.half.name.lower()

    @property
    def _with_margin(self) -> str:
        return f" (margin {self.ranges.margin:g})" if self.ranges.margin != 1 else ""

    def _inside(self, node: ir.Node) -> Kept | None:
        """Numbers a kernel holds in between: sums before a mean, squares before a root."""
        op, x, y = node.op_type, node.inputs[0] if node.inputs else None, node.outputs[0]
        if x is None or node.domain != "":
            return None
        reach, count = self.ranges.largest(y), elements(node)
        opset = self.graph.opset
        what = ""
        if op in ("ReduceMean", "GlobalAveragePool", "AveragePool") and count and reach * count > self.limit:
            what = f"the sum of {count} numbers behind a mean of {self._seen(y):.4g} reaches {reach * count:.4g}"
        elif op in ("ReduceL2", "GlobalLpPool", "LpPool") and reach**2 > self.limit:
            what = f"the sum of squares behind a norm of {self._seen(y):.4g} reaches {reach**2:.4g}"
        elif op in ("Softplus", "ReduceLogSumExp") and self.ranges.largest(x) > _LOG_LARGEST:
            what = f"exp of its input, at most {self._seen(x):.4g}, reaches beyond"
        elif op in ("Softmax", "LogSoftmax") and (shape := static_shape(x)) is not None and shape:
            n = shape[attribute(node, "axis", opset) or 0 if attribute(node, "axis", opset) is not None else -1]
            what = f"it sums {n} numbers" if n > self.limit else ""
        elif op in ("LpNormalization", "LayerNormalization", "RMSNormalization", "MeanVarianceNormalization"):
            exact = op in ("LayerNormalization", "RMSNormalization") and attribute(node, "stash_type", opset) == 1
            square = self.ranges.largest(x) ** 2 * (_last(x) or 1)
            what = f"its sum of squares may reach {square:.4g}" if not exact and square > self.limit else ""
        elif op == "BatchNormalization" and len(node.inputs) > 4 and node.inputs[4] is not None:
            var = constant_of(node.inputs[4]) if is_constant_value(node.inputs[4]) else None
            if (
                var is not None
                and self.half is ir.DataType.FLOAT16
                and var.size
                and float(var.min()) < _SMALLEST_NORMAL
            ):
                what = f"its smallest variance, {float(var.min()):.3g}, has few bits there"
        if not what:
            return None
        return Kept(
            f"{what}; {self._name} ends at {self.limit:.5g}",
            hint="leave it in float32: the Casts are fused into its neighbours",
        )

    def _unseen(self, node: ir.Node) -> Kept | None:
        y = node.outputs[0]
        if node.op_type not in _RISKY or self.ranges.observed(y) or node.domain != "":
            return None
        if self.half is ir.DataType.BFLOAT16:
            return None
        why = f"the range of {y.name} is unknown: it lies in a subgraph, behind a plugin, or no samples ran"
        return Kept(why, hint="unroll-loops and if-to-where bring bodies into the main graph, where ranges are seen")

    # --- several nodes -------------------------------------------------------------------------------------------

    def _find_mask(self, node: ir.Node) -> None:
        """Constants like -1e9 that a Softmax turns into zeros: all readers lead there."""
        if node.op_type not in ("Add", "Where", "Mul") or node.domain != "":
            return
        large = False
        for v in node.inputs:
            if v is not None and v in self.ranges.bounds and is_constant_value(v):
                large |= self.ranges.bounds[v] > self.limit
        if not large:
            return
        path: dict[ir.Value, None] = {node.outputs[0]: None}
        stack = [node.outputs[0]]
        while stack:
            v = stack.pop()
            if v.is_graph_output() or not v.uses():
                return
            for user, i in v.uses():
                if user.domain == "" and (user.op_type == "Softmax" or (user.op_type == "Attention" and i == 3)):
                    continue
                if user.domain != "" or user.op_type not in _MASKED or self.slots.get(user) is None:
                    return
                for out in user.outputs:
                    if out not in path:
                        path[out] = None
                        stack.append(out)
        self.masks.update(path)

    def _exact_integers(self, node: ir.Node) -> None:
        """Numbers that become integers or angles must be exact: so must be what they are computed from."""
        if node.domain != "" or not node.inputs or node.inputs[0] is None:
            return
        v = node.inputs[0]
        if v.dtype is not ir.DataType.FLOAT or is_constant_value(v):
            return
        angle = node.op_type in ("Sin", "Cos", "Tan")
        to_integer = (
            node.op_type == "Cast" and not node.outputs[0].dtype.is_floating_point() if node.outputs[0].dtype else False
        )
        to_integer = to_integer and node.outputs[0].dtype is not ir.DataType.BOOL
        if not (angle or to_integer):
            return
        most = _ANGLE if angle else self.counts_to
        known = v in self.ranges.seen or v in self.ranges.bounds
        if known and self._seen(v) <= most:
            return
        if known:
            what = f"{v.name} reaches {self._seen(v):.4g} and becomes " + ("an angle" if angle else "an integer")
        else:
            what = f"{v.name}, of unknown range, becomes " + ("an angle" if angle else "an integer")
        why = Kept(f"{what}: {self._name} is exact to {most:g} only", hint="nothing: Casts are all it costs")
        if angle:
            self._keep(node, why)
        self._back(v, _ARITHMETIC, why)

    def _denominator(self, node: ir.Node) -> None:
        """What something is divided by must not lose its small numbers, nor must what it is computed from."""
        i = _DENOMINATORS.get(node.op_type)
        if i is None or node.domain != "" or len(node.inputs) <= i:
            return
        start = node.inputs[i]
        stack = [start] if start is not None else []
        done: set[ir.Value] = set()
        while stack:
            v = stack.pop()
            maker = v.producer()
            low = self.ranges.lowest(v)
            if v in done or maker is None or is_constant_value(v):
                continue
            done.add(v)
            small = low is not None and 0 <= low < _SMALLEST_NORMAL and self._seen(v) > 0
            if small:
                does = "takes the logarithm of" if node.op_type == "Log" else "divides by what is made of"
                reach = f"{v.name}, which gets down to {low:.3g}"
                why = Kept(
                    f"{node.name or node.op_type} {does} {reach}: float16 has 11 bits from 6.1e-5 up, none below 3e-8",
                    hint="a larger epsilon, where the model allows one",
                )
                for user in (
                    node,
                    maker,
                    *(u for u, _ in v.uses() if u.op_type in _TO_DENOMINATOR | set(_DENOMINATORS)),
                ):
                    if user is not node or v is start:
                        self._keep(user, why)
            if maker.op_type in ("Sqrt", "Pow") or (small and maker.op_type in _TO_DENOMINATOR):
                stack += [u for u in maker.inputs if u is not None]

    def _coarse_scale(self, node: ir.Node) -> None:
        """Where 16 bits cannot hold a scale, its readers compute in float32: TensorRT wants the scales of one node alike."""
        smallest = unfit_scale(node, self.half)
        if smallest is None or can_store_again(node, self.graph.opset):
            return
        what = f"{self._name} cannot hold {smallest:.3g}, the scale of {node.name or node.outputs[0].name}"
        why = Kept(
            what, "EC0244", "look at the inputs: numbers that small are rare; or keep the value out of quantisation"
        )
        for user, i in node.outputs[0].uses():
            if self.slots[user].inputs[i] == "typed":
                self._keep(user, why)

    def _back(self, v: ir.Value, through: frozenset[str] | set[str], why: Kept) -> None:
        stack, done = [v], set()
        while stack:
            u = stack.pop()
            maker = u.producer()
            if maker is None or u in done or maker.op_type not in through or maker.domain != "":
                continue
            done.add(u)
            self._keep(maker, why)
            if maker.op_type != "Cast":
                stack += [w for w in maker.inputs if w is not None and w.dtype is ir.DataType.FLOAT]

    def _keep(self, node: ir.Node, why: Kept) -> None:
        if self.slots[node].typed and node.op_type not in QDQ:
            self.kept.setdefault(node, why)


def _last(x: ir.Value) -> int | None:
    shape = static_shape(x)
    return shape[-1] if shape else None
