"""How a Reshape takes the axes of a shape apart and puts them together again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Span:
    """The factors one axis consists of, `start` to `end`, outermost first."""

    axis: int
    start: int
    end: int


@dataclass(frozen=True)
class Factors:
    """Sizes whose products are the axes of both shapes. Axes of one element have no span."""

    sizes: tuple[int, ...]
    before: tuple[Span, ...]
    after: tuple[Span, ...]

    def stride(self, span: Span, factor: int) -> int:
        """Elements of the axis between two neighbours along the factor."""
        return math.prod(self.sizes[factor + 1 : span.end])

    def blocks(self) -> list[tuple[int, int]]:
        """Runs of factors that no axis of either side crosses: what happens in one does not touch the others."""
        cuts = {s.start for s in self.before} & {s.start for s in self.after} | {len(self.sizes)}
        edges = sorted(cuts)
        return list(pairwise(edges))


def common_factors(before: dict[int, int], after: dict[int, int]) -> Factors | None:
    """The coarsest factors both shapes (axis -> size, in order) are made of.

    (6, 4) -> (2, 3, 4) has the factors 2, 3, 4; (6, 4) -> (4, 6) has none, and gives None.
    """
    if math.prod(before.values()) != math.prod(after.values()):
        return None
    inner = sorted({*_suffixes(before), *_suffixes(after)}, reverse=True)
    if any(a % b for a, b in pairwise(inner)):
        return None
    sizes = tuple(a // b for a, b in pairwise(inner))
    at = {product: i for i, product in enumerate(inner)}
    return Factors(sizes, _spans(before, at), _spans(after, at))


def _suffixes(shape: dict[int, int]) -> list[int]:
    """Products of the last sizes: of all, of all but the first, ..., of none (1)."""
    sizes = list(shape.values())
    return [math.prod(sizes[i:]) for i in range(len(sizes) + 1)]


def _spans(shape: dict[int, int], at: dict[int, int]) -> tuple[Span, ...]:
    suffixes = _suffixes(shape)
    return tuple(
        Span(axis, at[suffixes[i]], at[suffixes[i + 1]]) for i, (axis, size) in enumerate(shape.items()) if size > 1
    )
