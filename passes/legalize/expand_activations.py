"""Activations in simpler ops, each after its ONNX operator definition. All stay finite where the definition does."""

from __future__ import annotations

import math

import numpy as np

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.legalize.builders import first_input as _x
from edgec.passes.legalize.builders import reduce_over
from edgec.rewrite import Reject, Result, Rewriter


def _is_float(v: ir.Value | None) -> bool:
    return v is not None and v.dtype is not None and v.dtype.is_floating_point()


def gelu(node: ir.Node, rw: Rewriter) -> Result:
    """x * (1 + erf(x / sqrt 2)) * 0.5, in the order exporters use; or its tanh approximation."""
    x = _x(node)
    one, half = rw.scalar(1.0, x, "one"), rw.scalar(0.5, x, "half")
    if attribute(node, "approximate") == "tanh":
        cube = rw.op("Mul", rw.op("Mul", x, x), x)
        inner = rw.op("Add", x, rw.op("Mul", cube, rw.scalar(0.044715, x, "cubic")))
        gate = rw.op("Tanh", rw.op("Mul", inner, rw.scalar(math.sqrt(2 / math.pi), x, "scale")))
    else:
        gate = rw.op("Erf", rw.op("Div", x, rw.scalar(math.sqrt(2), x, "sqrt2")))
    return rw.op("Mul", rw.op("Mul", x, rw.op("Add", gate, one)), half)


def swish(node: ir.Node, rw: Rewriter) -> Result:
    """x * sigmoid(alpha x)."""
    x, alpha = _x(node), attribute(node, "alpha")
    inner = x if alpha == 1 else rw.op("Mul", x, rw.scalar(alpha, x, "alpha"))
    return rw.op("Mul", x, rw.op("Sigmoid", inner))


def softplus(node: ir.Node, rw: Rewriter) -> Result:
    """max(x, 0) + log(1 + exp(-|x|)): the exponential never overflows."""
    x = _x(node)
    small = rw.op("Exp", rw.op("Neg", rw.op("Abs", x)))
    return rw.op("Add", rw.op("Relu", x), rw.op("Log", rw.op("Add", small, rw.scalar(1.0, x, "one"))))


def mish(node: ir.Node, rw: Rewriter) -> Result:
    """x * tanh(softplus(x))."""
    x = _x(node)
    return rw.op("Mul", x, rw.op("Tanh", rw.op("Softplus", x)))


def hard_swish(node: ir.Node, rw: Rewriter) -> Result:
    """x * HardSigmoid(x, 1/6, 1/2)."""
    x = _x(node)
    return rw.op("Mul", x, rw.op("HardSigmoid", x, attrs={"alpha": 1 / 6, "beta": 0.5}))


def hard_sigmoid(node: ir.Node, rw: Rewriter) -> Result:
    """clip(alpha x + beta, 0, 1)."""
    x = _x(node)
    line = rw.op("Mul", x, rw.scalar(attribute(node, "alpha"), x, "alpha"))
    line = rw.op("Add", line, rw.scalar(attribute(node, "beta"), x, "beta"))
    return rw.op("Clip", line, rw.scalar(0.0, x, "zero"), rw.scalar(1.0, x, "one"))


def elu(node: ir.Node, rw: Rewriter) -> Result:
    """max(x, 0) + alpha * elu(min(x, 0)) with the inner alpha 1."""
    x, alpha = _x(node), attribute(node, "alpha")
    if alpha == 1:
        return Reject("an Elu of alpha 1 is what the others are spelled with")
    lower = rw.op("Elu", rw.op("Min", x, rw.scalar(0.0, x, "zero")), attrs={"alpha": 1.0})
    return rw.op("Add", rw.op("Relu", x), rw.op("Mul", lower, rw.scalar(alpha, x, "alpha")))


def celu(node: ir.Node, rw: Rewriter) -> Result:
    """alpha * elu(x / alpha)."""
    x, alpha = _x(node), attribute(node, "alpha")
    if alpha <= 0:
        return Reject(f"alpha is {alpha}: only positive ones are an Elu")
    if alpha == 1:
        return rw.op("Elu", x, attrs={"alpha": 1.0})
    scale = rw.scalar(alpha, x, "alpha")
    return rw.op("Mul", rw.op("Elu", rw.op("Div", x, scale), attrs={"alpha": 1.0}), scale)


def selu(node: ir.Node, rw: Rewriter) -> Result:
    """gamma * elu(x, alpha)."""
    x = _x(node)
    inner = rw.op("Elu", x, attrs={"alpha": attribute(node, "alpha")})
    return rw.op("Mul", inner, rw.scalar(attribute(node, "gamma"), x, "gamma"))


