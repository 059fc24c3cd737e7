"""Arrays on disk read block by block: .npy memory-mapped, members of .npz decompressed as they stream by."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import EdgecError, Location, error

Array = npt.NDArray[Any]

_FORTRAN_LIMIT = 256 << 20
"""Bytes up to which a column-major .npz member is read whole: its samples do not lie one after the other."""


class Stored(Protocol):
    """An array that need not be in memory. `shape` and `dtype` cost no reading."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def blocks(self, rows: int) -> Iterator[Array]:
        """Pieces of `rows` along axis 0, in order; the last may be shorter."""

    def whole(self) -> Array:
        """All of it."""


class InMemory:
    """An array in memory or memory-mapped."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype

    def blocks(self, rows: int) -> Iterator[Array]:
        for i in range(0, self.shape[0], rows):
            yield self.array[i : i + rows]

    def whole(self) -> Array:
        return self.array


class NpzMember:
    """One array of an .npz file, stored or deflated. Reads the header now, the data when asked, never all at once."""

    def __init__(self, path: Path, member: str) -> None:
        self.path, self.member = path, member
        with zipfile.ZipFile(path) as archive, archive.open(member) as f:
            self.shape, fortran, self.dtype = _header(f)
            start = f.tell()
        nbytes = math.prod(self.shape) * self.dtype.itemsize
        with zipfile.ZipFile(path) as archive:
            held = archive.getinfo(member).file_size - start
        if held != nbytes:
            raise ValueError(f"{member} announces {nbytes} bytes of data and holds {held}")
        if fortran and nbytes > _FORTRAN_LIMIT:
            raise ValueError(f"{member} is stored column by column and too large to read whole: save it in C order")
        self._fortran = fortran

    def blocks(self, rows: int) -> Iterator[Array]:
        if self._fortran:
            yield from InMemory(self.whole()).blocks(rows)
            return
        tail = self.shape[1:]
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as f:
            _header(f)
            for i in range(0, self.shape[0], rows):
                n = min(rows, self.shape[0] - i)
                yield self._read(f, (n, *tail))

    def whole(self) -> Array:
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as f:
            _header(f)
            if self._fortran:
                return self._read(f, self.shape[::-1]).transpose()
            return self._read(f, self.shape)

    def _read(self, f: IO[bytes], shape: tuple[int, ...]) -> Array:
        nbytes = math.prod(shape) * self.dtype.itemsize
        try:
            data = f.read(nbytes)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as e:
            raise unreadable(f"{self.path}:{self.member}", e) from None
        if len(data) != nbytes:
            raise unreadable(f"{self.path}:{self.member}", ValueError("the data ends early"))
        return np.frombuffer(data, self.dtype).reshape(shape)


def _header(f: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(f)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(f)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which edgec never unpickles")
    return tuple(int(d) for d in shape), bool(fortran), dtype


def unreadable(what: str, e: Exception) -> EdgecError:
    """EC0703 for a file of samples that cannot be read."""
    text = " ".join(str(e).split()) or type(e).__name__
    hint = "save arrays with numpy.save or numpy.savez, without Python objects in them"
    return error("EC0703", f"cannot read samples: {text}", Location(what), hint)


def read_npy(path: Path) -> Stored:
    """A .npy file, memory-mapped. EC0703 if it is not one."""
    try:
        return InMemory(np.lib.format.open_memmap(path, mode="r"))
    except (OSError, ValueError, EOFError, OverflowError, MemoryError, SyntaxError) as e:
        raise unreadable(str(path), e) from None


def read_npz(path: Path) -> dict[str, Stored]:
    """The arrays of an .npz file by name; data stays on disk. EC0703 if it is not one."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [n for n in archive.namelist() if n.endswith(".npy")]
        out: dict[str, Stored] = {}
        for member in members:
            out[member.removesuffix(".npy")] = NpzMember(path, member)
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        ValueError,
        EOFError,
        OverflowError,
        NotImplementedError,
        RuntimeError,  # an encrypted member
        SyntaxError,  # a header that is not a Python literal
        KeyError,
    ) as e:
        raise unreadable(str(path), e) from None
    return out
