"""Q/DQ that gradients pass through: rounding counts as identity, clipping as itself (straight-through estimator).

A quantised tensor is carried as whole numbers in floating point. Autograd of clamp(x / s), rounded, times s gives with
respect to s exactly the gradient of LSQ (Esser et al., arXiv:1902.08153, equation 3): round(x/s) - x/s inside the range, the
bound outside.
"""

from __future__ import annotations

import torch

from edgec.graph import ir
from edgec.training.ops.registry import Call, Tensor, op

_RANGES = {
    ir.DataType.INT4: (-8, 7), ir.DataType.UINT4: (0, 15), ir.DataType.INT8: (-128, 127), ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767), ir.DataType.UINT16: (0, 65535), ir.DataType.INT32: (-(2**31), 2**31 - 1),
}  # fmt: skip


def stored_range(dtype: ir.DataType | None) -> tuple[int, int] | None:
    """The least and greatest whole number of an integer type; None for others."""
    return _RANGES.get(dtype) if dtype is not None else None


def straight_through_round(x: Tensor) -> Tensor:
    """Half to even, as ONNX rounds; the gradient is that of identity."""
    return x + (torch.round(x) - x).detach()


def spread(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point in a shape that broadcasts to `x`: one for all, one a channel along `axis`, one a block."""
    if parameter.dim() == 0 or parameter.numel() == 1:
        return parameter.reshape(())
    if block:
        return parameter.repeat_interleave(block, dim=axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.dim()
    shape[axis] = -1
    return parameter.reshape(shape)


def fake_quantize(x: Tensor, scale: Tensor, zero: Tensor, bounds: tuple[int, int]) -> Tensor:
    """Whole numbers within `bounds`; `scale` and `zero` broadcast to `x`."""
    low, high = bounds
    return straight_through_round(torch.clamp(x / scale, low - zero, high - zero)) + zero


@op("QuantizeLinear")
def quantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    out = call.node.outputs[0].dtype
    given = call.node.inputs[2] if len(call.node.inputs) > 2 else None
    named = call["output_dtype"]
    dtype = given.dtype if given is not None and given.dtype is not None else out
    if given is None and named:
        dtype = ir.DataType(named)
    bounds = stored_range(dtype if dtype is not None else ir.DataType.UINT8)
    if bounds is None:
        raise call.unsupported(f"to {dtype}")
    axis, block = call["axis"], call["block_size"] or 0
    offset = torch.zeros((), dtype=x.dtype, device=x.device) if zero is None else zero.to(x.dtype).to(x.device)
    return fake_quantize(x, spread(scale, x, axis, block), spread(offset, x, axis, block), bounds)


@op("DequantizeLinear")
def dequantize_linear(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    axis, block = call["axis"], call["block_size"] or 0
    x = x.to(scale.dtype)
    if zero is not None:
        x = x - spread(zero.to(scale.dtype).to(x.device), x, axis, block)
    return x * spread(scale, x, axis, block)
