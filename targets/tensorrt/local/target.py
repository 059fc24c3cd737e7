"""`tensorrt`: an engine for this machine's GPU, by the TensorRT that is installed here, run and compared here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgec.diagnostics import error
from edgec.target import Artifact, EmitJob, Runner, Target
from edgec.target_options import parse_options
from edgec.targets.tensorrt.options import LocalOptions

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.placement import Placement
    from edgec.targets.tensorrt.engines import EngineRunner
    from edgec.targets.tensorrt.local.discovery import LocalTensorRT
    from edgec.toolchain import ToolchainManager, Worker

WEAK = "-weak"
_TABLES = (((8, 6), "tensorrt-8.5"), ((10, 0), "tensorrt-8.6"), ((10, 14), "tensorrt-10.3"))
"""Op tables of older versions: up to, but without, the one that stands first."""


class TensorRt(Target):
    """Known only once TensorRT was found: which form of ONNX it takes, and which ops. `edgec check` assumes the newest."""

    options: ClassVar[Mapping[str, str]] = LocalOptions.HELP
    option_type: ClassVar[type[LocalOptions]] = LocalOptions

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._local: LocalTensorRT | None = None

    def warm_up(self, toolchains: ToolchainManager, workdir: Path) -> AbstractContextManager[Worker | None]:
        """Finds TensorRT. EC0688 where it or the GPU is not here."""
        self._local = self._find(toolchains)
        return nullcontext()

    def _find(self, toolchains: ToolchainManager) -> LocalTensorRT:
        from edgec.targets.tensorrt.local.discovery import NotHere, find

        found = find(toolchains)
        if isinstance(found, NotHere):
            raise error(
                "EC0688",
                f"this machine has no TensorRT with a GPU: {found}",
                hint="--target jetson-orin-nano (and the like) writes a bundle that builds itself on the board, tensorrt-rtx "
                "builds plans here without a GPU; --toolchain tensorrt=/path/to/python names a Python that has TensorRT",
            )
        return found

    def settle(self, precision: str, options: Mapping[str, Any]) -> str:
        return precision + WEAK if self._local is not None and not self._local.strong else precision

    def placement(self, graph: Graph, precision: str) -> Placement:
        """By the op table of the TensorRT that was found."""
        from importlib.resources import files

        from edgec.placement import place
        from edgec.specs.op_table import OpTable
        from edgec.specs.schema import load_spec

        spec = self.spec()
        version = self._local.version if self._local is not None else (99,)
        table = next((name for until, name in _TABLES if version < until), None)
        if table is not None:
            path = files("edgec.specs") / "ops" / f"{table}.yaml"
            spec = spec.model_copy(update={"op_table": load_spec(OpTable, path)})
        return place(graph, spec, precision)

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        from edgec.targets.tensorrt.local import build
        from edgec.targets.tensorrt.local.building import CACHE, LAYERS, PLAN
        from edgec.targets.tensorrt.local.layers import placement, read_layers, types
        from edgec.targets.tensorrt.profiles import profiles

        local = self._local or self._find(job.toolchains)
        options = parse_options(LocalOptions, job.options)
        cache = Path(options.timing_cache) if options.timing_cache is not None else None
        if cache is not None and not cache.is_file():
            raise error("EC0463", f"option timing-cache: there is no file {cache}")
        folder = job.workdir / "tensorrt"
        folder.mkdir()
        written = graph.save(folder / "model.onnx")
        first = next(iter(job.verification), None) if job.verification is not None else None
        guessed = job.verification is None or job.verification.generated
        shapes = profiles(graph, options, first, job.diagnostics, guessed=guessed)
        job.progress(f"build with TensorRT {local.text}")
        built = build(
            local, written[0], graph, precision=job.precision.removesuffix(WEAK), folder=folder / "build", target=self.name,
            profiles=shapes, workspace=options.workspace,
            timing_cache=cache,
            diagnostics=job.diagnostics, timeout=options.timeout, log=job.logs / "tensorrt.log",
        )  # fmt: skip
        engine = self._engine(built.plan, graph, job) if first is not None else None
        timed = (
            {"latency ms": round(engine.latency(first).median * 1e3, 4)}
            if engine is not None and first is not None
            else {}
        )
        out: dict[str, bytes | Path] = {p.name: p for p in written}
        out |= {PLAN: built.plan, CACHE: built.timing_cache}
        layers = []
        if built.layers is not None:
            out[LAYERS] = built.layers
            layers = read_layers(built.layers, {n.name for n in graph.nodes() if n.name})
        return Artifact(
            out,
            entry=PLAN,
            actual=placement(layers, "TensorRT's engine inspector") if layers else None,
            facts={
                "versions": {"tensorrt": local.text},
                "gpu": local.gpu.to_json() if local.gpu is not None else "not told: trtexec built it",
                "layers": len(layers),
                "layers by type": types(layers),
                "profiles": {p.name: p.to_json() for p in shapes},
                "build seconds": built.seconds,
                **timed,
                **({"warnings": list(built.warnings)} if built.warnings else {}),
                "not_reproducible": "TensorRT times kernels while it builds: two builds may choose others; "
                "--option timing-cache=timing.cache repeats the choice",
            },
            not_verified=()
            if local.trtexec is None
            else ("model.plan was not executed: trtexec built it, and no Python here has TensorRT",),
            reproducible=False,
        )

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner:
        from edgec.targets.tensorrt.reference import OnnxRunner

        plan, model = artifact.files[artifact.entry], artifact.files["model.onnx"]
        assert isinstance(plan, Path)  # emit writes files
        assert isinstance(model, Path)
        engine = self._engine(plan, graph, job)
        return engine or OnnxRunner(model, "the engine itself was not executed")

    def _engine(self, plan: Path, graph: Graph, job: EmitJob) -> EngineRunner | None:
        """None where only trtexec is here."""
        from edgec.targets.tensorrt.engines import EngineRunner
        from edgec.targets.tensorrt.local.discovery import MODULE

        local = self._local or self._find(job.toolchains)
        if local.trtexec is not None:
            return None
        return EngineRunner(
            plan, graph, local.toolchain, MODULE, job.workdir / "tensorrt-run", describe=local.describe,
            log=job.logs / "tensorrt-run.log",
        )  # fmt: skip
