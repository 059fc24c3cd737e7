"""Poolings over windows and over whole images."""

from __future__ import annotations

import math

import numpy as np

from edgec.graph import attribute, ir
from edgec.targets.reading.windows import Window, ceil_padding, window
from edgec.targets.tflite.absorb import clip_limits
from edgec.targets.tflite.model import Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import OWN_SCALE, SAME_SCALE, Quantised, follow_first, last, lowers


def _window(n: NodeLowering) -> tuple[Window, tuple[int, ...]]:
    """The window, with what ceil_mode adds behind as padding of its own."""
    spatial = n.shape()[2:]
    w = window(n.node, spatial)
    return w, ceil_padding(w, spatial, n.out_shape()[2:])


def _flat(w: Window) -> bool:
    """Whether the kernels over images do it in one step."""
    return len(w.kernel) == 2 and all(d == 1 for d in w.dilations)


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


@lowers(
    "MaxPool", sides=last, via={"uint8": "float32", "int8": "float32"}, quantised=Quantised("same", when=_one_output)
)
def max_pool(n: NodeLowering) -> None:
    if n.has_output(1):
        n.refuse("indices of the maxima", "MaxPool with one output has a kernel")
    w, extra = _window(n)
    padding = _padding(n, w, extra, n.shape()[2:]) if _flat(w) else None
    x = n.x()
    if padding is None and (w.padded or any(extra)):
        amounts = _amounts(w, extra)
        padded = _padded(n, x, amounts)
        if _zero_is_lowest(n.value(0), x):  # XNNPACK takes PAD, and no PADV2
            x = n.emit("PAD", [x, n.ints(amounts)], padded)
        else:
            lowest = np.float32(np.finfo(np.float32).min) if x.quant is None else np.iinfo(x.dtype).min
            x = n.emit("PADV2", [x, n.ints(amounts), n.constant(np.asarray(lowest), x.dtype, quant=x.quant)], padded)
    _max_of_windows(n, x, w, padding or "VALID")


def _max_of_windows(n: NodeLowering, x: Tensor, w: Window, padding: str) -> None:
    if _flat(w):
        n.emit("MAX_POOL_2D", [x], n.y(), **_options(n, w, padding))
    else:
        n.result(by_axes(n, x, w, "MAX_POOL_2D"))


def _zero_is_lowest(v: ir.Value, x: Tensor) -> bool:
    """Whether a zero in the padding is never above what a window really holds."""
    if x.quant is not None:
        return int(x.quant.zero_point[0]) == np.iinfo(x.dtype).min
    producer = v.producer()
    if producer is None or producer.domain:
        return False
    limits = clip_limits(producer)
    return producer.op_type in ("Relu", "Sigmoid", "HardSigmoid", "Softmax") or (limits is not None and limits[0] >= 0)


def _no_correction(node: ir.Node) -> str | None:
    """AVERAGE_POOL_2D leaves padding out of the count under SAME; other padding needs a product behind it."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None or shape.rank() != 4:
        return "it is no pooling of images"
    if any(d != 1 for d in attribute(node, "dilations") or ()):
        return "it has dilations"
    return None


@lowers("AveragePool", sides=last, quantised=Quantised("same", when=_no_correction))
def average_pool(n: NodeLowering) -> None:
    w, extra = _window(n)
    spatial = n.shape()[2:]
    x, y = n.x(), n.y()
    padding = _padding(n, w, extra, spatial) if _flat(w) else None
    counts_pads = bool(n.attr("count_include_pad", 0))
    if padding == "VALID" or (padding == "SAME" and not counts_pads):
        n.emit("AVERAGE_POOL_2D", [x], y, **_options(n, w, padding))
        return
    if w.padded or any(extra):
        amounts = _amounts(w, extra)
        x = n.emit("PAD", [x, n.ints(amounts)], _padded(n, x, amounts))
    factor = _correction(n, w, spatial, counts_pads)
    exact = bool((factor == 1).all())
    if n.integer and not exact:
        n.refuse("padding that is left out of the count, other than SAME", "the pass count-include-pad")
    if _flat(w):
        pooled = y if exact else n.temp(y.shape)
        n.emit("AVERAGE_POOL_2D", [x], pooled, **_options(n, w, "VALID"))
    else:
        pooled = by_axes(n, x, w, "AVERAGE_POOL_2D")
    if not exact:
        n.emit("MUL", [pooled, n.constant(factor[None, ..., None])], y)
    elif pooled is not y:
        n.result(pooled)


def _correction(
    n: NodeLowering, w: Window, spatial: tuple[int, ...], counts_pads: bool
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Window size over the elements ONNX counts, one axis for each spatial axis: what ceil_mode adds never counts."""
    factor = np.ones((), np.float64)
    for a, (size, k, s, d, before, after, steps) in enumerate(
        zip(spatial, w.kernel, w.strides, w.dilations, w.before, w.after, n.out_shape()[2:], strict=True)
    ):
        places = np.arange(steps)[:, None] * s - before + np.arange(k)[None, :] * d
        low, high = (-before, size + after) if counts_pads else (0, size)
        counted = ((places >= low) & (places < high)).sum(axis=1)
        along = [1] * len(spatial)
        along[a] = steps
        factor = factor * (k / np.maximum(counted, 1)).reshape(along)
    return np.asarray(factor, np.float32)


