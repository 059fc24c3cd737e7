"""The Conv and the products of TensorRT's Q/DQ rule matrix, for the tests of the linter."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto
from qdq_models import STEP, ZERO, Array, Build, rng, small

from edgec.graph import Graph


def trt_conv(
    *, zero: Array | None = ZERO, scale: Array = STEP, act_axis: int | None = None,
    w_dtype: Any = np.int8, w_zero: Array | None = None, w_axis: int | None = 0, bias: str = "float", group: int = 1,
    op: str = "Conv", prequantised: bool = True, half: bool = False, opset: int = 13, stored_weight: bool = True,
    channels: int = 16,
) -> Graph:  # fmt: skip
    """The Conv of the rule matrix: 16 channels in and out, 3x3."""
    b = Build(opset)
    kind, ft = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    b.input("x", [1, channels, 16, 16], kind)
    shape = (16, channels // group, 3, 3)
    attrs = {} if act_axis is None else {"axis": act_axis}
    x = b.pair("x", zero, np.asarray(scale).astype(ft), **attrs)
    if not stored_weight:
        w = b.const("w", rng.standard_normal(shape).astype(ft))
    elif prequantised:
        w_scale = np.full(() if w_axis is None else shape[w_axis], 0.01, ft)
        w = b.weight("w", small(shape, w_dtype), w_axis, w_scale, w_zero)
    else:
        b.const("wf", rng.standard_normal(shape).astype(ft))
        w = b.pair("wf", np.zeros(16, np.int8), np.full(16, 0.01, ft), axis=0)
    inputs = [x, w]
    if bias == "float":
        inputs.append(b.const("b", np.zeros(16, ft)))
    elif bias == "int32":
        stored = [
            b.const("b_q", np.ones(16, np.int32)),
            b.const("b_s", np.full(16, 2e-4, ft)),
            b.const("b_z", np.zeros(16, np.int32)),
        ]
        inputs.append(b.op("DequantizeLinear", stored, "b", axis=0))
    b.op(op, inputs, "y", kernel_shape=[3, 3], pads=[1] * 4, group=group)
    b.output("y", [1, 16, 16, 16], kind)
    return b.graph()


def product(
    op: str = "MatMul", *, shape: tuple[int, int] = (64, 32), axis: int | None = 1, dtype: Any = np.int8,
    block: int = 0, scale: Array | None = None, transpose: int = 0, stored_input: bool = True, opset: int = 21,
    half: bool = False,
) -> Graph:  # fmt: skip
    """MatMul or Gemm with a stored weight."""
    b = Build(opset)
    kind, ft = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    k, n = shape[::-1] if transpose else shape
    b.input("x", [8, k], kind)
    x = b.pair("x", np.zeros((), dtype), ft(0.02)) if stored_input else "x"
    if block and scale is None and axis is not None:
        form = list(shape)
        form[axis] //= block
        scale = np.full(form, 0.01, ft)
    elif scale is None:
        scale = np.full(() if axis is None else shape[axis], 0.01, ft)
    w = b.weight("w", small(shape, dtype), axis, scale, None, block)
    b.op(op, [x, w], "y", **({"transB": transpose} if op == "Gemm" else {}))
    b.output("y", [8, n], kind)
    return b.graph()
