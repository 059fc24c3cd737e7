"""What repeats in the weights of a graph (zeros, two zeros in every four, few values), and what that is worth on a target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostics, Location
from edgec.graph import Graph, constant, ir

if TYPE_CHECKING:
    from edgec.specs.schema import PatternUse

Array = npt.NDArray[Any]

Pattern = Literal["zeros", "two_four", "few"]

SMALLEST = 256
"""Elements below which a weight is not looked at."""

_FEW = 256
"""Values in a tensor that a table of bytes can index."""


@dataclass(frozen=True)
class WeightPatterns:
    """Shares of all elements of large weights, 0..1. `two_four`: in tensors of which every four neighbours along the input
    channels have two zeros. `few`: in tensors of at most 256 values, eight elements or more each.

    `bytes`: as stored. `coded_bytes`: with an ideal entropy code for the values of each tensor and the table of the values
    (Han et al., Deep Compression, arXiv:1510.00149), at most as stored.
    """

    zeros: float
    two_four: float
    few: float
    bytes: int
    coded_bytes: int


def weight_patterns(graph: Graph) -> WeightPatterns:
    """Look at every weight of two axes or more; the others count with their size."""
    total = zeros = two_four = few = 0
    stored = coded = 0
    for value, data in _weights(graph):
        stored += data.nbytes
        if data.ndim < 2 or data.size < SMALLEST:
            coded += data.nbytes
            continue
        _, counts = np.unique(data, return_counts=True)
        share = counts / data.size
        entropy = float(-(share * np.log2(share)).sum()) * data.size / 8
        coded += min(data.nbytes, int(np.ceil(entropy)) + len(counts) * data.itemsize)
        total += data.size
        zeros += data.size - int(np.count_nonzero(data))
        few += data.size if len(counts) <= _FEW and data.size >= 8 * len(counts) and data.itemsize > 1 else 0
        two_four += data.size if _two_of_four(value, data) else 0
    whole = max(total, 1)
    return WeightPatterns(zeros / whole, two_four / whole, few / whole, stored, coded)


def _weights(graph: Graph) -> Iterator[tuple[ir.Value, Array]]:
    for v in graph.model.graph.initializers.values():
        data = constant(v)
        if data is not None and data.dtype.kind in "fi" and data.nbytes:
            yield v, data


def _two_of_four(value: ir.Value, data: Array) -> bool:
    """Along the axis that is summed over: the second of a convolution's weight, the first or the last of a matrix."""
    axes = (1,) if data.ndim > 2 else (0, 1)
    return any(_every_four(np.moveaxis(data, axis, -1)) for axis in axes if data.shape[axis] % 4 == 0)


def _every_four(data: Array) -> bool:
    return bool((np.count_nonzero(data.reshape(-1, 4), axis=1) <= 2).all())


NAMES: Mapping[Pattern, str] = {
    "zeros": "of the weights are zero",
    "two_four": "of the weights have two zeros in every four",
    "few": "of the weights have few values",
}

WORTH_SAYING = 0.3
"""Share of the weights below which a pattern is not meant."""


def tell_worth(
    found: WeightPatterns, uses: Mapping[Pattern, PatternUse], target: str, notes: Diagnostics, source: str | None
) -> None:
    """EC0360, EC0361: whether what repeats in the weights makes anything smaller or faster on the target."""
    meant: Pattern | None = (
        "two_four" if found.two_four >= WORTH_SAYING else "zeros" if found.zeros >= WORTH_SAYING else None
    )
    few: Pattern | None = "few" if found.few >= WORTH_SAYING else None
    for name in [n for n in (meant, few) if n]:
        share = f"{getattr(found, name):.0%} {NAMES[name]}"
        use = uses.get(name)
        if use is None or use.gain == "none":
            why = use.how if use is not None else "nothing is known of it"
            hint = "prune whole channels (pass prune) for speed; a compressed download is smaller"
            notes.warn(
                "EC0360", f"{share}, which makes nothing faster or smaller on {target}: {why}", Location(source), hint
            )
        else:
            gains = {"size": "smaller", "speed": "faster", "both": "smaller and faster"}[use.gain]
            notes.note("EC0361", f"{share}, which makes the model {gains} on {target}: {use.how}", Location(source))
