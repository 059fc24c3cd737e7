"""Normalisations in simpler ops, each after its ONNX operator definition."""

from __future__ import annotations

import numpy as np

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.legalize.builders import cast, optional_input, reduce_over, reshape, working_type
from edgec.rewrite import Reject, Result, Rewriter


def _ready(node: ir.Node) -> ir.Value | Reject:
    """The normalised value, if its type and rank are known."""
    x = node.inputs[0]
    assert x is not None  # required by the schema
    if x.dtype is None or x.shape is None:
        return Reject(f"the type or rank of {x.name} is not known")
    return x


def _last_axes(x: ir.Value, axis: int) -> list[int]:
    """The axes from `axis` on, as negative numbers: right for any rank."""
    assert x.shape is not None
    rank = x.shape.rank()
    return list(range(axis % rank - rank, 0))


def layer_normalization(node: ir.Node, rw: Rewriter) -> Result:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias, over the axes from `axis` on; besides, where asked
    for, the mean and the reciprocal of the root."""
    x = _ready(node)
    if isinstance(x, Reject):
        return x
    own = x.dtype
    assert own is not None  # _ready looked
    axes = _last_axes(x, attribute(node, "axis"))
    work = cast(rw, x, working_type(x, attribute(node, "stash_type")))
    mean = reduce_over(rw, "ReduceMean", work, axes)
    centred = rw.op("Sub", work, mean)
    variance = reduce_over(rw, "ReduceMean", rw.op("Mul", centred, centred), axes)
    root = rw.op("Sqrt", rw.op("Add", variance, rw.scalar(attribute(node, "epsilon"), work, "epsilon")))
    y = cast(rw, rw.op("Div", centred, root), own)
    y = rw.op("Mul", y, node.inputs[1])
    bias = optional_input(node, 2)
    y = y if bias is None else rw.op("Add", y, bias)
    used = [v.uses() or v.is_graph_output() for v in node.outputs] + [False, False]
    inverse = rw.op("Div", rw.scalar(1.0, work, "one"), root) if used[2] else None
    return [y, mean if used[1] else None, inverse][: len(node.outputs)]


def rms_normalization(node: ir.Node, rw: Rewriter) -> Result:
    """x / sqrt(mean(x^2) + eps) * scale, over the axes from `axis` on."""
    x = _ready(node)
    if isinstance(x, Reject):
        return x
    own = x.dtype
    assert own is not None  # _ready looked
    axes = _last_axes(x, attribute(node, "axis"))
    work = cast(rw, x, working_type(x, attribute(node, "stash_type")))
    square = reduce_over(rw, "ReduceMean", rw.op("Mul", work, work), axes)
    shifted = rw.op("Add", square, rw.scalar(attribute(node, "epsilon"), work, "epsilon"))
    y = cast(rw, rw.op("Div", work, rw.op("Sqrt", shifted)), own)
    return rw.op("Mul", y, node.inputs[1])


def group_normalization(node: ir.Node, rw: Rewriter) -> Result:
    """InstanceNormalization of the groups, then scale and bias: one a channel (opset 21), one a group before."""
    x, scale, bias = _ready(node), node.inputs[1], node.inputs[2]
    if isinstance(x, Reject):
        return x
    shape = static_shape(x)
    if shape is None or scale is None or bias is None:
        return Reject("the shape is not known at compile time")
    groups, channels = attribute(node, "num_groups"), shape[1]
    own, rank = x.dtype, len(shape)
    assert own is not None  # _ready looked
    work = cast(rw, reshape(rw, x, (shape[0], groups, -1)), working_type(x, attribute(node, "stash_type")))
    assert work.dtype is not None
    ones = rw.const(np.ones(groups, work.dtype.numpy()), "ones")
    zeros = rw.const(np.zeros(groups, work.dtype.numpy()), "zeros")
    y = rw.op("InstanceNormalization", work, ones, zeros, attrs={"epsilon": attribute(node, "epsilon")})
    y = reshape(rw, cast(rw, y, own), shape)
    per_channel = [_per_channel(rw, v, channels, rank) for v in (scale, bias)]
    if per_channel[0] is None or per_channel[1] is None:
        return Reject("scale or bias is not known at compile time and has one number a group")
    return rw.op("Add", rw.op("Mul", y, per_channel[0]), per_channel[1])


def _per_channel(rw: Rewriter, v: ir.Value, channels: int, rank: int) -> ir.Value | None:
    """A per-channel (or constant per-group) vector shaped to broadcast over N, C, spatial."""
    data = constant(v)
    broadcast = (channels, *[1] * (rank - 2))
    if data is not None:
        return rw.const(np.repeat(data, channels // data.size).reshape(broadcast), f"{v.name}.per_channel")
    return reshape(rw, v, broadcast) if static_shape(v) == (channels,) else None


def lp_normalization(node: ir.Node, rw: Rewriter) -> Result:
    """x / norm(x) along one axis, 0 where the norm is 0 (a tiny number keeps the division finite)."""
    x = _ready(node)
    if isinstance(x, Reject):
        return x
    assert x.dtype is not None  # _ready looked
    axis, p = attribute(node, "axis"), attribute(node, "p")
    norm = reduce_over(rw, "ReduceL2" if p == 2 else "ReduceL1", x, [axis])
    tiny = float(np.finfo(x.dtype.numpy()).tiny)
    return rw.op("Div", x, rw.op("Max", norm, rw.scalar(tiny, x, "tiny")))


def mean_variance_normalization(node: ir.Node, rw: Rewriter) -> Result:
    """(x - mean) / (sqrt(variance) + 1e-9)."""
    x = _ready(node)
    if isinstance(x, Reject):
        return x
    axes = list(attribute(node, "axes"))
    centred = rw.op("Sub", x, reduce_over(rw, "ReduceMean", x, axes))
    variance = reduce_over(rw, "ReduceMean", rw.op("Mul", centred, centred), axes)
    return rw.op("Div", centred, rw.op("Add", rw.op("Sqrt", variance), rw.scalar(1e-9, x, "epsilon")))


def batch_normalization(node: ir.Node, rw: Rewriter) -> Result:
    """x * k + (bias - mean * k), where k = scale / sqrt(variance + epsilon): one number a channel."""
    x = _ready(node)
    if isinstance(x, Reject):
        return x
    if attribute(node, "training_mode"):
        return Reject("it is in training mode")
    assert x.shape is not None  # _ready looked
    assert x.dtype is not None
    stats = [constant(v) for v in node.inputs[1:5]]
    along = (-1, *[1] * (x.shape.rank() - 2))
    if any(s is None for s in stats):
        scale, bias, mean, var = (cast(rw, v, x.dtype) for v in node.inputs[1:5] if v is not None)
        root = rw.op("Sqrt", rw.op("Add", var, rw.scalar(attribute(node, "epsilon"), x, "epsilon")))
        factor = rw.op("Div", scale, root)
        shift = reshape(rw, rw.op("Sub", bias, rw.op("Mul", mean, factor)), along)
        return rw.op("Add", rw.op("Mul", x, reshape(rw, factor, along)), shift)
    scale_, bias_, mean_, var_ = (np.asarray(s, np.float64) for s in stats)
    k = scale_ / np.sqrt(var_ + attribute(node, "epsilon"))
    kind = x.dtype.numpy()
    factor = rw.const(k.reshape(along).astype(kind), "scale")
    return rw.op("Add", rw.op("Mul", x, factor), rw.const((bias_ - mean_ * k).reshape(along).astype(kind), "bias"))


def instance_normalization(node: ir.Node, rw: Rewriter) -> Result:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, over the spatial axes of each channel."""
    x = _ready(node)
    if isinstance(x, Reject):
        return x
    assert x.shape is not None  # _ready looked
    rank = x.shape.rank()
    axes, along = list(range(2, rank)), (-1, *[1] * (rank - 2))
    centred = rw.op("Sub", x, reduce_over(rw, "ReduceMean", x, axes))
    variance = reduce_over(rw, "ReduceMean", rw.op("Mul", centred, centred), axes)
    root = rw.op("Sqrt", rw.op("Add", variance, rw.scalar(attribute(node, "epsilon"), x, "epsilon")))
    scale, bias = (_along(rw, v, along) for v in node.inputs[1:3] if v is not None)
    return rw.op("Add", rw.op("Mul", rw.op("Div", centred, root), scale), bias)


