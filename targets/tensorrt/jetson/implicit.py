"""A graph with Q/DQ as TensorRT's implicit quantisation has it: the graph without them, and a scale for each tensor.

The DLA takes no Q/DQ up to TensorRT 10 (NVIDIA/TensorRT#2222). TensorRT reads the scales of activations from a calibration
cache and rounds weights itself: per output channel, the largest absolute value becoming 127. Weights written here are those
the Q/DQ graph computes with, integers times scales: rounding them by that rule gives the same integers where a channel
uses the range to its end, and `coarser` names the weights where one does not.

**Every tensor a layer reads or makes needs a scale**, or TensorRT computes the layer in higher precision ("Missing scale
and zero-point for tensor ..., expect fall back to non-int8 implementation"). A graph with Q/DQ says nothing of tensors
inside a fused unit and around ops that only move data; these get their scale here:
* what an activation reads takes the scale of what it makes: beyond that range it limits anyway, so nothing is lost even
  where the two are not fused;
* what data movement and MaxPool read and make has one scale;
* a constant operand of an elementwise op has the scale of its largest value;
* what Sigmoid, Tanh and Softmax make lies between -1 and 1. They compute in fp16, and what reads them too unless a Q/DQ pair
  says otherwise; the scale is there so that TensorRT finds one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgec.diagnostics import Location, error
from edgec.graph import Graph, constant, ir, is_constant, static_shape
from edgec.quantization.pairs import DQ, Linear, Q

LIMITING = frozenset({"Relu", "Clip"})
MOVING = frozenset(
    {
        "MaxPool",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Identity",
        "Slice",
        "Split",
        "Concat",
        "Pad",
    }
)
ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Max", "Min", "Sum", "PRelu"})
HALF_ONLY = frozenset({"Sigmoid", "Tanh", "Softmax", "LRN", "Slice", "Split"})
"""What the DLA computes in fp16 also in an int8 network (TensorRT developer guide, DLA layers)."""

WITHIN_ONE = frozenset({"Sigmoid", "Tanh", "Softmax", "HardSigmoid"})

_UNSAFE = re.compile(r"[^A-Za-z0-9_./+\-]")
"""What the name of a node may not have: trtexec splits --layerPrecisions at commas and colons."""


@dataclass
class Implicit:
    """`graph`: without Q/DQ, nodes named uniquely and plainly. `scales`: tensor of `graph` -> scale, in execution order.

    `stated`: those of `scales` that Q/DQ say themselves. `half`: names of the nodes that are not to compute in int8.
    `coarser`: weight -> share of its channels whose integers TensorRT will find others for.
    """

    graph: Graph
    scales: dict[str, float]
    stated: Mapping[str, float]
    half: Sequence[str]
    coarser: Mapping[str, float] = field(default_factory=dict)


def implicit(graph: Graph) -> Implicit:
    """The implicit form of `graph`, which is left as it is. A graph without Q/DQ has no scales, and all of it is `half`.

    Raises:
        EdgecError: EC0699 a scale that no calibration cache can hold: zero points, several scales for one tensor.
    """
    from edgec.passes.optimize.remove_dead import RemoveDead
    from edgec.passes.quantize.dequantize import Dequantize
    from edgec.pipeline import PassContext

    stated, coarser = _stated(graph), _coarser(graph)
    plain = graph.clone()
    ctx = PassContext()
    Dequantize().run(plain, ctx)
    RemoveDead().run(plain, ctx)
    left = [n for n in plain.nodes() if n.op_type in (Q, DQ)]
    if left:
        what = f"{left[0].op_type} node {left[0].name!r} cannot be taken out: the DLA takes no Q/DQ up to TensorRT 10"
        raise error("EC0699", what, Location(graph.source, node=left[0].name))
    _name_nodes(plain)
    names = {v.name for n in plain.nodes() for v in (*n.inputs, *n.outputs) if v is not None}
    known = {name: scale for name, scale in stated.items() if name in names}
    scales = _spread(plain, known)
    half = [n.name or "" for n in plain.nodes() if _floats(n) and not _in_int8(n, scales)]
    if known:
        for node in plain.nodes():
            if node.op_type in WITHIN_ONE and not node.domain:
                scales.setdefault(node.outputs[0].name or "", 1 / 127)
    return Implicit(plain, _ordered(plain, scales), known, half, coarser)


def _stated(graph: Graph) -> dict[str, float]:
    """Scales of activations, under the names of both what Q reads and what DQ makes."""
    out: dict[str, float] = {}
    for node in graph.nodes():
        if node.op_type not in (Q, DQ) or is_constant(node.inputs[0]):
            continue
        pair = Linear(node, graph.opset)
        name = pair.real.name or ""
        where = Location(graph.source, node=node.name or name)
        if pair.scale is None or pair.zero is None or pair.scale.ndim or pair.dtype != "int8" or pair.zero.any():
            what = (
                f"tensor {name!r} is stored as {pair.says()}; a calibration cache holds one scale of int8 for a tensor"
            )
            raise error("EC0699", what, where, "quantise with the scheme tensorrt-dla")
        scale = float(pair.scale)
        if abs(out.setdefault(name, scale) - scale) > 1e-6 * scale:
            what = f"tensor {name!r} is stored with scale {out[name]:.6g} and with {scale:.6g}; a calibration cache holds one"
            raise error("EC0699", what, where, "quantise with the scheme tensorrt-dla")
    return out


def _coarser(graph: Graph) -> dict[str, float]:
    """Weights of which some output channel does not reach 127, all zeros excepted: TensorRT's scale is smaller there."""
    out: dict[str, float] = {}
    for node in graph.nodes():
        data = constant(node.inputs[0]) if node.op_type == DQ else None
        if data is None:
            continue
        axis = Linear(node, graph.opset).axis
        stored = np.abs(np.asarray(data).astype(np.int32))
        largest = stored.max(axis=tuple(i for i in range(stored.ndim) if i != axis)) if stored.size else stored
        short = np.mean((largest < 127) & (largest > 0))
        if short:
            out[node.inputs[0].name or ""] = float(short)  # type: ignore[union-attr]
    return out


