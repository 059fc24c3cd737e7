"""How close a quantised graph comes to the float one on some samples, for what chooses by few of them.

The figure is the mean of each sample's SQNR in dB, not the SQNR of all together: there a few samples with large outputs
decide. Behind a Softmax it is that of what the Softmax reads: where the classes are sure, its output says nothing, and one
flip of a class outweighs all other samples (measured: the three methods of a text direction classifier with two classes, 32
samples, in the wrong order by its outputs and in the right one by what the Softmax reads).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.compare import compare
from edgec.graph import Graph, ir
from edgec.runtime import Session

if TYPE_CHECKING:
    Arrays = dict[str, npt.NDArray[Any]]

LOWEST_DB, HIGHEST_DB = -20.0, 100.0
"""What one sample counts at worst and at best: wrong altogether, and equal in float32."""

_THROUGH = frozenset(
    {
        "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "QuantizeLinear", "DequantizeLinear",
    }
)  # fmt: skip
"""What may stand between a Softmax and an output."""


class Judge:
    """The float graph's answers. `samples`: those of the given ones on which they are finite, or all where none are."""

    def __init__(self, reference: Graph, samples: Sequence[Arrays]) -> None:
        answers = list(_answers(reference, samples))
        sound = [
            i for i, a in enumerate(answers) if all(np.isfinite(y).all() for y in a.values() if y.dtype.kind == "f")
        ]
        kept = sound or range(len(answers))
        self.samples = [samples[i] for i in kept]
        self._answers = [answers[i] for i in kept]

    def closeness(self, graph: Graph, indices: Sequence[int]) -> float:
        """Decibels of the output that is furthest off, on these of `samples`."""
        got = _answers(graph, [self.samples[i] for i in indices])
        rows = [
            [o.sqnr_db for o in compare([self._answers[i]], [answer]).outputs]
            for i, answer in zip(indices, got, strict=True)
        ]
        return float(np.clip(rows, LOWEST_DB, HIGHEST_DB).mean(axis=0).min())


def judged_values(graph: Graph) -> dict[str, str]:
    """Output -> the value it is judged by: what the Softmax it comes from reads, or itself."""
    return {v.name or "": _before_softmax(v).name or "" for v in graph.outputs}


def _answers(graph: Graph, samples: Sequence[Arrays]) -> Iterator[Arrays]:
    values = judged_values(graph)
    for answer in Session(graph, optimise=True, all_values=sorted({*values.values()})).run_all(samples):
        yield {output: answer[value] for output, value in values.items()}


def _before_softmax(output: ir.Value) -> ir.Value:
    node = output.producer()
    while node is not None and node.op_type in _THROUGH and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    read = node.inputs[0] if node is not None and node.op_type == "Softmax" else None
    return read if read is not None and read.producer() is not None else output
