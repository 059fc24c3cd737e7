"""Rockchip NPUs: a real `.rknn` file, simulated by the SDK that built it, with the placement its compiler decided."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgec.target import Artifact, EmitJob, Target, log_folder
from edgec.target_options import parse_options
from edgec.targets.rknn.options import RknnOptions
from edgec.targets.rknn.retry import WORKER

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.placement import Placement
    from edgec.toolchain import ToolchainManager, Worker

FOLDER = "rknn"
"""Where the SDK works, in the folder of the compilation."""


class Rknn(Target):
    """One class for every Rockchip SoC; the specs differ.

    The SDK can simulate only in the process that built the file, so the verification samples travel with the build. This
    module loads fast, without onnx and numpy: `warm_up` is called before they are imported.
    """

    options: ClassVar[Mapping[str, str]] = RknnOptions.HELP
    option_type = RknnOptions

    def warm_up(self, toolchains: ToolchainManager, workdir: Path) -> AbstractContextManager[Worker | None]:
        toolchain = toolchains.installed("rknn")
        if toolchain is None:
            return nullcontext()
        return toolchain.start(WORKER, workdir=workdir / FOLDER, log=log_folder(workdir) / "rknn.log")

    def quantises(self, precision: str, options: Mapping[str, Any]) -> bool:
        return precision == "int8" and parse_options(RknnOptions, options).quantizer == "sdk"

    def placement(self, graph: Graph, precision: str) -> Placement:
        """Of the graph without its Q/DQ nodes: they say how to compute, and stand between nodes that become one layer."""
        from edgec.targets.rknn.variant import has_pairs

        if has_pairs(graph):
            from edgec.passes.quantize.dequantize import Dequantize
            from edgec.pipeline import PassContext

            graph = graph.clone()
            Dequantize(clip="none").run(graph, PassContext())
        return super().placement(graph, precision)

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        from edgec.targets.rknn.emit import emit

        return emit(graph, self.spec(), job, job.workdir / FOLDER)
