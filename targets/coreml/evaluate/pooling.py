"""Pooling over one to three spatial axes, x [N, C, *D]."""

from __future__ import annotations

from collections.abc import Sequence

from edgec.targets.coreml.evaluate.convolution import padding
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates


@evaluates("max_pool")
def max_pool(o: OpReader) -> None:
    """The largest of each window; padding is never it."""
    kernel, strides, pads, more = _window(o)
    o.move(o.emit("MaxPool", [o.x()], kernel_shape=kernel, strides=strides, pads=_longer(o, pads, more)))


@evaluates("avg_pool")
def avg_pool(o: OpReader) -> None:
    """The mean of each window, padded zeros among it unless `exclude_padding_from_average`.

    What ceil_mode lets a window reach beyond the padding is never counted ("same as PyTorch's").
    """
    kernel, strides, pads, more = _window(o)
    x, counted = o.x(), not o.flag("exclude_padding_from_average")
    if counted and any(pads) and any(more):
        axes, none = len(kernel), [0, 0]
        x = o.emit("Pad", [x, o.const([*none, *pads[:axes], *none, *pads[axes:]])])
        pads, counted = [0] * len(pads), False
    elif any(more):
        counted = False
    o.give(
        o.emit(
            "AveragePool", [x], kernel_shape=kernel, strides=strides, pads=_longer(o, pads, more),
            count_include_pad=int(counted),
        )
    )  # fmt: skip


@evaluates("l2_pool")
def l2_pool(o: OpReader) -> None:
    """The root of the sum of the squares of each window. (The definition names the operation only; this is what the word
    means in Core ML's older neural networks.)"""
    kernel, strides, pads, more = _window(o)
    o.give(o.emit("LpPool", [o.x()], kernel_shape=kernel, strides=strides, pads=_longer(o, pads, more), p=2))


def _window(o: OpReader) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, strides, ONNX pads, and how much further than the padding ceil_mode reaches, by axis.

    Sizes with ceil_mode: ceil((n + pads - kernel) / stride) + 1, one less where the last window would begin in the padding
    behind.
    """
    kernel = list(o.ints("kernel_sizes"))
    axes = len(kernel)
    strides = list(o.ints("strides", [1] * axes))
    pads = padding(o, kernel, strides, [1] * axes)
    if not o.flag("ceil_mode"):
        return kernel, strides, pads, [0] * axes
    more = []
    for n, k, s, before, after in zip(o.shape()[2:], kernel, strides, pads[:axes], pads[axes:], strict=True):
        steps = -(-(n + before + after - k) // s) + 1
        if (steps - 1) * s >= n + before and before + after > 0:
            steps -= 1
        more.append(max((steps - 1) * s + k - (n + before + after), 0))
    return kernel, strides, pads, more


def _longer(o: OpReader, pads: Sequence[int], more: Sequence[int]) -> list[int]:
    axes, kernel = len(more), o.ints("kernel_sizes")
    behind = [p + m for p, m in zip(pads[axes:], more, strict=True)]
    if any(p >= k for p, k in zip((*pads[:axes], *behind), (*kernel, *kernel), strict=True) if p):
        o.unknown("a window of padding alone")
    return [*pads[:axes], *behind]
