"""Products of matrices."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates


@evaluates("linear")
def linear(o: OpReader) -> None:
    """x weight^T + bias; x [*D, D_in], weight [D_out, D_in]."""
    product = o.emit("MatMul", [o.x(), o.const(np.swapaxes(o.array("weight"), 0, 1))])
    o.give(o.emit("Add", [product, o.x("bias")]) if o.has("bias") else product)


@evaluates("matmul")
def matmul(o: OpReader) -> None:
    """NumPy's matmul; transpose_x and transpose_y swap the last two axes first, of vectors nothing."""
    x = _turned(o, o.x("x"), o.mil("x").rank, o.flag("transpose_x"))
    y = _turned(o, o.x("y"), o.mil("y").rank, o.flag("transpose_y"))
    o.give(o.emit("MatMul", [x, y]))


def _turned(o: OpReader, v: ir.Value, rank: int, turn: bool) -> ir.Value:
    if not turn or rank < 2:
        return v
    return o.emit("Transpose", [v], perm=[*range(rank - 2), rank - 1, rank - 2])


@evaluates("einsum")
def einsum(o: OpReader) -> None:
    """[*B, C, H, W1] and [*B, W1, H, W2] to [*B, C, H, W2], B and H broadcast: the one equation there is."""
    x, y = o.list("values")
    rank = o.out.rank
    swap = [*range(rank - 3), rank - 2, rank - 3, rank - 1]
    product = o.emit("MatMul", [o.emit("Transpose", [v], perm=swap) for v in (x, y)])
    o.give(o.emit("Transpose", [product], perm=swap))
