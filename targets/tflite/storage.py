"""How the axes of a value lie in a tensor: permutations, and what they do to shapes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Perm = tuple[int, ...]
"""Stored axis j holds ONNX axis perm[j]."""


def channels_last(rank: int, channel_axes: int = 1) -> Perm:
    """N, spatial axes, channel axes; the channels are axes 1..channel_axes of the ONNX value."""
    return (0, *range(channel_axes + 1, rank), *range(1, channel_axes + 1))


def inverse(perm: Sequence[int]) -> Perm:
    return tuple(sorted(range(len(perm)), key=lambda j: perm[j]))


def stored(shape: Sequence[int], perm: Perm | None) -> tuple[int, ...]:
    """The shape in storage."""
    return tuple(shape) if perm is None else tuple(shape[a] for a in perm)


def moves_nothing(shape: Sequence[int], perm: Sequence[int]) -> bool:
    """Whether the order of the data stays: only axes of size 1 change places."""
    kept = [a for a in perm if shape[a] != 1]
    return kept == sorted(kept)


def between(have: Perm | None, want: Perm | None, rank: int) -> Perm:
    """The permutation that turns one storage of a value into another."""
    at = inverse(have) if have is not None else tuple(range(rank))
    return tuple(at[a] for a in (want if want is not None else range(rank)))


def dropped(perm: Perm | None, axes: Collection[int]) -> Perm | None:
    """The storage left when ONNX `axes` go; None where that is raw."""
    left = [a for a in perm or () if a not in axes]
    kept = sorted(left)
    return None if left == kept else tuple(kept.index(a) for a in left)


def through_transpose(perm: Sequence[int], read: Perm | None, write: Perm | None) -> Perm:
    """What is left to do for a Transpose by `perm` whose input is read and whose output is stored as told."""
    rank = len(perm)
    return between(read, tuple(perm[a] for a in (write or range(rank))), rank)
