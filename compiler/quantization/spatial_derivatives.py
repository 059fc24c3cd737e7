"""Derivatives of convolutions, pooling and resizing, as ONNX nodes. See `derivatives.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.graph import Graph, attribute, constant, ir, is_constant, static_shape
from edgec.quantization.builder import Builder, Gradients

if TYPE_CHECKING:
    import numpy.typing as npt


def _sizes(value: ir.Value | None) -> tuple[int, ...] | None:
    """The dimensions of a value, where all but the batch's are known; that of the batch makes no difference here."""
    if value is None or value.shape is None or value.shape.rank() == 0:
        return None
    known = [d for d in value.shape[1:] if isinstance(d, int)]
    return (1, *known) if len(known) == value.shape.rank() - 1 else None


def _window(node: ir.Node, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]] | None:
    """Strides, dilations, pads and the elements at the end no window covers. None where sizes are not known."""
    size, out = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    n = len(kernel)
    if size is None or out is None or len(size) != n + 2:
        return None
    strides = list(attribute(node, "strides") or [1] * n)
    dilations = list(attribute(node, "dilations") or [1] * n)
    pads = list(attribute(node, "pads") or [0] * 2 * n)
    auto = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    left = []
    for i in range(n):
        need = (out[i + 2] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max(need - size[i + 2], 0)
            pads[i], pads[i + n] = (total // 2, total - total // 2)[:: 1 if auto == "SAME_UPPER" else -1]
        elif auto == "VALID":
            pads[i] = pads[i + n] = 0
        left.append(size[i + 2] + pads[i] + pads[i + n] - need)
    return (strides, dilations, pads, left) if all(v >= 0 for v in left) else None


def conv(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    shape = static_shape(node.inputs[1])
    if shape is None or not is_constant(node.inputs[1]):
        return None
    window = _window(node, shape[2:])
    if window is None:
        return None
    strides, dilations, pads, left = window
    n, group = len(strides), int(attribute(node, "group"))
    back = [d * (k - 1) for d, k in zip(dilations, shape[2:], strict=True)]
    if strides == [1] * n and all(back[i % n] >= p for i, p in enumerate(pads)):
        w = constant(node.inputs[1])
        assert w is not None  # is_constant said so
        w = w.reshape(group, shape[0] // group, *shape[1:]).swapaxes(1, 2)
        w = np.flip(w.reshape(group * shape[1], shape[0] // group, *shape[2:]), axis=tuple(range(2, n + 2)))
        others = [back[i % n] - p for i, p in enumerate(pads)]
        return {0: b.op("Conv", g[0], b.array(w), pads=others, dilations=dilations, group=group)}
    return {
        0: b.op("ConvTranspose", g[0], node.inputs[1], strides=strides, dilations=dilations, pads=pads,
                output_padding=left, group=group)
    }  # fmt: skip


def conv_transpose(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    shape = static_shape(node.inputs[1])
    if shape is None or "output_shape" in node.attributes:
        return None
    n = len(shape) - 2
    if "auto_pad" in node.attributes and node.attributes["auto_pad"].as_string() not in ("NOTSET", "VALID"):
        return None
    return {
        0: b.op("Conv", g[0], node.inputs[1], strides=attribute(node, "strides") or [1] * n,
                dilations=attribute(node, "dilations") or [1] * n, pads=attribute(node, "pads") or [0] * 2 * n,
                group=int(attribute(node, "group")))
    }  # fmt: skip


# --- pooling and resizing --------------------------------------------------------------------------------------------


def average_pool(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    kernel = list(attribute(node, "kernel_shape"))
    window, size = _window(node, kernel), _sizes(node.inputs[0])
    if window is None or size is None or attribute(node, "ceil_mode"):
        return None
    strides, dilations, pads, left = window
    n, channels = len(kernel), size[1]
    weight = b.array(np.full((channels, 1, *kernel), 1 / np.prod(kernel)))
    grad = g[0]
    if any(pads) and not attribute(node, "count_include_pad"):
        grad = b.op("Mul", grad, b.array(_inverse_counts(size[2:], kernel, strides, dilations, pads)))
    return {
        0: b.op("ConvTranspose", grad, weight, strides=strides, dilations=dilations, pads=pads,
                output_padding=left, group=channels)
    } if n else None  # fmt: skip


def _inverse_counts(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Elements of a window over those inside the input, for each output position."""
    out: npt.NDArray[np.float64] = np.ones((1, 1))
    n = len(kernel)
    for i in range(n):
        reach = dilations[i] * (kernel[i] - 1) + 1
        starts = np.arange((size[i] + pads[i] + pads[i + n] - reach) // strides[i] + 1) * strides[i] - pads[i]
        taps = starts[:, None] + np.arange(kernel[i]) * dilations[i]
        inside = ((taps >= 0) & (taps < size[i])).sum(1)
        out = out[..., None] * (kernel[i] / np.maximum(inside, 1))
    return out


def max_pool(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    x, attributes = node.inputs[0], {k: a.value for k, a in node.attributes.items()}
    index = b.node("MaxPool", [x], attributes, 2).outputs[1]  # flat, counted over the whole input
    return {0: b.scatter(x, index, g[0])}


def resize(b: Builder, node: ir.Node, g: Sequence[ir.Value | None]) -> Gradients | None:
    """Resizing is a matrix along each axis: found by resizing unit vectors, applied transposed."""
    size, out = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    given = [v for v in node.inputs[1:] if v is not None]
    if size is None or out is None or not all(is_constant(v) for v in given) or "axes" in node.attributes:
        return None
    if size[:2] != out[:2] or len(size) != 4 or attribute(node, "antialias"):
        return None
    grad = g[0]
    for axis in (2, 3):
        m = b.array(_resize_matrix(node, size, out, axis))  # [out, in]
        grad = b.op("MatMul", grad, m) if axis == 3 else b.op("MatMul", b.op("Transpose", m, perm=[1, 0]), grad)
    return {0: grad} if grad is not None else None


def _resize_matrix(node: ir.Node, size: Sequence[int], out: Sequence[int], axis: int) -> npt.NDArray[Any]:
    """How much each input position along an axis adds to each output position. [out, in]"""
    from edgec.runtime import Session

    n, m = size[axis], out[axis]
    scale = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    factor = float(scale[axis]) if scale is not None and scale.size else m / n
    x = ir.Value(name="x", shape=ir.Shape([1, 1, n, n]), type=ir.TensorType(ir.DataType.FLOAT))
    y = ir.Value(name="y")
    scales = ir.Value(name="s", const_value=ir.tensor(np.array([1, 1, 1, factor], np.float32), name="s"))
    copy = ir.Node("", "Resize", [x, None, scales], node.attributes.values(), outputs=[y])
    y.type, y.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, 1, n, None])
    graph = ir.Graph([x], [y], nodes=[copy], initializers=[scales], opset_imports={"": 19}, name="resize")
    made = Session(Graph(ir.Model(graph, ir_version=10))).run({"x": np.eye(n, dtype=np.float32)[None, None]})["y"]
    return np.ascontiguousarray(made[0, 0].T)
