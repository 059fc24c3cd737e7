"""Does the generated source compile? With the cross compiler where there is one, else with this host's."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgec.diagnostics import Location, error
from edgec.targets.tflite.micro.source import DATA_CC, EXAMPLE_CC, OPS_H

_STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")

_TREE = (
    (".", "third_party/flatbuffers/include", "third_party/gemmlowp", "third_party/ruy"),
    tuple(
        f"tensorflow/lite/micro/tools/make/downloads/{part}"
        for part in ("flatbuffers/include", "gemmlowp", "ruy", "kissfft")
    ),
)
"""Where a source tree of tflite-micro has headers: made by create_tflm_tree.py, and by its makefile."""

SECONDS = 300.0


@dataclass(frozen=True)
class Compiler:
    """`command`: without files. `describe`: "arm-none-eabi-g++ 12.2.1 for cortex-m4"."""

    command: Sequence[str]
    describe: str
    cross: bool


def find_compiler(options: Mapping[str, str], platform: str | None) -> Compiler | None:
    """The cross compiler of the target where installed, else g++, c++ or clang++ of this host; None without any.

    `options`: `compiler` of the target's spec; "mcpu" is the core.
    """
    if platform is not None and platform.startswith("esp32"):
        crosses = [f"xtensa-{platform}-elf-g++", "xtensa-esp-elf-g++"]
    else:
        crosses = ["arm-none-eabi-g++"]
    for name in crosses:
        path = shutil.which(name)
        if path is not None:
            core = options.get("mcpu") if name.startswith("arm") else None
            flags = (
                [f"-mcpu={core}", "-mthumb"]
                if core
                else ["-mcpu=cortex-m4", "-mthumb"]
                if name.startswith("arm")
                else []
            )
            on = f" for {core}" if core else ""
            return Compiler([path, *flags], f"{name} {_version(path)}{on}", cross=True)
    for name in ("g++", "c++", "clang++"):
        path = shutil.which(name)
        if path is not None:
            return Compiler([path], f"{name} {_version(path)} of this host", cross=False)
    return None


def compile_sources(compiler: Compiler, folder: Path, headers: Path | None, log: Path) -> list[str]:
    """Compile the array (C++11, warnings are errors), and where `headers` is a tree of tflite-micro, the rest too.

    Returns the files that were compiled.

    Raises:
        EdgecError: EC0668, with the compiler's first error.
    """
    done = [DATA_CC]
    _compile(compiler, ["-std=c++11", *_STRICT, "-c", str(folder / DATA_CC)], folder, log)
    example = folder / EXAMPLE_CC
    if headers is not None and example.exists():
        include = [f"-isystem{headers / part}" for group in _TREE for part in group if (headers / part).is_dir()]
        _compile(
            compiler,
            ["-std=c++17", "-DTF_LITE_STATIC_MEMORY", *_STRICT, f"-I{folder}", *include, "-c", str(example)],
            folder,
            log,
        )
        done += [OPS_H, EXAMPLE_CC]
    return done


def _compile(compiler: Compiler, arguments: Sequence[str], folder: Path, log: Path) -> None:
    command = [*compiler.command, *arguments, "-o", str(folder / "compiled.o")]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as e:
        raise error("EC0668", f"{compiler.describe} was not done in {SECONDS:.0f} s", Location(str(log))) from e
    (folder / "compiled.o").unlink(missing_ok=True)
    with log.open("a", encoding="utf-8") as f:
        f.write(f"{' '.join(command)}\n{ended.stdout}{ended.stderr}")
    if ended.returncode:
        said = next((line for line in ended.stderr.splitlines() if "error" in line), f"status {ended.returncode}")
        raise error(
            "EC0668", f"{compiler.describe} does not take the generated source: {said.strip()}", Location(str(log))
        )


def _version(path: str) -> str:
    said = subprocess.run(
        [path, "--version"], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    found = re.search(r"\d+\.\d+(\.\d+)?(?=\s|$)", said.stdout.partition("\n")[0].rpartition(")")[2])
    return found[0] if found else "of an unknown version"
