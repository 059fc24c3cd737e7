"""Values inside student and teacher that can be compared: the same, or what pruning left of the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import networkx as nx

from edgec.diagnostics import Location, error
from edgec.graph import Graph, bodies, ir

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Kept = Mapping[str, Mapping[int, npt.NDArray[np.int64]]]
    """Activation of the teacher -> axis -> its elements that the student still has, in order."""

_READERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "GlobalAveragePool", "ReduceMean"})

_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


def automatic_features(student: Graph, teacher: Graph, kept: Kept, most: int = 8) -> list[str]:
    """`most` values at most, evenly spread from input to output, that everything some output is computed from goes through:
    the stream between residual blocks, the layers of a plain network. Only those a layer reads, so after activations.
    """
    there = _activations(teacher)
    fitting = [
        v.name
        for v in _passages(student)
        if _read_by_layer(v) and v.name in there and _fits(v, there[v.name], kept.get(v.name, {}))
    ]
    if len(fitting) <= most:
        return fitting
    return [fitting[round((i + 1) * len(fitting) / most) - 1] for i in range(most)]


def _read_by_layer(v: ir.Value) -> bool:
    """Directly, or quantised."""
    return any(
        i == 0 and (n.op_type in _READERS or (n.op_type in _PAIR and _read_by_layer(n.outputs[0]))) for n, i in v.uses()
    )


def check_features(student: Graph, teacher: Graph, names: Sequence[str]) -> None:
    """Both graphs have activations of these names.

    Raises:
        EdgecError: EC0322 one has not.
    """
    for graph, whose in ((student, "student"), (teacher, "teacher")):
        there = _activations(graph)
        if missing := [n for n in names if n not in there]:
            message = f"the {whose} has no value {', '.join(map(repr, missing))}"
            raise error("EC0322", message, Location(graph.source), "`edgec inspect MODEL --text` prints the names")


def _activations(graph: Graph) -> dict[str, ir.Value]:
    return {v.name: v for node in graph.model.graph for v in node.outputs if v.name}


def _passages(graph: Graph) -> list[ir.Value]:
    """Values, in order, without which some output could not be computed: its dominators, from the inputs on."""
    flow: Any = nx.DiGraph()
    start = object()
    flow.add_node(start)
    for v in graph.inputs:
        flow.add_edge(start, v)
    for node in graph.model.graph:
        inner = [v for body in bodies(node) for n in body.all_nodes() for v in n.inputs]
        for read in [*node.inputs, *inner]:
            if read is not None and read in flow:
                flow.add_edges_from((read, out) for out in node.outputs)
    above = nx.immediate_dominators(flow, start)
    found: set[ir.Value] = set()
    for out in graph.outputs:
        at = above.get(out)
        while at is not None and at is not start:
            found.add(at)
            at = above.get(at)
    return [v for node in graph.model.graph for v in node.outputs if v in found]


def _fits(mine: ir.Value, theirs: ir.Value, kept: Mapping[int, npt.NDArray[np.int64]]) -> bool:
    """Whether the shapes agree, as far as they are known, once the teacher's elements that were cut are left out."""
    if mine.shape is None or theirs.shape is None or len(mine.shape) != len(theirs.shape):
        return False
    if mine.dtype is None or not mine.dtype.is_floating_point():
        return False
    wanted = [len(kept[i]) if i in kept else d for i, d in enumerate(theirs.shape)]
    return all(
        not isinstance(a, int) or not isinstance(b, int) or a == b for a, b in zip(mine.shape, wanted, strict=True)
    )
