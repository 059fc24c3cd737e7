"""Fourier transforms of known length: DFT as one MatMul, STFT as one Conv, with constant matrices of cosines and sines."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.legalize.builders import first_input, optional_input, reshape
from edgec.rewrite import Reject, Result, Rewriter

_AXIS_INPUT = 20
"""From this opset the axis of DFT is an input; before, an attribute whose default is 1."""

_LARGEST = 1 << 24
"""Elements of the matrix above which a transform is left to a kernel that is not quadratic."""


def _matrix(length: int, kept: int, parts: int, *, inverse: bool) -> npt.NDArray[Any]:
    """[length, parts, kept, 2]: what each (real, imaginary) input part adds to each output part."""
    n = np.arange(length)[:, None] * np.arange(kept)[None, :] % length
    angle = (2 if inverse else -2) * np.pi * n / length
    cos, sin = np.cos(angle), np.sin(angle)
    rows = [np.stack([cos, sin], axis=-1), np.stack([-sin, cos], axis=-1)][:parts]
    out: npt.NDArray[Any] = np.stack(rows, axis=1) / (length if inverse else 1)
    return out


def dft(node: ir.Node, rw: Rewriter) -> Result:
    """The transformed axis beside the parts, both flattened, times one matrix."""
    x, shape = first_input(node), static_shape(node.inputs[0])
    if shape is None or x.dtype is None:
        return Reject("the length is not known at compile time")
    wanted, axis_input = constant(optional_input(node, 1)), constant(optional_input(node, 2))
    if (wanted is None and optional_input(node, 1) is not None) or (
        axis_input is None and optional_input(node, 2) is not None
    ):
        return Reject("the length or the axis is not known at compile time")
    given = attribute(node, "axis", _AXIS_INPUT - 1) if rw.opset < _AXIS_INPUT else -2
    if axis_input is not None:
        given = int(np.asarray(axis_input).reshape(-1)[0])
    axis = given % len(shape)
    length = int(np.asarray(wanted).reshape(-1)[0]) if wanted is not None else shape[axis]
    inverse, onesided = bool(attribute(node, "inverse")), bool(attribute(node, "onesided"))
    if inverse and onesided:
        return Reject("the inverse of a one-sided transform is not covered")
    kept = length // 2 + 1 if onesided else length
    parts = shape[-1]
    if length * kept * parts * 2 > _LARGEST:
        return Reject(f"the matrix would have {length * kept * parts * 2} elements")
    matrix = np.zeros((shape[axis], parts, kept, 2))
    used = min(shape[axis], length)  # longer signals are cut, shorter ones padded with zeros
    matrix[:used] = _matrix(length, kept, parts, inverse=inverse)[:used]
    order = [i for i in range(len(shape)) if i not in (axis, len(shape) - 1)]
    perm = [*order, axis, len(shape) - 1]
    y = x if perm == sorted(perm) else rw.op("Transpose", x, attrs={"perm": perm})
    outer = [shape[i] for i in order]
    flat = matrix.reshape(shape[axis] * parts, kept * 2).astype(x.dtype.numpy())
    y = rw.op("MatMul", reshape(rw, y, (*outer, shape[axis] * parts)), rw.const(flat, f"{node.outputs[0].name}.dft"))
    y = reshape(rw, y, (*outer, kept, 2))
    return (
        y if perm == sorted(perm) else rw.op("Transpose", y, attrs={"perm": [perm.index(i) for i in range(len(perm))]})
    )


def stft(node: ir.Node, rw: Rewriter) -> Result:
    """A convolution with windowed cosines and sines, one step a frame."""
    x, shape = first_input(node), static_shape(node.inputs[0])
    step, window = constant(node.inputs[1]), constant(optional_input(node, 2))
    given = constant(optional_input(node, 3))
    if shape is None or step is None or x.dtype is None:
        return Reject("the length or the step is not known at compile time")
    if (window is None and optional_input(node, 2) is not None) or (
        given is None and optional_input(node, 3) is not None
    ):
        return Reject("the window or the frame length is not known at compile time")
    parts = shape[2] if len(shape) == 3 else 1
    length = (
        int(np.asarray(given).reshape(-1)[0]) if given is not None else len(window) if window is not None else shape[1]
    )
    kept = length // 2 + 1 if attribute(node, "onesided") else length
    if length * kept * parts * 2 > _LARGEST:
        return Reject(f"the matrix would have {length * kept * parts * 2} elements")
    matrix = _matrix(length, kept, parts, inverse=False)
    if window is not None:
        matrix = matrix * np.asarray(window, np.float64)[:, None, None, None]
    weight = matrix.reshape(length, parts, kept * 2).transpose(2, 1, 0).astype(x.dtype.numpy())
    signal = reshape(
        rw, rw.op("Transpose", x, attrs={"perm": [0, 2, 1]}) if parts > 1 else x, (shape[0], parts, shape[1])
    )
    strides = [int(np.asarray(step).reshape(-1)[0])]
    y = rw.op("Conv", signal, rw.const(weight, f"{node.outputs[0].name}.stft"), attrs={"strides": strides})
    frames = (shape[1] - length) // strides[0] + 1
    return reshape(rw, rw.op("Transpose", y, attrs={"perm": [0, 2, 1]}), (shape[0], frames, kept, 2))
