"""Pooling over windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.program import NUMPY, Array, Value
from edgec.targets.coreml.rules import lowers
from edgec.targets.reading.windows import Window, ceil_padding


def _window(n: NodeLowering) -> tuple[Window, tuple[int, ...]]:
    """The window, and what ceil_mode adds behind each axis."""
    w = n.window()
    if not int(n.attr("ceil_mode", 0)):
        return w, (0,) * len(w.kernel)
    return w, ceil_padding(w, n.spatial(), n.out_shape()[2:])


def _pairs(before: Sequence[int], after: Sequence[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """(before, after) for each axis, as MIL has padding."""
    return np.asarray([p for pair in zip(before, after, strict=True) for p in pair], np.int32)


@lowers("MaxPool", via={"int32": "fp32"})
def max_pool(n: NodeLowering) -> None:
    """MIL's has no dilations: then the taps of each axis, cut out and compared. ONNX has it of 8-bit integers too, which
    float32 holds."""
    if n.has_output(1):
        n.refuse("indices of the maxima", "MaxPool with one output has an operation")
    w, extra = _window(n)
    after = [a + e for a, e in zip(w.after, extra, strict=True)]
    if all(d == 1 for d in w.dilations):
        n.result(
            n.emit(
                "max_pool", x=n.x(), kernel_sizes=np.asarray(w.kernel, np.int32), strides=np.asarray(w.strides, np.int32),
                pad_type="custom", pad=_pairs(w.before, after), ceil_mode=False, out_shape=n.out_dims(),
            )
        )  # fmt: skip
        return
    lowest = n.real(float(np.finfo(np.float16 if n.x().dtype == "fp16" else np.float32).min))
    x = _padded(n, n.x(), w.before, after, lowest)
    for axis in range(len(w.kernel)):
        x = _max_of_taps(n, x, w, axis, n.out_shape()[2 + axis])
    n.result(x)


def _padded(n: NodeLowering, x: Value, before: Sequence[int], after: Sequence[int], value: object) -> Value:
    if not any(before) and not any(after):
        return x
    amounts = [0, 0, 0, 0, *_pairs(before, after).tolist()]
    shape = tuple(int(d) + b + a for d, b, a in zip(x.known, amounts[::2], amounts[1::2], strict=True))
    return n.emit(
        "pad", x=x, pad=np.asarray(amounts, np.int32), mode="constant", constant_val=np.asarray(value), out_shape=shape
    )


def _max_of_taps(n: NodeLowering, x: Value, w: Window, axis: int, steps: int) -> Value:
    at, s, d = axis + 2, w.strides[axis], w.dilations[axis]
    shape = tuple(steps if i == at else dim for i, dim in enumerate(x.known))
    found: Value | None = None
    for j in range(w.kernel[axis]):
        begin, end, stride = np.zeros(x.rank, np.int32), np.asarray(x.known, np.int32), np.ones(x.rank, np.int32)
        begin[at], end[at], stride[at] = j * d, j * d + (steps - 1) * s + 1, s
        tap = n.emit("slice_by_index", x=x, begin=begin, end=end, stride=stride, out_shape=shape)
        found = tap if found is None else n.emit("maximum", x=found, y=tap, out_shape=shape)
    assert found is not None  # kernels are not empty
    return found


@lowers("AveragePool")
def average_pool(n: NodeLowering) -> None:
    """Padding that counts is added as zeros; what ceil_mode adds never counts."""
    w, extra = _window(n)
    x, before, after = n.x(), list(w.before), list(w.after)
    counts = bool(n.attr("count_include_pad", 0))
    if any(d != 1 for d in w.dilations):
        n.result(_dilated_average(n, w, extra, counts))
        return
    if counts and any(extra):
        x = _padded(n, x, before, after, n.real(0))
        before, after, counts = [0] * len(before), [0] * len(after), False
    after = [a + e for a, e in zip(after, extra, strict=True)]
    n.result(
        n.emit(
            "avg_pool", x=x, kernel_sizes=np.asarray(w.kernel, np.int32), strides=np.asarray(w.strides, np.int32),
            pad_type="custom", pad=_pairs(before, after), exclude_padding_from_average=not counts, ceil_mode=False,
            out_shape=n.out_dims(),
        )
    )  # fmt: skip


def _dilated_average(n: NodeLowering, w: Window, extra: Sequence[int], counts: bool) -> Value:
    """MIL's has no dilations: sums by a convolution of ones for each channel, times one over how many elements count."""
    x, channels, out = n.x(), n.shape()[1], n.out_dims()
    after = [a + e for a, e in zip(w.after, extra, strict=True)]
    ones = np.ones((channels, 1, *w.kernel), NUMPY[x.dtype])
    total = n.emit(
        "conv", x=x, weight=n.constant(ones, "ones"), strides=np.asarray(w.strides, np.int32),
        dilations=np.asarray(w.dilations, np.int32), groups=channels, pad_type="custom", pad=_pairs(w.before, after),
        out_shape=out,
    )  # fmt: skip
    elements: Array = np.ones((1, 1, *(1,) * len(w.kernel)))
    for axis, size in enumerate(n.spatial()):
        places = np.arange(n.out_shape()[2 + axis])[:, None] * w.strides[axis] - w.before[axis]
        taps = places + np.arange(w.kernel[axis]) * w.dilations[axis]
        low, high = (-w.before[axis], size + w.after[axis]) if counts else (0, size)
        along = [1] * elements.ndim
        along[2 + axis] = len(taps)
        elements = elements * ((taps >= low) & (taps < high)).sum(1).reshape(along)
    share = n.constant((1 / elements).astype(NUMPY[x.dtype]), "share")
    return n.emit("mul", x=total, y=share, out_shape=out)


@lowers("LpPool")
def l2_pool(n: NodeLowering) -> None:
    if int(n.attr("p", 2)) != 2:
        n.refuse(f"p = {n.attr('p')}; MIL has it for 2")
    w, extra = _window(n)
    if any(d != 1 for d in w.dilations) or any(extra):
        n.refuse("dilations or ceil_mode")
    n.result(
        n.emit(
            "l2_pool", x=n.x(), kernel_sizes=np.asarray(w.kernel, np.int32), strides=np.asarray(w.strides, np.int32),
            pad_type="custom", pad=_pairs(w.before, w.after), out_shape=n.out_dims(),
        )
    )  # fmt: skip
