"""Normalisations, as at inference: BatchNormalization takes the statistics it carries."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from edgec.training.ops.registry import Call, Tensor, op


@op("BatchNormalization")
def batch_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    if call["training_mode"]:
        raise call.unsupported("in training mode")
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, call["epsilon"])


@op("InstanceNormalization")
def instance_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=call["epsilon"])


@op("GroupNormalization")
def group_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.group_norm(x, call["num_groups"], scale, bias, call["epsilon"])


@op("LayerNormalization")
def layer_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    first = call["axis"] % x.dim()
    y = F.layer_norm(x, tuple(x.shape[first:]), eps=call["epsilon"]) * scale
    y = y if bias is None else y + bias
    if not call.used(1) and not call.used(2):
        return y
    axes = tuple(range(first, x.dim()))
    mean = x.mean(axes, keepdim=True)
    return y, mean, torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + call["epsilon"])


@op("RMSNormalization")
def rms_normalization(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(call["axis"] % x.dim(), x.dim()))
    return x * torch.rsqrt(x.square().mean(dim=axes, keepdim=True) + call["epsilon"]) * scale


@op("LpNormalization")
def lp_normalization(call: Call, x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, ord=call["p"], dim=call["axis"], keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


@op("LRN")
def local_response_normalization(call: Call, x: Tensor) -> Tensor:
    size = call["size"]
    squares = F.pad(x.square().unsqueeze(1), [0, 0] * (x.dim() - 2) + [(size - 1) // 2, size // 2])
    window = squares.unfold(2, size, 1).sum(-1).squeeze(1)
    return x / (call["bias"] + call["alpha"] / size * window) ** call["beta"]
