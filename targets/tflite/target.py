"""LiteRT, tflite-micro and Ethos-U targets: a real `.tflite` file, run by its runtime before you get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgec.target import Artifact, EmitJob, Runner, Target
from edgec.target_options import parse_options
from edgec.targets.tflite.options import TfliteOptions

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.placement import Placement
    from edgec.recipe import Step
    from edgec.samples import Preprocess


class Tflite(Target):
    """Processors with LiteRT: phones, Raspberry Pi, PCs. What the other families of `.tflite` targets share is here too."""

    options: ClassVar[Mapping[str, str]] = TfliteOptions.HELP
    option_type: ClassVar[type[TfliteOptions]] = TfliteOptions

    def prepare(
        self, steps: Sequence[Step], precision: str, options: Mapping[str, Any], preprocess: Preprocess | None
    ) -> Sequence[Step]:
        given = parse_options(self.option_type, options)
        if not given.fold_preprocess:
            return steps
        from edgec.targets.tflite.pixels import with_folding

        return with_folding(steps, precision, given, preprocess)

    def placement(self, graph: Graph, precision: str) -> Placement:
        """Of what the artifact computes: it does not have the way from the ONNX model's input to pixels."""
        from edgec.passes.legalize.fold_preprocess import folded, strip

        return super().placement(strip(graph)[0] if folded(graph) else graph, precision)

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        from edgec.targets.tflite.emit import litert_artifact

        return litert_artifact(graph, job)

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner | None:
        from edgec.targets.tflite.emit import litert_runner
        from edgec.targets.tflite.endpoints import Interface
        from edgec.targets.tflite.runner import available

        if not available(job, "litert"):
            return None
        path = artifact.files[artifact.entry]
        assert isinstance(path, Path)  # emit writes files
        return litert_runner(path, Interface.from_json(artifact.facts["interface"]), job)
