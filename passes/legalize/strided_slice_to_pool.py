"""Slice with a step, along height and width, as a pooling window of one: for chips whose Slice takes steps of 1 only.

MaxPool with kernel 1 and stride s picks every s-th element unchanged, so the result is bit-equal (ONNX operators Slice
and MaxPool). RKNN runs a strided Slice on the CPU and this MaxPool on the NPU (measured, rknn-toolkit2 2.5.0, rk3588).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import attribute, ir, static_shape
from edgec.pattern import Match, P, const, opt, var
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule


@rule(P.Slice(var("x"), const("starts"), const("ends"), opt(const("axes")), opt(const("steps"))))
def strided_slice_to_pool(m: Match, rw: Rewriter) -> Result:
    """Slice(x, step s) -> MaxPool1x1/s(Slice(x, step 1))."""
    if not m.has("steps"):
        return Reject("the step is 1")
    x, shape = m.value("x"), static_shape(m.value("x"))
    if shape is None or len(shape) != 4 or x.dtype is None or not x.dtype.is_floating_point():
        return Reject("only float tensors N x C x H x W of known shape")
    starts, ends, steps = (m.array(k).tolist() for k in ("starts", "ends", "steps"))
    axes = m.array("axes").tolist() if m.has("axes") else list(range(len(starts)))
    axes = [a % 4 for a in axes]
    if all(s == 1 for s in steps):
        return Reject("the step is 1")
    if any(s < 1 or (s > 1 and a < 2) for s, a in zip(steps, axes, strict=True)):
        return Reject("only forward steps along height and width")
    window = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
    bounds = [w.indices(shape[a])[:2] for w, a in zip(window, axes, strict=True)]
    if any(end <= start for start, end in bounds):
        return Reject("the result is empty")
    if any(bound != (0, shape[a]) for bound, a in zip(bounds, axes, strict=True)):
        begin, stop = (rw.const(np.array(v, np.int64), "slice.bounds") for v in zip(*bounds, strict=True))
        x = rw.op("Slice", x, begin, stop, rw.const(np.array(axes, np.int64), "slice.axes"))
    strides = [1, 1]
    for s, a in zip(steps, axes, strict=True):
        if a >= 2:
            strides[a - 2] = s
    return rw.op("MaxPool", x, attrs={"kernel_shape": [1, 1], "strides": strides}, like=m.root.outputs[0])


def _unit_pool(node: ir.Node) -> bool:
    plain = not any(attribute(node, "pads") or ()) and not attribute(node, "ceil_mode")
    return plain and tuple(attribute(node, "kernel_shape")) == (1, 1) and len(node.outputs) == 1


@rule(P.MaxPool(P.MaxPool(var("x"), as_="first", where_=_unit_pool), as_="second", where_=_unit_pool))
def merge_unit_pools(m: Match, rw: Rewriter) -> Result:
    """Rows, then columns: one pooling. Some chips stride in both directions or not at all."""
    first, second = (attribute(m.node(k), "strides") or (1, 1) for k in ("first", "second"))
    strides = [a * b for a, b in zip(first, second, strict=True)]
    attrs = {"kernel_shape": [1, 1], "strides": strides}
    return rw.op("MaxPool", m.value("x"), attrs=attrs, like=m.root.outputs[0])


@dataclass(frozen=True)
class StridedSliceToPool(RewritePass):
    """Strided Slices along height and width become poolings with a window of one."""

    name: ClassVar[str] = "strided-slice-to-pool"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = RuleSet([strided_slice_to_pool, merge_unit_pools])
