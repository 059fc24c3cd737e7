"""build_engine.sh of a bundle: the script of this package with what the bundle is written into it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from edgec.targets.tensorrt.profiles import Profile, trtexec_shapes
from edgec.targets.tensorrt.releases import Release, Span, Version, releases

SCRIPT = "build_engine.sh"

BOARD_NAMES: Mapping[str, str] = {
    "jetson-agx-xavier": "AGX Xavier",
    "jetson-xavier-nx": "Xavier NX",
    "jetson-agx-orin": "AGX Orin",
    "jetson-orin-nx": "Orin NX",
    "jetson-orin-nano": "Orin Nano",
    "jetson-thor": "Thor",
}
"""What a board's /proc/device-tree/model has in it ("NVIDIA Jetson Orin Nano Developer Kit")."""


@dataclass(frozen=True)
class Dla:
    """How a bundle runs on the DLA. `calibration`: the cache's file name, for a model without Q/DQ; None where the model is
    strongly typed. `pools`: for --memPoolSize, "dlaSRAM:1" (MiB). `arguments`: more for trtexec, without blanks.
    """

    gpu_fallback: bool
    calibration: str | None = None
    pools: str = ""
    core: int = 0
    arguments: Sequence[str] = ()


@dataclass(frozen=True)
class Build:
    """What build_engine.sh builds: `model` in the folder of the script, for `release`.

    `hashes`: SHA-256 of every file the build reads. `versions`: the TensorRT versions that take it. `type_flags`: what
    lets TensorRT compute in other types than the file's, for a weakly typed one. `workspace`: bytes.
    `sparse`: weights have two zeros in every four, and TensorRT may choose kernels for that (Ampere and later).
    """

    model: str
    hashes: Mapping[str, str]
    release: Release
    precision: str
    versions: Span
    type_flags: Sequence[str] = ()
    profiles: Sequence[Profile] = ()
    workspace: int | None = None
    dla: Dla | None = None
    sparse: bool = False

    def script(self) -> bytes:
        """The text of build_engine.sh."""
        shapes = trtexec_shapes(self.profiles)
        dla = self.dla
        values = {
            "model": self.model,
            "files": "\n".join(f"{digest}  {name}" for name, digest in sorted(self.hashes.items())),
            "target": self.release.board.name,
            "board": BOARD_NAMES[self.release.board.name],
            "jetpack": self.release.jetpack,
            "tensorrt": self.release.tensorrt_text,
            "precision": self.precision,
            "form": self.release.form,
            "from": str(number(self.versions.first)),
            "until": str(number(self.versions.end)),
            "others": "\n".join(_others(self.release)),
            "type_flags": " ".join(self.type_flags),
            "min_shapes": shapes["min"],
            "opt_shapes": shapes["opt"],
            "max_shapes": shapes["max"],
            "sparse": "yes" if self.sparse else "",
            "workspace": "" if self.workspace is None else str(max(1, self.workspace >> 20)),
            "dla": "" if dla is None else str(dla.core),
            "dla_fallback": "yes" if dla is not None and dla.gpu_fallback else "",
            "dla_pools": dla.pools if dla is not None else "",
            "dla_arguments": " ".join(dla.arguments) if dla is not None else "",
            "calibration": dla.calibration or "" if dla is not None else "",
        }
        text = files("edgec.targets.tensorrt.jetson").joinpath(SCRIPT).read_text(encoding="utf-8")
        quoted = {k: v.replace("'", "'\\''") for k, v in values.items()}
        return re.sub(r"@([a-z_]+)@", lambda m: quoted[m[1]], text).encode()


def number(version: Version) -> int:
    """(10, 3, 0) -> 100300, as the script compares versions."""
    major, minor, patch = (*version, 0, 0)[:3]
    return major * 10000 + minor * 100 + patch


def _others(release: Release) -> Sequence[str]:
    """`first until jetpack` for the board's other releases: which one to compile for where another TensorRT is found.

    A release answers for versions from its own TensorRT on, up to the next release's; the oldest also for older ones that
    its form takes.
    """
    newest = {r.tensorrt: r for r in releases(release.board.name)}  # of releases with the same TensorRT, the last
    starts = sorted(newest)
    out = []
    for i, start in enumerate(starts):
        r = newest[start]
        end = starts[i + 1] if i + 1 < len(starts) else r.versions.end
        out.append(f"{number(start if i else r.versions.first)} {number(end)} {r.jetpack}")
    return out
