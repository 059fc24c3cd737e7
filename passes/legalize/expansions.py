"""One table: op -> how to say it with simpler ops. `expand-composites` and `lower-opset` both read it.

Every expansion follows the ONNX operator definition of its op, rounding aside. An expansion returns the new value, or a
`Reject` that says what it does not cover. The result is written in the opset of the graph it is built in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgec.graph import attribute, ir, static_shape
from edgec.passes.legalize.builders import only_output, reduce
from edgec.passes.legalize.expand_attention import attention
from edgec.passes.legalize.expand_norms import (
    group_normalization,
    layer_normalization,
    lp_normalization,
    mean_variance_normalization,
    rms_normalization,
)
from edgec.pattern import Match, P, rest
from edgec.rewrite import Reject, Result, Rewriter, Rule

Expansion = Callable[[ir.Node, Rewriter], Result]


def _x(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None  # the first input of every op in the table is required
    return value


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


def celu(node: ir.Node, rw: Rewriter) -> Result:
    """alpha * elu(x / alpha)."""
    x, alpha = _x(node), attribute(node, "alpha")
    if alpha == 1:
        return rw.op("Elu", x, attrs={"alpha": 1.0})
    scale = rw.scalar(alpha, x, "alpha")
    return rw.op("Mul", rw.op("Elu", rw.op("Div", x, scale), attrs={"alpha": 1.0}), scale)


def selu(node: ir.Node, rw: Rewriter) -> Result:
    """gamma * elu(x, alpha)."""
    x = _x(node)
    elu = rw.op("Elu", x, attrs={"alpha": attribute(node, "alpha")})
    return rw.op("Mul", elu, rw.scalar(attribute(node, "gamma"), x, "gamma"))


def softsign(node: ir.Node, rw: Rewriter) -> Result:
    """x / (1 + |x|)."""
    x = _x(node)
    return rw.op("Div", x, rw.op("Add", rw.op("Abs", x), rw.scalar(1.0, x, "one")))


def minimum(node: ir.Node, rw: Rewriter) -> Result:
    """-max(-a, -b, ...)."""
    if any(v is None or v.dtype is None or not v.dtype.is_floating_point() for v in node.inputs):
        return Reject("negation of integers may overflow")
    return rw.op("Neg", rw.op("Max", *(rw.op("Neg", v) for v in node.inputs)))


def mean(node: ir.Node, rw: Rewriter) -> Result:
    """sum / n."""
    total = rw.op("Sum", *node.inputs) if len(node.inputs) > 1 else _x(node)
    return rw.op("Mul", total, rw.scalar(1 / len(node.inputs), _x(node), "share"))


def reduce_min(node: ir.Node, rw: Rewriter) -> Result:
    """-ReduceMax(-x)."""
    x = _x(node)
    if x.dtype is None or not x.dtype.is_floating_point():
        return Reject("negation of integers may overflow")
    return rw.op("Neg", rw.op("ReduceMax", rw.op("Neg", x), *node.inputs[1:], attrs=node.attributes))


def reduce_l1(node: ir.Node, rw: Rewriter) -> Result:
    """sum of |x|."""
    return reduce(rw, "ReduceSum", rw.op("Abs", _x(node)), node)


def reduce_l2(node: ir.Node, rw: Rewriter) -> Result:
    """square root of the sum of x * x."""
    x = _x(node)
    return rw.op("Sqrt", reduce(rw, "ReduceSum", rw.op("Mul", x, x), node))


def reduce_sum_square(node: ir.Node, rw: Rewriter) -> Result:
    """sum of x * x."""
    x = _x(node)
    return reduce(rw, "ReduceSum", rw.op("Mul", x, x), node)


def trilu(node: ir.Node, rw: Rewriter) -> Result:
    """Where(constant triangle, x, 0)."""
    from edgec.graph import constant

    x, k = _x(node), 0
    shape = static_shape(x)
    if shape is None or x.dtype is None:
        return Reject("the size of the matrix is not known at compile time")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        data = constant(node.inputs[1])
        if data is None:
            return Reject("the diagonal is not known at compile time")
        k = int(data)
    keep = np.ones(shape[-2:], bool)
    keep = np.triu(keep, k) if attribute(node, "upper") else np.tril(keep, k)
    return rw.op("Where", rw.const(keep, "triangle"), x, rw.const(np.zeros((), x.dtype.numpy()), "zero"))


def cast_like(node: ir.Node, rw: Rewriter) -> Result:
    """Cast to the type the second input has."""
    like = node.inputs[1]
    if like is None or like.dtype is None:
        return Reject("the type to cast to is not known at compile time")
    kept = {k: v for k, v in node.attributes.items() if k in ("saturate", "round_mode")}
    return rw.op("Cast", _x(node), attrs={**kept, "to": int(like.dtype)})


EXPANSIONS: dict[str, Expansion] = {
    "Attention": attention,
    "CastLike": cast_like,
    "Celu": celu,
    "Gelu": gelu,
    "GroupNormalization": group_normalization,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
    "Mean": mean,
    "MeanVarianceNormalization": mean_variance_normalization,
    "Min": minimum,
    "Mish": mish,
    "RMSNormalization": rms_normalization,
    "ReduceL1": reduce_l1,
    "ReduceL2": reduce_l2,
    "ReduceMin": reduce_min,
    "ReduceSumSquare": reduce_sum_square,
    "Selu": selu,
    "Softsign": softsign,
    "Swish": swish,
    "Trilu": trilu,
}


def expansion_rule(op: str) -> Rule:
    """The rule `expand-<op>` that replaces each node of `op` by its expansion."""
    expand = EXPANSIONS[op]

    def rewrite(m: Match, rw: Rewriter) -> Result:
        return only_output(m.root) or expand(m.root, rw)

    code = expand.__code__
    return Rule(f"expand-{op.lower()}", P.op(op)(rest("inputs")), rewrite, f"{code.co_filename}:{code.co_firstlineno}")
