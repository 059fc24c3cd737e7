"""A padded ConvTranspose as one without padding, and a Slice: for chips that deconvolve without padding only.

The padding of a ConvTranspose takes rows and columns off its output (ONNX operator ConvTranspose), so the result is equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import attribute, static_shape
from edgec.pattern import Match, P, rest, var
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

_END = 2**63 - 1
"""As far as the tensor goes."""


@rule(P.ConvTranspose(var("x"), var("w"), rest("bias")))
def crop_deconv(m: Match, rw: Rewriter) -> Result:
    node, shape = m.root, static_shape(m.value("w"))
    if (attribute(node, "auto_pad") or "NOTSET") not in ("NOTSET", "VALID") or attribute(node, "output_shape"):
        return Reject("auto_pad or output_shape: make the pads explicit first")
    if shape is None:
        return Reject("the shape of the weights is not known")
    axes = len(shape) - 2
    pads = list(attribute(node, "pads") or [0] * (2 * axes))
    if not any(pads):
        return Reject("nothing is padded")
    if any(attribute(node, "output_padding") or ()):
        return Reject("output_padding adds what is not computed without the padding")
    attrs = {k: v for k, v in node.attributes.items() if k not in ("pads", "auto_pad")}
    whole = rw.op("ConvTranspose", *node.inputs, attrs=attrs)
    ends = [-p if p else _END for p in pads[axes:]]
    bounds = [rw.const(np.array(v, np.int64), "crop") for v in (pads[:axes], ends, list(range(2, 2 + axes)))]
    return rw.op("Slice", whole, *bounds)


@dataclass(frozen=True)
class CropDeconv(RewritePass):
    """No ConvTranspose with explicit padding."""

    name: ClassVar[str] = "crop-deconv"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = RuleSet([crop_deconv])
