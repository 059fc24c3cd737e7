"""Multiplications and additions of constants folded into the weights beside them.

* `W x + b`, then `* k`, `/ k`, `+ c`, `- c` or `c -`, one number or one a channel: into weight and bias;
* `x * k` or `x + c`, then `W x + b`: into weight and bias. A padded Conv takes no shift: its zeros would have to move;
* BatchNormalization that stands alone, then `* k` or `+ c`: into its scale and bias (Caffe's BatchNorm and Scale layers);
* chains: `(x * a) * b`, `(x + a) - b` and the like: one node.

"Linear" is Conv, ConvTranspose, Gemm and MatMul with a constant weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, constant, ir, is_constant
from edgec.passes.optimize.linear_ops import LINEAR, Linear, per_channel, stem, used_elsewhere
from edgec.passes.optimize.same_shape import rank
from edgec.pattern import Match, P, const, opt, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

Array = npt.NDArray[Any]
Vector = npt.NDArray[np.float64]

x, w, b = var("x"), var("w"), opt(var("b"))
linear = P.op(*LINEAR)(x, w, b, as_="linear", shared_=True)


def _operands(node: ir.Node) -> tuple[ir.Value, Array, bool] | Reject:
    """The value, the constant, and whether the constant stands on the left."""
    left, right = node.inputs[0], node.inputs[1]
    if is_constant(right) and not is_constant(left) and left is not None:
        return left, np.asarray(constant(right)), False
    if is_constant(left) and not is_constant(right) and right is not None:
        return right, np.asarray(constant(left)), True
    return Reject("not one of the two inputs is constant")


def _affine(op: str, c: Vector, left: bool) -> tuple[Vector, Vector] | Reject:
    """k and shift of the node: y = k * x + shift."""
    one, zero = np.ones_like(c), np.zeros_like(c)
    if op == "Mul":
        return c, zero
    if op == "Add":
        return one, c
    if op == "Sub":
        return (-one, c) if left else (one, -c)
    if left:
        return Reject("the constant is divided, not divided by")
    if not c.all():
        return Reject("it divides by zero")
    return 1.0 / c, zero


def _matmul_rank(lin: Linear) -> int | None:
    return rank(lin.x) if lin.node.op_type == "MatMul" else lin.weight.ndim


def _after(m: Match, rw: Rewriter) -> Result:
    node, root = m.node("linear"), m.root
    if used_elsewhere(node, root):
        return Reject(f"the output of {node.op_type} is used elsewhere too")
    operands = _operands(root)
    if isinstance(operands, Reject):
        return operands
    lin = Linear.of(node)
    if isinstance(lin, Reject):
        return lin
    c = per_channel(operands[1], _matmul_rank(lin), lin.out_axis, lin.out_channels)
    if c is None:
        return Reject("the constant is not one number, nor one a channel")
    affine = _affine(root.op_type, c, operands[2])
    if isinstance(affine, Reject):
        return affine
    k, shift = affine
    if lin.node.op_type == "MatMul" and shift.any():
        return Reject("MatMul has no bias: see matmul-add-to-gemm")
    bias = lin.bias
    if bias is not None or shift.any():
        bias = (bias if bias is not None else 0.0) * k + shift
    return lin.rebuild(rw, lin.x, lin.scaled_outputs(k), bias)


scale_after = rule(P.op("Mul", "Add")(linear, const("c")), name="fold-scale-or-bias-after")(_after)
divide_after = rule(P.op("Div", "Sub")(linear, const("c")), name="fold-division-or-subtraction-after")(_after)
subtract_from = rule(P.Sub(const("c"), linear), name="fold-subtraction-from-constant")(_after)


_STATS = tuple(const(n) for n in ("scale", "bias", "mean", "variance"))


def _after_batch_norm(m: Match, rw: Rewriter) -> Result:
    """k (scale n + bias) + shift = (k scale) n + (k bias + shift), where n is the normalised value."""
    node = m.node("bn")
    if used_elsewhere(node, m.root):
        return Reject("the output of BatchNormalization is used elsewhere too")
    if attribute(node, "training_mode"):
        return Reject("BatchNormalization is in training mode")
    operands = _operands(m.root)
    if isinstance(operands, Reject):
        return operands
    scale, bias = m.array("scale"), m.array("bias")
    c = per_channel(operands[1], rank(m.value("x")), 1, scale.size)
    if c is None:
        return Reject("the constant is not one number, nor one a channel")
    affine = _affine(m.root.op_type, c, operands[2])
    if isinstance(affine, Reject):
        return affine
    k, shift = affine
    name = stem(m.value("scale"))
    folded = [
        rw.const((scale.astype(np.float64) * k).astype(scale.dtype), f"{name}.folded"),
        rw.const((bias.astype(np.float64) * k + shift).astype(bias.dtype), f"{name}.bias"),
    ]
    rest = (m.value("mean"), m.value("variance"))
    return rw.op("BatchNormalization", m.value("x"), *folded, *rest, attrs=node.attributes, like=m.root.outputs[0])


_bn = P.BatchNormalization(x, *_STATS, as_="bn", shared_=True)
after_batch_norm = [
    rule(P.op("Mul", "Add")(_bn, const("c")), name="fold-scale-or-bias-after-batch-norm")(_after_batch_norm),
    rule(P.op("Div", "Sub")(_bn, const("c")), name="fold-division-or-subtraction-after-batch-norm")(_after_batch_norm),
]


@rule(P.op("Mul", "Div")(P.Add(P.MatMul(x, const("w"), as_="linear"), const("bias")), const("c")))
def fold_scale_after_matmul_add(m: Match, rw: Rewriter) -> Result:
    """(x W + b) * k = x (W k) + b k."""
    lin = Linear.of(m.node("linear"))
    if isinstance(lin, Reject):
        return lin
    operands = _operands(m.root)
    if isinstance(operands, Reject):
        return operands
    axes = rank(lin.x)
    c = per_channel(operands[1], axes, -1, lin.out_channels)
    old = per_channel(m.array("bias"), axes, -1, lin.out_channels)
    if c is None or old is None:
        return Reject("a constant is not one number, nor one a channel")
    affine = _affine(m.root.op_type, c, operands[2])
    if isinstance(affine, Reject):
        return affine
    return lin.rebuild(rw, lin.x, lin.scaled_outputs(affine[0]), old * affine[0])


def _before(m: Match, rw: Rewriter) -> Result:
    inner, node = m.node("inner"), m.node("linear")
    if used_elsewhere(inner, node):
        return Reject(f"the output of {inner.op_type} is used elsewhere too")
    operands = _operands(inner)
    if isinstance(operands, Reject):
        return operands
    lin = Linear.of(node)
    if isinstance(lin, Reject):
        return lin
    value, data, left = operands
    axes = rank(value)
    if value.shape is None or (node.op_type != "MatMul" and axes != lin.weight.ndim):
        return Reject("the shape of the input is unknown, or the constant adds axes")
    if data.size > 1 and value.shape[lin.out_axis] != lin.in_channels:
        return Reject("the constant may stretch the channel axis")
    c = per_channel(data, axes, lin.out_axis, lin.in_channels)
    if c is None:
        return Reject("the constant is not one number, nor one a channel")
    affine = _affine(inner.op_type, c, left)
    if isinstance(affine, Reject):
        return affine
    k, shift = affine
    bias = lin.bias
    if shift.any():
        if lin.padded:
            return Reject("the Conv pads with zeros, which the shift would have to move")
        if node.op_type in ("ConvTranspose", "MatMul"):
            return Reject(f"a shift before {node.op_type} is not the same for every output")
        bias = lin.response(shift) + (bias if bias is not None else 0.0)
    return lin.rebuild(rw, value, lin.scaled_inputs(k), bias)


_inner = P.op("Mul", "Add", "Div", "Sub")(var("p"), var("q"), as_="inner", shared_=True)
scale_before = rule(P.op(*LINEAR)(_inner, const("w"), b, as_="linear"), name="fold-scale-or-bias-before")(_before)


def _floating(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _merge(m: Match, rw: Rewriter) -> Result:
    """Two of the same kind in a row: the constants are combined."""
    inner, outer = m.node("inner"), m.root
    if used_elsewhere(inner, outer):
        return Reject("the first result is used elsewhere too")
    first, second = _operands(inner), _operands(outer)
    if isinstance(first, Reject):
        return first
    if isinstance(second, Reject):
        return second
    value, a, a_left = first
    _, c, c_left = second
    if not (_floating(a) and _floating(c)):
        return Reject("integers wrap around: their order matters to Div")
    if a.size > 1 and c.size > 1 and a.shape != c.shape:
        return Reject("the constants have different shapes")
    additive = outer.op_type in ("Add", "Sub")
    one, two = (
        _affine(inner.op_type, a.astype(np.float64), a_left),
        _affine(outer.op_type, c.astype(np.float64), c_left),
    )
    if isinstance(one, Reject):
        return one
    if isinstance(two, Reject):
        return two
    if (inner.op_type == "Sub" and a_left) or (outer.op_type == "Sub" and c_left):
        return Reject("x is subtracted from a constant")
    merged = one[1] + two[1] if additive else one[0] * two[0]
    with np.errstate(over="ignore"):
        data = merged.astype(a.dtype)
    if not np.isfinite(data.astype(np.float64)).all() or (not additive and (data == 0).any() and merged.all()):
        return Reject(f"the merged constant does not fit {a.dtype.name}")
    return rw.op("Add" if additive else "Mul", value, rw.const(data, f"{outer.outputs[0].name}.merged"))


def _chain(*ops: str) -> Any:
    inner = P.op(*ops)(var("p"), var("q"), as_="inner", shared_=True)
    return [
        rule(P.op(commuting)(inner, const("c")), name=f"merge-{commuting.lower()}-chain")(_merge) for commuting in ops
    ]


@dataclass(frozen=True)
class FoldScaleBias(RewritePass):
    name: ClassVar[str] = "fold-scale-bias"
    rules: ClassVar[RuleSet] = RuleSet(
        [
            scale_after,
            divide_after,
            subtract_from,
            *after_batch_norm,
            fold_scale_after_matmul_add,
            *_chain("Mul", "Div"),
            *_chain("Add", "Sub"),
            scale_before,
        ]
    )
