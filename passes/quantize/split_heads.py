"""A layer of the head whose channels differ in range becomes one layer for each range.

Detectors that end in one convolution for boxes and scores store both with one scale; the scores are then 0. Divided by
output channels, each part computes what it did and gets its own scale; a Concat puts them together in float. Which
channels belong together is seen on a few calibration samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, attribute, constant, discard, ir, is_constant
from edgec.passes.quantize.head import WEIGHTED, find_head
from edgec.pipeline import Contract, Pass, PassContext, PassResult
from edgec.quantization.statistics import ChannelRange
from edgec.rewrite import FROM_KEY, RULE_KEY

Vector = npt.NDArray[np.float64]

_TOGETHER = 8.0
"""Channels share a part as long as the widest range is at most this many times the narrowest: 32 of 256 levels."""

_PARTS = 4
"""More parts than this and every convolution becomes too small to be worth its kernel."""


@dataclass(frozen=True)
class SplitHeads(Pass):
    """Conv and Gemm whose output channels the head reads one by one compute channels of similar range.

    Does nothing without calibration data.
    """

    samples: int = 8
    """Calibration samples to look at."""
    ratio: float = 64.0
    """Channels whose range is that many times narrower than the widest are lost in 8 bits: only then is it worth it."""

    name: ClassVar[str] = "split-heads"
    contract: ClassVar[Contract] = "close"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        found = [n for v in find_head(graph).sources if (n := _splittable(v)) is not None]
        layers = {v.name: n for n in found if (v := _activated(n).outputs[0]).name}
        if not layers or ctx.calibration is None:
            return PassResult(False)
        from edgec.quantization.observe import observe

        axes = dict.fromkeys(layers, 1)
        few = islice(iter(ctx.calibration), self.samples)
        seen = observe(graph, list(layers), few, per_channel=axes, histogram=False)
        made = 0
        for name, node in layers.items():
            parts = parts_of(seen.per_channel[name], self.ratio)
            if len(parts) > 1:
                _split(graph, node, parts)
                made += 1
        if made:
            graph.remove_dead()
        return PassResult(made > 0, {"layers": made} if made else {})


def parts_of(seen: ChannelRange, ratio: float) -> list[list[int]]:
    """Channels that go together, each part ascending, the widest first; one part where splitting gains nothing."""
    low, high = np.minimum(seen.low, 0).astype(np.float64), np.maximum(seen.high, 0).astype(np.float64)
    extent: Vector = high - low  # what the step follows from: 0 is always stored
    width: Vector = (seen.high - seen.low).astype(np.float64)
    everything = [list(range(extent.size))]
    lost = (width > 0) & (width < extent.max() / ratio) & (extent < extent.max() / _TOGETHER)
    if not lost.any():
        return everything
    order = np.argsort(-extent, kind="stable")
    parts: list[list[int]] = []
    for c in order:
        if parts and (extent[c] == 0 or extent[parts[-1][0]] <= _TOGETHER * extent[c] or len(parts) == _PARTS):
            parts[-1].append(int(c))
        else:
            parts.append([int(c)])
    return [sorted(p) for p in parts]


def _splittable(value: ir.Value) -> ir.Node | None:
    """The layer that computes a value, if it can be divided by output channels.

    A classifier's logits, one number a class straight to the output or a Softmax, are of one kind and stay together.
    """
    node = value.producer()
    if node is None or node.domain or node.op_type not in ("Conv", "Gemm"):
        return None
    if node.op_type == "Gemm" and value.is_graph_output():
        return None
    if node.op_type == "Conv" and int(attribute(node, "group") or 1) != 1:
        return None
    if not is_constant(node.inputs[1]) or (
        len(node.inputs) > 2 and node.inputs[2] is not None and not is_constant(node.inputs[2])
    ):
        return None
    readers = {u.op_type for u, _ in value.uses()}
    return None if readers & WEIGHTED or readers == {"Softmax"} else node


def _activated(node: ir.Node) -> ir.Node:
    """The Relu or Clip that is one kernel with the node, else the node."""
    v = node.outputs[0]
    users = [u for u, _ in v.uses()]
    if len(users) != 1 or v.is_graph_output() or users[0].domain or users[0].op_type not in ("Relu", "Clip"):
        return node
    return users[0] if all(i is None or i is v or is_constant(i) for i in users[0].inputs) else node


def _split(graph: Graph, node: ir.Node, parts: list[list[int]]) -> None:
    """One node a part, with its activation, a Concat, and a Gather where channels do not come out in order."""
    g = node.graph
    assert g is not None  # it was found in one
    end = _activated(node)
    old = end.outputs[0]
    weight = np.asarray(constant(node.inputs[1]))
    bias = None if len(node.inputs) < 3 or node.inputs[2] is None else np.asarray(constant(node.inputs[2]))
    out_first = node.op_type == "Conv" or bool(attribute(node, "transB"))
    made: list[ir.Node] = []
    ends: list[ir.Value] = []
    for i, channels in enumerate(parts):
        index = np.asarray(channels)
        w = weight[index] if out_first else weight[:, index]
        b = None if bias is None else bias if bias.size == 1 else bias[..., index]
        name = graph.fresh(f"{node.outputs[0].name}.range{i}")
        inputs = [
            node.inputs[0],
            _weight(graph, w, f"{name}.weight"),
            None if b is None else _weight(graph, b, f"{name}.bias"),
        ]
        shape = (
            None if old.shape is None else ir.Shape([len(channels) if a == 1 else d for a, d in enumerate(old.shape)])
        )
        out = ir.Value(name=name, shape=shape, type=old.type)
        attributes = dict(node.attributes.items())
        made.append(
            ir.Node("", node.op_type, inputs[: 3 if b is not None else 2], attributes, outputs=[out], name=name)
        )
        if end is not node:
            name = graph.fresh(f"{old.name}.range{i}")
            act = ir.Value(name=name, shape=shape, type=old.type)
            attributes = dict(end.attributes.items())
            made.append(ir.Node("", end.op_type, [out, *end.inputs[1:]], attributes, outputs=[act], name=name))
        ends.append(made[-1].outputs[0])
    joined = ir.Value(name=graph.fresh(f"{old.name}.joined"), shape=old.shape, type=old.type)
    axis = {"axis": ir.AttrInt64("axis", 1)}
    made.append(ir.Node("", "Concat", ends, axis, outputs=[joined], name=joined.name))
    flat = [c for p in parts for c in p]
    if flat != sorted(flat):
        places = _weight(graph, np.argsort(flat).astype(np.int64), f"{old.name}.order")
        ordered = ir.Value(name=graph.fresh(f"{old.name}.ordered"), shape=old.shape, type=old.type)
        made.append(ir.Node("", "Gather", [joined, places], dict(axis), outputs=[ordered], name=ordered.name))
    last = made[-1].outputs[0]
    for n in made:
        n.metadata_props[RULE_KEY] = SplitHeads.name
        n.metadata_props[FROM_KEY] = node.metadata_props.get(FROM_KEY) or node.name or ""
    g.insert_after(end, made)
    final, public = old.name, old.is_graph_output()
    for user, i in list(old.uses()):
        user.replace_input_with(i, last)
    if public:
        assert isinstance(g, ir.Graph)  # functions are inlined before quantisation
        for i, v in enumerate(g.outputs):
            if v is old:
                g.outputs[i] = last
    discard(end)
    if end is not node:
        discard(node)
    last.name = final


def _weight(graph: Graph, data: npt.NDArray[np.generic], hint: str) -> ir.Value:
    name = graph.fresh(hint)
    tensor = ir.Tensor(np.ascontiguousarray(data), name=name)
    value = ir.Value(name=name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.model.graph.register_initializer(value)
    return value
