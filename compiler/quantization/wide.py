"""Layers with more bits than the rest: which scheme they follow, and which of them could."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgec.graph import Graph

if TYPE_CHECKING:
    from edgec.specs.conditions import Setting
    from edgec.specs.scheme import Scheme


def wide_scheme(scheme: Scheme) -> Scheme | None:
    """The scheme of the layers that get more bits; None where the target has none."""
    from edgec.specs.schema import builtin_scheme

    return builtin_scheme(scheme.wide.scheme) if scheme.wide is not None else None


def wide_nodes(graph: Graph, scheme: Scheme, setting: Setting) -> frozenset[str]:
    """Names of the nodes that could get more bits by `scheme.wide`."""
    other = wide_scheme(scheme)
    if other is None:
        return frozenset()
    return frozenset(
        (n.name or n.outputs[0].name or n.op_type)
        for n in graph.model.graph
        if scheme.rule(n, setting) and other.rule(n, setting)
    )
