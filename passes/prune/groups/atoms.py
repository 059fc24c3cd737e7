"""From ties to groups: union-find over elements, all at once in numpy."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from edgec.graph import Graph
from edgec.passes.prune.groups.analysis import analyse
from edgec.passes.prune.groups.dimensions import Dimensions, Indices
from edgec.passes.prune.groups.group import Analysis, Group

_TOGETHER = "all of its channels hang together: none can go alone"


def find_groups(graph: Graph) -> list[Group]:
    """What can be cut and what cannot, in the order of the graph.

    Needs inferred shapes; works best on what the float pipeline leaves. Groups without a weight that writes them (spatial
    axes, the batch) are left out. The graph is not changed; the result speaks of it until something changes it.
    """
    dims = analyse(graph)
    members: dict[int, list[int]] = defaultdict(list)
    for d in range(len(dims.all)):
        members[dims.root(d)].append(d)
    starts, total = {}, 0
    for root in members:
        starts[root] = total
        total += dims.sizes[root]
    atoms = _components(dims, starts, total)
    why = _pinned(dims, starts, atoms)
    labels = {root: atoms[start : start + dims.sizes[root]] for root, start in starts.items()}
    return _groups(Analysis(dims, labels, dict(members)), total, why)


def _components(dims: Dimensions, starts: dict[int, int], total: int) -> Indices:
    """The atom of every element: the smallest element it is connected with."""
    parent = np.arange(total, dtype=np.int64)
    left = [left + starts[dims.root(a)] for a, left, _, _ in dims.maps]
    right = [right + starts[dims.root(b)] for _, _, b, right in dims.maps]
    if not left:
        return parent
    u, v = np.concatenate(left), np.concatenate(right)
    while True:
        low, high = np.minimum(parent[u], parent[v]), np.maximum(parent[u], parent[v])
        apart = low != high
        if not apart.any():
            return parent
        u, v = u[apart], v[apart]
        np.minimum.at(parent, high[apart], low[apart])
        while True:  # every element points at its root before the next round
            up = parent[parent]
            if np.array_equal(up, parent):
                break
            parent = up


def _pinned(dims: Dimensions, starts: dict[int, int], atoms: Indices) -> dict[int, str]:
    """Atoms that must stay, and the first reason found."""
    why: dict[int, str] = {}
    for d, elements, reason in dims.pins:
        root = dims.root(d)
        at = np.arange(dims.sizes[root]) if elements is None else elements
        for n in np.unique(atoms[starts[root] + at]).tolist():
            why.setdefault(n, reason)
    return why


def _groups(analysis: Analysis, total: int, why: dict[int, str]) -> list[Group]:
    dims = analysis.dims
    rng = np.random.default_rng(0)
    signature = np.zeros(total, np.uint64)  # of each atom: the sum of random numbers of the classes it is in
    written = np.zeros(total, bool)
    touched: dict[int, Indices] = {}
    tokens = rng.integers(1, 2**63, len(dims.all), dtype=np.uint64)
    writers = {dims.root(d) for d, roles in dims.roles.items() if any(r == "writes" for r, _ in roles)}
    for root, labels in analysis.labels.items():
        found = touched[root] = np.unique(labels)
        signature[found] += tokens[root]
        if root in writers:
            written[found] = True
    fixed = np.zeros(total, bool)
    fixed[list(why)] = True
    signature[fixed] ^= np.uint64(0x5DEECE66D)
    keys: dict[int, list[int]] = defaultdict(list)
    classes: dict[int, list[int]] = defaultdict(list)
    for root, found in touched.items():
        for key in np.unique(signature[found[written[found]]]).tolist():
            classes[key].append(root)
    alive = np.flatnonzero(written)
    for n, key in zip(alive.tolist(), signature[alive].tolist(), strict=True):
        keys[key].append(n)
    names: Counter[str] = Counter()
    out = []
    for key, numbers in keys.items():
        reason = why.get(numbers[0]) if fixed[numbers[0]] else _TOGETHER if len(numbers) == 1 else None
        group = Group("", np.asarray(numbers, np.int64), tuple(classes[key]), reason, analysis)
        out.append(_named(group, names))
    return out


def _named(group: Group, names: Counter[str]) -> Group:
    """Called after what its first writer computes."""
    writer = next((node for _, node, _ in group.roles("writes")), None)
    stem = (writer.outputs[0].name if writer is not None else None) or "group"
    names[stem] += 1
    name = stem if names[stem] == 1 else f"{stem}#{names[stem]}"
    return Group(name, group.numbers, group.classes, group.fixed, group.analysis)
