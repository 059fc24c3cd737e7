"""Trained weights back into a graph, in the types it stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Location, error
from edgec.graph import Graph, ir


def write_back(graph: Graph, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Replace weights by name, in place: initialisers, and what Constant nodes hold. Shapes and types stay.

    Raises:
        EdgecError: EC0326 the graph has no such weight, or one of another shape.
    """
    constants = {n.outputs[0].name: n for n in graph.nodes() if n.op_type == "Constant" and n.domain in ("", "ai.onnx")}
    for name, array in arrays.items():
        held = graph.model.graph.initializers.get(name)
        if held is not None and held.const_value is not None:
            held.const_value = _like(held.const_value, array, name, graph)
        elif name in constants:
            node = constants[name]
            old = node.attributes["value"].as_tensor() if "value" in node.attributes else ir.Tensor(array)
            tensor = _like(old, array, name, graph)
            node.attributes.clear()  # value_floats, say
            node.attributes["value"] = ir.AttrTensor("value", tensor)
            node.outputs[0].const_value = None  # what was read of it before
        else:
            raise error("EC0326", f"the model has no weight {name!r}", Location(graph.source))


def _like(old: ir.TensorProtocol, array: npt.NDArray[Any], name: str, graph: Graph) -> ir.TensorProtocol:
    """`array` in the type and shape of `old`; whole numbers are rounded, not cut."""
    if tuple(old.shape.numpy()) != array.shape:
        message = f"weight {name!r} has shape {list(old.shape.numpy())}, not {list(array.shape)}"
        raise error("EC0326", message, Location(graph.source))
    stored = array if old.dtype.is_floating_point() else np.rint(array)
    return ir.Tensor(stored.astype(old.dtype.numpy()), dtype=old.dtype, name=name)
