"""Pools over windows and over everything."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from edgec.training.ops.convolution import padded, window_pads
from edgec.training.ops.registry import Call, Tensor, op

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True)
class _Window:
    """The window of a pool, and what must be added behind the input so that the last one fits (`ceil_mode`)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: list[tuple[int, int]]
    behind: list[tuple[int, int]]


def _window(call: Call, x: Tensor) -> _Window:
    kernel = tuple(call["kernel_shape"])
    axes = len(kernel)
    if axes not in _MAX:
        raise call.unsupported(f"over {axes} axes")
    strides, dilations = tuple(call["strides"] or [1] * axes), tuple(call["dilations"] or [1] * axes)
    pads = window_pads(call, x.shape[2:], kernel, strides, dilations)
    behind = []
    for n, k, s, d, (before, after) in zip(x.shape[2:], kernel, strides, dilations, pads, strict=True):
        free = n + before + after - d * (k - 1) - 1
        out = (math.ceil(free / s) if call["ceil_mode"] else free // s) + 1
        if call["ceil_mode"] and (out - 1) * s >= n + before:  # a window that begins behind the input is left out
            out -= 1
        behind.append((0, max(0, (out - 1) * s - free)))
    return _Window(kernel, strides, dilations, pads, behind)


@op("MaxPool")
def max_pool(call: Call, x: Tensor) -> Tensor:
    if call.used(1):
        raise call.unsupported("with its indices read")
    w = _window(call, x)
    pads = [(before, after + more) for (before, after), (_, more) in zip(w.pads, w.behind, strict=True)]
    y = padded(x.to(call.float_dtype), pads, -math.inf)  # integers up to 8 bits are pooled too
    return _MAX[len(w.kernel)](y, w.kernel, w.strides, 0, w.dilations).to(x.dtype)


@op("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    w = _window(call, x)
    if any(d != 1 for d in w.dilations):
        raise call.unsupported("with dilations")
    pool = _AVERAGE[len(w.kernel)]
    y = pool(padded(padded(x, w.pads), w.behind), w.kernel, w.strides)
    if not any(map(any, [*w.pads, *w.behind])):
        return y
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    counted = padded(padded(ones, w.pads, 1.0 if call["count_include_pad"] else 0.0), w.behind)
    return y / pool(counted, w.kernel, w.strides)  # both are divided by the size of the window


@op("GlobalAveragePool")
def global_average_pool(call: Call, x: Tensor) -> Tensor:
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(call: Call, x: Tensor) -> Tensor:
    return x.amax(dim=tuple(range(2, x.dim())), keepdim=True)
