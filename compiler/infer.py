"""Types and shapes by ONNX's own rules: for a whole graph, or for one new node.

Weights never travel: what goes to onnx's C++ inference is a skeleton in which large initializers are graph inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgec.graph import Graph, constant, ir
from edgec.plugin_ops import disguise, infer_plugin

if TYPE_CHECKING:
    import onnx

_SKELETON_BYTES = 1024
"""Initializers up to this size stay in the skeleton: shape arithmetic needs their values."""

_NODE_DATA_BYTES = 256


@contextmanager
def skeleton(graph: Graph) -> Iterator[onnx.ModelProto]:
    """The model as a protobuf in which weights above 1 KiB are graph inputs. The graph is unchanged afterwards."""
    g = graph.model.graph
    large = [v for v in g.initializers.values() if v.const_value is not None and v.const_value.nbytes > _SKELETON_BYTES]
    inputs = list(g.inputs)
    held = [(v, v.const_value) for v in large]
    for v in large:
        assert v.name is not None  # initializers have a name and data
        assert v.const_value is not None
        v.type = v.type or ir.TensorType(v.const_value.dtype)
        v.shape = v.shape if v.shape is not None else ir.Shape(list(v.const_value.shape.numpy()))
        v.const_value = None
        del g.initializers[v.name]
    g.inputs.extend(v for v in large if v not in inputs)
    try:
        proto = ir.to_proto(graph.model)
        disguise(proto)
        yield proto
    finally:
        g.inputs.clear()
        g.inputs.extend(inputs)
        for v, tensor in held:
            v.const_value = tensor
            g.register_initializer(v)


def infer_shapes(graph: Graph) -> bool:
    """Fill in what ONNX's inference can tell of every value, data propagation included. Returns whether anything is new.

    A shape that was known stays unless inference knows more dimensions. What inference finds contradictory is left as
    the model declares it; `Graph.verify` reports it. Behind plugin nodes it goes on with what specs/plugins says of them.
    """
    changed = _infer(graph)
    while sum(infer_plugin(n) for n in graph.nodes() if _may_be_plugin(n)):  # all of them, each round
        _infer(graph)
        changed = True
    return changed


def _may_be_plugin(node: ir.Node) -> bool:
    """Whether looking into the tables is worth it: an op without a type for what it puts out."""
    return any(v.type is None or v.shape is None or not v.shape.is_static() for v in node.outputs)


def _infer(graph: Graph) -> bool:
    import onnx

    with skeleton(graph) as proto:
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
        except (
            onnx.shape_inference.InferenceError,
            onnx.checker.ValidationError,
            RuntimeError,
            ValueError,
            IndexError,
        ):
            return False  # contradictory beyond inference; `check` says what
    return _merge(graph.model.graph, inferred.graph)


def _merge(g: ir.Graph, proto: onnx.GraphProto) -> bool:
    found = {v.name: v.type for v in (*proto.value_info, *proto.output)}
    changed = False
    for node, node_proto in zip(g, proto.node, strict=True):
        for value in node.outputs:
            if value.name and value.name in found:
                changed |= _merge_type(value, found[value.name])
        for a in node_proto.attribute:
            if a.HasField("g"):
                changed |= _merge(node.attributes[a.name].as_graph(), a.g)
    return changed


def _merge_type(value: ir.Value, proto: onnx.TypeProto) -> bool:
    """Take over what `proto` knows and `value` does not."""
    changed = False
    if value.type is None:
        value.type = ir.serde.deserialize_type_proto_for_type(proto)
        changed = value.type is not None
    shape = ir.serde.deserialize_type_proto_for_shape(proto)
    if shape is None:
        return changed
    if value.shape is None:
        value.shape = shape
        return True
    if value.shape.rank() != shape.rank():
        return changed
    dims = [b if _says_less(a) and not _says_less(b) else a for a, b in zip(value.shape, shape, strict=True)]
    dims = [b if not isinstance(a, int) and isinstance(b, int) else a for a, b in zip(dims, shape, strict=True)]
    if dims != list(value.shape):
        value.shape = ir.Shape(dims)
        changed = True
    return changed


def _says_less(dim: int | ir.SymbolicDim) -> bool:
    """A dimension without a name, or with one that inference made up: a name of the model's own says more."""
    return not isinstance(dim, int) and (dim.value is None or dim.value.startswith("unk__"))


def infer_node(node: ir.Node, opset: int) -> None:
    """Give the outputs of one node their type and shape, from those of its inputs. Unknown ops stay unknown."""
    import onnx

    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, ""):
        infer_plugin(node)
        return
    inputs: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    names: list[str] = []
    for i, v in enumerate(node.inputs):
        names.append("" if v is None else f"i{i}")
        if v is None:
            continue
        if v.type is None:
            return
        type_proto = onnx.TypeProto()
        ir.serde.serialize_type_into(type_proto, v.type)
        if v.shape is not None:
            ir.serde.serialize_shape_into(type_proto, v.shape)
        inputs[names[-1]] = type_proto
        array = constant(v) if v.const_value is not None and v.const_value.nbytes <= _NODE_DATA_BYTES else None
        if array is not None:
            data[names[-1]] = onnx.numpy_helper.from_array(array)
    proto = onnx.NodeProto(
        op_type=node.op_type,
        input=names,
        output=[f"o{i}" for i in range(len(node.outputs))],
        attribute=[ir.serde.serialize_attribute(a) for a in node.attributes.values()],
    )
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    try:
        types = onnx.shape_inference.infer_node_outputs(
            schema, proto, inputs, data, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10
        )
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
        return  # the value keeps what its rule gave it; the whole-graph check names the node
    for i, value in enumerate(node.outputs):
        if f"o{i}" in types:
            _merge_type(value, types[f"o{i}"])


def check(graph: Graph) -> None:
    """Raise EC0305 if onnx's checker, strict type and shape inference included, refuses the graph."""
    import onnx

    from edgec.diagnostics import error

    with skeleton(graph) as proto:
        try:
            onnx.checker.check_model(proto, full_check=True)
        except (
            onnx.checker.ValidationError,
            onnx.shape_inference.InferenceError,
            RuntimeError,
            ValueError,
            IndexError,
        ) as e:
            raise error("EC0305", f"the graph is not valid ONNX: {(str(e).strip().splitlines() or ['?'])[0]}") from None
