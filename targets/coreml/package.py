"""A Program to an `.mlpackage` and back, by coremltools in its own environment."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import EdgecError, Location, error
from edgec.targets.coreml.program import Program
from edgec.targets.coreml.program_file import PROGRAM, WEIGHTS, read_program, write_program
from edgec.toolchain.worker import WorkerError

if TYPE_CHECKING:
    from edgec.toolchain import Toolchain

_WORKERS = Path(__file__).parent
NOT_EVALUATED = "EC0681"


@dataclass(frozen=True)
class Package:
    """A folder `*.mlpackage`. `operations`: how many of each kind. `version`: of coremltools."""

    path: Path
    operations: Mapping[str, int]
    version: str

    def files(self, name: str) -> dict[str, bytes | Path]:
        """Its files by their place in an artifact, `name/...`."""
        found = sorted(p for p in self.path.rglob("*") if p.is_file())
        return {f"{name}/{p.relative_to(self.path).as_posix()}": p for p in found}


def build(
    program: Program, toolchain: Toolchain, folder: Path, *, request: Mapping[str, Any] | None = None,
    seconds: float = 600.0, log: Path | None = None,
) -> Package:  # fmt: skip
    """Write the package into `folder`.

    Raises:
        EdgecError: EC0679 coremltools refused an operation, with the node it stands for; those of toolchains.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_program(program, folder)
    asked = {"program": PROGRAM, "weights": WEIGHTS, **(request or {})}
    try:
        answer = toolchain.run(_WORKERS / "builder_worker.py", asked, workdir=folder, timeout=seconds, log=log)
    except WorkerError as e:
        if "op" not in e.details:
            raise
        said = str(e.details.get("message", e))
        where = Location(node=str(e.details.get("source") or e.details["op"]))
        raise error("EC0679", said, where, "report it: the lowering should have refused this node") from e
    return Package(folder / answer.values["package"], answer.values["operations"], answer.values["version"])


def decode(
    package: Path, toolchain: Toolchain, folder: Path, *, seconds: float = 600.0, log: Path | None = None
) -> Program:
    """The Program a package on disk really holds. `folder`: for the worker's files, and a copy of a package elsewhere.

    Raises:
        EdgecError: EC0672 it is no package or a damaged one; EC0681 it holds what is not decoded; those of toolchains.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if package.parent != folder:
        check_files(package)
        shutil.copytree(package, folder / package.name, dirs_exist_ok=True)
    request = {"package": package.name}
    try:
        answer = toolchain.run(_WORKERS / "decoder_worker.py", request, workdir=folder, timeout=seconds, log=log)
    except WorkerError as e:
        if e.details.get("undecoded"):
            raise not_evaluated(package, str(e.details.get("message", e.diagnostics[0].message))) from e
        crashed = e.reason in ("crash", "memory")  # the library that reads the weights is not written for damaged files
        if not crashed and not e.details.get("damaged"):
            raise
        raise damaged(package, str(e.details.get("message", e.diagnostics[0].message))) from e
    return read_program(answer.path(answer.values["program"]), answer.path(answer.values["weights"]))


def check_files(package: Path) -> None:
    """EC0672 unless `package` is a folder of plain files; a link in one could lead anywhere."""
    if not package.is_dir():
        raise damaged(package, "it is no folder")
    odd = sorted(p for p in package.rglob("*") if p.is_symlink() or not (p.is_file() or p.is_dir()))
    if odd:
        raise damaged(package, f"{odd[0].relative_to(package)} is no plain file")


def damaged(package: Path, why: str) -> EdgecError:
    """EC0672, to be raised."""
    return error("EC0672", f"the package cannot be read: {why}", Location(str(package)), "build or download it again")


def not_evaluated(package: Path, why: object) -> EdgecError:
    """EC0681, to be raised."""
    what, hint = f"the package cannot be evaluated here: {why}", "run it on a Mac to check it"
    return error(NOT_EVALUATED, what, Location(str(package)), hint)
