"""What a pass knows of a value or node that quantisation must respect; kept in their metadata, which copies carry along."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.graph import ir

_RANGE, _FLOAT = "edgec.range", "edgec.float"


def set_range(value: ir.Value, low: float, high: float) -> None:
    """All that the value can be, whatever calibration sees."""
    value.metadata_props[_RANGE] = f"{low!r} {high!r}"


def known_range(value: ir.Value) -> tuple[float, float] | None:
    """What `set_range` said."""
    text = value.metadata_props.get(_RANGE)
    if text is None:
        return None
    low, high = map(float, text.split())
    return low, high


def set_float(node: ir.Node, why: str) -> None:
    """The node computes in float."""
    node.metadata_props[_FLOAT] = why


def is_float(node: ir.Node) -> bool:
    """Whether `set_float` said so."""
    return _FLOAT in node.metadata_props
