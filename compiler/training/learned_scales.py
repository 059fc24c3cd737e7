"""Scales of stored weights that training learns (LSQ), and the biases whose scales follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, constant, ir
from edgec.training.trainable import stored_weights

Array = npt.NDArray[Any]

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def learnable_scales(graph: Graph) -> list[str]:
    """Names of the scales of kernels and matrices stored as integers, where one layer's weight reads each.

    Left out: scales that a bias depends on which shares its own with another, and scales that are all powers of two, as some
    schemes want them.
    """
    found = []
    for node in stored_weights(graph).values():
        scale, first = node.inputs[1], node.inputs[0]
        alone = scale is not None and len(list(scale.uses())) == 1 and scale.name in graph.model.graph.initializers
        layers = list(node.outputs[0].uses())
        if not alone or first is None or first.shape is None or len(first.shape) < 2 or not layers:
            continue
        values = constant(scale)
        if values is None or (np.exp2(np.rint(np.log2(values))) == values).all():
            continue
        if all(n.op_type in _LAYERS and i == 1 and not _shares_bias_scale(n) for n, i in layers):
            assert scale is not None  # `alone`
            found.append(scale.name or "")
    return found


def follow(graph: Graph, before: Mapping[str, Array]) -> None:
    """Biases stored with the scale of input times weight get the product of the scales there are now, and the integers that
    stand for the same numbers. `before`: weight scale -> what it was."""
    for layer, name in _layers_of(graph, before):
        x, _, b = (_pair(layer, i) for i in range(3))
        if x is None or b is None:
            continue
        given, stored, held = constant(x.inputs[1]), b.inputs[0], b.inputs[1]
        if given is None or stored is None or held is None or stored.const_value is None or held.const_value is None:
            continue
        old = held.const_value.numpy()
        if given.size != 1 or not np.allclose(old, given * before[name].reshape(-1), rtol=1e-4):
            continue
        new = (given * constant(graph.model.graph.initializers[name])).reshape(old.shape).astype(old.dtype)
        integers = np.rint(stored.const_value.numpy() * (old.astype(np.float64) / new))
        least, most = np.iinfo(np.int32).min, np.iinfo(np.int32).max
        held.const_value = ir.Tensor(new, dtype=held.const_value.dtype, name=held.name)
        stored.const_value = ir.Tensor(
            np.clip(integers, least, most).astype(stored.const_value.dtype.numpy()),
            dtype=stored.const_value.dtype,
            name=stored.name,
        )


def _layers_of(graph: Graph, scales: Mapping[str, Array]) -> Iterator[tuple[ir.Node, str]]:
    for name in scales:
        for node, _ in graph.model.graph.initializers[name].uses():
            for layer, _ in node.outputs[0].uses():
                yield layer, name


def _pair(layer: ir.Node, index: int) -> ir.Node | None:
    """The DequantizeLinear that an input comes from."""
    value = layer.inputs[index] if index < len(layer.inputs) else None
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _shares_bias_scale(layer: ir.Node) -> bool:
    bias = _pair(layer, 2)
    scale = bias.inputs[1] if bias is not None else None
    return scale is not None and len(list(scale.uses())) > 1