def _along(rw: Rewriter, v: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    data = constant(v)
    return reshape(rw, v, shape) if data is None else rw.const(data.reshape(shape), f"{v.name}.along")


def local_response_normalization(node: ir.Node, rw: Rewriter) -> Result:
    """x / (bias + alpha / size * sum of x^2 over `size` neighbouring channels)^beta.

    The sum over channels is a product with a constant band matrix: exact for even sizes and at both ends.
    """
    x, shape = _ready(node), static_shape(node.inputs[0])
    if isinstance(x, Reject):
        return x
    if shape is None or len(shape) < 2:
        return Reject("the number of channels is not known at compile time")
    assert x.dtype is not None  # _ready looked
    size, channels = attribute(node, "size"), shape[1]
    offset = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    band = ((offset >= -((size - 1) // 2)) & (offset <= size // 2)) * (attribute(node, "alpha") / size)
    flat = reshape(rw, rw.op("Mul", x, x), (shape[0], channels, -1))
    total = reshape(rw, rw.op("MatMul", rw.const(band.astype(x.dtype.numpy()), "band"), flat), shape)
    base = rw.op("Add", total, rw.scalar(attribute(node, "bias"), x, "bias"))
    return rw.op("Div", x, rw.op("Pow", base, rw.scalar(attribute(node, "beta"), x, "beta")))
