"""Where TensorRT is on this machine: a Python that imports it, or trtexec; and the GPU it would use."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.targets.tensorrt.engines import Gpu, look, parse_version
from edgec.toolchain import Toolchain, WorkerError

if TYPE_CHECKING:
    from edgec.toolchain import ToolchainManager

NAME = MODULE = "tensorrt"
OLDEST = (8, 5)
"""The first TensorRT that addresses tensors by name, and the oldest of a JetPack edgec knows."""

STRONG = (10, 12)
"""From here on the types of the ONNX file say how TensorRT computes; FP16 and INT8 flags are deprecated, and gone in 11."""

SYSTEM_PYTHONS = ("/usr/bin/python3",)
"""Where JetPack's python3-libnvinfer goes."""

TRTEXEC = ("/usr/src/tensorrt/bin/trtexec",)

TRTEXEC_WORKER = Path(__file__).with_name("trtexec_worker.py")


@dataclass(frozen=True)
class LocalTensorRT:
    """A TensorRT that builds for this machine's GPU. `gpu` is None where only trtexec is here, which does not tell it.

    `toolchain` is the Python that has TensorRT; with `trtexec` it is edgec's own, which only starts that program.
    """

    version: tuple[int, ...]
    toolchain: Toolchain
    gpu: Gpu | None
    trtexec: Path | None = None

    @property
    def strong(self) -> bool:
        """Whether it takes files in the strong form: their own types, no flags."""
        return self.version >= STRONG

    @property
    def text(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def describe(self) -> str:
        on = f" on {self.gpu.name} ({self.gpu.capability})" if self.gpu is not None else " on this machine's GPU"
        return f"TensorRT {self.text}{on}"


@dataclass(frozen=True)
class NotHere:
    """Why no engine can be built: what was looked at, and what was wrong with it."""

    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.reasons)


def available(toolchains: ToolchainManager) -> LocalTensorRT | None:
    """TensorRT and a GPU on this machine, or None. EC0613 where the Python named with --toolchain has none."""
    found = find(toolchains)
    return found if isinstance(found, LocalTensorRT) else None


def find(toolchains: ToolchainManager) -> LocalTensorRT | NotHere:
    """The same, with the reasons. The Python named with --toolchain tensorrt=... is the only one looked at."""
    reasons: list[str] = []
    for toolchain in _pythons(toolchains):
        with tempfile.TemporaryDirectory(prefix="edgec-tensorrt-") as folder:
            found = look(toolchain, MODULE, Path(folder))
        if not found.version:
            reasons.append(f"{toolchain.python}: {found.reason}")
        elif found.version < OLDEST:
            reasons.append(f"{toolchain.python}: TensorRT {'.'.join(map(str, found.version))} is older than 8.5")
        elif found.gpu is None:
            reasons.append(f"{toolchain.python}: {found.reason}")
        else:
            return LocalTensorRT(found.version, toolchain, found.gpu)
    if NAME not in toolchains.overrides:
        program = _trtexec()
        if program is None:
            reasons.append("no trtexec")
        else:
            said = _trtexec_version(program)
            if isinstance(said, tuple) and said >= OLDEST:
                return LocalTensorRT(said, _own_python(), None, program)
            reasons.append(f"{program}: {said if isinstance(said, str) else 'it is older than TensorRT 8.5'}")
    return NotHere(tuple(reasons))


def _pythons(toolchains: ToolchainManager) -> Iterator[Toolchain]:
    if NAME in toolchains.overrides:
        yield toolchains.ensure(NAME)
        return
    keep = toolchains.description(NAME).keep_env
    if importlib.util.find_spec(MODULE) is not None:
        yield Toolchain(NAME, NAME, Path(sys.executable), {}, keep_env=keep)
    for text in SYSTEM_PYTHONS:
        python = Path(text)
        if python.exists() and python.resolve() != Path(sys.executable).resolve():
            yield Toolchain(NAME, NAME, python, {}, keep_env=keep)


def _own_python() -> Toolchain:
    return Toolchain(NAME, NAME, Path(sys.executable), {}, keep_env=("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"))


def _trtexec() -> Path | None:
    named = os.environ.get("TRTEXEC")
    for text in (named, *TRTEXEC, shutil.which("trtexec")):
        if text and os.access(text, os.X_OK):
            return Path(text)
    return None


def _trtexec_version(program: Path) -> tuple[int, ...] | str:
    """What it says of itself; or in words why it says nothing."""
    with tempfile.TemporaryDirectory(prefix="edgec-trtexec-") as folder:
        try:
            answer = _own_python().run(
                TRTEXEC_WORKER, {"trtexec": str(program), "build": None}, workdir=Path(folder), timeout=60,
                progress=lambda step: None,
            )  # fmt: skip
        except WorkerError as e:
            return e.diagnostics[0].message
    version = answer.values["version"]
    return parse_version(version) if version else "it does not say its version"
