"""Conv, ConvTranspose, Gemm and MatMul seen as one thing: y = W x + b, with a channel axis on either side.

What scales or shifts the channels of y or x can then be folded into W and b in one way. Arithmetic is in float64, and
rounded once, to the weight's own type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, constant, ir, is_constant
from edgec.passes.optimize.same_shape import rank
from edgec.rewrite import Reject, Rewriter

Array = npt.NDArray[Any]
Vector = npt.NDArray[np.float64]

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Linear:
    """One such node whose weight is constant and whose bias is absent or a constant vector.

    `weight` has the node's own layout and, for Gemm, alpha applied; `bias` has one number a channel, beta applied.
    """

    node: ir.Node
    x: ir.Value
    weight: Vector
    bias: Vector | None
    dtype: np.dtype[Any]
    out_channels: int
    in_channels: int
    out_axis: int  # channel axis of y; -1 for MatMul
    stem: str

    @classmethod
    def of(cls, node: ir.Node) -> Linear | Reject:
        """Read the node, or say why nothing can be folded into it."""
        x, w = node.inputs[0], node.inputs[1]
        if x is None or w is None or not is_constant(w):
            return Reject(f"the weight of {node.op_type} is not constant")
        b = node.inputs[2] if len(node.inputs) > 2 else None
        if b is not None and not is_constant(b):
            return Reject(f"the bias of {node.op_type} is not constant")
        assert w.const_value is not None  # is_constant
        shape = tuple(np.asarray(w.const_value.shape.numpy()).tolist())
        if node.op_type in ("Gemm", "MatMul") and len(shape) != 2:
            return Reject(f"the weight of {node.op_type} has {len(shape)} axes")
        if node.op_type in ("Gemm",) and attribute(node, "transA"):
            return Reject("Gemm transposes its input")
        group = int(attribute(node, "group") or 1) if node.op_type.startswith("Conv") else 1
        n_out, n_in = _channels(node, shape, group)
        data = np.asarray(constant(w))
        if data.dtype.kind not in "fV" and data.dtype.name != "bfloat16":
            return Reject("the weight is not floating point")
        weight = data.astype(np.float64)
        bias = None if b is None else _vector(np.asarray(constant(b)), n_out)
        if isinstance(bias, Reject):
            return bias
        if node.op_type == "Gemm":
            weight = weight * float(attribute(node, "alpha"))
            bias = None if bias is None else bias * float(attribute(node, "beta"))
        axis = 1 if node.op_type != "MatMul" else -1
        return cls(node, x, weight, bias, data.dtype, n_out, n_in, axis, stem(w))

    @property
    def padded(self) -> bool:
        """Whether zeros are laid around x: a shift of x is then not a shift of y."""
        if not self.node.op_type.startswith("Conv"):
            return False
        auto = attribute(self.node, "auto_pad") or "NOTSET"
        return auto not in ("NOTSET", "VALID") or any(attribute(self.node, "pads") or ())

    def _group(self) -> int:
        return int(attribute(self.node, "group") or 1) if self.node.op_type.startswith("Conv") else 1

    def scaled_outputs(self, k: Vector) -> Vector:
        """The weight of y * k, with `k` one number an output channel."""
        w = self.weight
        if self.node.op_type == "Conv":
            return w * k.reshape(-1, *[1] * (w.ndim - 1))
        if self.node.op_type == "ConvTranspose":  # [in, out/group, ...]: the groups lie one after another along axis 0
            g = self._group()
            per_group = k.reshape(g, 1, -1, *[1] * (w.ndim - 2))
            return (w.reshape(g, -1, *w.shape[1:]) * per_group).reshape(w.shape)
        return w * (k[:, None] if self._out_first() else k[None, :])

    def scaled_inputs(self, k: Vector) -> Vector:
        """The weight that gives the same y for x / k, with `k` one number an input channel."""
        w = self.weight
        if self.node.op_type == "Conv":  # [out, in/group, ...]
            g = self._group()
            per_group = k.reshape(g, 1, -1, *[1] * (w.ndim - 2))
            return (w.reshape(g, -1, *w.shape[1:]) * per_group).reshape(w.shape)
        if self.node.op_type == "ConvTranspose":
            return w * k.reshape(-1, *[1] * (w.ndim - 1))
        return w * (k[None, :] if self._out_first() else k[:, None])

    def response(self, shift: Vector) -> Vector:
        """What adding `shift` to the channels of x adds to those of y. Only where nothing is padded; no ConvTranspose."""
        w = self.scaled_inputs(shift)
        if self.node.op_type == "Conv":
            return np.asarray(w.sum(axis=tuple(range(1, w.ndim))))
        return np.asarray(w.sum(axis=1 if self._out_first() else 0))

    def _out_first(self) -> bool:
        return self.node.op_type == "Gemm" and bool(attribute(self.node, "transB"))

    def rebuild(self, rw: Rewriter, x: ir.Value, weight: Vector, bias: Vector | None) -> ir.Value | Reject:
        """The node again, with another weight and bias; MatMul gets its bias from a Gemm (rank 2) or an Add."""
        with np.errstate(over="ignore"):
            w = weight.astype(self.dtype)
            b = None if bias is None else bias.astype(self.dtype)
        for a in (w, b):
            if a is not None and not np.isfinite(a.astype(np.float64)).all():
                return Reject(f"the folded weight or bias is not finite in {self.dtype.name}")
        if self.dtype.itemsize < 4 and _lost(weight, w) > _NARROW_LOSS:
            return Reject(f"the folded weight falls below what {self.dtype.name} resolves")
        new_w = rw.const(w, f"{self.stem}.folded")
        new_b = None if b is None else rw.const(b, f"{self.stem}.bias")
        attrs = dict(self.node.attributes.items())
        if self.node.op_type == "Gemm":
            attrs = {k: v for k, v in attrs.items() if k not in ("alpha", "beta")}
        if self.node.op_type != "MatMul":
            return rw.op(self.node.op_type, x, new_w, new_b, attrs=attrs)
        if new_b is None:
            return rw.op("MatMul", x, new_w)
        if rank(x) == 2:
            return rw.op("Gemm", x, new_w, new_b)
        return rw.op("Add", rw.op("MatMul", x, new_w), new_b)


_NARROW_LOSS = 2.0**-7
"""Relative error of a folded weight above which folding in a 16-bit type costs accuracy; rounding alone stays below."""


def _lost(exact: Vector, rounded: Array) -> float:
    """The largest relative error of any slice along the first or second axis: one channel may underflow alone."""
    error = np.square(rounded.astype(np.float64) - exact)
    worst = 0.0
    for axis in (0, 1):
        others = tuple(i for i in range(exact.ndim) if i != axis)
        norm = np.square(exact).sum(axis=others)
        worst = max(worst, float(np.sqrt(error.sum(axis=others)[norm > 0] / norm[norm > 0]).max(initial=0.0)))
    return worst


def stem(weight: ir.Value) -> str:
    """The weight's name in the source model: folded once more, it does not grow."""
    return re.sub(r"(\.folded(\.\d+)?)+$", "", weight.name or "w")


