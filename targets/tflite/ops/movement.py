"""Joining, cutting, padding, repeating: elements keep their values."""

from __future__ import annotations

import numpy as np

from edgec.targets.tflite.model import Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import ANY, SAME_SCALE, Quantised, follow, follow_first, lowers, raw


@lowers("Concat", sides=follow, dtypes=ANY, quantised=Quantised("as-output"))
def concat(n: NodeLowering) -> None:
    axis = n.axis(int(n.attr("axis")), of_input=None)
    parts = [n.x(i) for i in range(len(n.node.inputs)) if n.shape(i)[int(n.attr("axis"))] != 0]
    if len(parts) == 1:
        n.reshape(parts[0], n.y().shape, n.y())
    else:
        n.emit("CONCATENATION", parts, n.y(), axis=axis)


_XNNPACK_PARTS = 4
"""The most outputs of a SPLIT that XNNPACK takes (measured with ai-edge-litert 2.3.0)."""


@lowers("Split", sides=follow_first, dtypes=ANY, quantised=SAME_SCALE)
def split(n: NodeLowering) -> None:
    """SPLIT or SPLIT_V; a SLICE each where XNNPACK takes that and neither of them: unequal parts, or more than four."""
    onnx_axis = int(n.attr("axis"))
    axis = n.axis(onnx_axis)
    x = n.x()
    sizes = [n.out_shape(k)[onnx_axis] for k in range(len(n.node.outputs))]
    if n.builder.xnnpack and x.dtype in ("float32", "int8") and (len(sizes) > _XNNPACK_PARTS or len(set(sizes)) > 1):
        begin = [0] * x.rank
        for k, size in enumerate(sizes):
            if n.has_output(k):
                y = n.y(k)
                n.emit("SLICE", [x, n.ints(begin), n.ints(y.shape)], y)
            begin[axis] += size
        return
    outs = [n.y(k) for k in range(len(sizes))]
    if len(set(sizes)) == 1:
        n.emit("SPLIT", [n.ints(axis), x], outs, num_splits=len(outs))
    else:
        n.emit("SPLIT_V", [x, n.ints(sizes), n.ints(axis)], outs, num_splits=len(outs))


@lowers("Slice", sides=follow_first, dtypes=ANY, quantised=SAME_SCALE)
def slice_(n: NodeLowering) -> None:
    """SLICE where all steps are 1 (delegates take it more often), else STRIDED_SLICE; masks spare the bounds of whole axes."""
    shape = n.shape()
    starts, ends = n.const(1).reshape(-1), n.const(2).reshape(-1)
    axes = n.const(3).reshape(-1) if n.has(3) else np.arange(len(starts))
    steps = n.const(4).reshape(-1) if n.has(4) else np.ones(len(starts), np.int64)
    begin, end, step = [0] * len(shape), list(shape), [1] * len(shape)
    for s, e, a, by in zip(starts, ends, axes, steps, strict=True):
        a = int(a) % len(shape)
        begin[a], end[a], step[a] = slice(int(s), int(e), int(by)).indices(shape[a])
    perm = n.in_perm() or tuple(range(len(shape)))
    begin, end, step = ([v[a] for a in perm] for v in (begin, end, step))
    x, y = n.x(), n.y()
    if all(s == 1 for s in step):
        n.emit("SLICE", [x, n.ints(begin), n.ints(y.shape)], y)
        return
    backwards = sum(1 << i for i, (e, s) in enumerate(zip(end, step, strict=True)) if e < 0 and s < 0)
    n.emit("STRIDED_SLICE", [x, n.ints(begin), n.ints([max(e, 0) for e in end]), n.ints(step)], y, end_mask=backwards)


