"""Which channels of which values must be scaled together, so that scaling them changes nothing but the weights around.

Conv, ConvTranspose, Gemm and MatMul can absorb a factor on every channel they read or write; between them, ops that are
positively homogeneous (Relu, pooling, additions, concatenation ...) pass factors on. Channels that hang together form a
class. A class that reaches anything else (a Sigmoid, a model input or output) is pinned: its factor stays 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, attribute, bodies, constant, ir, is_constant
from edgec.passes.optimize.linear_ops import LINEAR, Linear
from edgec.rewrite import Reject

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

_SAME = frozenset({"Relu", "LeakyRelu", "PRelu", "Identity", "MaxPool", "AveragePool", "GlobalAveragePool",
                   "GlobalMaxPool"})  # fmt: skip
"""Ops of one activation: f(k x) = k f(x) for k > 0, channel by channel. PRelu's slope is looked at separately."""


@dataclass(frozen=True)
class ScalableLayer:
    """A layer, and the classes of the channels it reads and writes. `linear.weight` is the weight as it is stored."""

    linear: Linear
    reads: Ids
    writes: Ids

    def rows(self) -> tuple[Array, Ids]:
        """The weight as [groups, outputs/group, k], and the class that each of the k reads, [groups, k]."""
        w, op = self.linear.weight, self.linear.node.op_type
        g = int(attribute(self.linear.node, "group") or 1) if op.startswith("Conv") else 1
        reads = self.reads.reshape(g, -1)
        if op == "Conv":
            rows = w.reshape(g, w.shape[0] // g, -1)
        elif op == "ConvTranspose":
            rows = np.moveaxis(w.reshape(g, w.shape[0] // g, w.shape[1], -1), 2, 1).reshape(g, w.shape[1], -1)
        else:
            rows = (w if op == "Gemm" and attribute(self.linear.node, "transB") else w.T)[None]
        return rows, np.repeat(reads, rows.shape[2] // reads.shape[1], axis=1)


@dataclass(frozen=True)
class Bound:
    """A Clip from 0 to `high` passes factors on as long as it cuts off the same: the scaled channel must stay below."""

    value: str
    high: float
    classes: Ids


@dataclass
class Channels:
    """`of`: value -> class of each channel (axis 1). `pinned`: by class."""

    of: dict[str, Ids] = field(default_factory=dict)
    layers: list[ScalableLayer] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    pinned: Array = field(default_factory=lambda: np.zeros(0, bool))


def find_channels(graph: Graph) -> Channels:
    """The classes of the main graph; shapes must be known."""
    return _Finder(graph).run()


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.parent: list[int] = []
        self.pins: set[int] = set()
        self.ids: dict[ir.Value, list[int]] = {}
        self.layers: list[tuple[Linear, ir.Value, ir.Value]] = []
        self.bounds: list[tuple[ir.Value, float]] = []

    def run(self) -> Channels:
        g = self.graph.model.graph
        for v in (*g.inputs, *g.outputs):
            self._pin(v)
        for node in g:
            if not self._visit(node):
                self._pin_all(node)
            for body in bodies(node):
                for inner in body.all_nodes():
                    for used in inner.inputs:
                        if used is not None and used in self.ids:
                            self._pin(used)
        root = np.array([self._root(i) for i in range(len(self.parent))], np.int64)
        classes, number = np.unique(root, return_inverse=True)
        pinned = np.isin(classes, [self._root(i) for i in self.pins])

        def ids(v: ir.Value) -> Ids:
            return np.asarray(number[self.ids[v]], np.int64)

        return Channels(
            {v.name: ids(v) for v in self.ids if v.name},
            [ScalableLayer(linear, ids(x), ids(y)) for linear, x, y in self.layers],
            [Bound(v.name or "", high, ids(v)) for v, high in self.bounds],
            pinned,
        )

    # --- classes -------------------------------------------------------------------------------------------------

    def _of(self, v: ir.Value) -> list[int] | None:
        """The channels of a value, made at its first use; None where their number is unknown."""
        if v not in self.ids:
            count = _dim(v, 1)
            if count is None or count < 1:
                return None
            first = len(self.parent)
            self.ids[v] = list(range(first, first + count))
            self.parent.extend(self.ids[v])
        return self.ids[v]

    def _root(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def _tie(self, a: Sequence[int] | None, b: Sequence[int] | None) -> bool:
        if a is None or b is None or len(a) != len(b):
            return False
        for i, j in zip(a, b, strict=True):
            i, j = self._root(i), self._root(j)
            self.parent[max(i, j)] = min(i, j)
        return True

    def _pin(self, v: ir.Value) -> None:
        if not is_constant(v):
            self.pins.update(self._of(v) or ())

    def _pin_all(self, node: ir.Node) -> None:
        for v in (*node.inputs, *node.outputs):
            if v is not None:
                self._pin(v)

    # --- ops -----------------------------------------------------------------------------------------------------

    def _visit(self, node: ir.Node) -> bool:
        """Note what the node passes on. False: it passes nothing on."""
        op = node.op_type
        if node.domain or not node.inputs or node.inputs[0] is None:
            return False
        if op in LINEAR:
            return self._linear(node)
        x, y = node.inputs[0], node.outputs[0]
        if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
            return False
        if op in _SAME:
            return (op != "PRelu" or is_constant(node.inputs[1])) and self._tie(self._of(x), self._of(y))
        if op == "Clip":
            return self._clip(node, x, y)
        if op in ("Add", "Sub"):
            return self._sum(node)
        if op == "Concat":
            return self._concat(node)
        if op in ("Flatten", "Reshape", "Squeeze"):
            return self._flat(x, y)
        if op == "Pad":
            return self._pad(node, x, y)
        if op == "Slice":
            return self._slice(node, x, y)
        if op == "Resize":
            mode = attribute(node, "coordinate_transformation_mode")
            return _dims(x)[:2] == _dims(y)[:2] and mode != "tf_crop_and_resize" and self._tie(self._of(x), self._of(y))
        return False

    def _linear(self, node: ir.Node) -> bool:
        linear = Linear.of(node)
        if isinstance(linear, Reject) or linear.dtype != np.float32:
            return False
        x, y = linear.x, node.outputs[0]
        if is_constant(x) or (not node.op_type.startswith("Conv") and len(_dims(x)) != 2):
            return False
        for v in node.inputs[1:]:
            if v is not None and (len(v.uses()) > 1 or v.is_graph_output()):
                return False
        reads, writes = self._of(x), self._of(y)
        if reads is None or writes is None or len(reads) != linear.in_channels or len(writes) != linear.out_channels:
            return False
        stored = np.asarray(constant(node.inputs[1])).astype(np.float64)  # without Gemm's alpha
        self.layers.append((dataclasses.replace(linear, weight=stored), x, y))
        return True

    def _clip(self, node: ir.Node, x: ir.Value, y: ir.Value) -> bool:
        ends = [constant(v) for v in (*node.inputs[1:3], None, None)[:2]]
        low, high = (None if e is None else float(np.asarray(e)) for e in ends)
        given = [v for v in node.inputs[1:3] if v is not None]
        if any(not is_constant(v) for v in given) or low != 0 or not self._tie(self._of(x), self._of(y)):
            return False
        if high is not None and np.isfinite(high):
            self.bounds.append((y, high))
        return True

    def _sum(self, node: ir.Node) -> bool:
        a, b = node.inputs
        y = node.outputs[0]
        if a is None or b is None or is_constant(a) or is_constant(b):
            return False
        if not _dims(a) or None in _dims(a) or _dims(a) != _dims(b):
            return False
        return self._tie(self._of(a), self._of(y)) and self._tie(self._of(b), self._of(y))

    def _concat(self, node: ir.Node) -> bool:
        y = self._of(node.outputs[0])
        rank = len(_dims(node.outputs[0]))
        if y is None or attribute(node, "axis") not in (1, 1 - rank):
            return False
        parts = [self._of(v) if v is not None and not is_constant(v) else None for v in node.inputs]
        if any(p is None for p in parts):
            return False
        return self._tie([i for p in parts if p is not None for i in p], y)

    def _flat(self, x: ir.Value, y: ir.Value) -> bool:
        """[n, c, h, w] as [n, c h w], or without axes of size 1 at the end."""
        a, b, ids = _dims(x), _dims(y), self._of(x)
        if ids is None or len(b) < 2 or a[0] is None or a[0] != b[0]:
            return False
        if b[1] == a[1] and all(d == 1 for d in (*a[2:], *b[2:])):
            return self._tie(ids, self._of(y))
        inner = [d for d in a[2:] if isinstance(d, int)]
        if len(b) != 2 or len(inner) != len(a) - 2:
            return False
        return self._tie([i for i in ids for _ in range(int(np.prod(inner)))], self._of(y))

    def _pad(self, node: ir.Node, x: ir.Value, y: ir.Value) -> bool:
        pads, axes = constant(node.inputs[1]), node.inputs[3] if len(node.inputs) > 3 else None
        fill = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else 0.0
        rank, ids, out = len(_dims(x)), self._of(x), self._of(y)
        if pads is None or axes is not None or len(pads) != 2 * rank or fill is None or ids is None or out is None:
            return False
        if attribute(node, "mode") in (None, "constant") and np.any(np.asarray(fill) != 0):
            return False
        before, after = int(pads[1]), int(pads[1 + rank])
        if (before or after) and attribute(node, "mode") not in (None, "constant"):
            return False
        return before >= 0 and after >= 0 and self._tie(ids, out[before : before + len(ids)])

    def _slice(self, node: ir.Node, x: ir.Value, y: ir.Value) -> bool:
        """Along other axes than that of the channels."""
        axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
        rank = len(_dims(x))
        if axes is None or not rank or any(int(a) % rank == 1 for a in axes):
            return False
        return self._tie(self._of(x), self._of(y))


def _dims(v: ir.Value) -> tuple[int | str | None, ...]:
    """Sizes; names of those left open, None of those not even named. () where the rank is unknown."""
    return () if v.shape is None else tuple(d if isinstance(d, int) else d.value for d in v.shape)


def _dim(v: ir.Value, axis: int) -> int | None:
    dims = _dims(v)
    size = dims[axis] if len(dims) > axis else None
    return size if isinstance(size, int) else None
