"""The output folder: complete or not there at all.

Everything is written to a hidden folder beside the wanted one and renamed into place at the end. A compilation that
fails or is killed leaves what was there before; the next one clears away what it left behind.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from edgec.diagnostics import EdgecError, Location, error
from edgec.folder_lock import FolderLock

if TYPE_CHECKING:
    from edgec.report import Report
    from edgec.target import Artifact

MANIFEST = "manifest.json"
REPORT = "report.json"
LOGS = "logs"
RESERVED = frozenset({MANIFEST, REPORT, "report.html", LOGS})
"""Names in the output folder that are edgec's own; no artifact file may have them."""

_INCOMPLETE = ".edgec-incomplete"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def writing(path: Path, option: str = "--output") -> Iterator[None]:
    """Turn what the operating system says while `path` is written into one clear error (EC0902 to EC0904). `option` is
    what sets another folder."""
    try:
        yield
    except OSError as e:
        raise write_error(e, path, option) from e


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written at the end, before the work begins. Leaves nothing behind, but for folders
    that had to be made.

    Raises:
        EdgecError: EC0902 or EC0903.
    """
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, probe = tempfile.mkstemp(prefix=".edgec-", dir=path.parent)
        os.close(fd)
        os.unlink(probe)


def write_error(e: OSError, path: Path, option: str = "--output") -> EdgecError:
    """The EdgecError for an OSError met while writing to `path`."""
    place = Location(file=str(path))
    if e.errno in _FULL:
        what = f"no room to write the output: {e.strerror}"
        return error("EC0904", what, place, hint=f"free some space, or give another folder with {option}")
    if e.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
        what = f"this cannot be an output folder: {e.strerror} ({e.filename})"
        return error("EC0902", what, place, hint=f"give another folder with {option}")
    what = f"cannot write the output: {e.strerror or e} ({e.filename})"
    return error("EC0903", what, place, hint=f"check the folder's permissions, or give another one with {option}")


def is_output(folder: Path) -> bool:
    """Whether edgec made this folder: it has a manifest of ours."""
    return _manifest(folder) is not None or (folder / _INCOMPLETE).exists()


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        data = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and data.get("generator") == "edgec" else None


class OutputFolder:
    """One compilation's way into its output folder; use it in a `with` block and end with `commit`.

    `workdir` is an empty folder on the same disk as the output: what a target leaves in it is deleted, except
    `workdir/logs`, which goes to `logs/` of the output, or to `<folder>.failed-log/` when nothing is committed.

    Raises (on entering):
        EdgecError: EC0902 the path is no possible folder; EC0903 it cannot be written; EC0904 the disk is full; EC0905
            another compilation is writing there; EC0906 the folder holds something else than an edgec output.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.realpath(path))
        """Absolute, symbolic links followed: the folder behind a link is replaced, not the link."""
        if not self.path.name:
            raise error("EC0902", "the root of the file system cannot be an output folder", Location(file=str(path)))
        # A mount point (a container's volume) cannot be renamed, and a read-only parent holds no second folder.
        with writing(self.path):
            self._inside = self.path.is_dir() and (
                os.path.ismount(self.path) or not os.access(self.path.parent, os.W_OK)
            )
        base = self.path if self._inside else self.path.parent
        stem = ".edgec" if self._inside else f".{self.path.name}.edgec"
        self._pending = base / f"{stem}-new"
        self._previous = base / f"{stem}-old"
        self._lock = FolderLock(base / f"{stem}-lock", self.path)
        self._committed = False

    # --- opening and closing -------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with writing(self.path):
            self._pending.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            try:
                self._recover()
                self._check_replaceable()
                self._pending.mkdir()
                self.workdir.mkdir()
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if not self._committed:
                if not self._inside and self._previous.exists() and not self.path.exists():
                    self._previous.rename(self.path)  # interrupted between the two renames of `commit`
                self._keep_logs(e)
            shutil.rmtree(self._pending, ignore_errors=True)
        finally:
            self._lock.release()
        if isinstance(e, OSError) and e.errno in _FULL:
            raise write_error(e, self.path) from e

    def _recover(self) -> None:
        """Clear away what a killed compilation left. We hold the lock: nobody is using it."""
        if self._pending.exists():
            shutil.rmtree(self._pending)
        if not self._inside and self._previous.exists():
            if self.path.exists():
                self._carry_over()
                shutil.rmtree(self._previous)
            else:
                self._previous.rename(self.path)

    def _check_replaceable(self) -> None:
        place = Location(file=str(self.path))
        if not os.path.lexists(self.path):
            return
        if not self.path.is_dir():
            raise error("EC0902", "this is a file, not a folder", place, hint="give another folder with --output")
        ours = {self._pending.name, self._previous.name, ".edgec-lock"}
        if any(p.name not in ours for p in self.path.iterdir()) and not is_output(self.path):
            hint = "give another folder with --output, or empty this one"
            raise error("EC0906", "the folder holds files that edgec did not write", place, hint=hint)

    def _keep_logs(self, e: BaseException | None) -> None:
        """Save the logs of a failed run beside the output, and tell so on the exception."""
        logs = self.workdir / LOGS
        if not logs.is_dir() or not any(logs.iterdir()):
            return
        kept = self.failed_log
        try:
            if kept.exists():
                shutil.rmtree(kept)
            shutil.copytree(logs, kept)
        except OSError as cannot:
            if e is not None:
                e.add_note(f"the log could not be kept: {cannot}")
            return
        if e is not None:
            e.add_note(f"the log of the failed run is in {kept}")

    # --- writing -------------------------------------------------------------------------------------------------

    @property
    def workdir(self) -> Path:
        """An empty folder for the target's temporary files."""
        return self._pending / ".work"

    @property
    def failed_log(self) -> Path:
        """Where the logs of a failed run are kept."""
        return self.path / "failed-log" if self._inside else self.path.with_name(f"{self.path.name}.failed-log")

    def put(self, name: str, data: bytes | Path) -> None:
        """Add a file; a Path is moved, not copied. Nothing is visible before `commit`."""
        target = self._pending / name
        with writing(self.path):
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, bytes):
                target.write_bytes(data)
            else:
                shutil.move(data, target)

    def commit(
        self,
        artifact: Artifact,
        report: Report,
        logs: Path | None = None,
        manifest: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write everything and rename it into place. Returns the folder.

        `logs`: a folder to keep as `logs/`; by default `workdir/logs`. Files of an older result that edgec did not
        write are carried over.
        """
        from edgec.manifest import manifest_text, minimal_manifest

        for name, data in artifact.files.items():
            self._check_name(name)
            self.put(name, data)
        self.put(REPORT, report.dumps().encode())
        self.put(MANIFEST, manifest_text(minimal_manifest(report) if manifest is None else manifest).encode())
        with writing(self.path):
            logs = self.workdir / LOGS if logs is None else logs
            if logs.is_dir() and any(logs.iterdir()):
                shutil.copytree(logs, self._pending / LOGS)
            shutil.rmtree(self.workdir)
            if self._inside:
                self._commit_inside()
            else:
                self._commit_beside()
            self._committed = True
            if self.failed_log.exists():
                shutil.rmtree(self.failed_log)
        return self.path

    def _check_name(self, name: str) -> None:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or parts[0] in RESERVED or parts[0].startswith(".edgec"):
            hint = "tell the target's authors: names are relative, and edgec's own are taken"
            raise error("EC0104", f"the target wants to write a file called {name!r}", hint=hint)

    def _commit_beside(self) -> None:
        if self.path.exists():
            self.path.rename(self._previous)
        self._pending.rename(self.path)
        if self._previous.exists():
            self._carry_over()
            shutil.rmtree(self._previous)

    def _commit_inside(self) -> None:
        """File by file, the manifest last: until it is there the folder is marked incomplete."""
        mark = self.path / _INCOMPLETE
        old = _manifest(self.path)
        mark.touch()
        for name in _own_entries(old):
            _remove(self.path / name)
        for entry in sorted(self._pending.iterdir(), key=lambda p: p.name == MANIFEST):
            _remove(self.path / entry.name)
            entry.rename(self.path / entry.name)
        mark.unlink()

    def _carry_over(self) -> None:
        """Move the user's own files from the previous result into the new one."""
        own = _own_entries(_manifest(self._previous))
        for entry in self._previous.iterdir():
            if entry.name not in own and not (self.path / entry.name).exists():
                entry.rename(self.path / entry.name)


def _own_entries(manifest: Mapping[str, Any] | None) -> set[str]:
    """Top-level names that edgec wrote, by the manifest of that folder."""
    outputs = (manifest or {}).get("outputs", {})
    return {*RESERVED, *(PurePosixPath(name).parts[0] for name in outputs if name)}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
