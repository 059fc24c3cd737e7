"""Resize as weighted sums of rows, axis by axis: every mode is separable (ONNX operators, Resize)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from edgec.training.ops.registry import Call, Tensor, ints, op

Floats = npt.NDArray[np.float64]


@op("Resize")
def resize(
    call: Call, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    if call["antialias"]:
        raise call.unsupported("with antialias")
    if call["coordinate_transformation_mode"] == "tf_crop_and_resize":
        raise call.unsupported("of a region")
    if call["keep_aspect_ratio_policy"] not in (None, "stretch"):
        raise call.unsupported("with keep_aspect_ratio_policy")
    axes = [a % x.dim() for a in call["axes"] or range(x.dim())]
    wanted = ints(sizes)
    factors = scales.tolist() if scales is not None and scales.numel() else None
    for i, axis in enumerate(axes):
        n = int(x.shape[axis])  # a number where this is traced, too
        out = wanted[i] if wanted else math.floor(n * factors[i]) if factors else n
        scale = factors[i] if factors and not wanted else out / n
        if out == n and scale == 1:
            continue
        rows, weights = _taps(call, n, out, scale)
        shape = [1] * x.dim()
        shape[axis] = out
        parts = [
            x.index_select(axis, torch.from_numpy(rows[:, k]).to(x.device))
            * torch.from_numpy(weights[:, k].copy()).to(x).reshape(shape)
            for k in range(rows.shape[1])
        ]
        x = sum(parts[1:], parts[0])
    return x


def _taps(call: Call, n: int, out: int, scale: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """Of each output row the input rows it is made of, and their weights: [out, taps]."""
    at = _coordinates(call["coordinate_transformation_mode"], n, out, scale)
    if call["mode"] == "nearest":
        rows = _nearest(at, call["nearest_mode"])[:, None]
        return np.clip(rows, 0, n - 1).astype(np.int64), np.ones((out, 1))
    if call["mode"] == "linear":
        at = np.clip(at, 0, n - 1)
        low = np.floor(at)
        rows, weights = np.stack([low, low + 1], 1), np.stack([1 - (at - low), at - low], 1)
    else:
        low = np.floor(at)
        rows = low[:, None] + np.arange(-1, 3)
        weights = _cubic(np.abs(at[:, None] - rows), call["cubic_coeff_a"])
        if call["exclude_outside"]:
            weights = weights * ((rows >= 0) & (rows < n))
            weights = weights / weights.sum(1, keepdims=True)
    return np.clip(rows, 0, n - 1).astype(np.int64), weights


def _coordinates(mode: str, n: int, out: int, scale: float) -> Floats:
    """Where in the input each output row lies."""
    i = np.arange(out, dtype=np.float64)
    match mode:
        case "asymmetric":
            return i / scale
        case "align_corners":
            return i * (n - 1) / (out - 1) if out > 1 else np.zeros(out)
        case "pytorch_half_pixel":
            return (i + 0.5) / scale - 0.5 if out > 1 else np.zeros(out)
        case "half_pixel_symmetric":
            return n / 2 * (1 - out / (scale * n)) + (i + 0.5) / scale - 0.5
        case _:
            return (i + 0.5) / scale - 0.5


def _nearest(at: Floats, mode: str) -> Floats:
    match mode:
        case "floor":
            return np.floor(at)
        case "ceil":
            return np.ceil(at)
        case "round_prefer_ceil":
            return np.floor(at + 0.5)
        case _:
            return np.ceil(at - 0.5)


def _cubic(distance: Floats, a: float) -> Floats:
    """Keys' kernel."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
