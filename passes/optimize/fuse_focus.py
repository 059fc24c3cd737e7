"""YOLO's Focus layer and the Conv after it become one Conv with twice the kernel and stride.

Focus takes the four (b^2 in general) strided pictures of an image and lays them side by side as channels. A Conv of kernel k
and stride s over them reads exactly the pixels a Conv of kernel b k and stride b s reads in the image: its weight is
W'[o, c, b i + dy, b j + dx] = W[o, part(dy, dx) c, i, j]. Nothing is computed twice, and no strided Slice is left, which NPUs
run on the CPU (rknn-toolkit2 2.5.0, rk3588: measured). Source: the Focus layer of YOLOv5 (Ultralytics), whose own later
stem is this Conv.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.optimize.linear_ops import used_elsewhere
from edgec.pattern import Match, P, const, opt, rest, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule


@dataclass(frozen=True)
class Picked:
    """Every `step`-th pixel of `source` along height and width, from `start` on; the channels are all there."""

    source: ir.Value
    start: tuple[int, int]
    step: tuple[int, int]


def picked(value: ir.Value | None) -> Picked | None:
    """What one or two strided Slices picked from an image of known height and width; None if it is something else."""
    if value is None:
        return None
    start, step = {2: 0, 3: 0}, {2: 1, 3: 1}
    while (node := value.producer()) is not None and node.op_type == "Slice" and node.domain == "":
        cut = _strides(node)
        if cut is None or any(step[a] != 1 for a in cut):
            break
        for axis, (first, by) in cut.items():
            start[axis], step[axis] = first, by
        source = node.inputs[0]
        assert source is not None  # _strides read its shape
        value = source
    return Picked(value, (start[2], start[3]), (step[2], step[3])) if step != {2: 1, 3: 1} else None


def _strides(node: ir.Node) -> dict[int, tuple[int, int]] | None:
    """axis -> (start, step) of a Slice that runs to the end of height or width in steps above 1."""
    shape, data = static_shape(node.inputs[0]), [constant(v) for v in node.inputs[1:]]
    if shape is None or len(shape) != 4 or len(data) != 4 or any(d is None for d in data):
        return None
    found: dict[int, tuple[int, int]] = {}
    for begin, end, axis, step in zip(*(np.asarray(d).reshape(-1).tolist() for d in data), strict=True):
        axis %= 4
        if axis < 2 or step < 2:
            return None
        first, stop, _ = slice(begin, end).indices(shape[axis])
        if first >= step or shape[axis] % step:
            return None
        if len(range(first, stop, step)) != shape[axis] // step:
            return None
        found[axis] = (first, step)
    return found


@rule(P.Conv(P.Concat(rest("parts"), as_="concat", shared_=True), const("w"), opt(var("b")), as_="conv"))
def focus_conv(m: Match, rw: Rewriter) -> Result:
    conv, concat, parts = m.node("conv"), m.node("concat"), m.rest("parts")
    if used_elsewhere(concat, conv):
        return Reject("the pictures are used elsewhere too")
    cuts = [c for p in parts if (c := picked(p)) is not None]
    if len(cuts) != len(parts) or len({(c.source, c.step) for c in cuts}) != 1 or cuts[0].step[0] != cuts[0].step[1]:
        return Reject("its inputs are not all strided pictures of one image")
    source, block = cuts[0].source, cuts[0].step[0]
    if len(parts) != block**2 or len({c.start for c in cuts}) != block**2:
        return Reject("a picture is missing, or there twice")
    shape, joined = static_shape(source), static_shape(concat.outputs[0])
    if shape is None or joined is None or int(attribute(concat, "axis")) % 4 != 1:
        return Reject("the shapes are not known, or the pictures are not laid side by side as channels")
    if attribute(conv, "group") != 1 or any(d != 1 for d in attribute(conv, "dilations") or ()):
        return Reject("the Conv has groups or dilations")
    if (attribute(conv, "auto_pad") or "NOTSET") not in ("NOTSET", "VALID"):
        return Reject("the Conv pads automatically")
    w, channels = m.array("w"), shape[1]
    if w.ndim != 4 or w.shape[1] != channels * block**2:
        return Reject("the weight does not fit the pictures")
    big = np.zeros((w.shape[0], channels, w.shape[2] * block, w.shape[3] * block), w.dtype)
    for i, cut in enumerate(cuts):
        dy, dx = cut.start
        big[:, :, dy::block, dx::block] = w[:, i * channels : (i + 1) * channels]
    attrs: dict[str, object] = {
        "kernel_shape": list(big.shape[2:]),
        "strides": [s * block for s in attribute(conv, "strides") or (1, 1)],
        "pads": [p * block for p in attribute(conv, "pads") or (0, 0, 0, 0)],
    }
    return rw.op("Conv", source, rw.const(big, f"{m.value('w').name}.focus"), m.get("b"), attrs=attrs)


@dataclass(frozen=True)
class FuseFocus(RewritePass):
    """Strided Slices, Concat, Conv that say one strided Conv become that Conv."""

    name: ClassVar[str] = "fuse-focus"
    rules: ClassVar[RuleSet] = RuleSet([focus_conv])
