"""When two values provably have the same shape."""

from __future__ import annotations

from edgec.graph import ir, static_shape


def same_static_shape(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Every dimension of both is a number, and they are equal."""
    shape = static_shape(a)
    return shape is not None and shape == static_shape(b)


def same_shape_given_size(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Same shape, if they have the same number of elements (as the two ends of a Reshape have).

    One axis may be open in either: where all others are equal and not zero, the equal size decides it.
    """
    if a is None or b is None or a.shape is None or b.shape is None or a.shape.rank() != b.shape.rank():
        return False
    open_axes = 0
    for x, y in zip(a.shape, b.shape, strict=True):
        if not (isinstance(x, int) and isinstance(y, int)):
            open_axes += 1
        elif x != y or x == 0:
            return False
    return open_axes <= 1


def rank(value: ir.Value | None) -> int | None:
    """The number of dimensions, if known."""
    return None if value is None or value.shape is None else value.shape.rank()
