"""Microcontrollers: Cortex-M, STM32, ESP32 with TensorFlow Lite for Microcontrollers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgec.target import Artifact, EmitJob, Runner
from edgec.targets.tflite.micro.options import MicroOptions
from edgec.targets.tflite.target import Tflite

if TYPE_CHECKING:
    from edgec.graph import Graph


class TfliteMicro(Tflite):
    """One class for all: the specs say core and memory. Verified with tflite-micro itself, where it runs on this host."""

    options: ClassVar[Mapping[str, str]] = MicroOptions.HELP
    option_type = MicroOptions

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        from edgec.targets.tflite.micro.emit import micro_artifact

        return micro_artifact(graph, self.spec(), job)

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner | None:
        from edgec.targets.tflite.endpoints import Interface
        from edgec.targets.tflite.micro.emit import micro_runner
        from edgec.targets.tflite.runner import available

        path = artifact.files[artifact.entry]
        assert isinstance(path, Path)  # emit writes files
        if not available(job, "tflite-micro"):
            return None
        return micro_runner(path, Interface.from_json(artifact.facts["interface"]), job)
