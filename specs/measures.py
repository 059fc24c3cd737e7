"""Named numbers of a node that conditions put limits on: what no attribute says by itself, or only with shapes.

A number is None where the node has none of the kind (the kernel of a Relu): no limit is then met. It is `Unmeasured`
where a shape that it takes is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.graph import ir


class Unmeasured(Exception):
    """A shape is not known. The message says which."""


Measure = Callable[["ir.Node"], float | None]


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    from edgec.graph import static_shape

    shape = static_shape(value)
    if shape is None:
        raise Unmeasured(f"the shape of {value.name if value is not None else None!r} is not fixed")
    return shape


def _feature_maps(node: ir.Node) -> list[tuple[int, ...]]:
    """Shapes of what the node reads and makes at run time."""
    from edgec.graph import is_constant

    read = [v for v in node.inputs if v is not None and not is_constant(v)]
    return [_shape(v) for v in (*read, *(v for v in node.outputs if v.uses() or v.is_graph_output()))]


def batch(node: ir.Node) -> float | None:
    """The largest product of all dimensions in front of channels, height and width; of rank 3 and below, the first."""
    return max((math.prod(s[:-3]) if len(s) > 3 else s[0] for s in _feature_maps(node) if s), default=None)


def largest_side(node: ir.Node) -> float | None:
    """The longest dimension that is not the batch: of the last three, or all but the first."""
    return max((d for s in _feature_maps(node) for d in (s[-3:] if len(s) > 3 else s[1:])), default=None)


def output_rank(node: ir.Node) -> float | None:
    return len(_shape(node.outputs[0]))


def matrix_rows(node: ir.Node) -> float | None:
    """Rows of the matrices that a product makes, 1 for a vector; what is in front of them does not count."""
    shape = node.outputs[0].shape
    if shape is None or (len(shape) > 1 and not isinstance(shape[-2], int)):
        raise Unmeasured(f"the shape of {node.outputs[0].name!r} is not fixed")
    rows = shape[-2] if len(shape) > 1 else 1
    return rows if isinstance(rows, int) else None


def matrix_side(node: ir.Node) -> float | None:
    """Of a product, the shorter side of the second matrix: what is summed up, or columns of the result."""
    shape = _shape(node.inputs[1])
    return min(shape[-2:]) if len(shape) > 1 else 1


def fewest_channels(node: ir.Node) -> float | None:
    """Of a convolution, output channels or input channels of a group, whichever are fewer."""
    if node.op_type not in ("Conv", "ConvTranspose"):
        return None
    return min(_shape(node.inputs[1])[:2])


def batch_change(node: ir.Node) -> float | None:
    """How far the first dimension of the output is from that of the input; 0: the batch is left alone."""
    before, after = _shape(node.inputs[0]), _shape(node.outputs[0])
    return abs(before[0] - after[0]) if before and after else None


def moved_batch(node: ir.Node) -> float | None:
    """Of a Transpose, which input axis comes first in the output."""
    from edgec.graph import attribute

    perm = attribute(node, "perm")
    return perm[0] if perm else len(_shape(node.inputs[0])) - 1


def _kernel(node: ir.Node) -> tuple[int, ...] | None:
    """Of a convolution the weight says it, also where the attribute is left out."""
    from edgec.graph import attribute

    if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) > 1:
        return _shape(node.inputs[1])[2:]
    kernel = attribute(node, "kernel_shape")
    return tuple(kernel) if kernel else None


def largest_kernel(node: ir.Node) -> float | None:
    return max(_kernel(node) or (), default=None)


def smallest_kernel(node: ir.Node) -> float | None:
    return min(_kernel(node) or (), default=None)


def kernel_difference(node: ir.Node) -> float | None:
    """How far the longest side of the kernel is from its shortest: 0 is square, or has one axis."""
    kernel = _kernel(node)
    return max(kernel) - min(kernel) if kernel else None


def spatial_axes(node: ir.Node) -> float | None:
    """How many axes a window moves along."""
    kernel = _kernel(node)
    return len(kernel) if kernel is not None else None


def largest_stride(node: ir.Node) -> float | None:
    from edgec.graph import attribute

    return max(attribute(node, "strides") or (1,))


def smallest_stride(node: ir.Node) -> float | None:
    from edgec.graph import attribute

    return min(attribute(node, "strides") or (1,))


def largest_dilation(node: ir.Node) -> float | None:
    from edgec.graph import attribute

    return max(attribute(node, "dilations") or (1,))


def _pads(node: ir.Node) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(before, after) of each axis; what `auto_pad` means is worked out (ONNX, Conv)."""
    from edgec.graph import attribute

    kernel = _kernel(node)
    if kernel is None:
        return None
    n = len(kernel)
    auto = attribute(node, "auto_pad") or "NOTSET"
    if auto == "VALID":
        return (0,) * n, (0,) * n
    if auto == "NOTSET":
        pads = tuple(attribute(node, "pads") or (0,) * (2 * n))
        return pads[:n], pads[n:]
    sides = _shape(node.inputs[0])[2:]
    strides, dilations = attribute(node, "strides") or (1,) * n, attribute(node, "dilations") or (1,) * n
    if node.op_type == "ConvTranspose":
        totals = [max(d * (k - 1) + 1 - s, 0) for k, s, d in zip(kernel, strides, dilations, strict=True)]
    else:
        totals = [
            max((-(-side // s) - 1) * s + (k - 1) * d + 1 - side, 0)
            for side, k, s, d in zip(sides, kernel, strides, dilations, strict=True)
        ]
    small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    return (small, large) if auto == "SAME_UPPER" else (large, small)


def largest_pad(node: ir.Node) -> float | None:
    pads = _pads(node)
    return max((*pads[0], *pads[1]), default=None) if pads is not None else None


def pad_beyond_kernel(node: ir.Node) -> float | None:
    """The largest of pad minus kernel along the same axis: 0 and above is a window in the padding altogether."""
    pads, kernel = _pads(node), _kernel(node)
    if pads is None or kernel is None:
        return None
    return max((p - k for side in pads for p, k in zip(side, kernel, strict=True)), default=None)


def pad_difference(node: ir.Node) -> float | None:
    """How unequal the padding of opposite sides is."""
    pads = _pads(node)
    return max((abs(a - b) for a, b in zip(*pads, strict=True)), default=None) if pads is not None else None


def convolution_buffer(node: ir.Node, item: int) -> float | None:
    """Banks of the NVIDIA DLA's convolution buffer that one kernel and the fewest rows of the image take, of 16.

    `item`: bytes of an element. NVIDIA, TensorRT developer guide, DLA, "Convolution and Fully Connected Layers":
    wtBanksForOneKernel = ceil(roundUp(C * kh * kw * item, 128) / 32768), minDataBanks = ceil(entriesPerDataSlice *
    dilatedKernelHt / 256), entriesPerDataSlice = ceil(ceil(C * item / 32) * W / 4), dilatedKernelHt = (kh - 1) *
    dilation_h + 1. C is the number of input channels of all groups, as the guide's `inputDims_c` has it.
    """
    from edgec.graph import attribute

    image, kernel = _shape(node.inputs[0]), _kernel(node)
    if len(image) != 4 or kernel is None:
        return None
    channels, width = image[1], image[3]
    dilations = attribute(node, "dilations") or (1, 1)
    stored = -(-channels * kernel[0] * kernel[1] * item // 128) * 128
    weights = -(-stored // 32768)
    entries = -(-(-(-channels * item // 32) * width) // 4)
    data = -(-entries * ((kernel[0] - 1) * dilations[0] + 1) // 256)
    return weights + data


MEASURES: Mapping[str, Measure] = {
    "batch": batch,
    "largest-side": largest_side,
    "output-rank": output_rank,
    "matrix-rows": matrix_rows,
    "matrix-side": matrix_side,
    "fewest-channels": fewest_channels,
    "batch-change": batch_change,
    "moved-batch": moved_batch,
    "spatial-axes": spatial_axes,
    "largest-kernel": largest_kernel,
    "smallest-kernel": smallest_kernel,
    "kernel-difference": kernel_difference,
    "largest-stride": largest_stride,
    "smallest-stride": smallest_stride,
    "largest-dilation": largest_dilation,
    "largest-pad": largest_pad,
    "pad-beyond-kernel": pad_beyond_kernel,
    "pad-difference": pad_difference,
    "convolution-buffer-int8": lambda node: convolution_buffer(node, 1),
    "convolution-buffer-fp16": lambda node: convolution_buffer(node, 2),
}
