"""Constant nodes made initializers, in subgraphs too: one way to spell a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.diagnostics import Location, error
from edgec.graph import Graph, ir
from edgec.pipeline import Contract, Pass, PassContext, PassResult


@dataclass(frozen=True)
class ConstantsToInitializers(Pass):
    """Every spelling of Constant becomes an initializer with the name its output had, also where that is an output of
    the model (ONNX allows an initializer to be one). Sparse constants become dense. Bodies of functions have no
    initializers: run inline-functions first.

    Raises:
        EdgecError: EC0303, a sparse constant too large to hold densely.
    """

    name: ClassVar[str] = "constants-to-initializers"
    contract: ClassVar[Contract] = "exact"
    establishes: ClassVar[frozenset[str]] = frozenset({"constants-as-initializers"})

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        moved = 0
        # Inside a function's body attributes may be references to the caller's, which no initializer can hold.
        in_functions = {g for f in graph.model.functions.values() for g in f.subgraphs()}
        for g in graph.graphs():
            if isinstance(g, ir.Graph) and g not in in_functions:
                moved += sum(_move(node, g, graph) for node in list(g))
        return PassResult(bool(moved), {"moved": moved} if moved else {})


def _move(node: ir.Node, g: ir.Graph, graph: Graph) -> bool:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attributes) != 1:
        return False
    tensor = _tensor(node, graph)
    if tensor is None:
        return False
    old = node.outputs[0]
    if not old.name:
        g.remove(node, safe=True)
        return True
    if g is not graph.model.graph and old.is_graph_output():
        return False  # an initializer as the output of a body: allowed by the text, refused by several runtimes
    name = old.name
    new = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    new.metadata_props.update(old.metadata_props)
    old.name = None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    g.remove(node, safe=True)
    new.name = name
    g.register_initializer(new)
    return True


_TYPES = {
    "value": ir.AttributeType.TENSOR,
    "sparse_value": ir.AttributeType.SPARSE_TENSOR,
    "value_float": ir.AttributeType.FLOAT,
    "value_floats": ir.AttributeType.FLOATS,
    "value_int": ir.AttributeType.INT,
    "value_ints": ir.AttributeType.INTS,
    "value_string": ir.AttributeType.STRING,
    "value_strings": ir.AttributeType.STRINGS,
}


def _tensor(node: ir.Node, graph: Graph) -> ir.TensorProtocol | None:
    (a,) = node.attributes.values()
    name = node.outputs[0].name or node.name
    if a.is_ref() or a.type != _TYPES.get(a.name):
        return None  # `Graph.verify` names it
    match a.name:
        case "value":
            t: ir.TensorProtocol = a.as_tensor()
            return t
        case "value_float":
            return ir.Tensor(np.array(a.as_float(), np.float32), name=name)
        case "value_floats":
            return ir.Tensor(np.array(list(a.as_floats()), np.float32), name=name)
        case "value_int":
            return ir.Tensor(np.array(a.as_int(), np.int64), name=name)
        case "value_ints":
            return ir.Tensor(np.array(list(a.as_ints()), np.int64), name=name)
        case "value_string":
            return ir.StringTensor([_bytes(a.as_string())], shape=ir.Shape([]), name=name)
        case "value_strings":
            items = [_bytes(s) for s in a.as_strings()]
            return ir.StringTensor(items, shape=ir.Shape([len(items)]), name=name)
        case "sparse_value":
            return _dense(a, name, graph)
    return None


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


MAX_DENSE_ELEMENTS = 1 << 28


def _dense(a: ir.Attr, name: str | None, graph: Graph) -> ir.TensorProtocol:
    """A sparse constant (values, and indices either linear or one row of coordinates each) as an array."""
    import onnx

    where = Location(graph.source, node=name)
    s = a.value
    dims = tuple(s.dims)
    values = onnx.numpy_helper.to_array(s.values)
    indices = onnx.numpy_helper.to_array(s.indices)
    if int(np.prod(dims, dtype=object)) > MAX_DENSE_ELEMENTS:
        raise error("EC0303", f"sparse constant {name} of shape {list(dims)} is too large to be made dense", where)
    out = np.zeros(dims, values.dtype)
    linear = indices if indices.ndim == 1 else None
    try:
        if linear is not None:
            out.reshape(-1)[linear] = values
        else:
            out[tuple(indices.T)] = values
    except (IndexError, ValueError) as e:
        raise error("EC0303", f"sparse constant {name} is inconsistent: {e}", where) from None
    return ir.Tensor(out, name=name)
