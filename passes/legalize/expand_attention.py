"""Attention in simpler ops: softmax(Q K^T * scale + mask) V. Source: ONNX operator definition of Attention (opset 23).

Covered: 3-D inputs (heads given by attributes) and 4-D ones, grouped queries, additive and boolean masks, causal masks,
softcap. Not covered, and said so: key/value caches, padded caches, and the score output.
"""

from __future__ import annotations

import math

import numpy as np

from edgec.graph import attribute, ir, static_shape
from edgec.passes.legalize.builders import reshape
from edgec.rewrite import Reject, Result, Rewriter

_MASKED = -1e4
"""What a masked score becomes: exp of it is 0 in float32 and float16, and it is finite in both."""


def _uncovered(node: ir.Node) -> str:
    extra = [v.name for v in node.inputs[4:] if v is not None]
    if extra:
        return f"inputs {extra}: key and value caches are not covered"
    if attribute(node, "qk_matmul_output_mode"):
        return "the score output is not covered"
    for v in node.inputs[:3]:
        if static_shape(v) is None or v is None or v.dtype is None:
            return "the shapes of Q, K and V are not known at compile time"
    return ""


def attention(node: ir.Node, rw: Rewriter) -> Result:
    if why := _uncovered(node):
        return Reject(why)
    q, k, v = (x for x in node.inputs[:3] if x is not None)
    flat = len(static_shape(q) or ()) == 3
    q_heads, kv_heads = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
    if flat:
        q, k, v = (_split_heads(rw, x, h) for x, h in ((q, q_heads), (k, kv_heads), (v, kv_heads)))
    q_shape, k_shape = static_shape(q), static_shape(k)
    assert q_shape is not None  # _uncovered looked
    assert k_shape is not None
    if q_shape[1] != k_shape[1]:
        k, v = (_repeat_heads(rw, x, q_shape[1] // k_shape[1]) for x in (k, v))
    scale = node.attributes.get("scale")
    factor = scale.as_float() if scale is not None else 1 / math.sqrt(q_shape[-1])
    scores = rw.op("MatMul", q, rw.op("Transpose", k, attrs={"perm": [0, 1, 3, 2]}))
    if factor != 1:
        scores = rw.op("Mul", scores, rw.scalar(factor, q, "scale"))
    keep = _kept(node, rw, q_shape[2], k_shape[2])
    masked = _mask(node, rw, scores, keep, q_shape[2], k_shape[2])
    if isinstance(masked, Reject):
        return masked
    shares = rw.op("Softmax", masked, attrs={"axis": -1})
    if keep is not None:  # a query that may see no key gets 0, not the mean of all
        shares = rw.op("Where", keep, shares, rw.scalar(0.0, q, "zero"))
    y = rw.op("MatMul", shares, v)
    if flat:
        y = rw.op("Transpose", y, attrs={"perm": [0, 2, 1, 3]})
        width = (static_shape(v) or (0,))[-1] * q_shape[1]
        y = reshape(rw, y, (q_shape[0], q_shape[2], width))
    return y


def _kept(node: ir.Node, rw: Rewriter, queries: int, keys: int) -> ir.Value | None:
    """A boolean mask, the causal one included."""
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is None or mask.dtype != ir.DataType.BOOL or not attribute(node, "is_causal"):
        return mask if mask is not None and mask.dtype == ir.DataType.BOOL else None
    return rw.op("And", mask, rw.const(np.tril(np.ones((queries, keys), bool)), "causal"))


def _mask(
    node: ir.Node, rw: Rewriter, scores: ir.Value, keep: ir.Value | None, queries: int, keys: int
) -> ir.Value | Reject:
    """The scores with mask, causal mask and softcap applied, in the order the operator definition gives."""
    cap, q = attribute(node, "softcap"), node.inputs[0]
    assert q is not None
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if cap and (mask is not None or attribute(node, "is_causal")):
        return Reject("softcap together with a mask: the operator's definition changed between its versions")
    if cap:
        limit = rw.scalar(cap, q, "softcap")
        scores = rw.op("Mul", rw.op("Tanh", rw.op("Div", scores, limit)), limit)
    if keep is not None:
        return rw.op("Where", keep, scores, rw.scalar(_MASKED, q, "masked"))
    if mask is not None:
        scores = rw.op("Add", scores, mask)
    if attribute(node, "is_causal"):
        assert q.dtype is not None
        future = np.triu(np.full((queries, keys), _MASKED, q.dtype.numpy()), 1)
        scores = rw.op("Add", scores, rw.const(future, "causal"))
    return scores


def _split_heads(rw: Rewriter, x: ir.Value, heads: int) -> ir.Value:
    """(batch, length, heads * size) -> (batch, heads, length, size)."""
    batch, length, width = static_shape(x) or (0, 0, 0)
    split = reshape(rw, x, (batch, length, heads, width // heads))
    return rw.op("Transpose", split, attrs={"perm": [0, 2, 1, 3]})


def _repeat_heads(rw: Rewriter, x: ir.Value, times: int) -> ir.Value:
    """Each key/value head `times` in a row, as grouped-query attention shares them."""
    batch, heads, length, size = static_shape(x) or (0, 0, 0, 0)
    apart = reshape(rw, x, (batch, heads, 1, length, size))
    wide = rw.op("Expand", apart, rw.const(np.array([batch, heads, times, length, size], np.int64), "shape"))
    return reshape(rw, wide, (batch, heads * times, length, size))
