"""Biases in int32: on the scale of the sums they are added to, which is that of the input times that of the weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import constant, ir
from edgec.passes.quantize.insert import WeightKey, weight_key
from edgec.passes.quantize.plan import Plan
from edgec.quantization.params import QuantParams

Array = npt.NDArray[Any]

LARGEST = 2**30
"""Of a stored bias: the other half of int32 is for the products it is added to. Kernels wrap around without a word."""


def bias_params(
    plan: Plan,
    activations: dict[str, QuantParams],
    weights: dict[WeightKey, QuantParams],
    converted: Sequence[QuantParams] = (),
) -> dict[tuple[ir.Node, int], QuantParams]:
    """Parameters by node and input: one scale, or one for each output channel; zero points are 0.

    `converted`: parameters of the plan's conversions, in order.

    Where a bias would exceed LARGEST the weight's scale grows until it does, in `weights`: the channel's weights are
    then tiny beside its bias, and lose nothing that shows.
    """
    sites = {(s.node, s.input): s for s in plan.weights}
    read = {use: p for c, p in zip(plan.conversions, converted, strict=False) for use in c.uses}
    out: dict[tuple[ir.Node, int], QuantParams] = {}
    for bias in plan.biases:
        site = sites[bias.node, bias.weight]
        weight, x = site.node.inputs[site.input], bias.node.inputs[bias.activation]
        assert weight is not None  # as planned
        assert x is not None
        key = weight_key(site, weight)
        p, stored = weights[key], read.get((bias.node, bias.activation), activations[x.name or ""])
        x_scale = stored.scale.astype(np.float64)
        data = np.asarray(constant(bias.node.inputs[bias.input]), np.float64)
        channels = p.scale.size
        if p.scale.ndim and data.size > 1:
            channels = data.size  # of a grouped ConvTranspose: each group has the weight's scales
        smallest = np.abs(data) / (LARGEST * x_scale)
        if p.scale.ndim:
            smallest = np.broadcast_to(smallest.reshape(-1), (channels,)).reshape(-1, p.scale.size).max(axis=0)
        if (smallest > p.scale).any():
            scale = np.maximum(p.scale, smallest if p.scale.ndim else smallest.max()).astype(np.float32)
            p = weights[key] = QuantParams(scale, p.zero_point, p.dtype, p.axis, p.block, p.narrow)
        scale = np.asarray(p.scale.astype(np.float64) * x_scale, np.float32)
        if scale.ndim:
            scale = np.tile(scale, channels // scale.size)
        out[bias.node, bias.input] = QuantParams(
            scale, np.zeros(scale.shape, np.int32), "int32", 0 if scale.ndim else None
        )
    return out
