"""(x - mean) / sqrt(variance + eps) [* scale] [+ bias] over the last axes becomes LayerNormalization.

Source: ONNX operator definition of LayerNormalization (opset 17); Ba et al., "Layer Normalization", 2016. Exporters differ
in the square (Mul or Pow) and in the division (Div, or Mul by a Reciprocal).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.optimize.matching import blocked, is_float, number, reduction_axes, scalar, trailing
from edgec.pattern import Match, NodePattern, P, Rest, anyof, const, lit, rest, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x, eps = var("x"), scalar("eps")
_mean_axes: Rest = rest("mean_axes")
_variance_axes: Rest = rest("variance_axes")

_centred = P.Sub(x, P.ReduceMean(x, _mean_axes, as_="mean"))
_again = P.Sub(x, P.ReduceMean(x, rest("again_axes"), as_="again"))  # exporters that compute x - mean twice


def _deviation(d: NodePattern) -> NodePattern:
    square = anyof(P.Pow(d, lit(2.0)), P.Mul(d, d))
    return P.Sqrt(P.Add(P.ReduceMean(square, _variance_axes, as_="variance"), eps))


def normalised_axis(reductions: list[ir.Node], x: ir.Value) -> int | Reject:
    """The first of the last axes all reductions run over, as a negative number, or why there is none."""
    if x.shape is None:
        return Reject(f"the rank of {x.name} is not known")
    rank = x.shape.rank()
    axes = {reduction_axes(n, rank) for n in reductions}
    if len(axes) != 1 or not all(attribute(n, "keepdims") for n in reductions):
        return Reject("the reductions do not run over the same axes, or do not keep them")
    (only,) = axes
    if only is None or not trailing(only, rank):
        return Reject(f"axes {only} are not the last ones of {rank}")
    return -len(only)


def normalised_shape(x: ir.Value, axis: int) -> tuple[int, ...] | None:
    """The dimensions from `axis` (negative) on, if they are numbers."""
    assert x.shape is not None
    dims = [d for d in list(x.shape)[axis:] if isinstance(d, int)]
    return tuple(dims) if len(dims) == -axis else None


def fitted(v: ir.Value, shape: tuple[int, ...], x: ir.Value) -> npt.NDArray[Any] | None:
    """The constant `v` as an array of `shape`, the last axes of `x`, if it broadcasts to that without widening `x`."""
    data = constant(v)
    if data is None or x.shape is None or data.ndim > x.shape.rank() or data.size > int(np.prod(shape)):
        return None
    while data.ndim > len(shape) and data.shape[0] == 1:
        data = data[0]
    try:
        return np.ascontiguousarray(np.broadcast_to(data, shape))
    except ValueError:
        return None


def _layer_norm(m: Match, rw: Rewriter) -> Result:
    value = m.value("x")
    if rw.opset < 17:
        return Reject(f"LayerNormalization exists from opset 17, the model is written in opset {rw.opset}")
    if not is_float(value) or value.dtype is None:
        return Reject(f"{value.name} is not a floating-point tensor")
    if why := blocked(m, rw, 17):
        return why
    names = [n for n in ("mean", "again", "variance") if n in m.named]
    axis = normalised_axis([m.node(n) for n in names], value)
    if isinstance(axis, Reject):
        return axis
    shape = normalised_shape(value, axis)
    if shape is None:
        return Reject("the normalised dimensions are not known at compile time")
    ones = rw.const(np.ones(shape, value.dtype.numpy()), f"{value.name}.scale")
    return rw.op("LayerNormalization", value, ones, attrs={"axis": axis, "epsilon": number(m, "eps")})


_RULES = [
    rule(root, name=f"layer-norm-{i}")(_layer_norm)
    for i, root in enumerate(
        [
            P.Div(_centred, _deviation(_centred)),
            P.Mul(_centred, P.Reciprocal(_deviation(_centred))),
            P.Mul(_centred, P.Div(lit(1.0), _deviation(_centred))),
            P.Div(_again, _deviation(_centred)),
        ],
        1,
    )
]


@rule(P.Mul(P.op("LayerNormalization", "RMSNormalization")(x, const("ones"), as_="norm"), const("scale")))
def norm_scale(m: Match, rw: Rewriter) -> Result:
    """A multiplication after a normalisation that has no scale yet becomes its scale."""
    norm = m.node("norm")
    if any(v.uses() for v in norm.outputs[1:]):
        return Reject("the normalisation's mean or deviation is used")
    shape = static_shape(m.value("ones"))
    scale = fitted(m.value("scale"), shape, m.value("x")) if shape is not None else None
    if scale is None:
        return Reject("the factor is not one number for each normalised position")
    if not np.all(m.array("ones") == 1):
        return Reject("the normalisation already has a scale")
    name = f"{m.value('scale').name}.scale"
    return rw.op(norm.op_type, m.value("x"), rw.const(scale, name), attrs=norm.attributes)


@rule(P.Add(P.LayerNormalization(x, var("scale"), as_="norm"), const("bias")))
def norm_bias(m: Match, rw: Rewriter) -> Result:
    """An addition after a LayerNormalization without bias becomes its bias."""
    norm = m.node("norm")
    if any(v.uses() for v in norm.outputs[1:]):
        return Reject("the normalisation's mean or deviation is used")
    shape = static_shape(m.value("scale"))
    bias = fitted(m.value("bias"), shape, m.value("x")) if shape is not None else None
    if bias is None or shape == ():
        return Reject("the summand is not one number for each normalised position")
    name = f"{m.value('bias').name}.bias"
    return rw.op("LayerNormalization", m.value("x"), m.value("scale"), rw.const(bias, name), attrs=norm.attributes)


@dataclass(frozen=True)
class FuseLayerNorm(RewritePass):
    """Spelled-out layer normalisation over the last axes, with or without scale and bias, becomes one node."""

    name: ClassVar[str] = "fuse-layer-norm"
    rules: ClassVar[RuleSet] = RuleSet([*_RULES, norm_scale, norm_bias])
