"""Layers with a stored weight in a Q/DQ graph, seen beside the float graph they were made from.

What correction passes share: finding such layers, reading and rewriting their weights and biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, attribute, constant, ir, is_constant
from edgec.quantization.params import LIMITS, QuantParams
from edgec.quantization.record import QuantRecord
from edgec.specs.scheme import QuantKind

Array = npt.NDArray[Any]
Vector = npt.NDArray[np.float64]

OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass
class Layer:
    """One Conv, ConvTranspose, Gemm or MatMul whose weight is stored in integers (input 1, behind a DequantizeLinear).

    `reference` is the same node in the float graph. Weights are seen as [groups, outputs/group, k]: every output of a
    group is the product of a row with a patch of the input, [groups, k] (im2col).
    """

    node: ir.Node
    reference: ir.Node
    dequantize: ir.Node
    narrow: bool = False
    """Whether the lowest integer stays unused."""
    float_bias: bool = False
    """Whether the scheme wants biases in float."""

    @property
    def name(self) -> str:
        return self.node.name or self.node.outputs[0].name or self.node.op_type

    @property
    def x(self) -> ir.Value:
        """What the quantised layer reads."""
        return _given(self.node, 0)

    @property
    def x_reference(self) -> ir.Value:
        """What the float layer reads."""
        return _given(self.reference, 0)

    @cached_property
    def groups(self) -> int:
        return int(attribute(self.node, "group") or 1) if self.node.op_type.startswith("Conv") else 1

    @cached_property
    def channels(self) -> int:
        """Output channels."""
        rows = self.rows(np.empty(self.stored.shape.numpy(), np.bool_))
        return int(rows.shape[0] * rows.shape[1])

    @property
    def channel_axis(self) -> int:
        """Of the output."""
        return 1 if self.node.op_type.startswith("Conv") else -1

    @property
    def stored(self) -> ir.TensorProtocol:
        value = _given(self.dequantize, 0)
        assert value.const_value is not None  # find_layers sees to it
        return value.const_value

    @cached_property
    def params(self) -> QuantParams:
        """How the weight is stored."""
        scale = np.asarray(constant(_given(self.dequantize, 1)), np.float32)
        zero_value = self.dequantize.inputs[2] if len(self.dequantize.inputs) > 2 else None
        zero = (
            np.zeros(scale.shape, np.int32) if zero_value is None else np.asarray(constant(zero_value)).astype(np.int32)
        )
        dtype = self.stored.dtype.name.lower()
        block = int(attribute(self.dequantize, "block_size") or 0) or None
        axis = int(attribute(self.dequantize, "axis")) % len(self.stored.shape) if scale.ndim else None
        return QuantParams(scale, zero, dtype, axis, block, self.narrow)

    def integers(self) -> npt.NDArray[np.int32]:
        """The stored weight."""
        return self.stored.numpy().astype(np.int32)

    def float_weight(self) -> npt.NDArray[np.float32]:
        """The weight of the float graph."""
        return np.asarray(constant(_given(self.reference, 1)), np.float32)

    def rows(self, weight: Array) -> Array:
        """[groups, outputs/group, k] of anything in the weight's own layout."""
        op, g = self.node.op_type, self.groups
        if op == "Conv":
            return weight.reshape(g, weight.shape[0] // g, -1)
        if op == "ConvTranspose":  # [in, out/group, ...]: a row a kernel position would be several outputs
            w = weight.reshape(g, weight.shape[0] // g, weight.shape[1], -1)
            return np.moveaxis(w, 2, 1).reshape(g, weight.shape[1], -1)
        if op == "Gemm" and attribute(self.node, "transB"):
            return weight[None]
        return weight.T[None]

    def unrows(self, rows: Array) -> Array:
        """The inverse of `rows`."""
        shape = tuple(self.stored.shape.numpy())
        op, g = self.node.op_type, self.groups
        if op == "Conv":
            return rows.reshape(shape)
        if op == "ConvTranspose":
            w = rows.reshape(g, shape[1], shape[0] // g, -1)
            return np.moveaxis(w, 1, 2).reshape(shape)
        if op == "Gemm" and attribute(self.node, "transB"):
            return np.asarray(rows[0])
        return np.asarray(rows[0].T)

    def scale_rows(self) -> Vector:
        """The scale of every weight, in the shape of `rows`."""
        return self._spread(self.params.scale)

    def zero_rows(self) -> Vector:
        """The zero point of every weight, in the shape of `rows`."""
        return self._spread(self.params.zero_point)

    def _spread(self, p: Array) -> Vector:
        shape = tuple(self.stored.shape.numpy())
        spread = self.params._spread(p, np.empty(shape, np.bool_))
        return np.asarray(self.rows(np.broadcast_to(spread, shape)), np.float64)

    # --- writing -------------------------------------------------------------------------------------------------

    def store(self, integers: npt.NDArray[np.int32]) -> bool:
        """Replace the stored weight. Returns whether anything changed."""
        if np.array_equal(self.integers(), integers):
            return False
        _replace(_given(self.dequantize, 0), integers)
        return True

    @property
    def owns_scale(self) -> bool:
        """Whether nothing else depends on the weight's scale: no other node reads it, no bias is stored by it."""
        values = [v for v in self.dequantize.inputs[1:3] if v is not None]
        bias = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        return all(len(v.uses()) == 1 for v in values) and (bias is None or _dequantized(bias) is None)

    def kind(self, symmetric: bool) -> QuantKind:
        """What the weight is stored as."""
        p = self.params
        per: Literal["tensor", "channel", "block"] = "tensor" if p.axis is None else "block" if p.block else "channel"
        return QuantKind.model_validate(
            {"dtype": p.dtype, "symmetric": symmetric, "narrow": p.narrow, "per": per, "block": p.block}
        )

    def set_params(self, p: QuantParams) -> None:
        """Other scales and zero points, of the same shapes and type."""
        _replace(_given(self.dequantize, 1), p.scale)
        if len(self.dequantize.inputs) > 2 and self.dequantize.inputs[2] is not None:
            _replace(self.dequantize.inputs[2], p.zero_point)
        self.params = p

    def reference_bias(self) -> Vector:
        """The bias of the float layer; zeros where it has none."""
        value = self.reference.inputs[2] if len(self.reference.inputs) > 2 else None
        data = np.zeros(1) if value is None else np.asarray(constant(value), np.float64).reshape(-1)
        return np.broadcast_to(data, (self.channels,)).copy()

    def bias(self) -> Vector:
        """The bias as the quantised layer adds it; zeros where it has none."""
        value = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        if value is None:
            return np.zeros(self.channels)
        dq = _dequantized(value)
        if dq is None:
            data = np.asarray(constant(value)).astype(np.float64)
        else:
            data = np.asarray(constant(_given(dq, 0))).astype(np.float64) * np.asarray(
                constant(_given(dq, 1)), np.float64
            )
        return np.broadcast_to(data.reshape(-1), (self.channels,)).copy()

    @property
    def takes_bias(self) -> bool:
        """Whether `set_bias` can be used: there is a constant bias, or the op has room for one."""
        if self.node.op_type == "MatMul":
            return False
        value = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        if value is None:
            return True
        dq = _dequantized(value)
        size = _size(value) if dq is None else _size(_given(dq, 0))
        return size == self.channels and (dq is not None or is_constant(value))

    def set_bias(self, bias: Vector, graph: Graph) -> bool:
        """Give the layer this bias, in the type of the one it has. Returns whether anything changed.

        One without a bias gets one: int32 where the scheme has such biases and its input is stored in integers, else float.
        """
        value = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        if value is None:
            return self._add_bias(bias, graph)
        dq = _dequantized(value)
        if dq is None:
            old = np.asarray(constant(value))
            new = bias.reshape(old.shape).astype(old.dtype)
            target = value
        else:
            target = _given(dq, 0)
            old = np.asarray(constant(target))
            scale = np.asarray(constant(_given(dq, 1)), np.float64)
            new = np.clip(np.rint(bias / scale), *LIMITS["int32"]).astype(np.int32).reshape(old.shape)
        if np.array_equal(old, new):
            return False
        if len(target.uses()) > 1 or (dq is not None and len(dq.outputs[0].uses()) > 1):
            self._own_bias(value, dq, new, graph)
        else:
            _replace(target, new)
        return True

    def _own_bias(self, value: ir.Value, dq: ir.Node | None, data: Array, graph: Graph) -> None:
        """A bias several layers share becomes this layer's own."""
        name = (value.name or "b").removesuffix("_dq")
        if dq is None:
            self.node.replace_input_with(2, _initializer(graph, name, data))
            return
        stored = _initializer(graph, f"{name}_q", data)
        self.node.replace_input_with(2, _dq(graph, [stored, *dq.inputs[1:]], f"{name}_dq", dq, self.node))

    def _add_bias(self, bias: Vector, graph: Graph) -> bool:
        if not np.abs(bias).any():
            return False
        while len(self.node.inputs) < 3:
            self.node.resize_inputs(3)
        name = f"{(_given(self.reference, 1).name or self.name)}.bias"
        x_dq = _dequantized(self.x, activation=True)
        if self.float_bias or x_dq is None or self.params.block is not None:
            dtype = self.float_weight().dtype
            self.node.replace_input_with(2, _initializer(graph, name, bias.astype(dtype)))
            return True
        scale = np.asarray(constant(_given(x_dq, 1)), np.float64) * self.params.scale.astype(np.float64)
        data = np.clip(np.rint(bias / scale), *LIMITS["int32"]).astype(np.int32)
        inputs = [
            _initializer(graph, f"{name}_q", data),
            _initializer(graph, f"{name}_scale", np.asarray(scale, np.float32)),
            _initializer(graph, f"{name}_zp", np.zeros(scale.shape, np.int32)),
        ]
        if scale.ndim == 0:
            self.node.replace_input_with(2, _dq(graph, inputs, f"{name}_dq", None, self.node))
        else:
            self.node.replace_input_with(2, _dq(graph, inputs, f"{name}_dq", None, self.node, axis=0))
        return True


def find_layers(graph: Graph, record: QuantRecord) -> list[Layer]:
    """The layers of the main graph whose stored weight is theirs alone, in execution order."""
    reference = record.reference
    by_output = {v.name: n for n in reference.model.graph for v in n.outputs if v.name}
    by_name = {n.name: n for n in reference.model.graph if n.name}
    found: list[Layer] = []
    for node in graph.model.graph:
        if node.op_type not in OPS or node.domain or len(node.inputs) < 2:
            continue
        dq = _dequantized(node.inputs[1])
        if dq is None or len(dq.outputs[0].uses()) > 1 or len(_given(dq, 0).uses()) > 1:
            continue
        twin = by_name.get(node.name or "") or by_output.get(_public_name(node.outputs[0]) or "")
        if twin is None or twin.op_type != node.op_type or not is_constant(twin.inputs[1]):
            continue
        if node.op_type in ("Gemm", "MatMul") and len(_given(dq, 0).shape or ()) != 2:
            continue
        stored = record.weights.get(_given(dq, 0).name or "")
        found.append(Layer(node, twin, dq, stored is not None and stored[1].narrow, record.scheme.bias == "float"))
    return found


def _public_name(value: ir.Value) -> str | None:
    """The value's name in the float graph: a stored model output gave its own to the DequantizeLinear after it."""
    for q, _ in value.uses():
        for dq, _ in q.outputs[0].uses() if q.op_type == "QuantizeLinear" else ():
            if dq.outputs[0].is_graph_output():
                return dq.outputs[0].name
    return value.name


def _dequantized(value: ir.Value | None, *, activation: bool = False) -> ir.Node | None:
    """The DequantizeLinear that makes a value, of a constant or (`activation`) of an activation."""
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "DequantizeLinear" or producer.domain:
        return None
    return producer if is_constant(producer.inputs[0]) is not activation else None


def _given(node: ir.Node, i: int) -> ir.Value:
    value = node.inputs[i]
    assert value is not None  # schemas of these ops require it, or the caller looked
    return value


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else int(np.prod(value.const_value.shape.numpy(), dtype=np.int64))


def _replace(value: ir.Value, data: Array) -> None:
    """New contents for an initializer, in its own type."""
    old = value.const_value
    assert old is not None  # initializers have one
    value.const_value = ir.Tensor(data.astype(old.dtype.numpy()), dtype=old.dtype, name=value.name)


def _initializer(graph: Graph, name: str, data: Array) -> ir.Value:
    name = graph.fresh(name)
    tensor = ir.tensor(np.ascontiguousarray(data), name=name)
    value = ir.Value(name=name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.model.graph.register_initializer(value)
    return value


def _dq(
    graph: Graph,
    inputs: Sequence[ir.Value | None],
    name: str,
    like: ir.Node | None,
    before: ir.Node,
    axis: int | None = None,
) -> ir.Value:
    attributes = dict(like.attributes.items()) if like is not None else {}
    if axis is not None:
        attributes["axis"] = ir.AttrInt64("axis", axis)
    stored = inputs[0]
    shape = stored.shape if stored is not None else None
    out = ir.Value(name=graph.fresh(name), shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node("", "DequantizeLinear", inputs, attributes, outputs=[out], name=out.name)
    node.metadata_props["edgec.rule"] = "correct"
    graph.model.graph.insert_before(before, node)
    return out
