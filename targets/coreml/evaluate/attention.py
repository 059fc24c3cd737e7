"""Attention in one operation (iOS18)."""

from __future__ import annotations

import math

import numpy as np

from edgec.targets.coreml.evaluate.rules import OpReader, evaluates


@evaluates("scaled_dot_product_attention")
def attention(o: OpReader) -> None:
    """softmax(Q K^T / sqrt(E) + mask) V, over the last axis; a bool mask is 0 where True and minus infinity where False."""
    rank, size = o.mil("query").rank, o.dims("query")[-1]
    if not isinstance(size, int):
        o.unknown("the size of the embedding is not fixed")
    turned = o.emit("Transpose", [o.x("key")], perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = o.emit("MatMul", [o.x("query"), turned])
    scores = o.emit("Mul", [scores, o.const(np.float32(1 / math.sqrt(size)))])
    if o.has("attn_mask"):
        mask = o.x("attn_mask")
        if o.mil("attn_mask").dtype == "bool":
            mask = o.emit("Where", [mask, o.const(np.float32(0)), o.const(np.float32(-np.inf))])
        scores = o.emit("Add", [scores, mask])
    o.give(o.emit("MatMul", [o.emit("Softmax", [scores], axis=-1), o.x("value")]))
