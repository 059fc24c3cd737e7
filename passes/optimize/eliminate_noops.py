"""Nodes that change nothing, and pairs of nodes of which one is enough.

Only what is bit-equal: a Mul by 1 goes, a Cast to float16 and back stays. A node goes only where what is left has the same
shape and type for every input; with shapes unknown it stays, and `--why-not` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import attribute, constant, ir, is_constant
from edgec.passes.optimize.bypass import bypass
from edgec.passes.optimize.clip_limits import clip_limits, nonnegative
from edgec.passes.optimize.same_shape import rank, same_shape_given_size, same_static_shape
from edgec.pattern import Match, P, const, lit, opt, rest, var
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, Rule, RuleSet, rule

x = var("x")


@rule(P.Identity(x))
def drop_identity(m: Match, rw: Rewriter) -> Result:
    return bypass(m, m.value("x"))


@rule(P.Dropout(x, rest("ratio"), as_="dropout"))
def drop_dropout(m: Match, rw: Rewriter) -> Result:
    node = m.node("dropout")
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None and not (is_constant(training) and not constant(training).any()):  # type: ignore[union-attr]
        return Reject("Dropout may be in training mode")
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        return Reject("the mask of Dropout is used")
    return bypass(m, m.value("x"))


@rule(P.Cast(x, where_=lambda n: n.inputs[0] is not None and n.inputs[0].dtype == attribute(n, "to")))
def drop_cast_to_same_type(m: Match, rw: Rewriter) -> Result:
    return bypass(m, m.value("x"))


@rule(P.Cast(P.Cast(x, as_="inner", shared_=True)))
def merge_casts(m: Match, rw: Rewriter) -> Result:
    first, last = m.value("x").dtype, attribute(m.root, "to")
    middle = attribute(m.node("inner"), "to")
    if first is None or not _widens(first, ir.DataType(middle)):
        return Reject("the cast in between may lose something")
    if first == last:
        return bypass(m, m.value("x"))
    return rw.op("Cast", m.value("x"), attrs=m.root.attributes)


def _widens(a: ir.DataType, b: ir.DataType) -> bool:
    """Every value of `a` is a value of `b`."""
    if a in (ir.DataType.STRING, ir.DataType.UNDEFINED) or b in (ir.DataType.STRING, ir.DataType.UNDEFINED):
        return False
    if a.bitwidth < 8 or b.bitwidth < 8:
        return False
    known = "biuf"
    x, y = a.numpy(), b.numpy()
    return x.kind in known and y.kind in known and bool(np.can_cast(x, y, "safe"))


@rule(P.Transpose(x, as_="t"))
def drop_identity_transpose(m: Match, rw: Rewriter) -> Result:
    perm = m.root.attributes.get("perm")
    if perm is None:
        return bypass(m, m.value("x")) if rank(m.value("x")) in (0, 1) else Reject("it reverses the axes")
    axes = list(perm.as_ints())
    return bypass(m, m.value("x")) if axes == sorted(axes) else Reject("it moves axes")


@rule(P.Transpose(P.Transpose(x, as_="inner", shared_=True)))
def merge_transposes(m: Match, rw: Rewriter) -> Result:
    inner, outer = m.node("inner").attributes.get("perm"), m.root.attributes.get("perm")
    if inner is None or outer is None:
        return Reject("a permutation is not written out")
    first, second = inner.as_ints(), outer.as_ints()
    perm = [first[i] for i in second]
    if perm == sorted(perm):
        return bypass(m, m.value("x"))
    return rw.op("Transpose", m.value("x"), attrs={"perm": perm})


@rule(P.op("Reshape", "Flatten", "Squeeze", "Unsqueeze")(x, rest("s")))
def drop_reshape(m: Match, rw: Rewriter) -> Result:
    if not same_shape_given_size(m.value("x"), m.root.outputs[0]):
        return Reject("the shape changes, or is not known to stay")
    return bypass(m, m.value("x"))


@rule(P.Reshape(x, const("shape")))
def drop_reshape_that_copies(m: Match, rw: Rewriter) -> Result:
    """Shape [0, 0, -1] of a rank-3 value copies every dimension, whatever it is."""
    target = [int(d) for d in m.array("shape").reshape(-1)]
    if attribute(m.root, "allowzero") or rank(m.value("x")) != len(target):
        return Reject("the target does not copy the dimensions")
    if any(d not in (0, -1) for d in target) or target.count(-1) > 1:
        return Reject("the target does not copy the dimensions")
    return bypass(m, m.value("x"))


@rule(P.Expand(x, var("shape")))
def drop_expand(m: Match, rw: Rewriter) -> Result:
    shape = constant(m.get("shape"))
    r = rank(m.value("x"))
    if shape is not None and r is not None and shape.size <= r and (shape == 1).all():
        return bypass(m, m.value("x"))
    if not same_static_shape(m.value("x"), m.root.outputs[0]):
        return Reject("the shape grows, or is not known to stay")
    return bypass(m, m.value("x"))


@rule(P.Tile(x, const("repeats", lambda a: bool((a == 1).all()))))
def drop_tile(m: Match, rw: Rewriter) -> Result:
    return bypass(m, m.value("x"))


@rule(P.Pad(x, const("pads", lambda a: not a.any()), rest("more")))
def drop_pad(m: Match, rw: Rewriter) -> Result:
    return bypass(m, m.value("x"))


@rule(P.Slice(x, const("starts"), const("ends"), rest("more"), as_="slice"))
def drop_slice(m: Match, rw: Rewriter) -> Result:
    more = m.rest("more")
    steps = constant(more[1]) if len(more) > 1 else np.ones(1)
    if steps is None or not (steps == 1).all():
        return Reject("it steps, or its steps are not constant")
    if (m.array("starts") == 0).all() and (m.array("ends") >= np.iinfo(np.int32).max).all():
        return bypass(m, m.value("x"))
    if not same_static_shape(m.value("x"), m.root.outputs[0]):
        return Reject("it cuts something off, or may")
    return bypass(m, m.value("x"))


@rule(P.op("Concat", "Sum", "Max", "Min", "Mean")(x))
def drop_op_of_one(m: Match, rw: Rewriter) -> Result:
    return bypass(m, m.value("x"))


@rule(P.Split(x, rest("sizes"), as_="split"))
def drop_split_in_one(m: Match, rw: Rewriter) -> Result:
    if len(m.root.outputs) != 1:
        return Reject("it has several outputs")
    return bypass(m, m.value("x"))


def _drop_neutral(m: Match, rw: Rewriter) -> Result:
    """x * 1: the constant has one element; its rank must not add axes."""
    value, one = m.value("x"), next((v for v in m.root.inputs if v is not m.value("x")), None)
    if one is not None and one.shape is not None and one.shape.rank() > (rank(value) or 0):
        return Reject("the constant adds axes, or the rank of the other input is unknown")
    return bypass(m, value)


drop_mul_by_one = rule(P.Mul(x, lit(1.0)), name="drop-mul-by-one")(_drop_neutral)
drop_add_of_zero = rule(P.Add(x, lit(0.0)), name="drop-add-of-zero")(_drop_neutral)
drop_sub_of_zero = rule(P.Sub(x, lit(0.0)), name="drop-sub-of-zero")(_drop_neutral)
drop_div_by_one = rule(P.Div(x, lit(1.0)), name="drop-div-by-one")(_drop_neutral)
drop_pow_of_one = rule(P.Pow(x, lit(1.0)), name="drop-pow-of-one")(_drop_neutral)


@rule(P.op("Mul", "Div")(x, const("c", lambda a: a.size > 1 and bool((a == 1).all()))))
def drop_mul_by_ones(m: Match, rw: Rewriter) -> Result:
    if not same_static_shape(m.value("x"), m.root.outputs[0]):
        return Reject("the ones may broadcast the other input")
    return bypass(m, m.value("x"))


@rule(P.op("Add", "Sub")(x, const("c", lambda a: a.size > 1 and not a.any())))
def drop_add_of_zeros(m: Match, rw: Rewriter) -> Result:
    if not same_static_shape(m.value("x"), m.root.outputs[0]):
        return Reject("the zeros may broadcast the other input")
    return bypass(m, m.value("x"))


@rule(P.op("Relu", "Abs")(var("y", nonnegative)))
def drop_relu_of_nonnegative(m: Match, rw: Rewriter) -> Result:
    return bypass(m, m.value("y"))


@rule(P.Clip(x, rest("limits")))
def drop_clip_without_limits(m: Match, rw: Rewriter) -> Result:
    limits = clip_limits(m.root)
    if limits is None or limits != (-np.inf, np.inf):
        return Reject("it has limits, or they are not constant")
    return bypass(m, m.value("x"))


@rule(P.Clip(P.op("Clip", "Relu")(x, rest("inner"), as_="inner"), rest("outer")))
def merge_clips(m: Match, rw: Rewriter) -> Result:
    return _clip(m, rw)


@rule(P.Relu(P.Clip(x, rest("inner"), as_="inner")))
def merge_relu_of_clip(m: Match, rw: Rewriter) -> Result:
    return _clip(m, rw)


def _clip(m: Match, rw: Rewriter) -> Result:
    """clip(clip(x, a, b), c, d) = clip(x, max(a, c), min(b, d)), where the two ranges meet."""
    value = m.value("x")
    if value.dtype is None or not value.dtype.is_floating_point() or rw.opset < 11:
        return Reject("only floating point: limits are compared as such; and Clip with limits as inputs")
    first, second = clip_limits(m.node("inner")), clip_limits(m.root)
    if first is None or second is None:
        return Reject("a limit is not constant")
    low, high = max(first[0], second[0]), min(first[1], second[1])
    if low > high:
        return Reject("the two ranges do not meet")
    if (low, high) == (0.0, np.inf):
        return rw.op("Relu", value)
    return rw.op(
        "Clip",
        value,
        None if low == -np.inf else rw.scalar(low, value, "clip.min"),
        None if high == np.inf else rw.scalar(high, value, "clip.max"),
    )


@rule(P.Resize(x, opt(var("roi")), opt(var("scales")), opt(var("sizes"))))
def drop_resize(m: Match, rw: Rewriter) -> Result:
    if attribute(m.root, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return Reject("it crops")
    scales = constant(m.get("scales")) if m.has("scales") else None
    if scales is not None and scales.size and (scales == 1).all() and m.root.attributes.get("axes") is None:
        return bypass(m, m.value("x"))
    if m.has("scales") or not same_static_shape(m.value("x"), m.root.outputs[0]):
        return Reject("it resizes, or may")
    return bypass(m, m.value("x"))


@rule(P.op("AveragePool", "MaxPool")(x))
def drop_pool_of_one(m: Match, rw: Rewriter) -> Result:
    ones = ("kernel_shape", "strides")
    if any(k != 1 for name in ones for k in attribute(m.root, name) or ()) or any(attribute(m.root, "pads") or ()):
        return Reject("the window, the step or the padding is larger")
    if len(m.root.outputs) > 1 and (m.root.outputs[1].uses() or m.root.outputs[1].is_graph_output()):
        return Reject("the indices are used")
    return bypass(m, m.value("x"))


@rule(P.Where(const("condition"), var("a"), var("b")))
def drop_where(m: Match, rw: Rewriter) -> Result:
    condition = m.array("condition")
    if condition.all() == condition.any() and condition.size:
        chosen = m.value("a" if condition.all() else "b")
        if same_static_shape(chosen, m.root.outputs[0]):
            return bypass(m, chosen)
        return Reject("the branch taken may be broadcast")
    return Reject("the condition is not the same everywhere")


def _twice(op: str) -> Rule:
    """op(op(x)) = x."""

    @rule(P.op(op)(P.op(op)(x, shared_=True)), name=f"drop-double-{op.lower()}")
    def drop(m: Match, rw: Rewriter) -> Result:
        return bypass(m, m.value("x"))

    return drop


def _idempotent(op: str) -> Rule:
    """op(op(x)) = op(x)."""

    @rule(P.op(op)(P.op(op)(x, as_="inner", shared_=True)), name=f"drop-repeated-{op.lower()}")
    def drop(m: Match, rw: Rewriter) -> Result:
        return bypass(m, m.node("inner").outputs[0])

    return drop


_twice_is_nothing = [_twice(op) for op in ("Not", "Neg")]
_twice_is_once = [_idempotent(op) for op in ("Relu", "Sign", "Ceil", "Floor", "Round", "Abs")]


@dataclass(frozen=True)
class EliminateNoops(RewritePass):
    name: ClassVar[str] = "eliminate-noops"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = RuleSet(
        [
            drop_identity,
            drop_dropout,
            drop_cast_to_same_type,
            merge_casts,
            drop_identity_transpose,
            merge_transposes,
            drop_reshape,
            drop_reshape_that_copies,
            drop_expand,
            drop_tile,
            drop_pad,
            drop_slice,
            drop_op_of_one,
            drop_split_in_one,
            drop_mul_by_one,
            drop_add_of_zero,
            drop_sub_of_zero,
            drop_div_by_one,
            drop_pow_of_one,
            drop_mul_by_ones,
            drop_add_of_zeros,
            *_twice_is_once,
            drop_relu_of_nonnegative,
            drop_clip_without_limits,
            merge_clips,
            merge_relu_of_clip,
            drop_resize,
            drop_pool_of_one,
            drop_where,
            *_twice_is_nothing,
        ]
    )
