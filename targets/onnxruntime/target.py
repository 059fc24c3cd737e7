"""The onnxruntime target: an optimised ONNX file, and the ORT format where a minimal build of the runtime reads it."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgec.coverage import is_quantized
from edgec.diagnostics import error
from edgec.graph import INLINE_LIMIT, Graph
from edgec.target import Artifact, EmitJob, Runner, Target

if TYPE_CHECKING:
    from edgec.coverage import Kernel
    from edgec.latency import Latency
    from edgec.target import Arrays

_MACHINES = {"x86-64": ("x86_64", "AMD64"), "arm64": ("aarch64", "arm64")}


class OnnxRuntime(Target):
    """`x86-64` and `arm64`: files for ONNX Runtime's CPU provider, checked by running them here."""

    options: ClassVar[Mapping[str, str]] = {
        "format": "onnx (default), ort (the flatbuffer form minimal builds read, for phones), or both",
    }

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        form = str(job.options.get("format", "onnx"))
        if form not in ("onnx", "ort", "both"):
            raise error("EC0450", f"option format is onnx, ort or both, not {form!r}")
        folder = job.workdir / "onnx"
        folder.mkdir()
        written = graph.save(folder / "model.onnx")
        files: dict[str, bytes | Path] = {p.name: p for p in written}
        not_verified = []
        if form != "onnx":
            if len(written) > 1:
                raise error(
                    "EC0451", f"the ORT format holds at most {INLINE_LIMIT} bytes of weights", hint="use format=onnx"
                )
            files["model.ort"] = _to_ort_format(written[0], folder / "model.ort")
            if form == "ort":
                del files["model.onnx"]
        if platform.machine() not in _MACHINES.get(self.name, (platform.machine(),)):
            not_verified.append(f"{self.name} kernels: the artifact was run on this {platform.machine()} host instead")
        facts = {}
        found, by = _kernels(written[0], graph) if is_quantized(graph) else (None, "")
        if form == "both" and job.verification is not None:
            facts["model.ort against model.onnx"] = _compare_forms(written[0], folder / "model.ort", job)
        entry = "model.onnx" if "model.onnx" in files else "model.ort"
        return Artifact(files, entry, facts=facts, not_verified=tuple(not_verified), kernels=found, kernels_by=by)

    def kernels(self, graph: Graph) -> tuple[Sequence[Kernel], str]:
        with tempfile.TemporaryDirectory(prefix="edgec-kernels-") as folder:
            return _kernels(graph.save(Path(folder, "model.onnx"))[0], graph)

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner | None:
        path = artifact.files[artifact.entry]
        assert isinstance(path, Path)  # emit writes files
        return _SessionRunner(path)


def _kernels(model: Path, graph: Graph) -> tuple[Sequence[Kernel], str]:
    import onnxruntime as ort

    from edgec.targets.onnxruntime.kernels import kernels

    return kernels(model, graph), f"ONNX Runtime {ort.__version__}"


class _SessionRunner:
    """Runs the file as a user would: ONNX Runtime's own load-time optimisations on."""

    def __init__(self, path: Path) -> None:
        from edgec.runtime import Session

        self._path = path
        self._session = Session(path, optimise=True)
        self.describe = self._session.describe

    def run(self, samples: Iterable[Arrays]) -> Iterator[Arrays]:
        yield from self._session.run_all(samples)

    def latency(self, sample: Mapping[str, Any], *, runs: int = 20, warm_up: int = 3) -> Latency:
        """With one thread."""
        from edgec.latency import Latency, in_turns
        from edgec.runtime import Session

        (seconds,) = in_turns([(Session(self._path, optimise=True, threads=1), dict(sample))], warm_up, runs)
        return Latency.of(seconds)


_SAME_DB = 80.0
"""dB between two float32 forms of one graph: kernels are fused differently, nothing more."""


def _compare_forms(model: Path, ort: Path, job: EmitJob) -> dict[str, Any]:
    """Only the entry is verified against the float model: show that the other file computes the same."""
    from edgec.compare import compare
    from edgec.runtime import Session

    samples = job.verification or ()
    forms = [Session(path, optimise=True).run_all(samples) for path in (model, ort)]
    found = compare(*forms)
    for out in found.outputs:
        if out.sqnr_db < _SAME_DB:
            what = f"output {out.name!r} of model.ort is {out.sqnr_db:.1f} dB from model.onnx"
            job.diagnostics.warn("EC0452", what, hint="verify model.ort alone: --option format=ort")
    return found.to_json()


def _to_ort_format(model: Path, out: Path) -> Path:
    """Convert with the runtime itself (onnxruntime docs: "ORT model format"). Only portable (extended) optimisations:
    layouts of this host's CPU must not be baked into a file for another one."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(out)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return out
