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


@dataclass(frozen=True)
class Promise:
    """A goal of `what` ("latency", "flash") that trial builds met: at most `limit`, in `unit` ("s", "bytes", ...)."""

    goal: str
    what: str
    limit: float
    unit: str

    def shown(self, amount: float) -> str:
        """`1.27 ms`, `148,112 bytes`."""
        return f"{amount * 1e3:.3g} ms" if self.unit == "s" else f"{amount:,.0f} {self.unit}"


@dataclass
class PruningRecord:
    """`reference`: the graph as it was before the first cut of the pipeline, in float. Activations keep their names."""

    reference: Graph
    kept: dict[str, dict[int, Indices]] = field(default_factory=dict)
    """Activation of `reference` -> axis -> its elements that are left, for axes that lost some."""
    promises: list[Promise] = field(default_factory=list)
    """What the artifact has to be held to."""

    def __bool__(self) -> bool:
        """Whether anything was cut."""
        return bool(self.kept)

    def cut(self, kept: Mapping[str, Mapping[int, Indices]]) -> None:
        """A further cut: `kept` counts the elements that the earlier ones left."""
        for name, axes in kept.items():
            mine = self.kept.setdefault(name, {})
            for axis, at in axes.items():
                mine[axis] = mine[axis][at] if axis in mine else at
