"""What pruning did, for the passes after it: recovery needs the float graph there was, and which channels are left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy.typing as npt

from edgec.graph import Graph

if TYPE_CHECKING:
    import numpy as np

    Indices = npt.NDArray[np.int64]


@dataclass
class PruningRecord:
    """`reference`: the graph as it was before the first cut of the pipeline, in float. Activations keep their names."""

    reference: Graph
    kept: dict[str, dict[int, Indices]] = field(default_factory=dict)
    """Activation of `reference` -> axis -> its elements that are left, for axes that lost some."""

    def __bool__(self) -> bool:
        """Whether anything was cut."""
        return bool(self.kept)

    def cut(self, kept: Mapping[str, Mapping[int, Indices]]) -> None:
        """A further cut: `kept` counts the elements that the earlier ones left."""
        for name, axes in kept.items():
            mine = self.kept.setdefault(name, {})
            for axis, at in axes.items():
                mine[axis] = mine[axis][at] if axis in mine else at
