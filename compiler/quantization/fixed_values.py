"""Values that are the same whatever a graph is given: nothing about them can be learnt from samples."""

from __future__ import annotations

from edgec.graph import Graph

_OF_SHAPES = frozenset({"Shape", "Size", "ConstantOfShape"})
"""Ops whose numbers do not depend on those of their input: on its shape at most."""

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def fixed_values(graph: Graph) -> frozenset[str]:
    """Names of the values of the main graph that no input reaches but by its shape. Constants folded or not; nodes with
    subgraphs count as fed by inputs.
    """
    g = graph.model.graph
    varying = set(g.inputs)
    fixed: set[str] = set()
    for node in g:
        if node.op_type in _OF_SHAPES:
            varies = False
        else:
            inner = any(a.type.name in ("GRAPH", "GRAPHS") for a in node.attributes.values())
            varies = inner or node.op_type in _RANDOM or any(v in varying for v in node.inputs if v is not None)
        if varies:
            varying.update(node.outputs)
        else:
            fixed.update(v.name for v in node.outputs if v.name)
    return frozenset(fixed)
