"""Reading QuantizeLinear and DequantizeLinear of any graph, and the float graph that is left when they are taken out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, attribute, constant, ir, is_constant, static_shape
from edgec.quantization.params import LIMITS
from edgec.specs.conditions import dtype_name

Array = npt.NDArray[Any]

Q, DQ = "QuantizeLinear", "DequantizeLinear"
DOMAINS = ("", "com.microsoft")
"""ONNX Runtime has the same two ops in its own domain, for 16-bit types in models older than opset 21."""

INTEGER_OPS = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")


@dataclass(frozen=True, eq=False)
class Linear:
    """One Q or DQ node. Parameters are read when asked for: weights may be large, scales are not."""

    node: ir.Node
    opset: int

    @property
    def real(self) -> ir.Value:
        """The float side."""
        return _given(self.node.inputs[0]) if self.node.op_type == Q else self.node.outputs[0]

    @property
    def stored(self) -> ir.Value:
        """The integer side."""
        return self.node.outputs[0] if self.node.op_type == Q else _given(self.node.inputs[0])

    @property
    def zero_given(self) -> bool:
        return len(self.node.inputs) > 2 and self.node.inputs[2] is not None

    @cached_property
    def dtype(self) -> str:
        """Element type of the integer side by ONNX's name; `uint8` where nothing says, as ONNX has it."""
        if self.zero_given:
            zero = self.node.inputs[2]
            if zero is not None and zero.dtype is not None:
                return dtype_name(zero.dtype)
        if self.node.op_type == Q:
            wanted = attribute(self.node, "output_dtype", self.opset)
            if wanted:
                return dtype_name(ir.DataType(wanted))
            return "uint8"
        return dtype_name(self.stored.dtype) if self.stored.dtype is not None else "uint8"

    @cached_property
    def scale(self) -> Array | None:
        """float64, a scalar where one scale serves the tensor; None where it is computed at run time."""
        data = constant(self.node.inputs[1]) if len(self.node.inputs) > 1 else None
        if data is None:
            return None
        scale = np.asarray(data).astype(np.float64)
        return scale.reshape(()) if scale.size == 1 and not self.block else scale

    @cached_property
    def zero(self) -> Array | None:
        """In the shape of the scale or a scalar; 0 where it is left out; None where it is computed at run time."""
        if not self.zero_given:
            return np.zeros((), np.int64)
        data = constant(self.node.inputs[2])
        if data is None:
            return None
        zero = np.asarray(data).astype(np.float64).astype(np.int64)
        return zero.reshape(()) if zero.size == 1 else zero

    @cached_property
    def block(self) -> int:
        """Elements that share a scale along `axis`; 0: not blocked."""
        return int(attribute(self.node, "block_size", self.opset) or 0)

    @cached_property
    def axis(self) -> int | None:
        """The axis along which scales differ, counted from the front; None where one scale serves the tensor."""
        if self.scale is None or self.scale.ndim == 0:
            return None
        axis = int(attribute(self.node, "axis", self.opset) if "axis" in self.node.attributes else 1)
        shape = self.real.shape if self.real.shape is not None else self.stored.shape
        return axis + shape.rank() if axis < 0 and shape is not None else axis

    def misfit(self) -> str | None:
        """What is wrong with the number of scales and zero points; None where they fit the tensor, or it has no shape."""
        scale, zero = self.scale, self.zero
        if scale is None or zero is None:
            return None
        if zero.ndim and zero.shape != scale.shape:
            return f"{zero.size} zero points and {scale.size} scales"
        shape = static_shape(self.real) or static_shape(self.stored)
        if shape is None or scale.ndim == 0:
            return None
        axis = self.axis
        if axis is None or not 0 <= axis < len(shape):
            return f"scales along axis {axis} of a tensor of rank {len(shape)}"
        if self.block < 0:
            return f"blocks of {self.block}"
        if self.block:
            form = tuple(-(-d // self.block) if i == axis else d for i, d in enumerate(shape))
            if scale.shape != form:
                have = list(scale.shape)
                return f"scales of shape {have}; blocks of {self.block} along axis {axis} need {list(form)}"
        elif scale.shape != (shape[axis],):
            return f"{scale.size} scales along axis {axis} of length {shape[axis]}"
        return None

    def same(self, other: Linear) -> bool:
        """Whether both store in the same way: type, scale and zero point, to float32's precision."""
        if self.scale is None or other.scale is None or self.zero is None or other.zero is None:
            return self.node.inputs[1:3] == other.node.inputs[1:3]
        return (
            self.dtype == other.dtype
            and self.scale.shape == other.scale.shape
            and self.axis == other.axis
            and bool(np.allclose(self.scale, other.scale, rtol=1e-6, atol=0))
            and np.array_equal(self.zero, other.zero)
        )

    def says(self) -> str:
        """The parameters for a message: `uint8, scale 0.0235, zero point 128`."""
        if self.scale is None or self.zero is None:
            return f"{self.dtype}, parameters computed at run time"
        if self.scale.ndim:
            return f"{self.dtype}, {self.scale.size} scales along axis {self.axis}"
        return f"{self.dtype}, scale {float(self.scale):.6g}, zero point {int(self.zero.reshape(-1)[0])}"

    def dequantized(self, stored: ir.Value | None = None) -> Array | None:
        """The reals of a constant integer side; of `stored`, where the node is gone from its graph."""
        data = constant(self.stored if stored is None else stored)
        if data is None or self.scale is None or self.zero is None:
            return None
        scale, zero = (self._spread(a, np.shape(data)) for a in (self.scale, self.zero))
        return ((np.asarray(data).astype(np.float64) - zero) * scale).astype(np.float32)

    def _spread(self, a: Array, shape: tuple[int, ...]) -> Array:
        if a.ndim == 0 or self.axis is None:
            return a
        if self.block:
            return np.repeat(a, self.block, axis=self.axis).take(range(shape[self.axis]), axis=self.axis)
        form = [1] * len(shape)
        form[self.axis] = -1
        return a.reshape(form)


def is_linear(node: ir.Node | None, op: str = "") -> bool:
    """Whether the node is a Q or DQ (or just the one named)."""
    return node is not None and node.domain in DOMAINS and node.op_type in ((op,) if op else (Q, DQ))


def is_integer_op(node: ir.Node) -> bool:
    """Whether the node computes on integers in a form other than Q/DQ."""
    return node.op_type.startswith("QLinear") or node.op_type in INTEGER_OPS


def linears(graph: Graph) -> Iterator[Linear]:
    """Every Q and DQ in execution order."""
    for node in graph.nodes():
        if is_linear(node) and len(node.inputs) > 1 and node.inputs[0] is not None:
            yield Linear(node, graph.opset)


def is_quantized(graph: Graph) -> bool:
    """Whether the graph holds a Q or DQ node."""
    return any(is_linear(n) for n in graph.nodes())


def read_through(value: ir.Value | None, opset: int) -> Linear | None:
    """The DQ that makes the value; None where it is plain float."""
    producer = value.producer() if value is not None else None
    return Linear(producer, opset) if producer is not None and is_linear(producer, DQ) else None


def written_to(value: ir.Value, opset: int) -> list[Linear]:
    """The Q that read the value."""
    return [Linear(n, opset) for n, i in value.uses() if i == 0 and is_linear(n, Q)]


def with_constants(graph: Graph) -> Graph:
    """A clone in which the outputs of Constant nodes count as constants."""
    copy = graph.clone()
    for node in copy.nodes():
        if node.op_type == "Constant" and node.domain == "" and "value" in node.attributes:
            node.outputs[0].const_value = node.attributes["value"].as_tensor()
    return copy


def float_view(graph: Graph) -> tuple[Graph, dict[ir.Node, ir.Node]]:
    """The graph without its pairs, and what each of its nodes is in `graph`.

    A DQ of a constant becomes the float constant; Q -> DQ becomes what Q reads. Q and DQ that stand alone (an integer
    input or output of the model) stay.
    """
    view = with_constants(graph)
    of = dict(zip(view.nodes(), graph.nodes(), strict=True))
    for dq in [lin for lin in linears(view) if lin.node.op_type == DQ]:
        source = dq.stored.producer()
        if is_constant(dq.stored):
            if dq.scale is None or dq.zero is None or (dq.scale.ndim and dq.axis is None):
                continue
            _ = dq.block  # read now: the node goes, its weight is asked for later
            dtype, shape = dq.real.dtype or ir.DataType.FLOAT, dq.stored.shape
            name = view.fresh(f"{dq.stored.name}_float")
            assert isinstance(shape, ir.Shape)  # of a constant
            tensor = ir.LazyTensor(partial(_reals, dq, dq.stored, dtype), dtype=dtype, shape=shape, name=name)
            value = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)
            (dq.node.graph or view.model.graph).register_initializer(value)
        elif source is not None and is_linear(source, Q):
            value = _given(source.inputs[0])
        else:
            continue
        _replace(view, dq.real, value)
    view.remove_dead()
    return view, of


def _reals(dq: Linear, stored: ir.Value, dtype: ir.DataType) -> ir.TensorProtocol:
    data = dq.dequantized(stored)
    assert data is not None  # the caller looked
    return ir.Tensor(data.astype(dtype.numpy()))


def _replace(graph: Graph, old: ir.Value, new: ir.Value) -> None:
    for user, i in old.uses():
        user.replace_input_with(i, new)
    outputs = graph.model.graph.outputs
    for i, out in enumerate(outputs):
        if out is old:
            outputs[i] = new


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None  # ONNX's Q and DQ have a first input
    return value


def limits_of(dtype: str) -> tuple[int, int]:
    """Smallest and largest stored value; int32's for types edgec never makes."""
    return LIMITS.get(dtype, LIMITS["int32"])