def softsign(node: ir.Node, rw: Rewriter) -> Result:
    """x / (1 + |x|)."""
    x = _x(node)
    return rw.op("Div", x, rw.op("Add", rw.op("Abs", x), rw.scalar(1.0, x, "one")))


def thresholded_relu(node: ir.Node, rw: Rewriter) -> Result:
    """x where it is above alpha, else 0."""
    x = _x(node)
    above = rw.op("Greater", x, rw.scalar(attribute(node, "alpha"), x, "alpha"))
    return rw.op("Where", above, x, rw.scalar(0.0, x, "zero"))


def shrink(node: ir.Node, rw: Rewriter) -> Result:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    x, lambd, bias = _x(node), attribute(node, "lambd"), attribute(node, "bias")
    if not _is_float(x):
        return Reject("lambd and bias are fractions, the elements integers")
    limit, lower = rw.scalar(lambd, x, "lambd"), rw.scalar(-lambd, x, "minus_lambd")
    high = low = x
    if bias:
        high = rw.op("Sub", x, rw.scalar(bias, x, "bias"))
        low = rw.op("Add", x, rw.scalar(bias, x, "bias"))
    inner = rw.op("Where", rw.op("Greater", x, limit), high, rw.scalar(0.0, x, "zero"))
    return rw.op("Where", rw.op("Less", x, lower), low, inner)


def prelu(node: ir.Node, rw: Rewriter) -> Result:
    """relu(x) - slope * relu(-x); of integers max(x, 0) + slope * min(x, 0), whose negation cannot overflow."""
    x, slope = _x(node), node.inputs[1]
    if _is_float(x):
        return rw.op("Sub", rw.op("Relu", x), rw.op("Mul", slope, rw.op("Relu", rw.op("Neg", x))))
    zero = rw.scalar(0, x, "zero")
    return rw.op("Add", rw.op("Max", x, zero), rw.op("Mul", slope, rw.op("Min", x, zero)))


def log_softmax(node: ir.Node, rw: Rewriter) -> Result:
    """x - max - log(sum(exp(x - max)))."""
    x, axes = _x(node), [attribute(node, "axis")]
    centred = rw.op("Sub", x, reduce_over(rw, "ReduceMax", x, axes))
    return rw.op("Sub", centred, rw.op("Log", reduce_over(rw, "ReduceSum", rw.op("Exp", centred), axes)))


def hardmax(node: ir.Node, rw: Rewriter) -> Result:
    """1 at the first largest element along the axis, 0 elsewhere: OneHot of ArgMax."""
    x, axis, shape = _x(node), attribute(node, "axis"), static_shape(node.inputs[0])
    if shape is None or x.dtype is None:
        return Reject("the length of the axis is not known at compile time")
    index = rw.op("ArgMax", x, attrs={"axis": axis, "keepdims": 0})
    values = rw.const(np.array([0, 1], x.dtype.numpy()), "off_on")
    return rw.op("OneHot", index, rw.const(np.array(shape[axis], np.int64), "depth"), values, attrs={"axis": axis})


def clip(node: ir.Node, rw: Rewriter) -> Result:
    """min(max(x, low), high): for bounds that are computed, or types a target's Clip does not take."""
    y = _x(node)
    for i, op in ((1, "Max"), (2, "Min")):
        bound = node.inputs[i] if len(node.inputs) > i else None
        y = y if bound is None else rw.op(op, y, bound)
    return rw.op("Identity", y) if y is node.inputs[0] else y


def cast_like(node: ir.Node, rw: Rewriter) -> Result:
    """Cast to the type the second input has."""
    like = node.inputs[1]
    if like is None or like.dtype is None:
        return Reject("the type to cast to is not known at compile time")
    kept = {k: v for k, v in node.attributes.items() if k in ("saturate", "round_mode")}
    return rw.op("Cast", _x(node), attrs={**kept, "to": int(like.dtype)})


def dropout(node: ir.Node, rw: Rewriter) -> Result:
    """At inference the input itself, and a mask that keeps all."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None and (constant(training) is None or constant(training)):
        return Reject("it is in training mode, or may be")
    x = _x(node)
    y = rw.op("Identity", x)
    if len(node.outputs) == 1:
        return y
    shape = static_shape(x)
    if shape is None:
        return Reject("the shape of the mask is not known at compile time")
    return [y, rw.const(np.ones(shape, bool), "kept")]


def reciprocal(node: ir.Node, rw: Rewriter) -> Result:
    """1 / x."""
    x = _x(node)
    return rw.op("Div", rw.scalar(1.0, x, "one"), x)
