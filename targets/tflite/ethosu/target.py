"""Arm Ethos-U55, U65 and U85, through Vela."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgec.target import Artifact, EmitJob, Runner
from edgec.targets.tflite.ethosu.options import EthosUOptions
from edgec.targets.tflite.target import Tflite

if TYPE_CHECKING:
    from edgec.graph import Graph


class EthosU(Tflite):
    """One class for all: the specs say accelerator, system configuration and memory mode."""

    options: ClassVar[Mapping[str, str]] = EthosUOptions.HELP
    option_type = EthosUOptions

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        from edgec.targets.tflite.ethosu.emit import ethosu_artifact

        return ethosu_artifact(graph, self.spec(), job)

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner | None:
        from edgec.targets.tflite.emit import MODEL
        from edgec.targets.tflite.endpoints import Interface
        from edgec.targets.tflite.ethosu.emit import ethosu_runner

        path = artifact.files[MODEL]
        assert isinstance(path, Path)  # emit writes files
        return ethosu_runner(path, Interface.from_json(artifact.facts["interface"]), job)
