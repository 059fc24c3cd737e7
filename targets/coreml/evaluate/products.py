"""Products of matrices."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates, is_float
from edgec.targets.coreml.program import Value


@evaluates("linear")
def linear(o: OpReader) -> None:
    """x weight^T + bias; x [*D, D_in], weight [D_out, D_in]."""
    weight = np.swapaxes(o.array("weight"), 0, 1)
    real = is_float(o.out)
    product = o.emit("MatMul", [_as(o, "x", real), o.const(weight.astype(np.float32) if real else weight)])
    o.give(o.emit("Add", [product, _as(o, "bias", real)]) if o.has("bias") else product)


@evaluates("matmul")
def matmul(o: OpReader) -> None:
    """NumPy's matmul; transpose_x and transpose_y swap the last two axes first, of vectors nothing."""
    real = is_float(o.mil("x")) or is_float(o.mil("y"))
    x = _turned(o, _as(o, "x", real), o.mil("x").rank, o.flag("transpose_x"))
    y = _turned(o, _as(o, "y", real), o.mil("y").rank, o.flag("transpose_y"))
    product = o.emit("MatMul", [x, y])
    o.give(o.emit("Cast", [product], to=int(ir.DataType.INT64)) if real and not is_float(o.out) else product)


def _as(o: OpReader, name: str, real: bool) -> ir.Value:
    """An operand as float, or as integers: since iOS17 one may be whole numbers where the other is not."""
    found = o.operation.inputs[name]
    v = o.x(name)
    if not isinstance(found, Value) or is_float(found) == real:
        return v
    return o.emit("Cast", [v], to=int(ir.DataType.FLOAT if real else ir.DataType.INT64))


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
