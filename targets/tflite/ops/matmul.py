"""Products of matrices: FULLY_CONNECTED where the right one is constant, else BATCH_MATMUL."""

from __future__ import annotations

from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import Quantised, lowers, raw


@lowers("Gemm", sides=raw, quantised=Quantised(inputs=(0,), weights=1, bias=2), activation=True)
def gemm(n: NodeLowering) -> None:
    if n.attr("transA", 0) or n.attr("alpha", 1.0) != 1.0 or (n.has(2) and n.attr("beta", 1.0) != 1.0):
        n.refuse("a Gemm with transA, alpha or beta")
    x, w = n.x(0), n.weights(1, (0, 1) if n.attr("transB", 0) else (1, 0))
    bias = n.bias(2, x, w, w.shape[0])
    n.emit("FULLY_CONNECTED", [x, w, bias], n.y(), fused_activation_function=n.activation)
