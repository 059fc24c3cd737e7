"""Products of matrices."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.ops.quantization import is_weight, transposed
from edgec.targets.coreml.program import FLOATS, Value
from edgec.targets.coreml.rules import NUMBERS, lowers


@lowers("MatMul", dtypes=NUMBERS)
def matmul(n: NodeLowering) -> None:
    """A vector is a matrix of one row or one column, which the result then has not."""
    if (weight := _stored_matrix(n)) is not None:
        n.result(n.emit("linear", x=n.x(0), weight=weight, out_shape=n.out_dims()))
        return
    x, y = n.x(0), n.x(1)
    left, right = len(n.dims(0)), len(n.dims(1))
    if left == 1:
        x = n.emit("expand_dims", x=x, axes=np.asarray([0], np.int32))
    if right == 1:
        y = n.emit("expand_dims", x=y, axes=np.asarray([1], np.int32))
    product = n.emit("matmul", x=x, y=y, out_shape=n.out_dims() if left > 1 and right > 1 else None)
    gone = [-2] * (left == 1) + [-1] * (right == 1)
    if gone:
        product = n.emit("squeeze", x=product, axes=np.asarray(gone, np.int32), out_shape=n.out_dims())
    n.result(product)


@lowers("Gemm", dtypes=NUMBERS)
def gemm(n: NodeLowering) -> None:
    """alpha * A' B' + beta * C. A constant matrix and vector make a linear, which every unit takes."""
    alpha, beta = float(n.attr("alpha")), float(n.attr("beta"))
    turned = bool(n.attr("transB", 0))
    if alpha == 1 and (beta == 1 or not n.has(2)) and not n.attr("transA", 0) and is_weight(n, 1) and _is_vector(n):
        weight = n.x(1) if turned else transposed(n, 1)
        bias = np.broadcast_to(n.const(2).reshape(-1), (n.shape(1)[0 if turned else 1],)) if n.has(2) else None
        n.result(
            n.emit(
                "linear", x=n.x(0), weight=weight, bias=None if bias is None else np.ascontiguousarray(bias),
                out_shape=n.out_dims(),
            )
        )  # fmt: skip
        return
    product = n.emit(
        "matmul", x=n.x(0), y=n.x(1), transpose_x=bool(n.attr("transA", 0)), transpose_y=turned, out_shape=n.out_dims()
    )
    product = _scaled(n, product, alpha)
    if n.has(2) and beta != 0:
        product = n.emit("add", x=product, y=_scaled(n, n.x(2), beta), out_shape=n.out_dims())
    n.result(product)


def _stored_matrix(n: NodeLowering) -> Value | None:
    """The right operand as linear's weight, where it is a matrix stored in integers and the left one is of a rank that linear
    takes."""
    if n.is_const(1) or not is_weight(n, 1) or len(n.dims(1)) != 2 or not 2 <= len(n.dims(0)) <= 3:
        return None
    return transposed(n, 1)


def _is_vector(n: NodeLowering) -> bool:
    return not n.has(2) or (
        n.is_const(2) and n.const(2).size in (1, n.out_dims()[-1]) and n.const(2).shape[-1:] != (1,)
    )


def _scaled(n: NodeLowering, x: Value, by: float) -> Value:
    if by == 1:
        return x
    if x.dtype not in FLOATS and by != int(by):
        n.refuse(f"integers times {by}")
    factor = n.real(by, x) if x.dtype in FLOATS else np.asarray(int(by), np.int32)
    return n.emit("mul", x=x, y=factor, out_shape=x.shape)
