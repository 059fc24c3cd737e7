"""Products of matrices: FULLY_CONNECTED where the right one is constant, else BATCH_MATMUL."""

from __future__ import annotations

import math

import numpy as np

from edgec.graph import attribute, ir, static_shape
from edgec.targets.tflite.absorb import DQ, Q, constant_matrix, params, stored_value
from edgec.targets.tflite.model import Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import Quantised, lowers, raw


def _plain(node: ir.Node) -> str | None:
    if attribute(node, "alpha") != 1.0 or (len(node.inputs) > 2 and attribute(node, "beta") != 1.0):
        return "its alpha or beta is not 1"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    out, shape = static_shape(node.outputs[0]), static_shape(bias)
    if bias is not None and (out is None or shape not in ((), (1,), (out[1],), (1, out[1]), (1, 1))):
        return "its bias is no row"
    return None


def _hybrid(node: ir.Node) -> frozenset[str]:
    """FULLY_CONNECTED reads them all, BATCH_MATMUL int8 alone (measured with ai-edge-litert 2.3.0)."""
    shape = static_shape(node.inputs[1])
    return frozenset({"int8", "int4"} if shape is not None and len(shape) == 2 else {"int8"})


@lowers(
    "Gemm", sides=raw, quantised=Quantised(inputs=(0,), weights=1, bias=2, when=_plain, hybrid=_hybrid), activation=True
)
def gemm(n: NodeLowering) -> None:
    """x w + b by FULLY_CONNECTED, whose weights are [outputs, inputs]; alpha and beta by MUL where they are not 1."""
    alpha, beta = float(n.attr("alpha")), float(n.attr("beta")) if n.has(2) else 1.0
    x = n.x(0)
    if n.attr("transA"):
        x = n.transpose(x, (1, 0))
    w, y = n.weights(1, (0, 1) if n.attr("transB") else (1, 0)), n.y()
    columns = w.shape[0]
    bias_shape = n.shape(2) if n.has(2) else (columns,)
    row = bias_shape in ((columns,), (1, columns)) or (n.is_const(2) and math.prod(bias_shape) == 1)
    if alpha == 1 and beta == 1 and row:
        n.emit(
            "FULLY_CONNECTED", [x, w, n.bias(2, x, w, columns)], y, fused_activation_function=n.activation,
            asymmetric_quantize_inputs=n.is_hybrid(w),
        )  # fmt: skip
        return
    product = n.emit(
        "FULLY_CONNECTED",
        [x, w, n.constant([0.0] * columns)],
        n.temp(y.shape),
        asymmetric_quantize_inputs=n.is_hybrid(w),
    )
    if alpha != 1:
        last = {} if n.has(2) else {"fused_activation_function": n.activation}
        scaled = n.temp(y.shape) if n.has(2) else y
        product = n.emit("MUL", [product, n.constant(np.float32(alpha))], scaled, **last)
    if n.has(2):
        bias = n.x(2)
        if beta != 1:
            bias = n.emit("MUL", [bias, n.constant(np.float32(beta))], n.temp(bias.shape))
        n.emit("ADD", [product, bias], y, fused_activation_function=n.activation)


def _by_columns(node: ir.Node) -> str | None:
    """FULLY_CONNECTED has a scale for each output, BATCH_MATMUL one in all."""
    producer = node.inputs[1].producer() if node.inputs[1] is not None else None
    found = params(producer) if producer is not None and producer.op_type == DQ else None
    if found is None or found[0].per_tensor or found[0].axis == 1:
        return None
    return "its weights have a scale for each row, not for each output"


_PRODUCT = Quantised(inputs=(0, 1), weights=1, has_weights=constant_matrix, when=_by_columns, hybrid=_hybrid)


@lowers("MatMul", sides=raw, quantised=_PRODUCT, activation=True, bias=True)
def matmul(n: NodeLowering) -> None:
    x = n.x(0)
    if constant_matrix(n.node):
        w = n.weights(1, (1, 0))
        n.emit(
            "FULLY_CONNECTED", [x, w, n.bias(2, x, w, w.shape[0])], n.y(), keep_num_dims=True,
            fused_activation_function=n.activation, asymmetric_quantize_inputs=n.is_hybrid(w),
        )  # fmt: skip
        return
    a, b, out = n.shape(0), n.shape(1), n.y()
    if len(a) >= 2 and len(b) >= 2:
        turned = _before_transpose(n)
        n.emit("BATCH_MATMUL", [x, n.x(1) if turned is None else turned], out, adj_y=turned is not None)
        return
    y = n.x(1)
    # Vectors are matrices with one row or column (ONNX: as numpy.matmul).
    left = n.reshape(x, (1, a[0])) if len(a) == 1 else x
    right = n.reshape(y, (b[0], 1)) if len(b) == 1 else y
    rows = () if len(a) == 1 else (left.shape[-2],)
    batch = n.out_shape()[: len(n.out_shape()) - len(rows) - (0 if len(b) == 1 else 1)]
    whole = (*batch, left.shape[-2], right.shape[-1])
    product = n.emit("BATCH_MATMUL", [left, right], n.temp(whole, out.dtype, out.quant))
    n.reshape(product, out.shape, out)


def _before_transpose(n: NodeLowering) -> Tensor | None:
    """The right matrices before a Transpose of their two axes, which BATCH_MATMUL does itself; None where there is none."""
    b = n.builder
    v: ir.Value | None = n.value(1)
    if n.integer:  # Transpose of real numbers, quantised and read back, all at one scale
        quantiser = (stored_value(v) or n.value(1)).producer()
        v = quantiser.inputs[0] if quantiser is not None and quantiser.op_type == Q else None
    turn = v.producer() if v is not None else None
    rank = len(n.shape(1))
    if turn is None or turn.op_type != "Transpose" or turn.domain:
        return None
    if list(attribute(turn, "perm") or ()) != [*range(rank - 2), rank - 1, rank - 2]:
        return None
    source = turn.inputs[0]
    held = stored_value(source) if n.integer else source
    if held is None or not b.known(held) or b.storage(held) is not None:
        return None
    found = b.tensor(held, None)
    if n.integer:
        read = n.value(1).producer()
        scale = params(read) if read is not None else None
        if scale is None or found.quant is None or not found.quant.same(scale[0]):
            return None
    return found
