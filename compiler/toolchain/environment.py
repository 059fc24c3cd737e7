"""Environments on disk: where they are, when one counts as installed, and making one so that no half exists.

<cache>/toolchains/<name>-<fingerprint>/            a virtual environment, complete when it has the stamp
<cache>/toolchains/<name>-<fingerprint>/edgec-toolchain.json    the stamp: versions, size, Python
<cache>/toolchains/.<name>.partial-*/               being made; whoever holds the lock may delete leftovers
<cache>/toolchains/.<name>.lock                     one process at a time installs or removes
<cache>/toolchains/logs/<name>-<fingerprint>.log    what uv said
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.diagnostics import Location, error
from edgec.toolchain.description import ToolchainDescription
from edgec.toolchain.installer import check_platform, find_python, make_environment

STAMP = "edgec-toolchain.json"


def cache_root(cache_dir: Path | None = None) -> Path:
    """`cache_dir`, else $EDGEC_CACHE_DIR, else the user's cache folder for edgec."""
    if cache_dir is not None:
        return cache_dir.expanduser().resolve()
    named = os.environ.get("EDGEC_CACHE_DIR")
    if named:
        return Path(named).expanduser().resolve()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("edgec"))


@dataclass(frozen=True)
class Environment:
    """The place of one toolchain's environment on this machine, installed or not."""

    description: ToolchainDescription
    root: Path  # <cache>/toolchains
    python_version: str
    base_python: str

    @classmethod
    def of(cls, description: ToolchainDescription, cache_dir: Path | None = None) -> Environment:
        """Raises EC0604 (not for this machine) and EC0605 (no suitable Python)."""
        check_platform(description)
        version, python = find_python(description)
        return cls(description, cache_root(cache_dir) / "toolchains", version, python)

    @property
    def path(self) -> Path:
        return self.root / f"{self.description.name}-{self.description.fingerprint(self.python_version)}"

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def log(self) -> Path:
        return self.root / "logs" / f"{self.path.name}.log"

    def stamp(self) -> dict[str, Any] | None:
        """What the environment says of itself; None unless it is complete and its Python still exists."""
        try:
            stamp = json.loads((self.path / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return stamp if isinstance(stamp, dict) and self.python.exists() else None

    def install(self, check: Callable[[Path], dict[str, str]], progress: Callable[[str], None] | None = None) -> None:
        """Make it unless it is there. `check(python)` must prove that the SDK works and return versions for the stamp.

        Atomic: the environment is made under another name and renamed when it has passed the check. Safe against
        other processes doing the same; the second one waits and finds it installed.
        """
        say = progress or (lambda _: None)
        with locked(self.root, self.description.name, say) as lock:
            if self.stamp() is not None:
                return
            for leftover in [*self.root.glob(f".{self.description.name}.partial-*"), self.path]:
                shutil.rmtree(leftover, ignore_errors=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{self.description.name}.partial-", dir=self.root))
            try:
                self._make(partial / "env", check, say, lock)
            except OSError as e:
                code = "EC0609" if e.errno in (28, 122) else "EC0610"
                raise error(code, f"cannot install {self.description.sdk}: {e}", Location(str(self.root))) from e
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def _make(
        self, folder: Path, check: Callable[[Path], dict[str, str]], say: Callable[[str], None], lock: int
    ) -> None:
        d = self.description
        self.log.parent.mkdir(exist_ok=True)
        self.log.write_bytes(b"")
        say(f"installing {d.sdk} {d.version} for Python {self.python_version} into {self.path}")
        make_environment(d, self.base_python, folder, self.log, lock)
        say(f"checking {d.sdk}")
        stamp = {
            "name": d.name,
            "sdk": d.sdk,
            "python": self.python_version,
            "versions": check(folder / "bin" / "python"),
            "size_bytes": folder_size(folder),
            "installed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        (folder / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")
        folder.rename(self.path)


def installed_paths(root: Path, name: str) -> list[Path]:
    """Every environment of this toolchain, of this and of older locks."""
    pattern = re.compile(re.escape(name) + r"-[0-9a-f]{16}")
    return sorted(p for p in root.glob(f"{name}-*") if pattern.fullmatch(p.name))


def remove(root: Path, name: str, progress: Callable[[str], None] | None = None) -> list[Path]:
    """Delete every environment of a toolchain and what broken-off installs left; returns what was there."""
    if not root.is_dir():
        return []
    with locked(root, name, progress or (lambda _: None)):
        paths = installed_paths(root, name)
        for path in [*paths, *root.glob(f".{name}.partial-*")]:
            try:
                (path / STAMP).unlink(missing_ok=True)  # first: a removal cut short must not look installed
                shutil.rmtree(path)
            except OSError as e:
                raise error("EC0610", f"cannot remove {path}: {e}", Location(str(path))) from e
    return paths


def folder_size(folder: Path) -> int:
    """Bytes of all files below; links are not followed."""
    return sum((Path(base) / name).lstat().st_size for base, _, names in os.walk(folder) for name in names)


@contextlib.contextmanager
def locked(root: Path, name: str, say: Callable[[str], None]) -> Iterator[int]:
    """One process at a time per toolchain; yields the lock's descriptor. Waits, saying so. EC0610 if it cannot lock."""
    import fcntl

    path = root / f".{name}.lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as e:
        hint = "point EDGEC_CACHE_DIR (or --cache-dir) to a folder you may write"
        raise error("EC0610", f"cannot write the toolchain cache: {e}", Location(str(root)), hint) from e
    try:
        waiting = False
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    say(f"waiting for another process that installs or removes {name}")
                    waiting = True
                time.sleep(0.1)
            except OSError as e:
                raise error("EC0610", f"the toolchain cache cannot be locked: {e}", Location(str(path))) from e
        yield fd
    finally:
        os.close(fd)
