"""One virtual environment for each peer, made by uv from requirements/<name>.txt, kept until that list changes.

requirements/<name>.nodeps.txt, where there is one, is what pip installs besides as it is: without dependencies, and whatever
Python it says it needs (onnx2tf pins old versions of everything and asks for 3.12, and runs without either).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


class EnvironmentFailed(RuntimeError):
    """The requirements did not resolve or install; the message is the end of uv's."""


def python_of(name: str, work: Path) -> Path:
    """The interpreter of environment `name` under `work`/env; installs it first if it is not there.

    Where packages come from is uv's own configuration (UV_FIND_LINKS, UV_INDEX, ...). Raises EnvironmentFailed, and again
    at once on the next call: a failure is remembered until the list changes or its .failed file is deleted.
    """
    listed, alone = (HERE / "requirements" / f"{name}{end}" for end in (".txt", ".nodeps.txt"))
    wanted = listed.read_bytes() + (alone.read_bytes() if alone.exists() else b"")
    root = work / "env" / f"{name}-{hashlib.sha256(wanted).hexdigest()[:8]}"
    python, failed = root / "bin" / "python", root.with_suffix(".failed")
    if (root / "complete").exists():
        return python
    if failed.exists():
        raise EnvironmentFailed(failed.read_text())
    shutil.rmtree(root, ignore_errors=True)
    print(f"installing {name} ...", file=sys.stderr, flush=True)
    commands = [
        [uv(), "venv", "-q", "-p", f"{sys.version_info[0]}.{sys.version_info[1]}", str(root)],
        [uv(), "pip", "install", "-q", "-p", str(python), "-r", str(listed)],
    ]
    if alone.exists():
        pip = [str(python), "-m", "pip", "install", "-q", "--ignore-requires-python", "--no-deps", "-r", str(alone)]
        commands.append(pip)
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            failed.parent.mkdir(parents=True, exist_ok=True)
            failed.write_text(done.stderr.strip()[-2000:])
            raise EnvironmentFailed(done.stderr.strip()[-2000:])
    (root / "complete").touch()
    return python


def uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"
