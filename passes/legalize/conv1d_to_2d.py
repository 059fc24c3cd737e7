"""Convolutions and pools over one axis as those over two, the first of them 1 long.

The input gets an axis (Unsqueeze), the output, behind its activation, loses it (Squeeze); neighbouring pairs of the two
cancel, and a residual Add comes before the Squeeze. A quantised layer is turned as a whole: the axis is put in front of the DequantizeLinear of its input and
taken off behind the QuantizeLinear of its output, so that the integer kernel stays in one piece. The weights grow the axis in
place, also where a DequantizeLinear stands before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.legalize.builders import first_input, optional_input
from edgec.pattern import Match, P, anyof, rest, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

_AXIS = 2
"""The new axis: before the one there is."""


def _attributes(node: ir.Node) -> Mapping[str, Any]:
    """The attributes with a neutral entry for the new axis."""
    out: dict[str, Any] = dict(node.attributes)
    for name, neutral in (
        ("kernel_shape", 1),
        ("strides", 1),
        ("dilations", 1),
        ("output_padding", 0),
        ("output_shape", 1),
    ):
        if name in node.attributes:
            out[name] = [neutral, *node.attributes[name].as_ints()]
    if "pads" in node.attributes:
        before, after = node.attributes["pads"].as_ints()
        out["pads"] = [0, before, 0, after]
    return out


def _unsqueeze(rw: Rewriter, x: ir.Value) -> ir.Value:
    data = constant(x)
    if data is not None:
        return rw.const(np.expand_dims(data, _AXIS), x.name or "weight")
    return rw.op("Unsqueeze", x, rw.const(np.array([_AXIS], np.int64), "axis"))


def _squeeze(rw: Rewriter, x: ir.Value) -> ir.Value:
    return rw.op("Squeeze", x, rw.const(np.array([_AXIS], np.int64), "axis"))


def _parameters(q: ir.Node) -> tuple[ir.Value | None, ...]:
    """Scale and zero point."""
    return tuple(q.inputs[1:])


def _whole_tensor(q: ir.Node) -> bool:
    """Whether scale and zero point are single numbers: then the axis does not matter."""
    scale = q.inputs[1]
    return scale is not None and scale.shape is not None and scale.shape.rank() == 0


def _with_axis(rw: Rewriter, x: ir.Value) -> ir.Value:
    """`x` with the new axis, put in before the DequantizeLinear that makes it, if there is one.

    A scale for each element along an axis keeps its axis: 0 and 1 lie before the new one.
    """
    dq = x.producer()
    if dq is None or dq.op_type != "DequantizeLinear" or dq.domain:
        return _unsqueeze(rw, x)
    axis, blocked = attribute(dq, "axis"), attribute(dq, "block_size")
    if blocked or (not _whole_tensor(dq) and axis not in (0, 1)):
        return _unsqueeze(rw, x)
    stored = dq.inputs[0]
    assert stored is not None  # required by the schema
    return rw.op("DequantizeLinear", _unsqueeze(rw, stored), *_parameters(dq), attrs=dq.attributes)


def _turned(node: ir.Node, rw: Rewriter) -> ir.Value | Reject:
    """The layer over two axes; its output has the new axis."""
    x = first_input(node)
    if x.shape is None or x.shape.rank() != 3:
        return Reject("it is not over one axis, or the rank is not known")
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return Reject("the indices of the largest elements are used")
    inputs: list[ir.Value | None] = [_with_axis(rw, x)]
    weight = optional_input(node, 1)
    if weight is not None:
        inputs.append(_with_axis(rw, weight))
    return rw.op(node.op_type, *inputs, *node.inputs[2:], attrs=_attributes(node))


def _next(node: ir.Node) -> ir.Node | None:
    """The one node that reads the output, as its first input."""
    y = node.outputs[0]
    uses = list(y.uses())
    return uses[0].node if len(uses) == 1 and not y.is_graph_output() and uses[0].idx == 0 else None


def _goes_with_next(node: ir.Node) -> bool:
    """Whether the rule of the next node takes this one along: a QuantizeLinear, or a layer's activation."""
    after = _next(node)
    if after is None or after.domain:
        return False
    if after.op_type == "QuantizeLinear":
        return _whole_tensor(after)
    return node.op_type in _LAYERS and after.op_type in _ACTIVATIONS


_LAYERS = ("Conv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool")
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Swish", "Gelu")

_layer = P.op(*_LAYERS)(rest("in"), as_="layer")
_activated = P.op(*_ACTIVATIONS)(_layer, rest("limits"), as_="activation")


@rule(P.QuantizeLinear(anyof(_layer, _activated), rest("parameters"), as_="quantize"))
def quantized_layer(m: Match, rw: Rewriter) -> Result:
    quantize = m.node("quantize")
    if not _whole_tensor(quantize):
        return Reject("the output has a scale for each channel")
    y = _turned(m.node("layer"), rw)
    if isinstance(y, Reject):
        return y
    if "activation" in m.named:
        activation = m.node("activation")
        y = rw.op(activation.op_type, y, *activation.inputs[1:], attrs=activation.attributes)
    return _squeeze(rw, rw.op("QuantizeLinear", y, *_parameters(quantize), attrs=quantize.attributes))


@rule(_activated)
def activated_layer(m: Match, rw: Rewriter) -> Result:
    activation = m.root
    if _goes_with_next(activation):
        return Reject("it is turned together with the QuantizeLinear behind it")
    y = _turned(m.node("layer"), rw)
    if isinstance(y, Reject):
        return y
    return _squeeze(rw, rw.op(activation.op_type, y, *activation.inputs[1:], attrs=activation.attributes))


@rule(P.op(*_LAYERS)(rest("in")))
def conv1d_to_2d(m: Match, rw: Rewriter) -> Result:
    if _goes_with_next(m.root):
        return Reject("it is turned together with the node behind it")
    y = _turned(m.root, rw)
    return y if isinstance(y, Reject) else _squeeze(rw, y)


def _added(value: ir.Value | None) -> bool:
    data = constant(value)
    return data is not None and [int(a) for a in data.reshape(-1)] == [_AXIS]


@rule(P.Unsqueeze(P.Squeeze(var("x"), var("a"), shared_=True), var("b")))
def added_axis_twice(m: Match, rw: Rewriter) -> Result:
    if not _added(m.value("a")) or not _added(m.value("b")):
        return Reject("other axes than the one this pass adds")
    return m.value("x")


@rule(P.Add(P.Squeeze(var("x"), var("a")), P.Squeeze(var("y"), var("b"))))
def added_axis_under_add(m: Match, rw: Rewriter) -> Result:
    x, y = m.value("x"), m.value("y")
    if not _added(m.value("a")) or not _added(m.value("b")):
        return Reject("other axes than the one this pass adds")
    if static_shape(x) is None or static_shape(x) != static_shape(y):
        return Reject("the shapes differ, or are not known")
    return _squeeze(rw, rw.op("Add", x, y))


@dataclass(frozen=True)
class Conv1dTo2d(RewritePass):
    """No convolution or pool over a single axis."""

    name: ClassVar[str] = "conv1d-to-2d"
    rules: ClassVar[RuleSet] = RuleSet(
        [quantized_layer, activated_layer, conv1d_to_2d, added_axis_twice, added_axis_under_add]
    )
