"""samples.npz of a bundle: inputs, and what the float model and the bundle's model.onnx make of them on this host."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgec.target import Arrays

MOST, MOST_BYTES = 8, 64 << 20
"""Samples in a bundle: as many as fit in so many bytes, at least one."""


def board_samples(
    samples: Iterable[Arrays],
    names: tuple[Sequence[str], Sequence[str]],
    run_float: Callable[[Arrays], Arrays],
    run_model: Callable[[Arrays], Arrays],
) -> tuple[bytes, int]:
    """The file's bytes, and how many samples it has. `names`: inputs and outputs in the model's order.

    Arrays: `in<i>.<k>`, `float<i>.<k>` and `model<i>.<k>` for sample i and input or output k; `inputs`, `outputs`: names.
    """
    inputs, outputs = names
    arrays: dict[str, Any] = {}
    size = count = 0
    for i, sample in enumerate(itertools.islice(samples, MOST)):
        parts = (("in", inputs, sample), ("float", outputs, run_float(sample)), ("model", outputs, run_model(sample)))
        found = {f"{kind}{i}.{k}": np.asarray(values[n]) for kind, of, values in parts for k, n in enumerate(of)}
        size += sum(a.nbytes for a in found.values())
        if count and size > MOST_BYTES:
            break
        arrays.update(found)
        count += 1
    file = io.BytesIO()
    np.savez_compressed(file, inputs=np.array(inputs, dtype=str), outputs=np.array(outputs, dtype=str), count=np.int64(count), **arrays)  # fmt: skip
    return file.getvalue(), count
