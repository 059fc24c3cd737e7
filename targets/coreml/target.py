"""Core ML targets: an `.mlpackage` from edgec's own lowering, decoded and evaluated before you get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from edgec.target import Artifact, EmitJob, Runner, Target
from edgec.target_options import parse_options
from edgec.targets.coreml.options import CoreMlOptions

if TYPE_CHECKING:
    from pathlib import Path

    from edgec.graph import Graph
    from edgec.placement import ActualPlacement, Placement
    from edgec.recipe import Step
    from edgec.report import Report
    from edgec.samples import Preprocess


class CoreMl(Target):
    """`iphone`, `iphone-ios18` and `macos`: ML Programs, checked without a Mac."""

    options: ClassVar[Mapping[str, str]] = CoreMlOptions.HELP
    option_type: ClassVar[type[CoreMlOptions]] = CoreMlOptions

    def prepare(
        self, steps: Sequence[Step], precision: str, options: Mapping[str, Any], preprocess: Preprocess | None
    ) -> Sequence[Step]:
        from edgec.targets.coreml.pixels import with_folding

        return with_folding(steps, parse_options(CoreMlOptions, options), preprocess)

    def placement(self, graph: Graph, precision: str) -> Placement:
        """By the MIL operations of each node, predicted."""
        from edgec.targets.coreml.placement import predicted

        return predicted(graph, self.spec(), precision)

    def read_plan(self, path: Path, report: Report) -> ActualPlacement:
        """What `plan_on_mac.py` wrote on a Mac."""
        from edgec.targets.coreml.plan import read_plan

        return read_plan(path, report)

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        from edgec.targets.coreml.emit import package_artifact

        return package_artifact(graph, job, self.spec().platform)

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner | None:
        from edgec.targets.coreml.emit import package_runner

        return package_runner(artifact, job)
