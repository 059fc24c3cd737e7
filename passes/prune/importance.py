"""How much an atom matters, from its weights or its activations.

`l1`, `l2`: the norm of the filters that write it and of the weights that read it (Li et al. 2017, "Pruning filters for efficient
ConvNets"; over whole groups as Fang et al. 2023, "DepGraph"). `bn`: the scale of the BatchNormalization behind it (Liu et al.
2017, "Network slimming"). `activation`: the mean square of what the readers are given. Scores of a group have the mean 1, so
that groups can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, constant, ir, is_constant
from edgec.passes.prune.groups.dimensions import Dimension
from edgec.passes.prune.groups.group import Group
from edgec.runtime import Session

WEIGHTS = ("l1", "l2", "bn")
"""Importances that need nothing but the weights."""

Scores = npt.NDArray[np.float64]


def scores(group: Group, importance: str) -> Scores | None:
    """One number an atom; None where the group has no weights of the kind asked for, or they are not constants."""
    roles = ("scales",) if importance == "bn" else ("writes", "reads")
    power = 2 if importance == "l2" else 1
    found = []
    for role in roles:
        for d, _, c in group.roles(role):  # type: ignore[arg-type]
            per_element = _norms(d, power)
            if per_element is None:
                continue
            total = group.sums(c, per_element)
            total = np.sqrt(total) if power == 2 else total
            mean = total.mean()
            found.append(total / mean if mean > 0 else np.ones_like(total))
    return np.mean(found, axis=0) if found else None


def activity(
    graph: Graph, groups: Sequence[Group], samples: Sequence[Mapping[str, npt.NDArray[Any]]]
) -> list[Scores | None]:
    """Mean squares of the activations that readers of each atom are given; None for groups that nothing reads."""
    places = [list(read_activations(g)) for g in groups]
    names = sorted({d.value.name or "" for found in places for d, _ in found})
    totals = [np.zeros(len(g.numbers)) for g in groups]
    session = Session(graph, all_values=names)
    for sample in samples:
        values = {**sample, **session.run(dict(sample))}
        for total, group, dims in zip(totals, groups, places, strict=True):
            for d, c in dims:
                a = values[d.value.name or ""]
                axes = tuple(i for i in range(a.ndim) if i != d.axis)
                total += group.sums(c, np.square(a, dtype=np.float64).mean(axis=axes))
    return relative([t if found else None for t, found in zip(totals, places, strict=True)])


def read_activations(group: Group) -> Iterator[tuple[Dimension, int]]:
    """The activations along whose axis weights sum: each value once, with its class of dimensions."""
    seen = set()
    for _, node, c in group.roles("reads"):
        mine = {(d.value, d.axis): d for d in group.dims_of(c)}
        for v in node.inputs:
            for d in mine.values():
                if d.value is v and not is_constant(v) and (v, d.axis) not in seen:
                    seen.add((v, d.axis))
                    yield d, c


def relative(found: Sequence[Scores | None]) -> list[Scores | None]:
    """Each group's scores by their mean."""
    return [None if s is None else s / s.mean() if s.mean() > 0 else np.ones_like(s) for s in found]


def _norms(d: Dimension, power: int) -> Scores | None:
    """Sum of |w| or w^2 for every element along the dimension."""
    data = _weight(d.value)
    if data is None or not np.issubdtype(data.dtype, np.floating):
        return None
    size = np.abs(data.astype(np.float64)) ** power
    axes = tuple(i for i in range(data.ndim) if i != d.axis)
    out: Scores = size.sum(axis=axes)
    return out


def _weight(value: ir.Value) -> npt.NDArray[Any] | None:
    """The numbers of a weight; of one stored in integers, what it stands for."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear":
        found = constant(value)
        return None if found is None else np.asarray(found)
    x, scale, zero = (constant(node.inputs[i]) if i < len(node.inputs) else None for i in range(3))
    if x is None or scale is None:
        return None
    axis = node.attributes.get_int("axis", 1)
    shape = [1] * x.ndim
    if scale.ndim == 1 and scale.size > 1:
        shape[axis] = scale.size
    centred = x.astype(np.float64) - (
        0 if zero is None else zero.astype(np.float64).reshape(shape if zero.size > 1 else ())
    )
    return np.asarray(centred * scale.astype(np.float64).reshape(shape if scale.size > 1 else ()))
