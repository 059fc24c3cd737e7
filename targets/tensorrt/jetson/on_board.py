"""Compiling on the board itself: the bundle's own build_engine.sh builds the engine, which is then run and compared."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.diagnostics import Location, error
from edgec.targets.tensorrt.jetson.script import BOARD_NAMES, SCRIPT

if TYPE_CHECKING:
    from edgec.target import EmitJob
    from edgec.targets.tensorrt.releases import Release

BOARD_MODEL = Path("/proc/device-tree/model")
"""Where Linux says which board it runs on: "NVIDIA Jetson Orin Nano Developer Kit"."""

PLAN = "model.plan"

FAILED = 1
"""Exit code of the script where trtexec failed; other codes say that this machine does not suit."""


@dataclass(frozen=True)
class BuiltHere:
    """What the script left: the plan, and whatever else it wrote beside it. `told`: its last lines."""

    files: Mapping[str, Path]
    told: str


def this_board() -> str | None:
    """What the machine calls itself; None where it is no board."""
    try:
        return BOARD_MODEL.read_bytes().rstrip(b"\0\n").decode("utf-8", "replace")
    except OSError:
        return None


def build_here(files: Mapping[str, bytes | Path], release: Release, job: EmitJob, timeout: float) -> BuiltHere | None:
    """Build the engine where this machine is the bundle's board; None where it is not, or its TensorRT does not suit (a
    warning, EC0689, says why).

    Raises:
        EdgecError: EC0689 trtexec failed, or took longer than `timeout` seconds.
    """
    board = this_board()
    if board is None or BOARD_NAMES[release.board.name] not in board:
        return None
    folder = job.workdir / "engine"
    (folder / "out").mkdir(parents=True)
    for name, data in files.items():
        if isinstance(data, bytes):
            (folder / name).write_bytes(data)
        else:
            (folder / name).symlink_to(data.resolve())
    job.progress(f"build the engine on this {board}")
    log = job.logs / "build_engine.log"
    with log.open("wb") as out:
        try:
            code = subprocess.run(
                ["sh", str(folder / SCRIPT), "--output", str(folder / "out" / PLAN)],
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=timeout, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            raise error(
                "EC0689", f"the engine was not built in {timeout:.0f} s", Location(str(log)), "--option timeout=SECONDS"
            ) from None
    told = log.read_text("utf-8", "replace")
    built = {p.name: p for p in sorted((folder / "out").iterdir())}
    for name in [n for n in built if n.endswith(".build.log")]:
        built.pop(name).rename(job.logs / name)
    said = next(
        (line.removeprefix("error: ") for line in told.splitlines() if line.startswith("error: ")), "it says nothing"
    )
    if code == FAILED or (code == 0 and PLAN not in built):
        raise error(
            "EC0689", f"this board's TensorRT built no engine: {said}", Location(str(log)), "`edgec explain EC0689`"
        )
    if code != 0:
        job.diagnostics.warn("EC0689", f"no engine was built on this board: {said}", Location(str(log)))
        return None
    return BuiltHere(built, told.strip().splitlines()[-2] if told.count("\n") > 1 else told.strip())
