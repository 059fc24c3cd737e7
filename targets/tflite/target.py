"""LiteRT, tflite-micro and Ethos-U targets: a real `.tflite` file, run by its runtime before you get it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgec.target import Artifact, EmitJob, Runner, Target
from edgec.targets.tflite.options import TfliteOptions

if TYPE_CHECKING:
    from edgec.graph import Graph


class Tflite(Target):
    """One class for all: processors with LiteRT, microcontrollers with tflite-micro, Arm's Ethos-U NPUs; the specs differ."""

    options: ClassVar[Mapping[str, str]] = TfliteOptions.HELP

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        from edgec.targets.tflite.emit import litert_artifact

        return litert_artifact(graph, job)

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner | None:
        from edgec.targets.tflite.emit import litert_runner
        from edgec.targets.tflite.endpoints import Interface

        path = artifact.files[artifact.entry]
        assert isinstance(path, Path)  # emit writes files
        return litert_runner(path, Interface.from_json(artifact.facts["interface"]), job)
