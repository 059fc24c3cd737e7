"""Weights with NaN or infinity, found without bringing large weights into memory."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostics, Location
from edgec.graph import Graph, ir

CHUNK_BYTES = 1 << 20
"""Stays in the processor's cache while it is summed."""
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
    """ "NaN", "infinity" or both if the tensor has such values, else None. Reads at most 1 MiB at a time from disk."""
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
    if (
        chunk.dtype.itemsize == 2
    ):  # numpy has no fast 16-bit floats: all bits of the exponent are set in NaN and infinity
        exponent = np.uint16(0x7C00 if chunk.dtype == np.float16 else 0x7F80)
        return not bool(((chunk.view(np.uint16) & exponent) == exponent).any())
    with np.errstate(all="ignore"):
        return bool(np.isfinite(chunk.sum())) or bool(np.isfinite(chunk).all())


def _chunks(tensor: ir.TensorProtocol) -> Iterator[npt.NDArray[Any]]:
    """The elements, a chunk at a time; the chunk is overwritten by the next."""
    if not isinstance(tensor, ir.ExternalTensor) or tensor.nbytes <= CHUNK_BYTES:
        flat = tensor.numpy().reshape(-1)
        step = max(1, CHUNK_BYTES // max(1, flat.itemsize))
        for i in range(0, flat.size, step):
            yield flat[i : i + step]
        return
    # read(), not the memory map: pages touched through a map count as this process's memory
    dtype = tensor.dtype.numpy().newbyteorder("<")
    buffer = np.empty(CHUNK_BYTES, np.uint8)
    first = tensor.offset or 0
    with Path(tensor.path).open("rb", buffering=0) as file:
        for start, end in _stored(file, first, first + tensor.nbytes, dtype.itemsize):
            at = start
            file.seek(at)
            while at < end and (n := file.readinto(buffer.data[: end - at])):
                at += n
                if n % dtype.itemsize:  # a short read: the rest of the element comes with the next
                    at -= n % dtype.itemsize
                    file.seek(at)
                    if n < dtype.itemsize:
                        break
                yield buffer[: n - n % dtype.itemsize].view(dtype)


def _stored(file: io.RawIOBase, start: int, end: int, align: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are on disk: holes of a sparse file are zeros, no need to read them."""
    if not hasattr(os, "SEEK_DATA"):
        yield start, end
        return
    at = start
    while at < end:
        try:
            data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            hole = os.lseek(file.fileno(), data, os.SEEK_HOLE)
        except OSError as e:
            if e.errno != errno.ENXIO:  # a file system that does not know holes
                yield at, end
            return  # only a hole is left
        data, hole = max(at, data), min(end, hole)
        if data >= end:
            return
        data -= (data - start) % align
        hole = min(end, hole + -(hole - start) % align)
        yield data, hole
        at = hole
