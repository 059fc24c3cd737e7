"""Weights with NaN or infinity, found without bringing large weights into memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostics, Location
from edgec.graph import Graph, ir

CHUNK_BYTES = 8 << 20
MAX_NAMED = 10

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def warn_about_values(graph: Graph, path: Path, diagnostics: Diagnostics) -> None:
    """Warn (EC0022) about every weight that holds NaN or infinity; beyond ten of them, count the rest."""
    bad: list[tuple[str, str]] = []
    for g in graph.graphs():
        if isinstance(g, ir.Graph):
            for name, v in g.initializers.items():
                if v.const_value is not None and (what := odd_values(v.const_value)):
                    bad.append((name, what))
        for n in g:
            a = n.attributes.get("value") if n.op_type == "Constant" else None
            if a is not None and a.type == ir.AttributeType.TENSOR and (what := odd_values(a.as_tensor())):
                bad.append((n.outputs[0].name or n.name or "", what))
    hint = "check the training run and the export; every value computed from it is suspect"
    for name, what in bad[:MAX_NAMED]:
        diagnostics.warn("EC0022", f"weight {name!r} holds {what}", Location(str(path)), hint)
    if len(bad) > MAX_NAMED:
        diagnostics.warn(
            "EC0022", f"{len(bad) - MAX_NAMED} more weights hold NaN or infinity", Location(str(path)), hint
        )


def odd_values(tensor: ir.TensorProtocol) -> str | None:
    """ "NaN", "infinity" or both if the tensor has such values, else None. Reads at most 8 MiB at a time from disk."""
    if tensor.dtype not in _FLOATS:
        return None
    nan = inf = False
    for chunk in _chunks(tensor):
        if _finite(chunk):
            continue
        nan |= bool(np.isnan(chunk).any())
        inf |= bool(np.isinf(chunk).any())
    words = [w for w, there in (("NaN", nan), ("infinity", inf)) if there]
    return " and ".join(words) or None


def _finite(chunk: npt.NDArray[Any]) -> bool:
    """A sum is NaN or infinite if an element is; the reverse is then checked exactly. One fast pass in most cases."""
    if chunk.dtype.itemsize < 4:
        return bool(np.isfinite(chunk).all())
    with np.errstate(all="ignore"):
        return bool(np.isfinite(chunk.sum())) or bool(np.isfinite(chunk).all())


def _chunks(tensor: ir.TensorProtocol) -> Iterator[npt.NDArray[Any]]:
    if not isinstance(tensor, ir.ExternalTensor) or tensor.nbytes <= CHUNK_BYTES:
        yield tensor.numpy().reshape(-1)
        return
    # read(), not the memory map: pages touched through a map count as this process's memory
    left = tensor.nbytes
    with Path(tensor.path).open("rb", buffering=0) as file:
        file.seek(tensor.offset or 0)
        while left and (data := file.read(min(CHUNK_BYTES, left))):
            left -= len(data)
            dtype = tensor.dtype.numpy().newbyteorder("<")
            yield np.frombuffer(data, dtype, count=len(data) // dtype.itemsize)
