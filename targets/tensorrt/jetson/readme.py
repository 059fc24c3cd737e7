"""README.md of a bundle."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from importlib.resources import files as package_files

from edgec.targets.tensorrt.jetson.script import SCRIPT, Build

_WHAT = {
    "model.onnx": "what the engine is built from",
    SCRIPT: "builds the engine, on the board",
    "verify.py": "compares the engine with what was computed at compile time, on the board",
    "profiles.json": "smallest, usual and largest shape of inputs without a fixed one",
    "samples.npz": "inputs, outputs of the float model, outputs of model.onnx",
    "bundle.json": "the release, hashes, what was checked and what was not, for programs",
    "README.md": "this page",
}


def readme(
    name: str, build: Build, checked: Sequence[str], not_checked: Sequence[str], names: Iterable[str], *, samples: int
) -> bytes:
    """The page, from README.md.tmpl of this package."""
    known = {**_WHAT, **({build.model: "what the engine is built from"})}
    if build.model != "model.onnx":
        known["model.onnx"] = "the same model with its Q/DQ nodes: what ONNX Runtime ran"
    if build.dla is not None and build.dla.calibration is not None:
        known[build.dla.calibration] = "int8 ranges of every tensor, as the DLA takes them"
    listed = [n for n in (*names, "README.md", "bundle.json") if n in known or n not in _WHAT]
    text = package_files("edgec.targets.tensorrt.jetson").joinpath("README.md.tmpl").read_text(encoding="utf-8")
    release = build.release
    return string.Template(text).substitute(
        model_name=name,
        model=build.model,
        target=release.board.name,
        jetpack=release.jetpack,
        tensorrt=release.tensorrt_text,
        precision=build.precision,
        first=".".join(map(str, build.versions.first)),
        until=".".join(map(str, build.versions.end)),
        samples=f"{samples} samples" if samples != 1 else "1 sample",
        checked=_list(checked),
        not_checked=_list(not_checked),
        files=_list(f"`{n}`: {known.get(n, 'weights of model.onnx')}" for n in dict.fromkeys(listed)),
    ).encode()  # fmt: skip


def _list(lines: Iterable[str]) -> str:
    return (
        "\n".join(f"- {line[0].upper()}{line[1:]}." if not line.startswith("`") else f"- {line}" for line in lines)
        or "- Nothing."
    )