def by_axes(n: NodeLowering, x: Tensor, w: Window, op: str) -> Tensor:
    """A pooling over any number of axes, with dilations or not: the two inner axes together, others one by one.

    Maxima of maxima are maxima, and so are averages of equally many. `x` is padded; its axes 1 and on are the spatial ones.
    """
    axes = list(range(len(w.kernel)))
    groups = [axes[-2:]] if len(axes) > 1 and all(w.dilations[a] == 1 for a in axes[-2:]) else [[a] for a in axes[-2:]]
    groups += [[a] for a in reversed(axes[:-2])]
    for group in groups:
        dilated = w.dilations[group[0]] != 1
        x = _pool_taps(n, x, w, op, group[0]) if dilated else _pool_group(n, x, w, op, group)
    return x


def _pool_group(n: NodeLowering, x: Tensor, w: Window, op: str, group: list[int]) -> Tensor:
    """One or two neighbouring axes as height and width of an image."""
    first, end = group[0] + 1, group[-1] + 2
    sizes, kernel, strides = [
        list(v) for v in (x.shape[first:end], [w.kernel[a] for a in group], [w.strides[a] for a in group])
    ]
    outs = [(d - k) // s + 1 for d, k, s in zip(sizes, kernel, strides, strict=True)]
    if len(group) == 1:
        sizes, kernel, strides = [*sizes, 1], [*kernel, 1], [*strides, 1]
    before, after = math.prod(x.shape[:first]), math.prod(x.shape[end:])
    image = n.reshape(x, (before, *sizes, after))
    pooled = n.emit(
        op, [image], n.temp((before, outs[0], outs[1] if len(outs) > 1 else 1, after), x.dtype, x.quant), padding="VALID",
        stride_h=strides[0], stride_w=strides[1], filter_height=kernel[0], filter_width=kernel[1],
        fused_activation_function="NONE",
    )  # fmt: skip
    return n.reshape(pooled, (*x.shape[:first], *outs, *x.shape[end:]))


def _pool_taps(n: NodeLowering, x: Tensor, w: Window, op: str, a: int) -> Tensor:
    """One axis with a dilation: what each element of the window sees, joined."""
    axis, k, s, d = a + 1, w.kernel[a], w.strides[a], w.dilations[a]
    steps = (x.shape[axis] - (k - 1) * d - 1) // s + 1
    shape = (*x.shape[:axis], steps, *x.shape[axis + 1 :])
    found: Tensor | None = None
    for j in range(k):
        begin, end, by = [0] * x.rank, list(x.shape), [1] * x.rank
        begin[axis], end[axis], by[axis] = j * d, j * d + (steps - 1) * s + 1, s
        tap = n.emit("STRIDED_SLICE", [x, n.ints(begin), n.ints(end), n.ints(by)], n.temp(shape, x.dtype, x.quant))
        join = "MAXIMUM" if op == "MAX_POOL_2D" else "ADD"
        found = tap if found is None else n.emit(join, [found, tap], n.temp(shape, x.dtype, x.quant))
    assert found is not None  # kernels are not empty
    if op == "MAX_POOL_2D":
        return found
    return n.emit("MUL", [found, n.constant(np.float32(1 / k))], n.temp(shape))


@lowers("GlobalAveragePool", sides=follow_first, quantised=OWN_SCALE)
def global_average_pool(n: NodeLowering) -> None:
    axes = n.axes(range(2, len(n.shape())))
    n.emit("MEAN", [n.x(), n.ints(axes)], n.y(), keep_dims=True)


@lowers("GlobalMaxPool", sides=follow_first, quantised=SAME_SCALE)
def global_max_pool(n: NodeLowering) -> None:
    axes = n.axes(range(2, len(n.shape())))
    n.emit("REDUCE_MAX", [n.x(), n.ints(axes)], n.y(), keep_dims=True)
