"""What composite rules ask of a match: one-element constants, shapes that stay, axes of reductions, opsets."""

from __future__ import annotations

import numpy as np

from edgec.graph import attribute, constant, ir, is_constant
from edgec.pattern import Match, Var
from edgec.rewrite import Reject, Rewriter


def scalar(name: str) -> Var:
    """A floating-point constant with one element, whatever its rank."""
    return Var(name, constant=True, check=one_float)


def one_float(v: ir.Value) -> bool:
    """Whether a constant has one floating-point element."""
    return v.const_value is not None and v.const_value.size == 1 and v.dtype is not None and v.dtype.is_floating_point()


def number(m: Match, name: str) -> float:
    """The single element of the constant `name`, which a `scalar(name)` matched."""
    value = m.scalar(name)
    assert value is not None  # scalar() only matches one element
    return value


def near(a: float, b: float, tolerance: float = 1e-6) -> bool:
    """Equal up to the rounding of float32, relative to `b` where it is large."""
    return abs(a - b) <= tolerance * max(1.0, abs(b))


def is_float(v: ir.Value) -> bool:
    return v.dtype is not None and v.dtype.is_floating_point()


def blocked(m: Match, rw: Rewriter, opset: int, x: str = "x") -> Reject | None:
    """Why an elementwise composite of `x` may not become one node of an op that exists since `opset`; None if it may.

    One-element constants of a higher rank than `x` would widen the result, which the fused op does not do.
    """
    if rw.opset < opset:
        return Reject(f"the fused op exists from opset {opset}, the model is written in opset {rw.opset}")
    value = m.value(x)
    if not is_float(value):
        return Reject(f"{value.name} is not a floating-point tensor")
    for node in m.nodes:
        for v in node.inputs:
            if v is None or not is_constant(v) or v is value or v.shape is None or v.shape.rank() == 0:
                continue
            if value.shape is None or v.shape.rank() > value.shape.rank():
                return Reject(f"constant {v.name} may widen the shape of {value.name}")
    return None


def reduction_axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """The axes of a Reduce* node as sorted non-negative numbers, from the attribute (old opsets) or the constant input.

    None where they are not known at compile time.
    """
    axes = attribute(node, "axes") if "axes" in node.attributes else None
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        data = constant(node.inputs[1])
        if data is None:
            return None
        axes = np.asarray(data).reshape(-1).tolist()
    if not axes:
        return () if attribute(node, "noop_with_empty_axes") else tuple(range(rank))
    return tuple(sorted(int(a) % rank for a in axes))


def trailing(axes: tuple[int, ...] | None, rank: int) -> bool:
    """Whether the axes are the last ones, without a gap."""
    return axes is not None and len(axes) > 0 and axes == tuple(range(rank - len(axes), rank))
