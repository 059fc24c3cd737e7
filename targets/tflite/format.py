"""`edgec inspect` and `edgec compare` of .tflite files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgec.artifact_format import ArtifactFormat, ArtifactRun, Inspection

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.toolchain import ToolchainManager


class TfliteFormat(ArtifactFormat):
    """Files of edgec and of other converters; LiteRT runs them."""

    def inspect(self, path: Path) -> Inspection:
        from edgec.targets.tflite.inspection import inspect_model

        return inspect_model(path)

    def open(self, path: Path, reference: Graph, toolchains: ToolchainManager, folder: Path) -> ArtifactRun:
        from edgec.targets.tflite.standing_for import StandingFor

        return StandingFor(path, reference, toolchains, folder)
