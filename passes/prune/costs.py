"""What a cut saves: parameters and multiply-accumulates as products of the sizes of dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, attribute, ir, is_constant
from edgec.passes.prune.groups.dimensions import Dimensions
from edgec.passes.prune.groups.group import Group
from edgec.placement import macs

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Costs:
    """Products of dimensions: each term is a number, and the classes of dimensions it shrinks with.

    `per_atom`: for each group, elements an atom takes from a class on average.
    """

    terms: Mapping[str, Sequence[tuple[float, tuple[int, ...]]]]
    sizes: Mapping[int, int]
    per_atom: Sequence[Mapping[int, float]]

    def total(self, what: str, removed: Sequence[int] | Counts) -> float:
        """`params` or `macs` of the graph after taking `removed[i]` atoms out of group i."""
        gone: dict[int, float] = {}
        for n, widths in zip(removed, self.per_atom, strict=True):
            if n:
                for c, width in widths.items():
                    gone[c] = gone.get(c, 0.0) + int(n) * width
        return sum(
            base * math.prod(1 - gone[c] / self.sizes[c] for c in classes if c in gone)
            for base, classes in self.terms[what]
        )

    def saved_by(self, what: str, i: int) -> float:
        """What the first atom taken out of group i saves."""
        one = {c: width / self.sizes[c] for c, width in self.per_atom[i].items()}
        return sum(
            base * (1 - math.prod(1 - one[c] for c in classes if c in one))
            for base, classes in self.terms[what]
            if any(c in one for c in classes)
        )


def costs_of(graph: Graph, groups: Sequence[Group]) -> Costs:
    """Count the graph that `groups` were found in. An unknown batch counts as one; other unknown sizes as no MACs."""
    if not groups:
        return Costs({"params": (), "macs": ()}, {}, ())
    dims = groups[0].analysis.dims
    params: list[tuple[float, tuple[int, ...]]] = []
    for v in graph.model.graph.initializers.values():
        if v.const_value is not None and is_constant(v):
            reader = next((node for node, _ in v.uses()), None)
            params.append((float(v.const_value.size), _classes(dims, v, range(len(v.const_value.shape)), reader)))
    work = []
    for node in graph.model.graph:
        count = macs(node, batch=1)
        if count:
            work.append((float(count), _work_classes(dims, node)))
    sizes = {c: len(labels) for c, labels in groups[0].analysis.labels.items()}
    per_atom = [{c: float(g.count(c).mean()) for c in g.classes} for g in groups]
    return Costs({"params": params, "macs": work}, sizes, per_atom)


def _work_classes(dims: Dimensions, node: ir.Node) -> tuple[int, ...]:
    """The dimensions that the work of a node is the product of, as far as they can be cut."""
    a, b, out = node.inputs[0], node.inputs[1], node.outputs[0]
    if node.op_type in ("Conv", "ConvTranspose"):
        return _classes(dims, b, (0, 1), node)
    inner = 0 if node.op_type == "Gemm" and attribute(node, "transA") else -1
    rank = out.shape.rank() if out.shape is not None else 0
    return _classes(dims, out, range(rank), node) + _classes(dims, a, (inner,), node)


def _classes(dims: Dimensions, v: ir.Value | None, axes: Sequence[int], reader: ir.Node | None) -> tuple[int, ...]:
    found = (dims.of(v, i, reader) for i in axes)
    return tuple(dims.root(d) for d in found if d is not None and d >= 0)
