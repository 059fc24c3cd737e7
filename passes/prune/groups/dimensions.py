"""Dimensions of values, and how they are tied: the store that the rules of the ops fill.

A *dimension* is one axis of one value. Two dimensions are tied where removing an element of one makes removing elements
of the other necessary. Most ties pair element i with element i: dimensions so tied form a *class* (networkx's union-find)
and share everything found out about them. Other ties carry an index map: two arrays of equal length, element `left[n]`
goes with element `right[n]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from networkx.utils import UnionFind

from edgec.graph import constant, ir, is_constant

Indices = npt.NDArray[np.int64]
Role = Literal["writes", "reads", "scales"]
"""What a weight's dimension is to its node: outputs it computes, inputs it sums over, a BatchNormalization's scale."""

UNKNOWN = -1
"""Stands for a dimension whose size is not a number: what is tied to it cannot be cut."""


class Dimension(NamedTuple):
    """One axis of a value.

    Constants with one axis of more than one element, and those whose elements are all equal, are counted once a reader: two
    BatchNormalizations that happen to share their vector of ones can be cut apart. Larger weights of several readers are
    one value, cut the same everywhere.
    A negative axis stands for a factor that a Reshape or a blocked op splits a real axis into.
    """

    value: ir.Value
    axis: int
    reader: ir.Node | None = None


@dataclass
class Dimensions:
    """All dimensions met so far, their ties, and what holds them in place."""

    index: dict[Dimension, int] = field(default_factory=dict)
    all: list[Dimension] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    maps: list[tuple[int, Indices, int, Indices]] = field(default_factory=list)
    pins: list[tuple[int, Indices | None, str]] = field(default_factory=list)
    """Dimension, its elements that must stay (None: all), why."""
    roles: dict[int, list[tuple[Role, ir.Node]]] = field(default_factory=dict)
    _classes: Any = field(default_factory=UnionFind)
    _fixed: set[int] = field(default_factory=set)
    _heads: set[int] = field(default_factory=set)
    _private: dict[ir.Value, bool] = field(default_factory=dict)
    _factors: int = 0

    def of(self, value: ir.Value | None, axis: int, reader: ir.Node | None = None) -> int | None:
        """The number of a dimension. None if there is no such value or the axis has one element: nothing can be cut
        there. `UNKNOWN` if its size is not known."""
        if value is None or value.shape is None:
            return None
        axis = axis + value.shape.rank() if axis < 0 else axis
        size = value.shape[axis]
        if not isinstance(size, int) or size == 0:
            return UNKNOWN
        if size == 1:
            return None
        return self._number(Dimension(value, axis, reader if self._is_private(value) else None), size)

    def factor(self, owner: ir.Value, size: int) -> int:
        """A new dimension that no value has: what the elements of an axis are grouped by."""
        self._factors += 1
        return self._number(Dimension(owner, -self._factors), size)

    def _is_private(self, value: ir.Value) -> bool:
        found = self._private.get(value)
        if found is None:
            found = self._private[value] = is_private(value)
        return found

    def _number(self, key: Dimension, size: int) -> int:
        found = self.index.get(key)
        if found is None:
            found = self.index[key] = len(self.all)
            self.all.append(key)
            self.sizes.append(size)
        return found

    def same(self, a: int | None, b: int | None) -> None:
        """Element i of one goes with element i of the other. Sizes that differ pin both."""
        if a is None or b is None or a == b:
            return
        if a == UNKNOWN or b == UNKNOWN:
            self.pin(max(a, b), "the size of a dimension tied to it is not known")
        elif self.sizes[a] != self.sizes[b]:
            for d in (a, b):
                self.pin(d, "it is tied to a dimension of another size")
        else:
            roots = self.root(a), self.root(b)
            self._classes.union(*roots)
            root = self.root(a)
            for flags in (self._fixed, self._heads):
                if not flags.isdisjoint(roots):
                    flags.add(root)

    def map(self, a: int | None, left: Indices, b: int | None, right: Indices) -> None:
        """Element `left[n]` of one goes with element `right[n]` of the other."""
        if a is None or b is None:
            # an axis of one element stays; so does what goes with it
            for d, elements in ((a, left), (b, right)):
                if d is not None:
                    self.pin(d, "an axis of one element goes with it", elements)
        elif UNKNOWN in (a, b):
            self.pin(max(a, b), "the size of a dimension tied to it is not known")
        else:
            self.maps.append((a, np.asarray(left, np.int64), b, np.asarray(right, np.int64)))

    def pin(self, d: int | None, reason: str, elements: Indices | None = None) -> None:
        """Elements (None: all) that must stay."""
        if d is None or d == UNKNOWN:
            return
        self.pins.append((d, elements, reason))
        if elements is None:
            self._fixed.add(self.root(d))

    def role(self, d: int | None, role: Role, node: ir.Node) -> None:
        if d is not None and d != UNKNOWN:
            self.roles.setdefault(d, []).append((role, node))

    def root(self, d: int) -> int:
        """The class a dimension belongs to."""
        root: int = self._classes[d]
        return root

    def is_pinned(self, d: int | None) -> bool:
        """Whether something is known to hold the whole class in place."""
        return d == UNKNOWN or (d is not None and self.root(d) in self._fixed)

    def mark_heads(self, d: int | None) -> None:
        """Heads of an attention: where a Reshape splits an axis, they are what it is cut by."""
        if d is not None and d != UNKNOWN:
            self._heads.add(self.root(d))

    def is_heads(self, d: int | None) -> bool:
        return d is not None and d != UNKNOWN and self.root(d) in self._heads


def is_private(value: ir.Value) -> bool:
    """Whether each reader may have its own: a constant whose elements lie along one axis or are all equal, or what a
    ConstantOfShape fills. Reads weights of several readers only."""
    if value.is_graph_output() or value.shape is None:
        return False
    if not is_constant(value):
        return is_filled(value)
    if sum(1 for d in value.shape if d != 1) == 1:
        return True
    data = constant(value) if len({node for node, _ in value.uses()}) > 1 else None
    return data is not None and data.size > 0 and bool((data == data.flat[0]).all())


def is_filled(value: ir.Value) -> bool:
    """Equal numbers in a shape known at compile time."""
    node = value.producer()
    return node is not None and node.op_type == "ConstantOfShape" and constant(node.inputs[0]) is not None
