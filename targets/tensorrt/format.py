"""`edgec inspect` of a TensorRT engine: who built it; nothing else can be read without the GPU it is for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgec.artifact_format import ArtifactFormat, Inspection
from edgec.summary import size
from edgec.targets.tensorrt.plan import read_plan

if TYPE_CHECKING:
    from edgec.summary import Line


class PlanFormat(ArtifactFormat):
    """`.plan` and `.engine` files. EC0682 where it is none, or damaged."""

    def inspect(self, path: Path) -> Inspection:
        head = read_plan(path)
        built = f"  TensorRT engine, {size(head.bytes)}, built by {head.by}"
        lines: list[Line] = [
            ("title", str(path)),
            ("text", built),
            (
                "text",
                "  its layers and shapes can be read on a machine with the GPU it was built for, by its TensorRT only",
            ),
        ]
        data = {"format": "tensorrt", "bytes": head.bytes, "magic": head.magic, "version": head.version}
        return Inspection(lines, data)
