"""What expansions build again and again: reductions in the spelling of the opset, reshapes, casts around a computation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.graph import attribute, ir
from edgec.rewrite import Reject, Rewriter

REDUCE_AXES_INPUT = 18
"""From this opset the axes of every reduction are an input; ReduceSum has it so since 13."""


def only_output(node: ir.Node) -> Reject | None:
    """Why a node with several outputs may not be replaced by one value; None if only the first is used."""
    for v in node.outputs[1:]:
        if v.uses() or v.is_graph_output():
            return Reject(f"output {v.name} is used; the expansion computes the first output only")
    return None


def optional_input(node: ir.Node, i: int) -> ir.Value | None:
    """Input `i`, or None where the node does not have it."""
    return node.inputs[i] if len(node.inputs) > i else None


def first_input(node: ir.Node) -> ir.Value:
    """The first input: the schemas of all ops with an expansion require it."""
    value = node.inputs[0]
    assert value is not None  # see above
    return value


def reduce_over(rw: Rewriter, op: str, x: ir.Value, axes: Sequence[int], keepdims: bool = True) -> ir.Value:
    """A reduction over constant axes."""
    attrs: dict[str, object] = {"keepdims": int(keepdims)}
    if rw.opset >= REDUCE_AXES_INPUT or (op == "ReduceSum" and rw.opset >= 13):
        return rw.op(op, x, rw.const(np.array(axes, np.int64), "axes"), attrs=attrs)
    return rw.op(op, x, attrs={**attrs, "axes": list(axes)})


def reduce(rw: Rewriter, op: str, x: ir.Value, like: ir.Node) -> ir.Value:
    """A reduction over the axes of the reduction `like`, whichever way those are given."""
    axes_attribute = like.attributes.get("axes")
    if op == "ReduceSum" and axes_attribute is not None and rw.opset >= 13:
        return reduce_over(rw, op, x, axes_attribute.as_ints(), bool(attribute(like, "keepdims")))
    return rw.op(op, x, *like.inputs[1:], attrs=like.attributes)


def reshape(rw: Rewriter, x: ir.Value, shape: Sequence[int]) -> ir.Value:
    return rw.op("Reshape", x, rw.const(np.array(shape, np.int64), "shape"))


def cast(rw: Rewriter, x: ir.Value, dtype: ir.DataType) -> ir.Value:
    """`x` in another type; `x` itself where it has it."""
    return x if x.dtype == dtype else rw.op("Cast", x, attrs={"to": int(dtype)})


def working_type(x: ir.Value, stash_type: int | None) -> ir.DataType:
    """The type a normalisation computes in: `stash_type` (float32 unless told otherwise) where it is the wider one."""
    assert x.dtype is not None
    narrow = x.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return ir.DataType(stash_type or ir.DataType.FLOAT) if narrow else x.dtype
