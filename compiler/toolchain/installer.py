"""uv: find a Python, make a virtual environment, install a lock file into it; every failure as one clear error."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgec.diagnostics import EdgecError, Location, error
from edgec.toolchain.description import ToolchainDescription, this_platform
from edgec.toolchain.worker import log_tail

# What uv says -> code, sentence, hint. The first match wins, so the specific ones stand first.
_FAILURES: tuple[tuple[str, str, str, str], ...] = (
    (
        r"hash mismatch|hashes? .*do(es)? not match",
        "EC0608",
        "a downloaded package is not the one in the lock file",
        "somebody changed the file on the way or on the index: do not use it; check the index uv is set to",
    ),
    (
        r"no space left on device|os error 28|quota exceeded|os error 122",
        "EC0609",
        "the disk is full",
        "free some space, or point EDGEC_CACHE_DIR (or --cache-dir) to a larger disk",
    ),
    (
        r"os error 13\b|permission denied|os error 30\b|read-only file system",
        "EC0610",
        "a folder cannot be written",
        "point EDGEC_CACHE_DIR to a folder you may write, and UV_CACHE_DIR for uv's own cache",
    ),
    (
        r"error sending request|dns error|failed to (fetch|connect|lookup)|connection (refused|reset|closed)|timed? ?out"
        r"|network (was|is) (disabled|unreachable)|tls|certificate|40[137] |50[0-9] ",
        "EC0607",
        "the package index cannot be reached",
        "check the network and proxy; for a mirror set UV_DEFAULT_INDEX or uv.toml (uv does not read pip.conf)",
    ),
    (
        r"no wheels? with a matching|no compatible (wheel|distribution)|matching (platform|python) ",
        "EC0604",
        "a pinned package has no build for this machine",
        "`edgec toolchain list` says where the SDK runs; or use --toolchain NAME=/path/to/python",
    ),
)


def uv_binary() -> Path:
    """The uv that came with the `uv` package; EC0606 when it is missing."""
    try:
        from uv import find_uv_bin

        return Path(find_uv_bin())
    except (ImportError, FileNotFoundError) as e:
        raise error("EC0606", f"uv is missing: {e}", hint="`pip install uv` in edgec's environment") from e


def find_python(description: ToolchainDescription) -> tuple[str, str]:
    """(version "3.11", what to give to `uv venv --python`): the running Python when it fits, else one uv finds."""
    running = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if running in description.python and sys.implementation.name == "cpython":
        return running, sys.executable
    for version in description.python:
        command = [str(uv_binary()), "python", "find", "--no-project", "--no-python-downloads", f"cpython@{version}"]
        found = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=_uv_environment())
        if found.returncode == 0:
            return version, found.stdout.strip()
    wanted = " or ".join(description.python)
    raise error(
        "EC0605",
        f"{description.sdk} needs Python {wanted}, this is {running}, and no other was found",
        hint=f"`uv python install {description.python[0]}`, or run edgec with one of them",
    )


def check_platform(description: ToolchainDescription) -> None:
    """EC0604 where the vendor has no build for this machine."""
    if this_platform() not in description.platforms:
        where = ", ".join(description.platforms)
        raise error(
            "EC0604",
            f"{description.sdk} does not exist for {this_platform()}, only for {where}",
            hint="use a container or a remote machine of that kind; `edgec check` works without the SDK",
        )


def make_environment(description: ToolchainDescription, python: str, folder: Path, log: Path, lock_fd: int) -> None:
    """A complete virtual environment in `folder` (which must not exist): packages of the lock, then the stubs.

    uv inherits `lock_fd`: the lock holds until it has ended, even when edgec is killed first.
    """
    uv = str(uv_binary())
    install = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python", str(folder / "bin" / "python")]
    _uv([uv, "venv", "--no-project", "--relocatable", "--python", python, str(folder)], description, log, lock_fd)
    # Bytecode now: made during the first run, it would make that run unlike the next ones (see worker._Alias).
    install = ["--compile-bytecode", *install]
    _uv([uv, "pip", "install", *install, "-r", str(description.lock_path)], description, log, lock_fd)
    if description.stubs:
        (packages,) = (folder / "lib").glob("python3*/site-packages")
        for name, text in description.stubs.items():
            (packages / name).parent.mkdir(parents=True, exist_ok=True)
            (packages / name).write_text(text, encoding="utf-8")


def _uv(command: Sequence[str], description: ToolchainDescription, log: Path, lock_fd: int) -> None:
    with log.open("ab") as out:
        out.write(f"$ {shlex.join(command)}\n".encode())
        out.flush()
        start = out.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent,
            env=_uv_environment(), pass_fds=(lock_fd,),
        )  # fmt: skip
        try:
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if status != 0:
        with log.open("rb") as f:
            f.seek(start)
            said = f.read().decode("utf-8", errors="replace")
        raise uv_error(description.sdk, said, status, log)


def _uv_environment() -> dict[str, str]:
    """The caller's settings for indexes, proxies and caches; nothing of its Python or of a project."""
    drop = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")
    env = {k: v for k, v in os.environ.items() if k not in drop}
    return {**env, "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}


def uv_error(sdk: str, said: str, status: int, log: Path) -> EdgecError:
    """What uv printed, as an edgec error: EC0604, EC0607 to EC0611."""
    code, what, hint = "EC0611", f"uv ended with status {status}", "the log says more"
    for pattern, known, sentence, advice in _FAILURES:
        if re.search(pattern, said, re.IGNORECASE):
            code, what, hint = known, sentence, advice
            break
    tail = "\n    ".join(["last lines of the log:", *log_tail(log)])
    return error(code, f"cannot install {sdk}: {what}", Location(str(log)), f"{hint}\n  {tail}")
