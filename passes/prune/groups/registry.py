"""Where the rules of the ops are registered: `@ties("Conv")` says how its dimensions hang together, `@resizes("Conv")` what a
cut changes about the node besides the shapes of its values. An op without a rule holds all its values in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgec.graph import Graph, attribute, constant, ir
from edgec.passes.prune.groups.dimensions import Dimension, Dimensions, Indices, Role


@dataclass(frozen=True)
class Ties:
    """What a rule works with: the node, and the store of dimensions it adds ties to."""

    node: ir.Node
    dims: Dimensions
    opset: int

    def input(self, i: int) -> ir.Value | None:
        return self.node.inputs[i] if i < len(self.node.inputs) else None

    def output(self, i: int = 0) -> ir.Value | None:
        return self.node.outputs[i] if i < len(self.node.outputs) else None

    def attr(self, name: str) -> Any:
        return attribute(self.node, name, self.opset)

    def constant(self, i: int) -> Any | None:
        """The array of an input known at compile time."""
        return constant(self.input(i))

    def rank(self, value: ir.Value | None) -> int:
        return value.shape.rank() if value is not None and value.shape is not None else 0

    def size(self, value: ir.Value | None, axis: int) -> int:
        """Elements along an axis; 0 where that is not a number."""
        size = value.shape[axis] if value is not None and value.shape is not None else 0
        return size if isinstance(size, int) else 0

    def dim(self, value: ir.Value | None, axis: int) -> int | None:
        return self.dims.of(value, axis, self.node)

    def same(self, a: ir.Value | None, i: int, b: ir.Value | None, j: int) -> None:
        """Axis `i` of `a` goes with axis `j` of `b`, element by element."""
        if a is not None and b is not None:
            self.dims.same(self.dim(a, i), self.dim(b, j))

    def same_but(self, a: ir.Value | None, b: ir.Value | None, skip: Iterable[int] = ()) -> None:
        """All axes of two values of one rank go together, but those in `skip`."""
        for i in range(self.rank(a)):
            if i not in skip:
                self.same(a, i, b, i)

    def pin(self, value: ir.Value | None, axis: int, reason: str, elements: Indices | None = None) -> None:
        if value is not None:
            self.dims.pin(self.dim(value, axis), f"{self.label}: {reason}", elements)

    def pin_axes(self, value: ir.Value | None, axes: Iterable[int], reason: str) -> None:
        for i in axes:
            self.pin(value, i, reason)

    def pin_all(self, reason: str) -> None:
        """Nothing about this node may change size."""
        for v in (*self.node.inputs, *self.node.outputs):
            self.pin_axes(v, range(self.rank(v)), reason)

    def role(self, value: ir.Value | None, axis: int, role: Role) -> None:
        self.dims.role(self.dim(value, axis), role, self.node)

    def grouped(self, value: ir.Value | None, axis: int, factor: int, stride: int = 1) -> None:
        """Tie an axis to a factor: element e goes with element `(e // stride) % size` of it."""
        d, size = self.dim(value, axis), self.size(value, axis)
        if size == self.dims.sizes[factor] and stride == 1:
            self.dims.same(d, factor)
        elif d is not None:
            e = np.arange(size, dtype=np.int64)
            self.dims.map(d, e, factor, e // stride % self.dims.sizes[factor])

    @property
    def label(self) -> str:
        return f"{self.node.op_type} {self.node.name or ''}".strip()


@dataclass(frozen=True)
class Cut:
    """What a resize works with: the node as it was, what stays of each dimension, and the node's constants."""

    graph: Graph
    node: ir.Node
    opset: int
    stays: dict[Dimension, Indices]

    def kept(self, value: ir.Value | None, axis: int) -> Indices | None:
        """The elements that stay along an axis; None if all do."""
        if value is None or value.shape is None:
            return None
        axis = axis + value.shape.rank() if axis < 0 else axis
        own = self.stays.get(Dimension(value, axis, self.node))
        return own if own is not None else self.stays.get(Dimension(value, axis))

    def size(self, value: ir.Value | None, axis: int) -> int | None:
        """Elements along an axis after the cut; None where the number is not known."""
        kept = self.kept(value, axis)
        if kept is not None:
            return len(kept)
        size = value.shape[axis] if value is not None and value.shape is not None else None
        return size if isinstance(size, int) else None

    def attr(self, name: str) -> Any:
        return attribute(self.node, name, self.opset)

    def set_attr(self, name: str, value: int) -> None:
        self.node.attributes[name] = ir.AttrInt64(name, value)

    def constant(self, i: int) -> Any | None:
        return constant(self.node.inputs[i]) if i < len(self.node.inputs) else None

    def set_input(self, i: int, data: Any) -> None:
        """Give the node a constant of its own as input `i`."""
        while i >= len(self.node.inputs):
            self.node.resize_inputs(len(self.node.inputs) + 1)
        old = self.node.inputs[i]
        hint = (old.name if old is not None and old.name else f"{self.node.outputs[0].name}.{i}").removesuffix(
            ".pruned"
        )
        self.node.replace_input_with(i, new_constant(self.graph, f"{hint}.pruned", np.asarray(data)))


def new_constant(graph: Graph, hint: str, data: Any) -> ir.Value:
    """A new initializer of the main graph."""
    name = graph.fresh(hint)
    value = ir.Value(
        name=name, shape=ir.Shape(data.shape), type=ir.TensorType(ir.DataType.from_numpy(data.dtype)),
        const_value=ir.tensor(np.ascontiguousarray(data), name=name),
    )  # fmt: skip
    graph.model.graph.register_initializer(value)
    return value


TieRule = Callable[[Ties], None]
Resize = Callable[[Cut], None]

TIES: dict[str, TieRule] = {}
RESIZES: dict[str, Resize] = {}


def ties(*ops: str) -> Callable[[TieRule], TieRule]:
    """Register the rule of these ops of the ONNX domain."""

    def register(rule: TieRule) -> TieRule:
        TIES.update(dict.fromkeys(ops, rule))
        return rule

    return register


def resizes(*ops: str) -> Callable[[Resize], Resize]:
    """Register how nodes of these ops change with their values."""

    def register(resize: Resize) -> Resize:
        RESIZES.update(dict.fromkeys(ops, resize))
        return resize

    return register
