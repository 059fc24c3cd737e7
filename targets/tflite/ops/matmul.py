"""Products of matrices: FULLY_CONNECTED where the right one is constant, else BATCH_MATMUL."""

from __future__ import annotations

from edgec.graph import ir, is_constant
from edgec.targets.tflite.absorb import stored_value
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import Quantised, lowers, raw


@lowers("Gemm", sides=raw, quantised=Quantised(inputs=(0,), weights=1, bias=2), activation=True)
def gemm(n: NodeLowering) -> None:
    """x w + b by FULLY_CONNECTED, whose weights are [outputs, inputs]."""
    if n.attr("alpha") != 1.0 or (n.has(2) and n.attr("beta") != 1.0):
        n.refuse("alpha or beta other than 1", "expand-composites{ops=[Gemm]}")
    x = n.x(0)
    if n.attr("transA"):
        x = n.transpose(x, (1, 0))
    w = n.weights(1, (0, 1) if n.attr("transB") else (1, 0))
    if n.has(2) and n.shape(2) not in ((), (1,), (w.shape[0],), (1, w.shape[0]), (1, 1)):
        product = n.temp(n.y().shape)
        n.emit("FULLY_CONNECTED", [x, w, n.constant([0.0] * w.shape[0])], product)
        n.emit("ADD", [product, n.x(2)], n.y(), fused_activation_function=n.activation)
        return
    n.emit("FULLY_CONNECTED", [x, w, n.bias(2, x, w, w.shape[0])], n.y(), fused_activation_function=n.activation)


def _kernel(node: ir.Node) -> str | None:
    return None


def _constant_matrix(n: NodeLowering) -> bool:
    v = n.value(1)
    return len(n.shape(1)) == 2 and (is_constant(v) or is_constant(stored_value(v))) and len(n.shape(0)) >= 2


@lowers("MatMul", sides=raw, quantised=Quantised(inputs=(0, 1), when=_kernel), activation=True, bias=True)
def matmul(n: NodeLowering) -> None:
    x = n.x(0)
    if _constant_matrix(n):
        w = n.weights(1, (1, 0))
        n.emit(
            "FULLY_CONNECTED", [x, w, n.bias(2, x, w, w.shape[0])], n.y(), keep_num_dims=True,
            fused_activation_function=n.activation,
        )  # fmt: skip
        return
    if n.fused_bias:
        n.refuse("a bias behind a product of two activations")
    y, a, b = n.x(1), n.shape(0), n.shape(1)
    out = n.y()
    if len(a) >= 2 and len(b) >= 2:
        n.emit("BATCH_MATMUL", [x, y], out)
        return
    # Vectors are matrices with one row or column (ONNX: as numpy.matmul).
    left = n.reshape(x, (1, a[0])) if len(a) == 1 else x
    right = n.reshape(y, (b[0], 1)) if len(b) == 1 else y
    shape = (*n.out_shape()[: max(len(a), len(b)) - 2 if min(len(a), len(b)) == 1 else None],)
    rows = () if len(a) == 1 else (left.shape[-2],)
    batch = n.out_shape()[: len(n.out_shape()) - len(rows) - (0 if len(b) == 1 else 1)]
    del shape
    whole = (*batch, left.shape[-2], right.shape[-1])
    product = n.emit("BATCH_MATMUL", [left, right], n.temp(whole, out.dtype, out.quant))
    n.reshape(product, out.shape, out)
