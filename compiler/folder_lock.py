"""A lock on an output folder: two compilations into one folder must not mix their files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgec.diagnostics import Location, error

if sys.platform != "win32":
    import fcntl


class FolderLock:
    """An advisory lock held through a small file, which goes away with it. The system releases it if we are killed.

    On Windows there is no such lock: two compilations into one folder at once are not detected there.
    """

    def __init__(self, file: Path, folder: Path) -> None:
        self._file = file
        self._folder = folder
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            EdgecError: EC0905 another process has it; its number is in the message.
            OSError: the lock file cannot be made.
        """
        if sys.platform == "win32":
            return
        while True:
            fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(fd, 32, 0).decode(errors="replace").strip()
                os.close(fd)
                raise self._busy(owner) from None
            except BaseException:
                os.close(fd)
                raise
            if self._still_there(fd):
                break
            os.close(fd)  # the owner removed the file between our open and our lock: take the new one
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def _still_there(self, fd: int) -> bool:
        try:
            there = os.stat(self._file)
        except FileNotFoundError:
            return False
        ours = os.fstat(fd)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _busy(self, owner: str) -> Exception:
        who = f"process {owner}" if owner else "another process"
        return error(
            "EC0905",
            f"{who} is compiling into this folder",
            Location(file=str(self._folder)),
            hint="wait for it, or give another folder with --output",
        )

    def release(self) -> None:
        """Give the lock back. May be called twice."""
        if self._fd is not None:
            self._file.unlink(missing_ok=True)  # while we hold it: see `_still_there`
            os.close(self._fd)
            self._fd = None
