"""Reductions over all spatial axes take one form: GlobalAveragePool and GlobalMaxPool.

ReduceMean/ReduceMax over axes 2.. with keepdims, and AveragePool/MaxPool whose window is the whole image, all say the
same; the accelerators' tables and the activation fusions know the Global form best. Source: ONNX operator definitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import attribute, ir, static_shape
from edgec.passes.optimize.matching import is_float, reduction_axes
from edgec.pattern import Match, P, rest, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

x = var("x")
_GLOBAL = {
    "ReduceMean": "GlobalAveragePool",
    "AveragePool": "GlobalAveragePool",
    "ReduceMax": "GlobalMaxPool",
    "MaxPool": "GlobalMaxPool",
}


@rule(P.op("ReduceMean", "ReduceMax")(x, rest("axes")))
def global_pool_from_reduction(m: Match, rw: Rewriter) -> Result:
    value = m.value("x")
    if value.shape is None or not is_float(value) or value.shape.rank() not in (3, 4, 5):
        return Reject("not a floating-point tensor of rank 3 to 5")
    if value.dtype == ir.DataType.DOUBLE:
        return Reject("runtimes have no pooling of double")
    rank = value.shape.rank()
    if not attribute(m.root, "keepdims") or reduction_axes(m.root, rank) != tuple(range(2, rank)):
        return Reject("not all spatial axes, or they are not kept")
    return rw.op(_GLOBAL[m.root.op_type], value)


@rule(P.op("AveragePool", "MaxPool")(x))
def global_pool_from_pool(m: Match, rw: Rewriter) -> Result:
    shape = static_shape(m.value("x"))
    if shape is None:
        return Reject("the image size is not known at compile time")
    if why := _partial(m.root, shape):
        return Reject(why)
    return rw.op(_GLOBAL[m.root.op_type], m.value("x"))


def _partial(pool: ir.Node, shape: tuple[int, ...]) -> str:
    """Why the window is not exactly the image."""
    if tuple(attribute(pool, "kernel_shape")) != shape[2:]:
        return "the window is not the whole image"
    if any(attribute(pool, "pads") or ()) or any(d != 1 for d in attribute(pool, "dilations") or ()):
        return "padded or dilated"
    out = static_shape(pool.outputs[0])
    if out is None or any(d != 1 for d in out[2:]):
        return "more than one window"
    if (attribute(pool, "auto_pad") or "NOTSET") not in ("NOTSET", "VALID"):
        return "padded automatically"
    if len(pool.outputs) > 1 and (pool.outputs[1].uses() or pool.outputs[1].is_graph_output()):
        return "the indices of the maxima are used"
    return ""


@dataclass(frozen=True)
class FuseReduce(RewritePass):
    """Means and maxima over whole images become GlobalAveragePool and GlobalMaxPool."""

    name: ClassVar[str] = "fuse-reduce"
    rules: ClassVar[RuleSet] = RuleSet([global_pool_from_reduction, global_pool_from_pool])
