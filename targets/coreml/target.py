"""Core ML targets: an `.mlpackage` from edgec's own lowering, decoded and evaluated before you get it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from edgec.target import Artifact, EmitJob, Runner, Target
from edgec.targets.coreml.options import CoreMlOptions

if TYPE_CHECKING:
    from edgec.graph import Graph


class CoreMl(Target):
    """`iphone`, `iphone-ios18` and `macos`: ML Programs, checked without a Mac."""

    options: ClassVar[Mapping[str, str]] = CoreMlOptions.HELP
    option_type: ClassVar[type[CoreMlOptions]] = CoreMlOptions

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        from edgec.targets.coreml.emit import package_artifact

        return package_artifact(graph, job, self.spec().platform)

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner | None:
        from edgec.targets.coreml.emit import package_runner

        return package_runner(artifact, job)
