"""What is known of the numbers in a graph: observed on samples, and bounds that hold for any input."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgec.diagnostics import EdgecError, Location
from edgec.graph import Graph, attribute, ir, is_constant, static_shape
from edgec.passes.legalize.half_constants import constant_of, is_constant_value
from edgec.passes.legalize.half_slots import is_float32

if TYPE_CHECKING:
    from edgec.pipeline import PassContext
    from edgec.quantization.statistics import Statistics
    from edgec.samples import Samples

GENERATED = 4
"""Samples made up where the context has none."""

_READ = 4096
"""Bytes of a constant up to which bounds look at its numbers."""

_UNIT = frozenset(
    {"Sigmoid", "Softmax", "HardSigmoid", "Tanh", "Erf", "Sin", "Cos", "Softsign", "Sign", "LogisticRegression"}
)
MOVES = frozenset(
    {
        "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "GatherElements",
        "GatherND", "Expand", "Tile", "Split", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Relu", "AveragePool",
        "GlobalAveragePool", "ReduceMean", "Abs", "Neg", "DepthToSpace", "SpaceToDepth", "Dropout", "TopK", "Floor",
    }
)  # fmt: skip
"""Ops whose outputs are no larger than their first input; Floor by less than one."""

_INTEGERS = {
    ir.DataType.BOOL: 1.0,
    ir.DataType.UINT8: 255.0,
    ir.DataType.INT8: 128.0,
    ir.DataType.UINT16: 65535.0,
    ir.DataType.INT16: 32768.0,
    ir.DataType.INT4: 8.0,
    ir.DataType.UINT4: 15.0,
}


@dataclass
class Ranges:
    """Value -> its observed lowest and highest number; `largest` and `lowest` answer what analysis asks."""

    margin: float
    seen: dict[ir.Value, tuple[float, float]] = field(default_factory=dict)
    bounds: dict[ir.Value, float] = field(default_factory=dict)
    """Magnitudes no input can exceed; of most values there is none."""

    def observed(self, v: ir.Value) -> bool:
        return v in self.seen or v in self.bounds

    def largest(self, v: ir.Value) -> float:
        """The largest magnitude to expect: that observed times the margin, but never more than a bound that always holds;
        0 where nothing is known."""
        bound = self.bounds.get(v, math.inf)
        if v not in self.seen:
            return bound if math.isfinite(bound) else 0.0
        low, high = self.seen[v]
        return min(bound, max(abs(low), abs(high)) * self.margin)

    def lowest(self, v: ir.Value) -> float | None:
        """The lowest number observed."""
        return self.seen[v][0] if v in self.seen else None


def static_bounds(graph: Graph) -> dict[ir.Value, float]:
    """Magnitudes that follow from the ops alone, in the order of execution. Weights above 4 KiB are not read."""
    bounds: dict[ir.Value, float] = {}
    for g in graph.graphs():
        if isinstance(g, ir.Graph):
            for v in g.initializers.values():
                _bound_constant(v, bounds)
        for node in g:
            for v in node.outputs:
                if is_constant_value(v):
                    _bound_constant(v, bounds)
            bound = _bound(node, bounds, graph.opset)
            if math.isfinite(bound):
                bounds[node.outputs[0]] = bound
    return bounds


def _bound_constant(v: ir.Value, bounds: dict[ir.Value, float]) -> None:
    if not is_constant_value(v) or (v.const_value is not None and v.const_value.nbytes > _READ):
        return
    data = constant_of(v)
    if data is not None:
        bounds[v] = float(np.abs(data[np.isfinite(data)]).max(initial=0.0))


def _bound(node: ir.Node, bounds: dict[ir.Value, float], opset: int) -> float:
    if node.domain != "" or not node.inputs or node.inputs[0] is None:
        return math.inf
    first = node.inputs[0]
    if node.op_type in _UNIT:
        return 1.0
    if node.op_type == "Cast" and first.dtype in _INTEGERS:
        return _INTEGERS[first.dtype]
    if node.op_type == "DequantizeLinear":
        return _dequantized(node)
    if node.op_type == "Clip":
        if len(node.inputs) > 1:
            return max(_limit(node, 1, bounds), _limit(node, 2, bounds))
        low, high = attribute(node, "min", opset), attribute(node, "max", opset)
        return max(abs(low), abs(high)) if low is not None and high is not None else math.inf
    if node.op_type in MOVES:
        return bounds.get(first, math.inf)
    if node.op_type in ("Concat", "Max", "Min"):
        return max(bounds.get(u, math.inf) if u is not None else math.inf for u in node.inputs)
    return math.inf


def _limit(node: ir.Node, i: int, bounds: dict[ir.Value, float]) -> float:
    v = node.inputs[i] if len(node.inputs) > i else None
    return bounds.get(v, math.inf) if v is not None else math.inf


def _dequantized(node: ir.Node) -> float:
    stored, scale = node.inputs[0], node.inputs[1]
    if stored is None or stored.dtype not in _INTEGERS or not is_constant(scale) or scale is None:
        return math.inf
    data = (
        np.asarray(scale.const_value.numpy(), np.float32) if scale.const_value is not None else np.zeros(0, np.float32)
    )
    return _INTEGERS[stored.dtype] * float(np.abs(data).max(initial=0.0)) * (2 if len(node.inputs) > 2 else 1)


def elements(node: ir.Node) -> int | None:
    """How many numbers go into each output of a reduction or pooling; None where shapes do not say."""
    x, y = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if node.op_type == "AveragePool":
        kernel = node.attributes.get("kernel_shape")
        return math.prod(kernel.as_ints()) if kernel is not None else None
    if x is None or y is None:
        return None
    return max(1, math.prod(x) // max(1, math.prod(y)))


def observe_ranges(graph: Graph, ctx: PassContext, margin: float, most: int) -> Ranges:
    """Run the float graph on at most `most` of `ctx.calibration`, else `ctx.samples`, else made-up inputs (EC0242), and note the extremes of its
    float32 values. Those behind ops ONNX does not define (plugins) and inside of If, Loop and Scan are not seen."""
    from edgec.quantization.observe import observe

    ranges = Ranges(margin, bounds=static_bounds(graph))
    wanted = _observable(graph)
    if not wanted:
        return ranges
    try:
        samples = _samples(graph, ctx).take(most)
        stats = observe(graph, [v.name or "" for v in wanted], samples, histogram=False)
    except EdgecError as e:
        what = f"the model's numbers could not be observed, only what holds for any input is known: {e.diagnostics[0].message}"
        hint = "give samples that the model runs on in ONNX Runtime; what may overflow unseen is kept in float32"
        ctx.diagnostics.warn("EC0242", what, e.diagnostics[0].location, hint)
        return ranges
    if stats.generated:
        what = "ranges for float16 were seen on made-up inputs: real ones may reach further"
        ctx.diagnostics.warn("EC0242", what, Location(graph.source), "give real inputs: --calib or --samples")
    ranges.seen = _extremes(wanted, stats)
    return ranges


def _extremes(wanted: list[ir.Value], stats: Statistics) -> dict[ir.Value, tuple[float, float]]:
    seen = {}
    for v in wanted:
        sketch = stats.sketch(v.name or "")
        sketch.fold()
        if not sketch.empty:
            seen[v] = (float(sketch.low), float(sketch.high))
    return seen


def _observable(graph: Graph) -> list[ir.Value]:
    import onnx

    g = graph.model.graph
    hidden: set[ir.Value] = set()
    wanted = [v for v in g.inputs if is_float32(v)]
    for node in g:
        unknown = node.domain not in ("", "ai.onnx.ml", "com.microsoft") or (
            node.domain == "" and not onnx.defs.has(node.op_type, "")
        )
        if unknown or any(v in hidden for v in node.inputs):
            hidden.update(node.outputs)
            continue
        wanted += [v for v in node.outputs if is_float32(v) and v.name and not is_constant_value(v)]
    return wanted


def _samples(graph: Graph, ctx: PassContext) -> Samples:
    from edgec.samples import generated_samples

    if ctx.calibration is not None:
        return ctx.calibration
    return ctx.samples if ctx.samples is not None else generated_samples(graph, GENERATED, ctx.seed)
