"""Groups: sets of atoms that are cut in the same dimensions, and so compete with each other.

An *atom* is a set of elements that can only be removed together: a channel with the filters that write it and the weights
that read it, the pair of channels of a grouped convolution, an attention head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgec.graph import ir
from edgec.passes.prune.groups.dimensions import Dimension, Dimensions, Indices, Role


@dataclass
class Analysis:
    """The dimensions of a graph with every element's atom. Valid until the graph changes."""

    dims: Dimensions
    labels: dict[int, Indices]
    """Class of dimensions -> the atom of each element."""
    members: dict[int, list[int]]
    """Class -> its dimensions."""
    spent: bool = False
    """Whether a cut has been made: all of this then speaks of a graph that is no more."""


@dataclass(frozen=True)
class Atom:
    """Elements that go together."""

    group: Group
    number: int

    @property
    def elements(self) -> Mapping[Dimension, Indices]:
        """The elements of each dimension."""
        analysis = self.group.analysis
        out = {}
        for c in self.group.classes:
            at = np.flatnonzero(analysis.labels[c] == self.number)
            out.update(dict.fromkeys(self.group.dims_of(c), at))
        return out


@dataclass(frozen=True, eq=False)
class Group:
    """Atoms that are cut in the same dimensions. `fixed`: why nothing can be removed, else None."""

    name: str
    numbers: Indices
    """The atoms' numbers in the analysis, in the order of the first dimension."""
    classes: tuple[int, ...]
    fixed: str | None
    analysis: Analysis = field(repr=False)

    @property
    def atoms(self) -> Sequence[Atom]:
        return [Atom(self, int(n)) for n in self.numbers]

    @cached_property
    def dims(self) -> tuple[Dimension, ...]:
        """All dimensions it is cut in, those of weights and of activations."""
        return tuple(d for c in self.classes for d in self.dims_of(c))

    def dims_of(self, c: int) -> Iterator[Dimension]:
        for d in self.analysis.members[c]:
            if self.analysis.dims.all[d].axis >= 0:
                yield self.analysis.dims.all[d]

    def roles(self, role: Role) -> Iterator[tuple[Dimension, ir.Node, int]]:
        """Weights' dimensions with that role, their node, and their class."""
        for c in self.classes:
            for d in self.analysis.members[c]:
                for found, node in self.analysis.dims.roles.get(d, ()):
                    if found == role:
                        yield self.analysis.dims.all[d], node, c

    @cached_property
    def channels(self) -> int:
        """Elements of the dimension its first writer writes."""
        return int(self.count(self.main).sum())

    @cached_property
    def main(self) -> int:
        """The class of the first dimension a weight writes."""
        return next((c for _, _, c in self.roles("writes")), self.classes[0])

    @property
    def width(self) -> int:
        """Channels an atom stands for: 64 for a head of that size."""
        return max(1, self.channels // max(1, len(self.numbers)))

    def count(self, c: int) -> npt.NDArray[np.int64]:
        """Elements of each atom along a class of dimensions."""
        place, hit = self._places(c)
        return np.bincount(place[hit], minlength=len(self.numbers)).astype(np.int64)

    def sums(self, c: int, per_element: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What the elements of each atom along a class add up to."""
        place, hit = self._places(c)
        return np.bincount(place[hit], per_element[hit], len(self.numbers)).astype(np.float64)

    def _places(self, c: int) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """Which of the group's atoms each element belongs to, and whether it belongs to any."""
        labels = self.analysis.labels[c]
        order = np.argsort(self.numbers)
        found = np.minimum(np.searchsorted(self.numbers[order], labels), len(order) - 1)
        return order[found], self.numbers[order][found] == labels
