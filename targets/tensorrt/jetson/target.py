"""Jetson boards: a bundle that builds the engine on the board, since TensorRT builds for the machine it runs on only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from edgec.target import Artifact, EmitJob, Runner, Target
from edgec.target_options import parse_options
from edgec.targets.tensorrt.options import JetsonOptions
from edgec.targets.tensorrt.releases import Release, release

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.placement import Placement

STRONG, TRT_8_6, TRT_8_5 = "strong", "trt8.6", "trt8.5"
"""Variants of a precision for the TensorRT versions of other JetPack releases than the board's usual one."""


class Jetson(Target):
    """One class for every Jetson; the specs differ, and specs/jetpack.yaml says which TensorRT a board runs."""

    options: ClassVar[Mapping[str, str]] = JetsonOptions.HELP
    option_type = JetsonOptions

    def settle(self, precision: str, options: Mapping[str, Any]) -> str:
        """The variant for the DLA, or for the JetPack release the user named.

        Raises:
            EdgecError: EC0690, EC0691 no such release on this board; or the DLA does not do it.
        """
        given = parse_options(JetsonOptions, options)
        chosen = release(self.name, given.jetpack)
        if given.dla:
            from edgec.targets.tensorrt.jetson.dla import settle

            return settle(self.name, chosen, precision)
        wanted = f"{precision}-{variant}" if (variant := variant_of(chosen)) is not None else precision
        return wanted if wanted in self.spec().precisions else precision

    def placement(self, graph: Graph, precision: str) -> Placement:
        if self.spec().precisions[precision].device is None:
            return super().placement(graph, precision)
        from edgec.targets.tensorrt.jetson.dla import dla_placement

        return dla_placement(graph, self.spec(), precision)

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        from edgec.targets.tensorrt.jetson.bundle import bundle

        return bundle(graph, self.spec(), job, release(self.name, parse_options(JetsonOptions, job.options).jetpack))

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner:
        from edgec.targets.tensorrt.jetson.bundle import runner

        return runner(artifact, graph, job)


def variant_of(chosen: Release) -> str | None:
    """What the names of a release's own precisions end in, where the board's spec has them."""
    if chosen.form == STRONG:
        return STRONG
    if chosen.tensorrt < (8, 6):
        return TRT_8_5
    return TRT_8_6 if chosen.tensorrt < (9,) else None
