"""What TFLite's int8 operators must give: exact sums of integers, one scaling in float64, one rounding. NumPy only.

Written from the TFLite 8-bit quantization specification, not from any kernel: real = (stored - zero point) * scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from edgec.targets.tflite.model import Operator, Tensor

Array = Any


def expected(o: Operator, values: list[Array]) -> list[Array] | None:
    """The stored outputs for the stored inputs (constants among them), unrounded float64; None for an op not described.

    An output is in steps of its scale: what a kernel stores should be within half a step, and what it may be off is judged by
    the caller.
    """
    if o.op in _MOVES:
        moved = _MOVES[o.op](o, values)
        return [np.asarray(m, np.float64) for m in (moved if isinstance(moved, list) else [moved])]
    compute = _REALS.get(o.op)
    if compute is None:
        return None
    out = o.outputs[0]
    real = _activated(compute(o, values), o.options.get("fused_activation_function", "NONE"))
    if out.quant is None:
        return [real]
    limits = np.iinfo(out.dtype)
    return [np.clip(real / _f64(out.quant.scale[0]) + int(out.quant.zero_point[0]), limits.min, limits.max)]


def _f64(x: Any) -> Array:
    return np.asarray(x, np.float64)


def real(t: Tensor | None, stored: Array) -> Array:
    if t is None or t.quant is None:
        return _f64(stored)
    shape = [1] * t.rank
    if not t.quant.per_tensor:
        shape[t.quant.axis] = -1
    scale, zero = (_f64(a).reshape(shape) if t.rank else _f64(a)[0] for a in (t.quant.scale, t.quant.zero_point))
    return (_f64(stored) - zero) * scale


def _reals(o: Operator, values: list[Array]) -> list[Array]:
    return [real(t, v) for t, v in zip(o.inputs, values, strict=True) if t is not None]


def _activated(x: Array, kind: str) -> Array:
    low, high = {"NONE": (-np.inf, np.inf), "RELU": (0, np.inf), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}[kind]
    return np.clip(x, low, high)


# --- windows ----------------------------------------------------------------------------------------------------------


def _same(size: int, k: int, stride: int, dilation: int, padding: str) -> tuple[int, int]:
    if padding == "VALID":
        return 0, 0
    total = max((math.ceil(size / stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _windows(o: Operator, x: Array, k: tuple[int, int], fill: float) -> Array:
    """[N, H', W', C, kh, kw]."""
    p = o.options
    strides, dilations = (
        (p.get("stride_h", 1), p.get("stride_w", 1)),
        (p.get("dilation_h_factor", 1), p.get("dilation_w_factor", 1)),
    )
    pads = [_same(x.shape[1 + a], k[a], strides[a], dilations[a], p["padding"]) for a in (0, 1)]
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    span = tuple((k[a] - 1) * dilations[a] + 1 for a in (0, 1))
    seen = np.lib.stride_tricks.sliding_window_view(x, span, axis=(1, 2))
    return seen[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]


def _conv(o: Operator, values: list[Array]) -> Array:
    """Sums of (stored - zero point) * weight as integers, exact in float64, then scaled."""
    x, w = o.inputs[0], o.inputs[1]
    assert x is not None and w is not None and x.quant is not None and w.quant is not None  # noqa: PT018
    centred = _f64(values[0]) - int(x.quant.zero_point[0])
    weights = _f64(values[1])
    seen = _windows(o, centred, weights.shape[1:3], 0.0)
    if o.op == "DEPTHWISE_CONV_2D":
        times = weights.shape[3] // centred.shape[3]
        sums = np.einsum("nhwcij,ijcm->nhwcm", seen, weights[0].reshape(*weights.shape[1:3], -1, times), optimize=True)
        sums = sums.reshape(*sums.shape[:3], -1)
    else:
        groups = centred.shape[3] // weights.shape[3]
        parts = zip(np.split(seen, groups, axis=3), np.split(weights, groups), strict=True)
        sums = np.concatenate([np.tensordot(a, b, axes=([3, 4, 5], [3, 1, 2])) for a, b in parts], axis=3)
    return (sums + _bias(values)) * _f64(x.quant.scale[0]) * _f64(w.quant.scale)


def _bias(values: list[Array]) -> Array:
    return _f64(values[2]) if len(values) > 2 and values[2] is not None else 0.0


def _dense(o: Operator, values: list[Array]) -> Array:
    x, w = o.inputs[0], o.inputs[1]
    assert x is not None and w is not None and x.quant is not None and w.quant is not None  # noqa: PT018
    centred = (_f64(values[0]) - int(x.quant.zero_point[0])).reshape(-1, values[1].shape[1])
    sums = centred @ _f64(values[1]).T + _bias(values)
    return (sums * _f64(x.quant.scale[0]) * _f64(w.quant.scale)).reshape(o.outputs[0].shape)


def _average(o: Operator, values: list[Array]) -> Array:
    k = (o.options["filter_height"], o.options["filter_width"])
    seen = _windows(o, _reals(o, values)[0], k, np.nan)
    return np.nanmean(seen, axis=(4, 5))


def _softmax(o: Operator, values: list[Array]) -> Array:
    x = _reals(o, values)[0] * float(o.options.get("beta", 1.0))
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


_REALS: dict[str, Callable[[Operator, list[Array]], Array]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _conv,
    "FULLY_CONNECTED": _dense,
    "ADD": lambda o, v: np.add(*_reals(o, v)),
    "SUB": lambda o, v: np.subtract(*_reals(o, v)),
    "MUL": lambda o, v: np.multiply(*_reals(o, v)),
    "MEAN": lambda o, v: real(o.inputs[0], v[0]).mean(
        tuple(int(a) for a in v[1]), keepdims=bool(o.options.get("keep_dims"))
    ),
    "AVERAGE_POOL_2D": _average,
    "LOGISTIC": lambda o, v: 1 / (1 + np.exp(-_reals(o, v)[0])),
    "TANH": lambda o, v: np.tanh(_reals(o, v)[0]),
    "HARD_SWISH": lambda o, v: _reals(o, v)[0] * np.clip(_reals(o, v)[0] / 6 + 0.5, 0, 1),
    "SOFTMAX": _softmax,
    "RELU": lambda o, v: np.maximum(_reals(o, v)[0], 0),
    "QUANTIZE": lambda o, v: _reals(o, v)[0],
    "DEQUANTIZE": lambda o, v: _reals(o, v)[0],
}


# --- what moves stored numbers ----------------------------------------------------------------------------------------


def _max_pool(o: Operator, v: list[Array]) -> Array:
    return _windows(o, _f64(v[0]), (o.options["filter_height"], o.options["filter_width"]), -np.inf).max(axis=(4, 5))


def _pad(o: Operator, v: list[Array]) -> Array:
    x = o.inputs[0]
    zero = int(x.quant.zero_point[0]) if x is not None and x.quant is not None else 0
    return np.pad(v[0], [tuple(p) for p in v[1]], constant_values=int(v[2].reshape(-1)[0]) if len(v) > 2 else zero)


def _slice(o: Operator, v: list[Array]) -> Array:
    return v[0][tuple(slice(b, None if s == -1 else b + s) for b, s in zip(v[1], v[2], strict=True))]


def _nearest(o: Operator, v: list[Array]) -> Array:
    half = bool(o.options.get("half_pixel_centers"))
    picked = v[0]
    for axis, size in ((1, int(v[1][0])), (2, int(v[1][1]))):
        have = v[0].shape[axis]
        at = np.floor((np.arange(size) + (0.5 if half else 0.0)) * have / size).astype(int)
        picked = np.take(picked, np.minimum(at, have - 1), axis)
    return picked


_MOVES: dict[str, Callable[[Operator, list[Array]], Any]] = {
    "MAX_POOL_2D": _max_pool,
    "PAD": _pad,
    "PADV2": _pad,
    "RESHAPE": lambda o, v: v[0].reshape(o.outputs[0].shape),
    "TRANSPOSE": lambda o, v: v[0].transpose(v[1]),
    "SLICE": _slice,
    "STRIDED_SLICE": lambda o, v: v[0][tuple(slice(b, e, s) for b, e, s in zip(v[1], v[2], v[3], strict=True))],
    "CONCATENATION": lambda o, v: np.concatenate(v, int(o.options["axis"])),
    "SPLIT": lambda o, v: list(np.split(v[1], len(o.outputs), int(v[0]))),
    "RESIZE_NEAREST_NEIGHBOR": _nearest,
}
