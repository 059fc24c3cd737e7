"""What the quantising pass did, for the passes after it: correction needs the float graph, reports the choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgec.graph import Graph
from edgec.quantization.params import QuantParams

if TYPE_CHECKING:
    from edgec.quantization.statistics import Statistics
    from edgec.specs.scheme import Scheme


@dataclass
class QuantRecord:
    """`reference` is the graph as it was just before Q/DQ were inserted, in float; values and nodes keep their names."""

    reference: Graph
    scheme: Scheme
    statistics: Statistics | None = None
    """None for weight-only and dynamic quantisation: nothing was run."""
    activations: dict[str, QuantParams] = field(default_factory=dict)
    """Value of `reference` -> how it is stored."""
    weights: dict[str, tuple[str, QuantParams]] = field(default_factory=dict)
    """Name of the stored integer initializer -> (node it is a weight of, parameters)."""
    wide: dict[str, str] = field(default_factory=dict)
    """Node -> element type of the activations, of those that were given more bits than the scheme's."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Node -> why it stays in float."""

    def __bool__(self) -> bool:
        """Whether anything was quantised."""
        return bool(self.activations or self.weights)
