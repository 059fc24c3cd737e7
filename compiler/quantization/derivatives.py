"""Derivatives of ops, as ONNX nodes: what turns the gradient of a node's outputs into that of its inputs.

No framework that trains is needed to know how much an error inside a network weighs at its output: one run of these
nodes tells it for every value at once. Rules exist for what feed-forward networks are made of; an op without one is
no obstacle (`adjoint.py` says how it is treated). Each rule is checked against finite differences in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from edgec.graph import attribute, constant, ir, is_constant, static_shape
from edgec.quantization.builder import Builder, Gradients
from edgec.quantization.spatial_derivatives import average_pool, conv, conv_transpose, max_pool, resize

Rule = Callable[[Builder, ir.Node, Sequence[ir.Value | None]], Gradients | None]
"""Of a node and the gradients of its outputs. None: the rule does not cover this node."""


def derivative(node: ir.Node) -> Rule | None:
    """The rule of a node's op."""
    return _RULES.get(node.op_type) if node.domain == "" else None


@dataclass(frozen=True)
class Midway:
    """A node as rules see it, with values between those of two runs."""

    domain: str
    op_type: str
    attributes: Any
    inputs: Sequence[ir.Value | None]
    outputs: Sequence[ir.Value]


def difference_rule(b: Builder, node: ir.Node, twin: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    """As the rule of `node`, but for the finite step from its values to those of `twin`, the same op in another run.

    Exact for functions of one input, products, and what is linear: the gradient times the change of the inputs is that
    times the change of the output. The rest of what bends (softmax, normalisation) is taken halfway.
    """
    rule = derivative(node)
    if rule is None:
        return None
    if rule in _OF_ONE:
        exact = rule(b, node, g)
        return _secant(b, node, twin, g[0], exact[0]) if exact and g[0] is not None else exact
    if node.op_type not in _BENT:
        return rule(b, node, g)
    inputs = [_halfway(b, x, y) for x, y in zip(node.inputs, twin.inputs, strict=True)]
    outputs = [_halfway(b, x, y) or x for x, y in zip(node.outputs, twin.outputs, strict=True)]
    return rule(b, cast(ir.Node, Midway(node.domain, node.op_type, node.attributes, inputs, outputs)), g)


_BENT = frozenset({
    "Mul", "Div", "MatMul", "Gemm", "Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization",
    "InstanceNormalization",
})  # fmt: skip


def _halfway(b: Builder, x: ir.Value | None, y: ir.Value | None) -> ir.Value | None:
    """The mean of a value in both runs; constants are those of the first."""
    if x is None or y is None or x is y or is_constant(x) or not _float32(x):
        return x
    middle = b.op("Mul", b.op("Add", x, y), b.array(0.5))
    middle.shape, middle.type = x.shape, x.type
    return middle


def _secant(b: Builder, node: ir.Node, twin: ir.Node, g: ir.Value, tangent: ir.Value) -> Gradients:
    """The slope between both points; the derivative where they are too near to tell."""
    dx = b.op("Sub", twin.inputs[0], node.inputs[0])
    dy = b.op("Sub", twin.outputs[0], node.outputs[0])
    near = b.op(
        "Less", b.op("Abs", dx), b.op("Max", b.op("Mul", b.op("Abs", node.inputs[0]), b.array(1e-4)), b.array(1e-5))
    )
    slope = b.op("Div", dy, b.op("Where", near, b.array(1.0), dx))
    return {0: b.op("Where", near, tangent, b.op("Mul", g, slope))}


def _float32(v: ir.Value) -> bool:
    return v.dtype == ir.DataType.FLOAT


def stops(node: ir.Node) -> bool:
    """Whether the outputs do not depend on small changes of the inputs: shapes, comparisons."""
    return node.domain == "" and node.op_type in _FLAT


_FLAT = frozenset({
    "Shape", "Size", "ConstantOfShape", "Constant", "Range", "NonZero", "Sign", "Not", "And", "Or", "Xor", "Equal",
    "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "IsInf", "EyeLike",
})  # fmt: skip


# --- element by element ----------------------------------------------------------------------------------------------


def _pass_on(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    return {0: g[0]} if g[0] is not None else {}


def _relu(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    return {0: b.op("Where", b.op("Greater", node.inputs[0], b.array(0.0)), g[0], b.array(0.0))}


def _clip(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    """1 where the clipped value is the value itself."""
    same = b.op("Equal", node.inputs[0], node.outputs[0])
    return {0: b.op("Where", same, g[0], b.array(0.0))}


def _sigmoid(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    y = node.outputs[0]
    return {0: b.op("Mul", g[0], b.op("Mul", y, b.op("Sub", b.array(1.0), y)))}


STEP = 1e-2
"""Half the step of difference quotients: large against float32's rounding, small against what activations curve by."""


def _elementwise(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    """Any smooth function of one input, by a central difference quotient: two evaluations, no formula to get wrong."""
    x, rest, h = node.inputs[0], node.inputs[1:], b.array(STEP)
    up = b.copy(node, [b.op("Add", x, h), *rest]).outputs[0]
    down = b.copy(node, [b.op("Sub", x, h), *rest]).outputs[0]
    slope = b.op("Mul", b.op("Sub", up, down), b.array(0.5 / STEP))
    return {0: b.op("Mul", g[0], slope)}


def _reciprocal(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    y = node.outputs[0]
    return {0: b.op("Neg", b.op("Mul", g[0], b.op("Mul", y, y)))}


def _sqrt(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    return {0: b.op("Mul", g[0], b.op("Div", b.array(0.5), b.op("Max", node.outputs[0], b.array(1e-12))))}


def _log(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    return {0: b.op("Div", g[0], node.inputs[0])}


def _exp(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    return {0: b.op("Mul", g[0], node.outputs[0])}


def _neg(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    return {0: b.op("Neg", g[0])}


def _abs(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    return {0: b.op("Mul", g[0], b.op("Sign", node.inputs[0]))}


def _pow(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    """Of the base, where the exponent is one constant."""
    p = constant(node.inputs[1])
    if p is None or p.size != 1:
        return None
    n = float(p.reshape(()))
    slope = b.op("Mul", b.op("Pow", node.inputs[0], b.array(n - 1)), b.array(n))
    return {0: b.op("Mul", g[0], slope)}


def _binary(left: Callable[..., ir.Value], right: Callable[..., ir.Value]) -> Rule:
    """Two inputs that broadcast; `left` and `right` are the products of the gradient with both partial derivatives."""

    def rule(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
        out: Gradients = {}
        if len(node.inputs) != 2:
            return None
        for i, partial in enumerate((left, right)):
            x = node.inputs[i]
            if x is None or is_constant(x):
                continue
            d = b.unbroadcast(partial(b, node, g[0]), node.outputs[0].shape, x)
            if d is None:
                return None
            out[i] = d
        return out

    return rule


def _pick(b: Builder, node: ir.Node, g: ir.Value, i: int) -> ir.Value:
    """Min and Max: the gradient goes to whichever was taken."""
    return b.op("Where", b.op("Equal", node.inputs[i], node.outputs[0]), g, b.array(0.0))


def _sum(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    out: Gradients = {}
    for i, x in enumerate(node.inputs):
        if x is not None and not is_constant(x) and g[0] is not None:
            d = b.unbroadcast(g[0], node.outputs[0].shape, x)
            if d is None:
                return None
            out[i] = d
    return out


def _where(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    condition, zero = node.inputs[0], b.array(0.0)
    out: Gradients = {}
    for i, chosen in ((1, (g[0], zero)), (2, (zero, g[0]))):
        x = node.inputs[i]
        if x is None or is_constant(x):
            continue
        d = b.unbroadcast(b.op("Where", condition, *chosen), node.outputs[0].shape, x)
        if d is None:
            return None
        out[i] = d
    return out


def _prelu(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    x, slope = node.inputs
    return {0: b.op("Where", b.op("Greater", x, b.array(0.0)), g[0], b.op("Mul", g[0], slope))}


# --- reductions and normalisations -----------------------------------------------------------------------------------


def _spread(b: Builder, node: ir.Node, v: ir.Value) -> ir.Value | None:
    """A reduced value (or its gradient) in the shape of the input."""
    x = node.inputs[0]
    assert x is not None  # reductions have one
    if not attribute(node, "keepdims") and node.op_type.startswith("Reduce"):
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        if x.shape is None:
            return None
        rank = len(x.shape)
        reduced = [int(a) % rank for a in axes.reshape(-1)] if axes is not None and axes.size else [*range(rank)]
        v = b.op("Unsqueeze", v, b.array(sorted(reduced), np.int64))
    return b.op("Expand", v, b.op("Shape", x))


def _reduce_sum(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    wide = _spread(b, node, g[0]) if g[0] is not None else None
    return {0: wide} if wide is not None else None


def _reduce_mean(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    wide = _spread(b, node, g[0]) if g[0] is not None else None
    if wide is None:
        return None
    many, few = (b.op("Cast", b.op("Size", v), to=1) for v in (node.inputs[0], node.outputs[0]))
    return {0: b.op("Mul", wide, b.op("Div", few, many))}


def _reduce_max(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    wide, top = (_spread(b, node, v) if v is not None else None for v in (g[0], node.outputs[0]))
    if wide is None or top is None:
        return None
    return {0: b.op("Where", b.op("Equal", node.inputs[0], top), wide, b.array(0.0))}


def _softmax(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    y, axis = node.outputs[0], b.ints(int(attribute(node, "axis")))
    total = b.op("ReduceSum", b.op("Mul", g[0], y), axis, keepdims=1)
    return {0: b.op("Mul", y, b.op("Sub", g[0], total))}


def _log_softmax(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    total = b.op("ReduceSum", g[0], b.ints(int(attribute(node, "axis"))), keepdims=1)
    return {0: b.op("Sub", g[0], b.op("Mul", b.op("Exp", node.outputs[0]), total))}


def _norm(axes: Callable[[ir.Node, int], list[int]], *, centred: bool, per_channel: bool = False) -> Rule:
    """x -> (x - mean) / sqrt(variance + epsilon) * scale over `axes`; without `centred`, the mean counts as 0."""

    def rule(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
        x, scale = node.inputs[0], node.inputs[1]
        if x is None or x.shape is None:
            return None
        rank = len(x.shape)
        over = b.ints(*axes(node, rank))
        if per_channel:
            scale = b.op("Reshape", scale, b.ints(-1, *[1] * (rank - 2)))

        def mean(v: ir.Value) -> ir.Value:
            return b.op("ReduceMean", v, over, keepdims=1)

        centre = b.op("Sub", x, mean(x)) if centred else x
        spread = b.op(
            "Sqrt", b.op("Add", mean(b.op("Mul", centre, centre)), b.array(float(attribute(node, "epsilon"))))
        )
        unit = b.op("Div", centre, spread)
        gs = b.op("Mul", g[0], scale)
        inner = b.op("Sub", gs, b.op("Mul", unit, mean(b.op("Mul", gs, unit))))
        if centred:
            inner = b.op("Sub", inner, mean(gs))
        return {0: b.op("Div", inner, spread)}

    return rule


def _batch_norm(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    arrays = [constant(v) for v in (node.inputs[1], node.inputs[4])]
    x = node.inputs[0]
    if arrays[0] is None or arrays[1] is None or x is None or x.shape is None or attribute(node, "training_mode"):
        return None
    k = arrays[0] / np.sqrt(arrays[1] + float(attribute(node, "epsilon")))
    return {0: b.op("Mul", g[0], b.array(k.reshape(-1, *[1] * (len(x.shape) - 2))))}


# --- products --------------------------------------------------------------------------------------------------------


def _matmul(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    x, w = node.inputs
    if x is None or w is None or x.shape is None or w.shape is None or len(x.shape) < 2 or len(w.shape) < 2:
        return None
    out: Gradients = {}
    for i, value in ((0, x), (1, w)):
        if is_constant(value):
            continue
        d = b.op("MatMul", g[0], _swap(b, w)) if i == 0 else b.op("MatMul", _swap(b, x), g[0])
        batch = node.outputs[0].shape
        if batch is None:
            return None
        part = b.unbroadcast(d, ir.Shape([*batch[:-2], *value.shape[-2:]]), value) if value.shape is not None else None
        if part is None:
            return None
        out[i] = part
    return out


def _swap(b: Builder, v: ir.Value) -> ir.Value:
    """The last two axes exchanged."""
    assert v.shape is not None  # callers know the rank
    rank = len(v.shape)
    return b.op("Transpose", v, perm=[*range(rank - 2), rank - 1, rank - 2])


def _gemm(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    x, w = node.inputs[:2]
    ta, tb = int(attribute(node, "transA")), int(attribute(node, "transB"))
    alpha, beta = float(attribute(node, "alpha")), float(attribute(node, "beta"))
    out: Gradients = {}
    if not is_constant(x):
        out[0] = (
            b.op("Gemm", w, g[0], alpha=alpha, transA=tb, transB=1)
            if ta
            else b.op("Gemm", g[0], w, alpha=alpha, transB=1 - tb)
        )
    if not is_constant(w):
        out[1] = (
            b.op("Gemm", g[0], x, alpha=alpha, transA=1, transB=ta)
            if tb
            else b.op("Gemm", x, g[0], alpha=alpha, transA=1 - ta)
        )
    c = node.inputs[2] if len(node.inputs) > 2 else None
    if c is not None and not is_constant(c):
        d = b.unbroadcast(b.op("Mul", g[0], b.array(beta)), node.outputs[0].shape, c)
        if d is None:
            return None
        out[2] = d
    return out


# --- moving data -----------------------------------------------------------------------------------------------------


def _reshape(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    assert g[0] is not None  # one output
    assert node.inputs[0] is not None  # an input is required
    return {0: b.like(g[0], node.inputs[0])}


def _transpose(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    perm = attribute(node, "perm")
    if perm is None:
        return {0: b.op("Transpose", g[0])}
    return {0: b.op("Transpose", g[0], perm=np.argsort(list(perm)).tolist())}


def _concat(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    axis = int(attribute(node, "axis"))
    sizes = []
    for x in node.inputs:
        size = x.shape[axis] if x is not None and x.shape is not None else None
        if not isinstance(size, int):
            return None
        sizes.append(size)
    parts = b.node("Split", [g[0], b.ints(*sizes)], {"axis": axis}, len(sizes)).outputs
    return {i: p for i, (p, x) in enumerate(zip(parts, node.inputs, strict=True)) if not is_constant(x)}


def _split(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    zero = b.array(0.0)
    parts = [
        d if d is not None else b.op("Expand", zero, b.op("Shape", y)) for d, y in zip(g, node.outputs, strict=True)
    ]
    return {0: b.op("Concat", *parts, axis=int(attribute(node, "axis")))}


def _pad(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    pads = constant(node.inputs[1])
    if mode != "constant":
        return _moved(b, node, g)
    if pads is None or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return None
    return {0: b.op("Pad", g[0], b.array(-pads, np.int64))}


def _moved(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    """Any op that copies elements: run on their numbers, it tells where each one went."""
    x = node.inputs[0]
    count = b.op("Range", b.array(0, np.int64), b.op("Size", x), b.array(1, np.int64))
    index = b.copy(node, [b.op("Reshape", count, b.op("Shape", x)), *node.inputs[1:]]).outputs[0]
    return {0: b.scatter(x, index, g[0])}


def _depth_to_space(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    size, block = static_shape(node.inputs[0]), int(attribute(node, "blocksize"))
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "DCR"
    if mode == "DCR":
        return {0: b.op("SpaceToDepth", g[0], blocksize=block)}
    if size is None:
        return None
    n, c, h, w = size
    tiles = b.op("Reshape", g[0], b.ints(n, c // block**2, h, block, w, block))
    return {0: b.op("Reshape", b.op("Transpose", tiles, perm=[0, 1, 3, 5, 2, 4]), b.ints(*size))}


def _space_to_depth(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    return {0: b.op("DepthToSpace", g[0], blocksize=int(attribute(node, "blocksize")))}


def _cast(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    x = node.inputs[0]
    return {0: g[0]} if x is not None and x.dtype == node.outputs[0].dtype and g[0] is not None else {}


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Identity", "Dropout"), _pass_on),
    "Relu": _relu,
    "Clip": _clip,
    "Sigmoid": _sigmoid,
    **dict.fromkeys(
        ("LeakyRelu", "HardSigmoid", "HardSwish", "Tanh", "Swish", "Gelu", "Erf", "Mish", "Softplus", "Elu", "Selu",
         "Celu", "Softsign", "Sin", "Cos", "Atan", "ThresholdedRelu"), _elementwise),
    "Reciprocal": _reciprocal,
    "Sqrt": _sqrt,
    "Log": _log,
    "Exp": _exp,
    "Neg": _neg,
    "Abs": _abs,
    "Pow": _pow,
    "PRelu": _prelu,
    "Add": _binary(lambda b, n, g: g, lambda b, n, g: g),
    "Sub": _binary(lambda b, n, g: g, lambda b, n, g: b.op("Neg", g)),
    "Mul": _binary(lambda b, n, g: b.op("Mul", g, n.inputs[1]), lambda b, n, g: b.op("Mul", g, n.inputs[0])),
    "Div": _binary(
        lambda b, n, g: b.op("Div", g, n.inputs[1]),
        lambda b, n, g: b.op("Neg", b.op("Mul", g, b.op("Div", n.outputs[0], n.inputs[1])))),
    "Min": _binary(lambda b, n, g: _pick(b, n, g, 0), lambda b, n, g: _pick(b, n, g, 1)),
    "Max": _binary(lambda b, n, g: _pick(b, n, g, 0), lambda b, n, g: _pick(b, n, g, 1)),
    "Sum": _sum,
    "Where": _where,
    **dict.fromkeys(("ReduceMean", "GlobalAveragePool"), _reduce_mean),
    "ReduceSum": _reduce_sum,
    **dict.fromkeys(("ReduceMax", "ReduceMin", "GlobalMaxPool"), _reduce_max),
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
    "LayerNormalization": _norm(lambda n, rank: [*range(int(attribute(n, "axis")) % rank, rank)], centred=True),
    "RMSNormalization": _norm(lambda n, rank: [*range(int(attribute(n, "axis")) % rank, rank)], centred=False),
    "InstanceNormalization": _norm(lambda n, rank: [*range(2, rank)], centred=True, per_channel=True),
    "BatchNormalization": _batch_norm,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "AveragePool": average_pool,
    "MaxPool": max_pool,
    "Resize": resize,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Pad": _pad,
    **dict.fromkeys(("Slice", "Gather", "Expand", "Tile", "GatherElements"), _moved),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Cast": _cast,
}  # fmt: skip

_OF_ONE = frozenset({
    _relu, _clip, _sigmoid, _elementwise, _reciprocal, _sqrt, _log, _exp, _abs, _pow, _prelu,
})  # fmt: skip
"""Rules of functions of one input, element by element."""
