"""Rules for the quantised ops of ONNX Runtime (`com.microsoft`), by its ContribOperators.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgec.graph import attribute, ir
from edgec.passes.quantize.integer_rules import convolution, inputs_of, requantized
from edgec.passes.quantize.qdq_nodes import dequantize, dequantize_bias, quantize
from edgec.pattern import Match, NodePattern, P, rest
from edgec.quantization.form import CONTRIB
from edgec.rewrite import Reject, Result, Rewriter, Rule, RuleSet, rule


def contrib(*ops: str) -> NodePattern:
    """An op of ONNX Runtime's own domain, with inputs `ins`."""
    return P.op(*ops)(rest("ins"), domain_=CONTRIB)


def _without(node: ir.Node, *names: str) -> dict[str, Any]:
    return {k: a for k, a in node.attributes.items() if k not in names}


@rule(contrib("QLinearConv"))
def contrib_qlinear_conv(m: Match, rw: Rewriter) -> Result:
    return convolution(m, rw)


@rule(contrib("QLinearAdd", "QLinearMul"))
def qlinear_binary(m: Match, rw: Rewriter) -> Result:
    a, a_s, az, b, bs, bz, ys, yz = inputs_of(m, 8)
    if a is None or a_s is None or b is None or bs is None:
        return Reject("an input is missing")
    op = m.root.op_type.removeprefix("QLinear")
    return requantized(m, rw, op, [dequantize(rw, a, a_s, az), dequantize(rw, b, bs, bz)], ys, yz)


def _unary(m: Match, rw: Rewriter, op: str, attrs: Mapping[str, Any] | None = None, *more: ir.Value) -> Result:
    x, xs, xz, ys, yz = inputs_of(m, 5)
    if x is None or xs is None:
        return Reject("an input is missing")
    return requantized(m, rw, op, [dequantize(rw, x, xs, xz), *more], ys, yz, attrs)


def _like(op: str) -> Rule:
    """QLinear<op> with the attributes of <op>."""

    @rule(contrib(f"QLinear{op}"), name=f"qlinear-{op.lower()}")
    def convert(m: Match, rw: Rewriter) -> Result:
        if attribute(m.root, "channels_last"):
            return Reject("its channels are last")
        return _unary(m, rw, op, _without(m.root, "channels_last"))

    return convert


@rule(contrib("QLinearSoftmax"))
def qlinear_softmax(m: Match, rw: Rewriter) -> Result:
    (x,) = inputs_of(m, 1)
    axis = m.root.attributes["axis"].as_int() if "axis" in m.root.attributes else -1
    opset = m.root.attributes["opset"].as_int() if "opset" in m.root.attributes else 13
    rank = x.shape.rank() if x is not None and x.shape is not None else None
    if opset < 13 and axis != -1 and (rank is None or axis % rank != rank - 1):
        return Reject("it flattens its input, as Softmax did before opset 13")
    return _unary(m, rw, "Softmax", {"axis": axis})


@rule(contrib("QLinearReduceMean"))
def qlinear_reduce_mean(m: Match, rw: Rewriter) -> Result:
    if rw.opset < 18:
        return Reject("the axes of ReduceMean are an attribute in this opset")
    axes = m.root.attributes.get("axes")
    more = [rw.const(np.asarray(axes.as_ints(), np.int64), "axes")] if axes is not None else []
    return _unary(m, rw, "ReduceMean", _without(m.root, "axes"), *more)


@rule(contrib("QLinearConcat"))
def qlinear_concat(m: Match, rw: Rewriter) -> Result:
    given = m.rest("ins")
    if len(given) < 5 or len(given) % 3 != 2:
        return Reject("an input is missing")
    scale, zero, *ins = given
    reals: list[ir.Value | Reject | None] = []
    for i in range(0, len(ins), 3):
        part, s, z = ins[i], ins[i + 1], ins[i + 2]
        if part is None or s is None:
            return Reject("an input is missing")
        reals.append(dequantize(rw, part, s, z))
    return requantized(m, rw, "Concat", reals, scale, zero, m.root.attributes)


@rule(contrib("QLinearWhere"))
def qlinear_where(m: Match, rw: Rewriter) -> Result:
    condition, x, xs, xz, y, y_s, yz, zs, zz = inputs_of(m, 9)
    if x is None or xs is None or y is None or y_s is None:
        return Reject("an input is missing")
    return requantized(m, rw, "Where", [condition, dequantize(rw, x, xs, xz), dequantize(rw, y, y_s, yz)], zs, zz)


@rule(contrib("QGemm"))
def qgemm(m: Match, rw: Rewriter) -> Result:
    """y = alpha * A B + C; C is int32 on the scale alpha * a_scale * b_scale. Without y_scale the result is float."""
    a, a_s, az, b, bs, bz, c, ys, yz = inputs_of(m, 9)
    if a is None or a_s is None or b is None or bs is None:
        return Reject("an input is missing")
    alpha = float(m.root.attributes["alpha"].as_float()) if "alpha" in m.root.attributes else 1.0
    channels = 0 if attribute(m.root, "transB") else 1
    bias = dequantize_bias(rw, c, a_s, bs, alpha)
    reals = [dequantize(rw, a, a_s, az), dequantize(rw, b, bs, bz, channels), bias][: 3 if c is not None else 2]
    if ys is not None:
        return requantized(m, rw, "Gemm", reals, ys, yz, m.root.attributes)
    values: list[ir.Value | None] = []
    for r in reals:
        if isinstance(r, Reject):
            return r
        values.append(r)
    return rw.op("Gemm", *values, attrs=m.root.attributes)


@rule(contrib("QuantizeLinear"))
def contrib_quantize(m: Match, rw: Rewriter) -> Result:
    x, scale, zero = inputs_of(m, 3)
    if x is None or scale is None:
        return Reject("an input is missing")
    if scale.shape is not None and scale.shape.rank() == 1 and scale.shape[0] != 1:
        return rw.op("QuantizeLinear", x, scale, zero, attrs=m.root.attributes)
    return quantize(rw, x, scale, zero, m.root.outputs[0].dtype)


@rule(contrib("DequantizeLinear"))
def contrib_dequantize(m: Match, rw: Rewriter) -> Result:
    x, scale, zero = inputs_of(m, 3)
    if x is None or scale is None:
        return Reject("an input is missing")
    axis = m.root.attributes["axis"].as_int() if "axis" in m.root.attributes else 1
    block = m.root.attributes["block_size"].as_int() if "block_size" in m.root.attributes else 0
    return dequantize(rw, x, scale, zero, axis, block)


CONTRIB_RULES = RuleSet(
    [
        contrib_qlinear_conv,
        qlinear_binary,
        *(_like(op) for op in ("Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool")),
        qlinear_softmax,
        qlinear_reduce_mean,
        qlinear_concat,
        qlinear_where,
        qgemm,
        contrib_quantize,
        contrib_dequantize,
    ]
)
