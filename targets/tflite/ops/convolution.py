"""Conv and ConvTranspose. Filters are channels last; one group per channel is a depthwise convolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.graph import attribute, ir, static_shape
from edgec.targets.reading.windows import Window, window
from edgec.targets.tflite.model import Tensor
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import Quantised, last, lowers


def _depthwise(node: ir.Node) -> bool:
    """One group a channel of the input."""
    shape, groups = static_shape(node.inputs[1]), int(attribute(node, "group") or 1)
    return shape is not None and shape[1] == 1 and (groups > 1 or shape[0] > 1)


def _hybrid(node: ir.Node) -> frozenset[str]:
    """Which weights CONV_2D reads beside float inputs (measured with ai-edge-litert 2.3.0).

    DEPTHWISE_CONV_2D reads int8, but XNNPACK leaves it out then: a DEQUANTIZE folded into the float kernel is faster and
    more exact. CONV_3D reads none.
    """
    rank = 0 if node.inputs[0] is None or node.inputs[0].shape is None else node.inputs[0].shape.rank()
    return frozenset() if rank != 4 or _depthwise(node) else frozenset({"int8", "int4"})


_CONV = Quantised(inputs=(0,), weights=1, bias=2, hybrid=_hybrid)


@lowers("Conv", sides=last, quantised=_CONV, activation=True)
def conv(n: NodeLowering) -> None:
    shape, weight = n.shape(0), n.shape(1)
    spatial = shape[2:]
    if len(spatial) == 3:
        conv_3d(n)
        return
    if len(spatial) != 2:
        n.refuse(f"a convolution over {len(spatial)} axes", "the pass conv1d-to-2d makes two of one")
    w = window(n.node, spatial, weight[2:])
    groups, channels = int(n.attr("group", 1)), shape[1]
    depthwise = _depthwise(n.node)
    if not depthwise and groups > 1 and n.integer and not n.is_const(1):
        n.refuse("a grouped convolution whose weights are computed")
    x, padding = pad_input(n, n.x(0), w, spatial)
    filters = n.weights(1, (1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    bias = n.bias(2, x, filters, weight[0])
    options = {
        "padding": padding, "stride_h": w.strides[0], "stride_w": w.strides[1], "dilation_h_factor": w.dilations[0],
        "dilation_w_factor": w.dilations[1], "fused_activation_function": n.activation,
    }  # fmt: skip
    if depthwise:
        options["depth_multiplier"] = weight[0] // channels
    n.emit("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [x, filters, bias], n.y(), **options)


def conv_3d(n: NodeLowering) -> None:
    shape, weight = n.shape(0), n.shape(1)
    if int(n.attr("group", 1)) != 1:
        n.refuse("CONV_3D has no groups")
    if n.integer:
        n.refuse("CONV_3D has no integer kernel")
    w = window(n.node, shape[2:], weight[2:])
    x, padding = pad_input(n, n.x(0), w, shape[2:])
    filters = n.weights(1, (2, 3, 4, 1, 0))
    n.emit(
        "CONV_3D", [x, filters, n.bias(2, x, filters, weight[0])], n.y(), padding=padding,
        stride_d=w.strides[0], stride_h=w.strides[1], stride_w=w.strides[2],
        dilation_d_factor=w.dilations[0], dilation_h_factor=w.dilations[1], dilation_w_factor=w.dilations[2],
        fused_activation_function=n.activation,
    )  # fmt: skip


def pad_input(n: NodeLowering, x: Tensor, w: Window, spatial: tuple[int, ...]) -> tuple[Tensor, str]:
    """The input with the padding that the op's own SAME or VALID does not do, and which of them to use.

    PAD fills with zero, which is the zero point where `x` is quantised.
    """
    if not w.padded:
        return x, "VALID"
    if w.same(spatial):
        return x, "SAME"
    amounts = np.array([(0, 0), *zip(w.before, w.after, strict=True), (0, 0)], np.int32)
    if (amounts < 0).any():
        n.refuse("negative padding", "a Slice in front of it says the same")
    shape = tuple(d + int(a + b) for d, (a, b) in zip(x.shape, amounts, strict=True))
    out = n.temp(shape, x.dtype, x.quant, hint=f"{x.name}_padded")
    return n.emit("PAD", [x, n.ints(amounts)], out), "VALID"


def _not_integer(node: ir.Node) -> str | None:
    if int(attribute(node, "group") or 1) != 1:
        return "it is grouped"
    shape = static_shape(node.inputs[0])
    return None if shape is not None and len(shape) == 4 else "it is no transposed convolution of images"


@lowers("ConvTranspose", sides=last, quantised=Quantised(
    inputs=(0,), weights=1, bias=2, when=_not_integer,
    hybrid=lambda node: {"int8"},
), activation=True)  # fmt: skip
def conv_transpose(n: NodeLowering) -> None:
    """TRANSPOSE_CONV scatters like ONNX does; its VALID output is full, what ONNX pads is cut off by a SLICE.

    Dilations are zeros between the weights. Where output_padding reaches beyond the full output, nothing is scattered there:
    zeros behind the input make it that much larger.
    """
    shape, weight, out = n.shape(0), n.shape(1), n.out_shape()
    spatial, rank = shape[2:], len(shape) - 2
    if rank not in (2, 3):
        n.refuse(f"a transposed convolution over {rank} axes", "the pass conv1d-to-2d makes two of one")
    if int(n.attr("group", 1)) != 1:
        n.refuse("TRANSPOSE_CONV has no groups", "the pass split-grouped-deconv makes one for each")
    strides, dilations = tuple(n.attr("strides") or (1,) * rank), tuple(n.attr("dilations") or (1,) * rank)
    kernel = tuple((k - 1) * d + 1 for k, d in zip(weight[2:], dilations, strict=True))
    full = tuple((s - 1) * st + k for s, st, k in zip(spatial, strides, kernel, strict=True))
    before = _cut_before(n, full, out[2:])
    x, filters = n.x(0), n.weights(1, (1, 2, 3, 0) if rank == 2 else (2, 3, 4, 1, 0))
    if any(d != 1 for d in dilations):
        filters = _dilated(n, filters, kernel, dilations)
    reach = tuple(b + o for b, o in zip(before, out[2:], strict=True))
    more = [max(-(-(r - f) // st), 0) for r, f, st in zip(reach, full, strides, strict=True)]
    if any(more):
        amounts = np.array([(0, 0), *((0, m) for m in more), (0, 0)], np.int32)
        larger = n.temp((shape[0], *(s + m for s, m in zip(spatial, more, strict=True)), shape[1]), x.dtype, x.quant)
        x = n.emit("PAD", [x, n.ints(amounts)], larger)
        full = tuple(f + m * st for f, m, st in zip(full, more, strides, strict=True))
    bias = n.bias(2, x, filters, weight[1])
    whole, y = (out[0], *full, out[1]), n.y()
    exact = not any(before) and reach == full
    result = y if exact else n.temp(whole, y.dtype, y.quant, hint=f"{y.name}_full")
    if rank == 3:
        if n.integer:
            n.refuse("CONV_3D_TRANSPOSE has no integer kernel")
        n.emit(
            "CONV_3D_TRANSPOSE", [n.ints(whole), filters, x, bias], result, padding="VALID", stride_d=strides[0],
            stride_h=strides[1], stride_w=strides[2], fused_activation_function=n.activation,
        )  # fmt: skip
    else:
        n.emit(
            "TRANSPOSE_CONV", [n.ints(whole), filters, x, bias], result, padding="VALID",
            stride_h=strides[0], stride_w=strides[1], fused_activation_function=n.activation,
        )  # fmt: skip
    if not exact:
        n.emit("SLICE", [result, n.ints((0, *before, 0)), n.ints(y.shape)], y)


def _dilated(n: NodeLowering, filters: Tensor, kernel: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """Constant filters with zeros between the weights; the spatial axes are 1 and 2, or 0 to 2."""
    if filters.data is None:
        n.refuse("dilated weights that are computed", "constant weights can be dilated when compiling")
    first = 1 if len(kernel) == 2 else 0
    shape = list(filters.shape)
    at: list[slice] = [slice(None)] * len(shape)
    for a, (k, d) in enumerate(zip(kernel, dilations, strict=True)):
        shape[first + a] = k
        at[first + a] = slice(None, None, d)
    wide = np.zeros(shape, filters.data.dtype)
    wide[tuple(at)] = filters.data
    return n.constant(wide, filters.dtype, hint=f"{filters.name}_dilated", quant=filters.quant)


def _cut_before(n: NodeLowering, full: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, ...]:
    """How much of the full output ONNX's padding takes off in front (ONNX operator definition of ConvTranspose)."""
    extra = tuple(n.attr("output_padding") or (0,) * len(full))
    auto = n.attr("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER") or n.attr("output_shape"):
        totals = [max(f + e - o, 0) for f, e, o in zip(full, extra, out, strict=True)]
        return tuple(t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals)
    return tuple(n.attr("pads") or (0,) * (2 * len(full)))[: len(full)]
