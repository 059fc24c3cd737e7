"""A ConvTranspose with groups as one without for each group, on slices of the channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import attribute, constant, ir, static_shape
from edgec.pattern import Match, P, opt, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

_MOST = 256
"""Groups above which the model would be more nodes than work."""

x, w, b = var("x"), var("w"), opt(var("b"))


@rule(P.ConvTranspose(x, w, b))
def split_grouped_deconv(m: Match, rw: Rewriter) -> Result:
    node, value = m.root, m.value("x")
    groups, shape = attribute(node, "group"), static_shape(m.value("w"))
    if groups == 1:
        return Reject("it has one group")
    weight = constant(m.value("w"))
    bias = constant(m.value("b")) if m.has("b") else None
    if weight is None or shape is None or (m.has("b") and bias is None):
        return Reject("weight or bias is not a constant")
    if groups > _MOST:
        return Reject(f"{groups} groups would be as many nodes")
    attrs = {**node.attributes, "group": ir.AttrInt64("group", 1)}
    parts = rw.ops("Split", value, attrs={"axis": 1, "num_outputs": groups}, outputs=groups)
    name = node.outputs[0].name
    results = []
    for i, part in enumerate(parts):
        inputs = [part, rw.const(np.split(weight, groups)[i], f"{name}.w{i}")]
        if bias is not None:
            inputs.append(rw.const(np.split(bias, groups)[i], f"{name}.b{i}"))
        results.append(rw.op("ConvTranspose", *inputs, attrs=attrs))
    return rw.op("Concat", *results, attrs={"axis": 1})


@dataclass(frozen=True)
class SplitGroupedDeconv(RewritePass):
    """No ConvTranspose with constant weights has groups."""

    name: ClassVar[str] = "split-grouped-deconv"
    rules: ClassVar[RuleSet] = RuleSet([split_grouped_deconv])
