"""TensorRT-RTX targets: real plans for GeForce and RTX GPUs, built here without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from edgec.target import Artifact, EmitJob, Runner, Target
from edgec.target_options import parse_options
from edgec.targets.tensorrt.options import RtxOptions

if TYPE_CHECKING:
    from edgec.graph import Graph


class TensorRtRtx(Target):
    """`tensorrt-rtx` (one plan for all GPUs, or those of `--option capabilities`) and `tensorrt-rtx-sm86` and the like."""

    options: ClassVar[Mapping[str, str]] = RtxOptions.HELP
    option_type: ClassVar[type[RtxOptions]] = RtxOptions

    def settle(self, precision: str, options: Mapping[str, Any]) -> str:
        """`precision` itself. EC0687 where the option names GPUs nobody builds for: told before any work."""
        from edgec.targets.tensorrt.rtx.emit import capabilities

        capabilities(parse_options(RtxOptions, options).capabilities, self.spec())
        return precision

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        from edgec.targets.tensorrt.rtx.emit import emit

        return emit(graph, self.spec(), job, job.workdir / "tensorrt-rtx")

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner | None:
        """The plan on this machine's GPU; without one ONNX Runtime, of the exact ONNX file that the plans are built from."""
        from edgec.targets.tensorrt.rtx.emit import runner

        return runner(artifact, graph, job)
