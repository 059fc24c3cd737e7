"""Builder: appends nodes and constants to a graph, for graphs that measure other graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.graph import Graph, ir

if TYPE_CHECKING:
    import numpy.typing as npt

Gradients = dict[int, ir.Value]
"""Of a node: input position -> the gradient of that input."""


class Builder:
    """Appends nodes to a graph. Shapes are read from the forward values: gradients have the shape of their value."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], ir.Value] = {}

    def op(self, op_type: str, *inputs: ir.Value | None, outputs: int = 1, **attributes: Any) -> ir.Value:
        """The first output of a new node."""
        return self.node(op_type, inputs, attributes, outputs).outputs[0]

    def node(
        self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any], outputs: int
    ) -> ir.Node:
        values = [ir.Value(name=self.graph.fresh("grad")) for _ in range(outputs)]
        node = ir.node(op_type, list(inputs), attributes=dict(attributes), outputs=values, name=values[0].name)
        self.graph.model.graph.append(node)
        return node

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Node:
        """The same op on other inputs."""
        values = [ir.Value(name=self.graph.fresh("copy") if v.name else "") for v in node.outputs]
        made = ir.Node(node.domain, node.op_type, list(inputs), node.attributes.values(), outputs=values)
        made.name = values[0].name
        self.graph.model.graph.append(made)
        return made

    def array(self, data: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> ir.Value:
        """A constant; equal small ones are made once."""
        a = np.asarray(data, dtype)
        key = (a.dtype.str, a.tobytes() if a.nbytes <= 1024 else b"", a.shape)
        if a.nbytes <= 1024 and key in self._constants:
            return self._constants[key]
        name = self.graph.fresh("grad_const")
        value = ir.Value(
            name=name,
            shape=ir.Shape(a.shape),
            type=ir.TensorType(ir.DataType.from_numpy(a.dtype)),
            const_value=ir.tensor(a, name=name),
        )
        self.graph.model.graph.register_initializer(value)
        self._constants[key] = value
        return value

    def ints(self, *data: int) -> ir.Value:
        return self.array(data, np.int64)

    def like(self, g: ir.Value, x: ir.Value) -> ir.Value:
        """`g` in the shape of `x`, which has as many elements."""
        return self.op("Reshape", g, self.op("Shape", x))

    def unbroadcast(self, g: ir.Value, shape: ir.Shape | None, to: ir.Value) -> ir.Value | None:
        """Sum a gradient of `shape` over the axes along which `to` was repeated. None where shapes are not known."""
        if shape is None or to.shape is None:
            return None
        out, own = list(shape), list(to.shape)
        extra = len(out) - len(own)
        axes = list(range(extra))
        for i, (a, b) in enumerate(zip(out[extra:], own, strict=True)):
            if b == 1 and a != 1:
                axes.append(i + extra)
            elif b != a and not (isinstance(a, int) and isinstance(b, int)):
                return None  # two unknown lengths: one of them may be 1
        if axes:
            g = self.op("ReduceSum", g, self.ints(*axes), keepdims=1)
        return self.op("Reshape", g, self.op("Shape", to)) if axes else g

    def scatter(self, x: ir.Value | None, index: ir.Value, g: ir.Value | None) -> ir.Value:
        """Zeros in the shape of `x`, with the elements of `g` added at flat positions `index`."""
        shape, flat = self.op("Shape", x), self.ints(-1)
        zeros = self.op("Expand", self.array([0.0]), self.op("Reshape", self.op("Size", x), flat))
        parts = (self.op("Reshape", index, flat), self.op("Reshape", g, flat))
        return self.op("Reshape", self.op("ScatterElements", zeros, *parts, axis=0, reduction="add"), shape)