@lowers(
    "Pad",
    sides=follow_first,
    dtypes=("float32", "int32", "int64", "bool"),
    quantised=Quantised("as-output", inputs=(0,)),
)
def pad(n: NodeLowering) -> None:
    """At the output's scale: the input's may not reach as far as the number that fills."""
    shape = n.shape()
    given = n.const(1).reshape(2, -1).T
    axes = [int(a) % len(shape) for a in n.const(3).reshape(-1)] if n.has(3) else range(len(shape))
    amounts = np.zeros((len(shape), 2), np.int32)
    for a, pair in zip(axes, given, strict=True):
        amounts[a] = pair
    perm = list(n.in_perm() or range(len(shape)))
    amounts = amounts[perm]
    mode = n.attr("mode")
    x, y = n.x(), n.y()
    if (amounts < 0).any():
        kept = np.maximum(-amounts, 0)
        inner = tuple(int(d - k.sum()) for d, k in zip(x.shape, kept, strict=True))
        cut = y if not (amounts > 0).any() else n.temp(inner, x.dtype, x.quant)
        x = n.emit("SLICE", [x, n.ints(kept[:, 0]), n.ints(inner)], cut)
        amounts = np.maximum(amounts, 0)
        if x is y:
            return
    if mode in ("reflect",):
        n.emit("MIRROR_PAD", [x, n.ints(amounts)], y, mode="REFLECT")
    elif mode == "constant":
        _pad_constant(n, x, y, amounts)
    elif mode in ("edge", "wrap"):
        _pad_by_index(n, x, y, amounts, wrap=mode == "wrap")
    else:
        n.refuse(f"mode {mode}", "constant, reflect, edge and wrap can be said")


def _pad_constant(
    n: NodeLowering, x: Tensor, y: Tensor, amounts: np.ndarray[tuple[int, ...], np.dtype[np.int32]]
) -> None:
    fill = float(n.const(2).reshape(())) if n.has(2) else 0.0
    if fill == 0 and x.dtype != "bool":
        n.emit("PAD", [x, n.ints(amounts)], y)
        return
    if x.quant is not None:
        limits = np.iinfo(x.dtype)
        stored = np.clip(np.rint(fill / float(x.quant.scale[0])) + x.quant.zero_point[0], limits.min, limits.max)
        value = n.constant(stored, x.dtype, quant=x.quant)
    else:
        value = n.constant(np.asarray(fill, x.dtype), x.dtype)
    n.emit("PADV2", [x, n.ints(amounts), value], y)


def _pad_by_index(
    n: NodeLowering, x: Tensor, y: Tensor, amounts: np.ndarray[tuple[int, ...], np.dtype[np.int32]], *, wrap: bool
) -> None:
    """The first and last slice of an axis repeated, or (wrap) the axis over and over; one axis after the other."""
    axes = [a for a in range(x.rank) if amounts[a].any()]
    for a in axes:
        places = np.arange(-amounts[a][0], x.shape[a] + amounts[a][1])
        places = places % x.shape[a] if wrap else np.clip(places, 0, x.shape[a] - 1)
        shape = (*x.shape[:a], len(places), *x.shape[a + 1 :])
        out = y if a == axes[-1] else n.temp(shape, x.dtype, x.quant)
        x = n.emit("GATHER", [x, n.constant(places, "int32")], out, axis=a, batch_dims=0)
    if not axes:
        n.reshape(x, y.shape, y)


@lowers("Expand", sides=raw, dtypes=("float32", "int32", "int64", "bool"), quantised=SAME_SCALE)
def expand(n: NodeLowering) -> None:
    x, y = n.x(), n.y()
    x = n.reshape(x, (1,) * (y.rank - x.rank) + x.shape)
    n.emit("BROADCAST_TO", [x, n.ints(y.shape)], y)


@lowers("Tile", sides=follow_first, dtypes=("float32", "int32", "int64", "bool", "uint8"), quantised=SAME_SCALE)
def tile(n: NodeLowering) -> None:
    repeats = n.const(1).reshape(-1)
    perm = list(n.in_perm() or range(len(repeats)))
    n.emit("TILE", [n.x(), n.ints(repeats[perm])], n.y())
