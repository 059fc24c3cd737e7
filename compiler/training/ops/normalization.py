"""Normalisations, as at inference: BatchNormalization takes the statistics it carries."""

from __future__ import annotations

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
def layer_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    if call.used(1) or call.used(2):
        raise call.unsupported("with its mean or deviation read")
    shape = x.shape[call["axis"] :] if call["axis"] >= 0 else x.shape[x.dim() + call["axis"] :]
    y = F.layer_norm(x, tuple(shape), eps=call["epsilon"]) * scale
    return y if bias is None else y + bias


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
