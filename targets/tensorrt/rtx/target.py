"""TensorRT-RTX targets: real plans for GeForce and RTX GPUs, built here without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from edgec.target import Artifact, EmitJob, Runner, Target
from edgec.targets.tensorrt.options import RtxOptions

if TYPE_CHECKING:
    from edgec.graph import Graph


class TensorRtRtx(Target):
    """`tensorrt-rtx` (one plan for all GPUs, or those of `--option capabilities`) and `tensorrt-rtx-sm86` and the like."""

    options: ClassVar[Mapping[str, str]] = RtxOptions.HELP
    option_type: ClassVar[type[RtxOptions]] = RtxOptions

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        from edgec.targets.tensorrt.rtx.emit import emit

        return emit(graph, self.spec(), job, job.workdir / "tensorrt-rtx")

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner | None:
        """The plan on this machine's GPU; without one ONNX Runtime, of the exact ONNX file that the plans are built from."""
        from edgec.targets.tensorrt.rtx.emit import runner

        return runner(artifact, graph, job)
