"""Poolings over windows and over whole images."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.targets.reading.windows import Window, ceil_padding, window
from edgec.targets.tflite.model import Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import OWN_SCALE, SAME_SCALE, Quantised, follow_first, last, lowers


def _window(n: NodeLowering) -> tuple[Window, tuple[int, ...]]:
    """The window, with what ceil_mode adds behind as padding of its own; and the input's spatial size."""
    spatial = n.shape()[2:]
    if len(spatial) != 2:
        n.refuse(f"a pooling over {len(spatial)} axes", "the pass conv1d-to-2d makes two of one")
    w = window(n.node, spatial)
    if any(d != 1 for d in w.dilations):
        n.refuse("poolings have no dilations in TFLite")
    return w, ceil_padding(w, spatial, n.out_shape()[2:])


def _options(n: NodeLowering, w: Window, padding: str) -> dict[str, object]:
    return {
        "padding": padding, "stride_h": w.strides[0], "stride_w": w.strides[1],
        "filter_height": w.kernel[0], "filter_width": w.kernel[1], "fused_activation_function": n.activation,
    }  # fmt: skip


def _padding(n: NodeLowering, w: Window, extra: tuple[int, ...], spatial: tuple[int, ...]) -> str | None:
    """SAME or VALID where one of them is what the node pads, else None."""
    if not w.padded and not any(extra):
        return "VALID"
    whole = Window(
        w.kernel, w.strides, w.dilations, w.before, tuple(a + e for a, e in zip(w.after, extra, strict=True))
    )
    return "SAME" if whole.same(spatial) else None


def _amounts(w: Window, extra: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    after = [a + e for a, e in zip(w.after, extra, strict=True)]
    return np.array([(0, 0), *zip(w.before, after, strict=True), (0, 0)], np.int32)


def _padded(n: NodeLowering, x: Tensor, amounts: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> Tensor:
    shape = tuple(d + int(a.sum()) for d, a in zip(x.shape, amounts, strict=True))
    return n.temp(shape, x.dtype, x.quant, hint=f"{x.name}_padded")


def _one_output(node: ir.Node) -> str | None:
    return None if len(node.outputs) == 1 else "it gives indices"


@lowers("MaxPool", sides=last, quantised=Quantised("same", inputs=(0,), when=_one_output))
def max_pool(n: NodeLowering) -> None:
    if n.has_output(1):
        n.refuse("indices of the maxima", "MaxPool with one output has a kernel")
    w, extra = _window(n)
    padding = _padding(n, w, extra, n.shape()[2:])
    x = n.x()
    if padding is None:
        amounts = _amounts(w, extra)
        lowest = np.float32(np.finfo(np.float32).min) if x.quant is None else np.iinfo(x.dtype).min
        fill = n.constant(np.asarray(lowest), x.dtype, quant=x.quant)
        x = n.emit("PADV2", [x, n.ints(amounts), fill], _padded(n, x, amounts))
    n.emit("MAX_POOL_2D", [x], n.y(), **_options(n, w, padding or "VALID"))


def _no_correction(node: ir.Node) -> str | None:
    """AVERAGE_POOL_2D leaves padding out of the count under SAME; other padding needs a product behind it."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None or shape.rank() != 4:
        return "it is no pooling of images"
    return None


@lowers("AveragePool", sides=last, quantised=Quantised("same", inputs=(0,), when=_no_correction))
def average_pool(n: NodeLowering) -> None:
    w, extra = _window(n)
    spatial = n.shape()[2:]
    x, y = n.x(), n.y()
    padding = _padding(n, w, extra, spatial)
    counts_pads = bool(n.attr("count_include_pad", 0))
    if padding == "VALID" or (padding == "SAME" and not counts_pads):
        n.emit("AVERAGE_POOL_2D", [x], y, **_options(n, w, padding))
        return
    amounts = _amounts(w, extra)
    padded = n.emit("PAD", [x, n.ints(amounts)], _padded(n, x, amounts))
    factor = _correction(n, w, spatial, counts_pads)
    if (factor == 1).all():
        n.emit("AVERAGE_POOL_2D", [padded], y, **_options(n, w, "VALID"))
        return
    if n.integer:
        n.refuse("padding that is left out of the count, other than SAME", "the pass count-include-pad")
    pooled = n.emit("AVERAGE_POOL_2D", [padded], n.temp(y.shape), **_options(n, w, "VALID"))
    n.emit("MUL", [pooled, n.constant(factor[None, :, :, None])], y)


def _correction(
    n: NodeLowering, w: Window, spatial: tuple[int, ...], counts_pads: bool
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Window size over the elements ONNX counts, [rows, columns]: what ceil_mode adds behind never counts."""
    counts = []
    for size, k, s, b, a, steps in zip(spatial, w.kernel, w.strides, w.before, w.after, n.out_shape()[2:], strict=True):
        first = np.arange(steps) * s - b
        low, high = (-b, size + a) if counts_pads else (0, size)
        counts.append(k / np.maximum(np.minimum(first + k, high) - np.maximum(first, low), 1))
    return np.asarray(counts[0][:, None] * counts[1][None, :], np.float32)


@lowers("GlobalAveragePool", sides=follow_first, quantised=OWN_SCALE)
def global_average_pool(n: NodeLowering) -> None:
    axes = n.axes(range(2, len(n.shape())))
    n.emit("MEAN", [n.x(), n.ints(axes)], n.y(), keep_dims=True)


@lowers("GlobalMaxPool", sides=follow_first, quantised=SAME_SCALE)
def global_max_pool(n: NodeLowering) -> None:
    axes = n.axes(range(2, len(n.shape())))
    n.emit("REDUCE_MAX", [n.x(), n.ints(axes)], n.y(), keep_dims=True)
