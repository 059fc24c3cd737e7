"""Conv, ConvTranspose, Gemm, MatMul: where the weights are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from edgec.training.ops.registry import Call, Tensor, op

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def window_pads(
    call: Call, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """(before, after) an axis, `auto_pad` resolved (ONNX operators, Conv)."""
    auto, axes = call["auto_pad"], len(kernel)
    if auto == "VALID":
        return [(0, 0)] * axes
    if auto in (None, "", "NOTSET"):
        pads = list(call["pads"] or [0] * (2 * axes))
        return [(pads[i], pads[i + axes]) for i in range(axes)]
    out = []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
        small, large = total // 2, total - total // 2
        out.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return out


def padded(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """`x` with its last axes padded (negative numbers crop)."""
    if not any(map(any, pads)):
        return x
    flat = [n for before_after in reversed(pads) for n in before_after]  # torch counts from the last axis
    return F.pad(x, flat, value=value)


@op("Conv")
def conv(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    axes = w.dim() - 2
    if axes not in _CONV:
        raise call.unsupported(f"over {axes} axes")
    strides, dilations = call["strides"] or [1] * axes, call["dilations"] or [1] * axes
    pads = window_pads(call, x.shape[2:], w.shape[2:], strides, dilations)
    if all(before == after for before, after in pads):  # the backend pads without a copy
        return _CONV[axes](x, w, b, tuple(strides), tuple(p[0] for p in pads), tuple(dilations), call["group"])
    return _CONV[axes](padded(x, pads), w, b, tuple(strides), 0, tuple(dilations), call["group"])


@op("ConvTranspose")
def conv_transpose(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Computed without padding and then cropped: ONNX pads may differ at both ends, `output_padding` may exceed torch's."""
    axes = w.dim() - 2
    if axes not in _TRANSPOSED:
        raise call.unsupported(f"over {axes} axes")
    strides, dilations = call["strides"] or [1] * axes, call["dilations"] or [1] * axes
    extra = call["output_padding"] or [0] * axes
    y = _TRANSPOSED[axes](x, w, None, tuple(strides), 0, 0, call["group"], tuple(dilations))
    auto, wanted = call["auto_pad"], call["output_shape"]
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if wanted is None:
        pads = list(call["pads"] or [0] * (2 * axes)) if auto in (None, "", "NOTSET") else [0] * (2 * axes)
        crop = [(-pads[i], extra[i] - pads[i + axes]) for i in range(axes)]
    else:
        crop = []
        for full, e, n in zip(y.shape[2:], extra, wanted[-axes:], strict=True):
            total = full + e - n
            small, large = total // 2, total - total // 2
            before, after = (small, large) if auto == "SAME_UPPER" else (large, small)
            crop.append((-before, e - after))
    y = padded(y, crop)
    return y if b is None else y + b.reshape(1, -1, *[1] * axes)


@op("MatMul")
def matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@op("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    y = (a.t() if call["transA"] else a) @ (b.t() if call["transB"] else b)
    if call["alpha"] != 1:
        y = y * call["alpha"]
    if c is None:
        return y
    return y + (c if call["beta"] == 1 else c * call["beta"])


@op("Einsum")
def einsum(call: Call, *values: Tensor) -> Tensor:
    return torch.einsum(call["equation"], *values)
