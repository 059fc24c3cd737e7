"""float64, float16 and bfloat16 models computed in float32, their interface kept.

Weights are converted; Cast nodes that go to one of these types go to float32, and so do attributes that name a type. Where
an input or output of the model has one of these types, it keeps it: a Cast stands behind the input or before the output.
Integers stay as they are.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.diagnostics import Location
from edgec.graph import Graph, ir
from edgec.pipeline import Pass, PassContext, PassResult

_OTHER = frozenset({ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "stash_type", "output_datatype", "softmax_precision"})


@dataclass(frozen=True)
class ToFloat32(Pass):
    """Inside the model float32 is the only floating-point type of 16 bits or more. Notes EC0229 where float64 lost
    digits, or numbers too large for float32 became infinite."""

    name: ClassVar[str] = "to-float32"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        counts = {"weights": 0, "values": 0, "interface": 0}
        found: set[ir.DataType] = set()
        overflown: list[str] = []
        public = dict.fromkeys(v for v in (*graph.inputs, *graph.outputs) if v.dtype in _OTHER)
        kinds = {v: v.dtype for v in public}
        for g in graph.graphs():
            if isinstance(g, ir.Graph):
                for v in g.initializers.values():
                    if v.const_value is not None and v.const_value.dtype in _OTHER:
                        found.add(v.const_value.dtype)
                        overflown += _convert(v)
                        counts["weights"] += 1
            for v in [*g.inputs, *(o for n in g for o in n.outputs)]:
                if v.dtype in _OTHER:
                    found.add(v.dtype)
                    v.type = _typed(v, ir.DataType.FLOAT)
                    counts["values"] += 1
            for n in g:
                found |= _attributes(n, overflown)
        for v in public:
            kind = kinds[v]
            assert kind is not None  # it is one of _OTHER
            (_behind_input if v.is_graph_input() else _before_output)(graph, v, kind)
            counts["interface"] += 1
        if found:
            _tell(graph, ctx, found, overflown)
        return PassResult(bool(found), {k: n for k, n in counts.items() if n})


def _typed(v: ir.Value, kind: ir.DataType) -> ir.TypeProtocol:
    """The type with other elements: a new object, as clones of a graph share theirs."""
    if v.type is None or isinstance(v.type, ir.TensorType):
        return ir.TensorType(kind)
    new = copy.deepcopy(v.type)
    new.dtype = kind
    return new


def _convert(v: ir.Value) -> list[str]:
    """Make a weight float32; its name, if finite numbers became infinite."""
    assert v.const_value is not None  # the caller looked
    tensor, lost = _float32(v.const_value)
    v.const_value, v.type = tensor, _typed(v, ir.DataType.FLOAT)
    return [v.name or "?"] if lost else []


def _float32(tensor: ir.TensorProtocol) -> tuple[ir.TensorProtocol, bool]:
    array = tensor.numpy()
    with np.errstate(over="ignore"):
        data = array.astype(np.float32)
    lost = tensor.dtype == ir.DataType.DOUBLE and bool((np.isinf(data) & np.isfinite(array)).any())
    return ir.tensor(data, name=tensor.name), lost


def _attributes(node: ir.Node, overflown: list[str]) -> set[ir.DataType]:
    """Types and tensors named in attributes. Returns the types that were there."""
    found: set[ir.DataType] = set()
    for name, a in list(node.attributes.items()):
        if a.is_ref():
            continue
        if name in _TYPE_ATTRIBUTES and a.type is ir.AttributeType.INT and a.as_int() in {int(t) for t in _OTHER}:
            found.add(ir.DataType(a.as_int()))
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
        elif a.type is ir.AttributeType.TENSOR and a.as_tensor().dtype in _OTHER:
            found.add(a.as_tensor().dtype)
            tensor, lost = _float32(a.as_tensor())
            overflown += [node.name or node.op_type] if lost else []
            node.attributes[name] = ir.AttrTensor(name, tensor)
    return found


def _behind_input(graph: Graph, v: ir.Value, kind: ir.DataType) -> None:
    """Everything that read the input reads it cast."""
    v.type = _typed(v, kind)
    inside = _cast(graph, v, ir.DataType.FLOAT)
    producer = inside.producer()
    for user in list(v.uses()):
        if user.node is not producer:
            user.node.replace_input_with(user.idx, inside)
    first = next(iter(graph.model.graph), None)
    assert producer is not None  # just made
    if first is None:
        graph.model.graph.append(producer)
    else:
        graph.model.graph.insert_before(first, producer)


def _before_output(graph: Graph, v: ir.Value, kind: ir.DataType) -> None:
    """The output takes its type behind a Cast; readers inside take the value before it."""
    name = v.name
    outside = _cast(graph, v, kind)
    producer = outside.producer()
    assert producer is not None  # just made
    graph.model.graph.append(producer)
    for i, out in enumerate(graph.model.graph.outputs):
        if out is v:
            graph.model.graph.outputs[i] = outside
    if v.is_initializer() and name:
        del graph.model.graph.initializers[name]
        v.name = graph.fresh(f"{name}.float32")
        graph.model.graph.register_initializer(v)
    else:
        v.name = graph.fresh(f"{name}.float32")
    outside.name = name


def _cast(graph: Graph, v: ir.Value, to: ir.DataType) -> ir.Value:
    node = ir.node("Cast", [v], attributes={"to": int(to)}, name=graph.fresh(f"{v.name}/Cast"))
    out = node.outputs[0]
    out.name = graph.fresh(f"{v.name}.{to.name.lower()}")
    out.type, out.shape = ir.TensorType(to), v.shape
    return out


def _tell(graph: Graph, ctx: PassContext, found: set[ir.DataType], overflown: list[str]) -> None:
    where = Location(graph.source)
    if overflown:
        names = ", ".join(overflown[:4])
        ctx.diagnostics.warn("EC0229", f"numbers too large for float32 became infinite in: {names}", where)
    types = " and ".join(sorted(t.name.lower() for t in found))
    ctx.diagnostics.note("EC0229", f"{types} computed in float32; inputs and outputs keep their types", where)
