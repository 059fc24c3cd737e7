"""The teacher: a graph in ONNX Runtime whose values are learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph
from edgec.runtime import Session

Arrays = dict[str, npt.NDArray[Any]]


class Teacher:
    """`wanted`: names of outputs and inner values. `kept`: value -> axis -> its elements the student has; the others are
    left out of what `values` gives.

    It does not wait spinning: the cores are the student's between two runs.
    """

    def __init__(
        self, graph: Graph, wanted: Sequence[str], kept: Mapping[str, Mapping[int, npt.NDArray[np.int64]]]
    ) -> None:
        outputs = {v.name for v in graph.outputs}
        inner = [n for n in wanted if n not in outputs]
        self._session = Session(graph, optimise=True, all_values=inner or False, background=True, fallback=True)
        self._wanted, self._kept = list(wanted), kept

    def values(self, sample: Arrays) -> Arrays:
        """What it computes of one sample."""
        values = self._session.run(sample)
        return {n: self._cut(n, values[n]) for n in self._wanted}

    def _cut(self, name: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        for axis, left in self._kept.get(name, {}).items():
            value = np.take(value, left, axis=axis)
        return value
