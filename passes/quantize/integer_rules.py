"""Rules for the integer ops of ONNX itself, and for data movement on integers between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgec.graph import attribute, constant, ir, is_constant
from edgec.passes.quantize.qdq_nodes import dequantize, dequantize_bias, quantize, typed
from edgec.pattern import Match, P, rest
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

Inputs = tuple[ir.Value | None, ...]


def inputs_of(m: Match, count: int, name: str = "ins") -> list[ir.Value | None]:
    """The inputs matched by `rest(name)`; absent ones at the end are None, and so is what no schema checked."""
    given = list(m.rest(name))
    return (given + [None] * (count - len(given)))[:count]


def requantized(
    m: Match, rw: Rewriter, op: str, reals: list[ir.Value | Reject | None], scale: ir.Value | None,
    zero: ir.Value | None, attrs: Mapping[str, Any] | None = None,
) -> Result:  # fmt: skip
    """Q(op(reals)): the float op in place of the matched integer one, its output stored by `scale` and `zero`."""
    values: list[ir.Value | None] = []
    for r in reals:
        if isinstance(r, Reject):
            return r
        values.append(r)
    if scale is None:
        return Reject("the scale of its output is missing")
    out = m.root.outputs[0]
    y = typed(rw.op(op, *values, attrs=attrs), scale.dtype, out)
    stored = quantize(rw, y, scale, zero, out.dtype)
    if not isinstance(stored, Reject):
        y.name = rw.graph.fresh(real_name(out))
    return stored


def real_name(stored: ir.Value) -> str:
    """What the real value is called whose stored form is `stored`: ONNX Runtime appends `_quantized`."""
    name = stored.name or "y"
    return name.removesuffix("_quantized") if name.endswith("_quantized") else f"{name}_real"


@rule(P.op("QLinearConv")(rest("ins")))
def qlinear_conv(m: Match, rw: Rewriter) -> Result:
    return convolution(m, rw)


def convolution(m: Match, rw: Rewriter) -> Result:
    """x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias."""
    x, xs, xz, w, ws, wz, ys, yz, b = inputs_of(m, 9)
    if x is None or xs is None or w is None or ws is None:
        return Reject("an input is missing")
    if attribute(m.root, "channels_last"):
        return Reject("its channels are last")
    reals = [dequantize(rw, x, xs, xz), dequantize(rw, w, ws, wz, 0), dequantize_bias(rw, b, xs, ws)]
    attrs = {k: a for k, a in m.root.attributes.items() if k != "channels_last"}
    return requantized(m, rw, "Conv", reals[: 3 if b is not None else 2], ys, yz, attrs)


@rule(P.op("QLinearMatMul")(rest("ins")))
def qlinear_matmul(m: Match, rw: Rewriter) -> Result:
    a, a_s, az, b, bs, bz, ys, yz = inputs_of(m, 8)
    if a is None or a_s is None or b is None or bs is None:
        return Reject("an input is missing")
    if any(v.shape is not None and v.shape.rank() > 1 for v in (a_s, bs)):
        return Reject("scales of each matrix of a batch")
    return requantized(m, rw, "MatMul", [dequantize(rw, a, a_s, az, -2), dequantize(rw, b, bs, bz, -1)], ys, yz)


# --- data movement -------------------------------------------------------------------------------------------------------

_MOVES = (
    "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "DepthToSpace",
    "SpaceToDepth", "Expand", "Tile", "Identity", "Resize", "Pad", "GlobalMaxPool", "GatherElements", "GatherND",
)  # fmt: skip
_STORED = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16)


def _stored(v: ir.Value) -> bool:
    return v.dtype in _STORED and not is_constant(v)


def _source(v: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """Scale and zero point of a stored value, one number each: from who stores it, else from who reads it back."""
    producer = v.producer()
    if producer is not None and producer.op_type == "QuantizeLinear":
        return _pair(producer)
    if producer is not None and producer.op_type in (*_MOVES, "Split"):
        return None  # its turn comes first
    pairs = [_pair(u.node) for u in v.uses() if u.node.op_type == "DequantizeLinear"]
    first = pairs[0] if pairs else None
    return first if all(p == first for p in pairs) else None


def _pair(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    if len(node.inputs) < 3 or node.domain not in ("", "ai.onnx"):
        return None
    scale, zero = node.inputs[1], node.inputs[2]
    if scale is None or zero is None or not is_constant(scale) or not is_constant(zero):
        return None
    return (scale, zero) if scale.const_value is not None and scale.const_value.size == 1 else None


def moves_stored(node: ir.Node) -> bool:
    """Whether it only moves data, and the data is in few bits."""
    return node.op_type in (*_MOVES, "Split", "Concat") and node.domain == "" and _first_stored(node)


def _first_stored(node: ir.Node) -> bool:
    first = node.inputs[0] if node.inputs else None
    return first is not None and _stored(first)


@rule(P.op(*_MOVES)(rest("ins"), where_=moves_stored))
def move_reals(m: Match, rw: Rewriter) -> Result:
    x, *others = m.rest("ins")
    assert x is not None  # matched
    if len(m.root.outputs) > 1 and any(v.uses() or v.is_graph_output() for v in m.root.outputs[1:]):
        return Reject("another output is used")
    pair = _source(x)
    if pair is None:
        return Reject("the scale of its input is not known")
    real = dequantize(rw, x, *pair)
    if isinstance(real, Reject):
        return real
    if m.root.op_type == "Pad":
        filled = _fill(rw, others, pair, attribute(m.root, "mode"))
        if isinstance(filled, Reject):
            return filled
        others = filled
    return requantized(m, rw, m.root.op_type, [real, *others], *pair, m.root.attributes)


@rule(P.Split(rest("ins"), where_=_first_stored))
def split_reals(m: Match, rw: Rewriter) -> Result:
    x, *sizes = m.rest("ins")
    assert x is not None  # matched
    pair = _source(x)
    if pair is None:
        return Reject("the scale of its input is not known")
    real = dequantize(rw, x, *pair)
    if isinstance(real, Reject):
        return real
    outs = m.root.outputs
    parts = []
    for part, out in zip(rw.ops("Split", real, *sizes, attrs=m.root.attributes, outputs=len(outs)), outs, strict=True):
        stored = quantize(rw, typed(part, pair[0].dtype, out), *pair, out.dtype)
        if isinstance(stored, Reject):
            return stored
        part.name = rw.graph.fresh(real_name(out))
        parts.append(stored)
    return parts


def _fill(
    rw: Rewriter, others: list[ir.Value | None], pair: tuple[ir.Value, ir.Value], mode: str
) -> list[ir.Value | None] | Reject:
    """Pad's inputs after the first: the value it fills in, as the real number it stands for."""
    if mode != "constant":
        return others
    scale, zero = np.asarray(constant(pair[0])), np.asarray(constant(pair[1]))
    given = others[1] if len(others) > 1 else None
    fill = constant(given) if given is not None else np.zeros((), zero.dtype)
    if fill is None:
        return Reject("the value it fills in is computed at run time")
    real = (np.reshape(fill, ()).astype(np.int32) - zero.reshape(()).astype(np.int32)).astype(scale.dtype)
    return [others[0], rw.const(np.asarray(real * scale.reshape(()), scale.dtype), "fill"), *others[2:]]


@rule(P.Concat(rest("ins"), where_=lambda n: all(v is not None and _stored(v) for v in n.inputs)))
def concat_reals(m: Match, rw: Rewriter) -> Result:
    parts = [v for v in m.rest("ins") if v is not None]
    pairs = [_source(v) for v in parts]
    first = pairs[0]
    if first is None or any(p is None or not _equal(p, first) for p in pairs):
        return Reject("its inputs are not known to have one scale")
    return requantized(m, rw, "Concat", [dequantize(rw, v, *first) for v in parts], *first, m.root.attributes)


def _equal(a: tuple[ir.Value, ir.Value], b: tuple[ir.Value, ir.Value]) -> bool:
    return all(x is y or _number(x) == _number(y) for x, y in zip(a, b, strict=True))


def _number(v: ir.Value) -> float:
    return float(np.reshape(np.asarray(constant(v)), ()))


INTEGER_RULES = RuleSet([qlinear_conv, qlinear_matmul, move_reals, split_reals, concat_reals])