def _channels(node: ir.Node, shape: tuple[int, ...], group: int) -> tuple[int, int]:
    """Output and input channels."""
    if node.op_type == "Conv":
        return shape[0], shape[1] * group
    if node.op_type == "ConvTranspose":
        return shape[1] * group, shape[0]
    if node.op_type == "Gemm" and attribute(node, "transB"):
        return shape[0], shape[1]
    return shape[1], shape[0]


def _vector(data: Array, channels: int) -> Vector | Reject:
    """A Gemm's C may be a scalar or a row; whatever varies along the batch is no bias."""
    a = np.asarray(data).astype(np.float64)
    if a.size == 1:
        return np.full(channels, a.reshape(-1)[0])
    if a.shape in ((channels,), (1, channels)):
        return np.asarray(a.reshape(-1))
    return Reject("the bias is not one number a channel")


def per_channel(data: Array, rank_of_value: int | None, axis: int, channels: int) -> Vector | None:
    """A constant that is broadcast over a value as one number a channel (or one for all); None if it is not that.

    `axis`: the channel axis of the value. The constant may not add axes nor stretch any.
    """
    if data.size == 1 and (data.ndim <= (rank_of_value or 0)):
        return np.full(channels, float(data.reshape(-1)[0]))
    if rank_of_value is None or data.ndim > rank_of_value:
        return None
    shape = (1,) * (rank_of_value - data.ndim) + data.shape
    axis %= rank_of_value
    if shape[axis] != channels or any(d != 1 for i, d in enumerate(shape) if i != axis):
        return None
    return np.asarray(data.reshape(-1).astype(np.float64))


def used_elsewhere(node: ir.Node, user: ir.Node) -> bool:
    """Whether the node's output is public, or read by anything but `user`."""
    return any(v.is_graph_output() or any(u.node is not user for u in v.uses()) for v in node.outputs)
