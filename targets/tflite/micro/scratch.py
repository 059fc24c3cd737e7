"""Scratch memory that Arm's kernels take from the arena and the portable ones do not.

CMSIS-NN asks for a buffer for each operator while it runs; the planner places it beside the tensors alive then, so the arena
grows by the largest of them at most. The formulas bound those of CMSIS-NN's *_get_buffer_sizes_*.c (July 2026), for cores
with the DSP extension (Cortex-M4, M7, M33) and with Helium (M55, M85); other cores take less.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.targets.tflite.model import Operator, TfliteModel

_BLOCK = 124
"""Channels a Helium depthwise kernel takes at a time (CH_IN_BLOCK_MVE)."""


def cmsis_nn_scratch(model: TfliteModel) -> tuple[int, Operator | None]:
    """Bytes of the largest buffer any operator may ask for, and that operator; 0 and None where none asks."""
    sized = [(_scratch(o), o) for graph in model.subgraphs for o in graph.operators]
    bytes_, operator = max(sized, key=lambda pair: pair[0], default=(0, None))
    return bytes_, operator if bytes_ else None


def _scratch(o: Operator) -> int:
    if o.outputs[0].dtype not in ("int8", "int16"):
        return 0
    shapes = [t.shape if t is not None else () for t in o.inputs]
    wide = o.outputs[0].dtype == "int16"
    if o.op == "CONV_2D":
        _, kh, kw, channels = shapes[1]
        padded = shapes[0][1:3] != o.outputs[0].shape[1:3] or o.options.get("padding") == "SAME"
        if kh * kw == 1 and not padded and not wide:
            return 0
        columns = kh * kw * channels
        return 4 * _up(columns, 8) * 2 if wide else 4 * _up(columns, 16)
    if o.op == "DEPTHWISE_CONV_2D":
        _, kh, kw, channels = shapes[1]
        area = kh * kw
        if shapes[0][3] == 1 and channels > 1:  # computed as a convolution, of a filter it turns first
            return 4 * _up(area, 16) + area * channels
        return 4 * area * channels * 2 + 8 if wide else max(4 * _BLOCK * area, 2 * channels * area)
    if o.op == "TRANSPOSE_CONV":
        _, kh, kw, channels = shapes[1]
        stride_h, stride_w = int(o.options.get("stride_h", 1)), int(o.options.get("stride_w", 1))
        width = ((shapes[2][2] - 1) * stride_w + max(kw, stride_h)) * o.outputs[0].shape[3]
        return max(width * max(kh, stride_h) * 4, 4 * _up(kh * kw * channels, 16)) + math.prod(shapes[1])
    if o.op == "FULLY_CONNECTED":
        return 0 if wide else shapes[1][0] * 4
    if o.op == "AVERAGE_POOL_2D":
        return shapes[0][3] * 4
    return 0


def _up(n: int, step: int) -> int:
    return -(-n // step) * step