def _name_nodes(graph: Graph) -> None:
    seen: set[str] = set()
    for i, node in enumerate(graph.nodes()):
        name = _UNSAFE.sub("_", node.name or node.outputs[0].name or "") or f"{node.op_type}_{i}"
        node.name = name if name not in seen else f"{name}.{i}"
        seen.add(node.name)


def _spread(graph: Graph, stated: Mapping[str, float]) -> dict[str, float]:
    """The scales with those that follow from them."""
    scales = dict(stated)
    changed = True
    while changed:
        changed = False
        for node in graph.nodes():
            for name, scale in _follows(node, scales):
                if name and name not in scales:
                    scales[name] = scale
                    changed = True
    for node in graph.nodes():
        if node.op_type not in ELEMENTWISE or node.outputs[0].name not in scales:
            continue
        for v in node.inputs:
            data = constant(v) if v is not None and v.name not in scales else None
            if v is not None and data is not None and data.size and np.abs(data).max() > 0:
                scales[v.name or ""] = float(np.abs(data).max()) / 127
    return scales


def _ordered(graph: Graph, scales: Mapping[str, float]) -> dict[str, float]:
    """In execution order."""
    order = [v.name for v in graph.inputs]
    order += [v.name for n in graph.nodes() for v in (*n.inputs, *n.outputs) if v is not None]
    return {name: scales[name] for name in dict.fromkeys(order) if name is not None and name in scales}


def _follows(node: ir.Node, scales: Mapping[str, float]) -> list[tuple[str | None, float]]:
    """Tensors around a node whose scale is that of another one of the node's."""
    x, y = node.inputs[0] if node.inputs else None, node.outputs[0]
    if node.domain or x is None:
        return []
    if node.op_type in LIMITING:
        scale = scales.get(y.name or "")
        inside = len(x.uses()) == 1 and not x.is_graph_output() and not is_constant(x)
        return [(x.name, scale)] if scale is not None and inside else []
    if node.op_type not in MOVING:
        return []
    around = [
        v for v in (*(node.inputs if node.op_type == "Concat" else node.inputs[:1]), *node.outputs) if v is not None
    ]
    known = [scales[v.name] for v in around if v.name is not None and v.name in scales]
    # scales of different tensors may differ where they were stated; what nobody states takes the widest
    return [(v.name, max(known)) for v in around if not is_constant(v)] if known else []


def _floats(node: ir.Node) -> bool:
    """Whether the node computes on floats: shapes and indices are no layers of a precision."""
    return any(v.dtype is not None and v.dtype.is_floating_point() for v in node.outputs) and bool(node.inputs)


def _in_int8(node: ir.Node, scales: Mapping[str, float]) -> bool:
    if node.op_type in HALF_ONLY or static_shape(node.outputs[0]) is None:
        return False
    read = [v for v in node.inputs if v is not None and not is_constant(v)]
    return bool(read) and all(v.name in scales for v in (*read, *node.outputs))
