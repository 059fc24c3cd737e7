"""Chains of Reshape, Flatten, Squeeze and Unsqueeze become one node, or none.

They only rename axes, so the last shape decides. It is written with numbers, with one -1 where a dimension is open; where
two are open and cannot be copied (0), the chain stays. A Transpose that moves nothing but axes of length 1 is one of
them, where it stands beside another. One part of a channel shuffle (part_of_shuffle.py) needs one Reshape only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.optimize.bypass import bypass
from edgec.passes.optimize.part_of_shuffle import part_of_shuffle
from edgec.passes.optimize.same_shape import rank, same_shape_given_size
from edgec.pattern import Match, P, const, rest, var
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

_RENAMES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
x = var("x")


def _target(node: ir.Node, source: ir.Value) -> list[int] | None:
    """A Reshape target that gives the node's output shape from `source`; None if it cannot be written down."""
    written = _written(node, source)
    if written is not None:
        return written
    shape = node.outputs[0].shape
    if shape is None:
        return None
    dims = [d if isinstance(d, int) else -1 for d in shape]
    return dims if dims.count(-1) <= 1 and 0 not in dims else None


def _written(node: ir.Node, source: ir.Value) -> list[int] | None:
    """The node's own target, where it means the same after another source."""
    if node.op_type != "Reshape" or attribute(node, "allowzero"):
        return None
    data = constant(node.inputs[1])
    if data is None:
        return None
    dims = [int(d) for d in data.reshape(-1)]
    for i, d in enumerate(dims):
        if d == 0:
            here, there = _dim(node.inputs[0], i), _dim(source, i)
            if isinstance(here, int):
                dims[i] = here
            elif here is None or here != there:
                return None
    return dims


def _dim(value: ir.Value | None, axis: int) -> int | str | None:
    if value is None or value.shape is None or axis >= value.shape.rank():
        return None
    d = value.shape[axis]
    return d if isinstance(d, int) else d.value


@rule(P.op(*_RENAMES)(P.op(*_RENAMES)(x, rest("s"), as_="inner", shared_=True), rest("t")))
def merge_reshapes(m: Match, rw: Rewriter) -> Result:
    source = m.value("x")
    if same_shape_given_size(source, m.root.outputs[0]):
        return bypass(m, source)
    cancelled = _cancel(m.node("inner"), m.root)
    if cancelled:
        return bypass(m, source)
    target = _target(m.root, source)
    if target is None:
        return Reject("more than one dimension of the result is open")
    return rw.op(
        "Reshape",
        source,
        rw.const(np.asarray(target, np.int64), f"{m.root.outputs[0].name}.shape"),
        like=m.root.outputs[0],
    )


def _cancel(inner: ir.Node, outer: ir.Node) -> bool:
    """Unsqueeze, then Squeeze of the same axes (or the reverse): whatever the other dimensions are."""
    if {inner.op_type, outer.op_type} != {"Squeeze", "Unsqueeze"}:
        return False
    a, b = _axes(inner), _axes(outer)
    if a is None or b is None:
        return False
    return a == b and (min(a) >= 0 or rank(inner.inputs[0]) is not None) and len(set(a)) == len(a)


def _axes(node: ir.Node) -> list[int] | None:
    """Axes of the larger of the two shapes, not negative where its rank is known."""
    given = constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if given is None:
        a = node.attributes.get("axes")
        if a is None:
            return None
        given = np.asarray(a.as_ints())
    wide = rank(node.outputs[0] if node.op_type == "Unsqueeze" else node.inputs[0])
    axes = [int(a) for a in given.reshape(-1)]
    if any(a < 0 for a in axes) and wide is None:
        return None
    return sorted(a % wide if wide else a for a in axes)


def moves_ones_only(node: ir.Node) -> bool:
    """Whether a Transpose leaves the order of all axes longer than 1 alone."""
    shape, perm = static_or_open(node.inputs[0]), node.attributes.get("perm")
    if shape is None or perm is None:
        return False
    kept = [i for i in perm.as_ints() if shape[i] != 1]
    return kept == sorted(kept)


def static_or_open(value: ir.Value | None) -> Sequence[int] | None:
    """Dimensions, -1 for open ones."""
    if value is None or value.shape is None:
        return None
    return [d if isinstance(d, int) else -1 for d in value.shape]


@rule(P.op(*_RENAMES)(P.Transpose(x, as_="inner", where_=moves_ones_only), rest("t")))
def reshape_after_transpose_of_ones(m: Match, rw: Rewriter) -> Result:
    return _as_reshape(m, rw)


@rule(P.Transpose(P.op(*_RENAMES)(x, rest("t"), as_="inner"), where_=moves_ones_only))
def transpose_of_ones_after_reshape(m: Match, rw: Rewriter) -> Result:
    return _as_reshape(m, rw)


def _as_reshape(m: Match, rw: Rewriter) -> Result:
    out = m.root.outputs[0]
    if same_shape_given_size(m.value("x"), out):
        return bypass(m, m.value("x"))
    shape = static_or_open(out)
    if shape is None or list(shape).count(-1) > 1 or 0 in shape:
        return Reject("more than one dimension of the result is open")
    return rw.op("Reshape", m.value("x"), rw.const(np.asarray(shape, np.int64), f"{out.name}.shape"), like=out)


@rule(P.Reshape(x, const("shape")))
def write_out_reshape(m: Match, rw: Rewriter) -> Result:
    """Numbers instead of 0, and instead of -1 where nothing is open: what simple compilers read best."""
    shape = static_shape(m.root.outputs[0])
    data = m.array("shape")
    if shape is None or 0 in shape or [int(d) for d in data.reshape(-1)] == list(shape):
        return Reject("a dimension is open, or all are written out")
    return rw.op(
        "Reshape",
        m.value("x"),
        rw.const(np.asarray(shape, np.int64), f"{m.root.outputs[0].name}.shape"),
        like=m.root.outputs[0],
    )


@dataclass(frozen=True)
class FuseReshapes(RewritePass):
    name: ClassVar[str] = "fuse-reshapes"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = RuleSet(
        [
            merge_reshapes,
            reshape_after_transpose_of_ones,
            transpose_of_ones_after_reshape,
            write_out_reshape,
            part_of_shuffle,
        ]
    )
