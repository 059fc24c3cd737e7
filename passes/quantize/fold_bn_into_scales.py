"""BatchNormalization behind a Conv whose weight is stored in integers: folded into the scales, the integers stay.

    k * ((q * s) x + b) + shift = (q * (k s)) x + (k b + shift)

Networks trained with fake quantisation arrive so; integer kernels need the Conv's output stored right behind it. Where k is
negative the integers of that channel change sign, where it is zero they become zero: scales are positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, constant, ir, is_constant
from edgec.passes.optimize.linear_ops import used_elsewhere
from edgec.passes.quantize.dequantize import real_weight
from edgec.passes.quantize.quantized_input import params_of
from edgec.pattern import Match, P, const, opt, rest, var
from edgec.pipeline import RewritePass
from edgec.quantization.form import DEQUANTIZE
from edgec.quantization.params import LIMITS, QuantParams
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

Array = npt.NDArray[Any]

_STATS = ("scale", "bias", "mean", "variance")
_weight = P.DequantizeLinear(const("stored"), const("steps"), rest("zero"), as_="dq", shared_=True)
_linear = P.op("Conv", "ConvTranspose", "Gemm")(var("x"), _weight, opt(var("b")), as_="linear", shared_=True)


@rule(P.BatchNormalization(_linear, *(const(n) for n in _STATS), as_="bn"))
def fold_bn_into_scales(m: Match, rw: Rewriter) -> Result:
    bn, node = m.node("bn"), m.node("linear")
    if attribute(bn, "training_mode") or used_elsewhere(node, bn):
        return Reject("BatchNormalization is in training mode, or what it normalises is read elsewhere too")
    axis = _channel_axis(node)
    if axis is None:
        return Reject(f"the channels of {node.op_type} are not one axis of its weight")
    gamma, beta, mean, variance = (m.array(n).astype(np.float64) for n in _STATS)
    spread = variance + float(attribute(bn, "epsilon"))
    if not (spread > 0).all():
        return Reject("variance + epsilon is not positive everywhere")
    k = gamma / np.sqrt(spread)
    stored, params = m.array("stored"), params_of(m.node("dq"))
    if params is None or stored.shape[axis] != k.size:
        return Reject("the weight is stored in a way this rule does not know")
    folded = _scaled(stored, params, k, axis)
    if isinstance(folded, Reject):
        return folded
    bias = _bias(m.get("b"), k.size)
    if isinstance(bias, Reject):
        return bias
    name, dtype = m.value("stored").name or "w_q", m.array("steps").dtype
    inputs = [
        m.value("stored") if folded[0] is stored else rw.const(folded[0], name),
        rw.const(folded[1].astype(dtype), f"{name.removesuffix('_q')}_scale"),
        rw.const(folded[2].astype(stored.dtype), f"{name.removesuffix('_q')}_zp"),
    ]
    weight = rw.op(DEQUANTIZE, *inputs, attrs={"axis": axis})
    shift = rw.const((bias * k + beta - mean * k).astype(dtype), f"{name.removesuffix('_q')}.bias")
    return rw.op(node.op_type, m.value("x"), weight, shift, attrs=node.attributes)


def _channel_axis(node: ir.Node) -> int | None:
    """The axis of the weight along which the output channels lie."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if int(attribute(node, "group") or 1) == 1 else None
    if float(attribute(node, "alpha")) != 1 or float(attribute(node, "beta")) != 1 or attribute(node, "transA"):
        return None
    return 0 if attribute(node, "transB") else 1


def _scaled(stored: Array, params: QuantParams, k: Array, axis: int) -> tuple[Array, Array, Array] | Reject:
    """Integers, scales and zero points of the weight times k."""
    if params.block is not None or (params.axis is not None and params.axis != axis):
        return Reject("the scales of the weight lie along another axis")
    if "int" not in params.dtype:
        return Reject("the weight is not stored in integers")
    scale = np.broadcast_to(params.scale.astype(np.float64), k.shape) * np.abs(k)
    zero = np.broadcast_to(params.zero_point, k.shape)
    sign = np.sign(k).astype(np.int32)
    scale = np.where(k == 0, 1.0, scale)
    if not np.isfinite(scale).all() or (scale < np.finfo(np.float32).tiny).any():
        return Reject("a scale would leave the range of float32")
    if (sign > 0).all():
        return stored, scale, zero
    spread = [1] * stored.ndim
    spread[axis] = -1
    steps = (stored.astype(np.int32) - zero.reshape(spread)) * sign.reshape(spread) + zero.reshape(spread)
    low, high = LIMITS[params.dtype]
    if steps.min() < low or steps.max() > high:
        return Reject("a channel would change its sign, and its integers have no room for that")
    return steps.astype(stored.dtype), scale, zero


def _bias(bias: ir.Value | None, channels: int) -> Array | Reject:
    """The bias, stored or not, as one number a channel."""
    if bias is None:
        return np.zeros(channels)
    data: Array | None = None
    maker = bias.producer()
    if is_constant(bias):
        data = np.asarray(constant(bias))
    elif (
        maker is not None
        and maker.op_type == DEQUANTIZE
        and maker.inputs[0] is not None
        and is_constant(maker.inputs[0])
    ):
        data = real_weight(maker, maker.inputs[0])
    if data is None:
        return Reject("the bias is computed at run time")
    if data.size not in (1, channels):
        return Reject("the bias is not one number a channel")
    return np.broadcast_to(data.reshape(-1).astype(np.float64), (channels,))


@dataclass(frozen=True)
class FoldBatchNormIntoScales(RewritePass):
    name: ClassVar[str] = "fold-bn-into-scales"
    rules: ClassVar[RuleSet] = RuleSet([fold_bn_into_scales])
