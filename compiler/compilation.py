"""One compilation, stage by stage: load, samples, passes, placement, emit, verify, report."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec import __version__
from edgec.accuracy import Accuracy
from edgec.api import Compiled
from edgec.blame import blaming
from edgec.coverage import measure
from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.lowering import Verify, freeze, lower
from edgec.manifest import build_manifest
from edgec.pipeline import Instrument, PassContext
from edgec.placement import differences
from edgec.plugins import Registry
from edgec.recipe import Step
from edgec.report import ArtifactFacts, ModelFacts, Report, Stage, Verification
from edgec.samples import Preprocess, Samples, generated_samples
from edgec.samples.given import given_samples
from edgec.specs.conditions import Setting
from edgec.target import Artifact, EmitJob, Target, settled
from edgec.trial import TrialBuilds, check_promises
from edgec.verify import FloatModel, verify_artifact

if TYPE_CHECKING:
    from edgec.coverage import Coverage
    from edgec.lowering import Lowered
    from edgec.output import OutputFolder
    from edgec.placement import Placement
    from edgec.quantization.metric import Metric
    from edgec.quantization.record import QuantRecord
    from edgec.specs.schema import Effort
    from edgec.toolchain import ToolchainManager, Worker


@dataclass
class _Clock:
    """Seconds by stage, for the report."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 4)


@dataclass(frozen=True)
class Compilation:
    """What one call of `edgec.compile` asks for; see there for the fields."""

    model: str | os.PathLike[str] | Graph
    target: Target
    precision: str | None
    calibration: str | os.PathLike[str] | Samples | None
    samples: str | os.PathLike[str] | Samples | None
    preprocess: Preprocess | None
    input_shapes: Sequence[str]
    compress: str | Sequence[Step] | None
    pipeline: str | Sequence[Step] | None
    effort: Effort
    options: Mapping[str, Any]
    no_fallback: bool
    accuracy: Accuracy | None
    metric: str | None
    verify: Verify
    instruments: Sequence[Instrument]
    registry: Registry
    toolchains: ToolchainManager
    diagnostics: Diagnostics
    progress: Callable[[str], None]

    def run(self, folder: OutputFolder | None, workdir: Path, worker: Worker | None) -> Compiled:
        """All stages. `worker` is what the target's `warm_up` started."""
        clock, notes, tell = _Clock(), self.diagnostics, self.progress
        precision = settled(self.target, self.precision, self.options)
        metric = self._metric()
        with clock("load"):
            tell("load")
            graph = self._load()
        with clock("samples"):
            calibration, checked = self._open_samples(graph)
        ctx = PassContext(diagnostics=notes, samples=checked, calibration=calibration, progress=tell)
        if self.compress:
            ctx.weigh = TrialBuilds(
                self.target, precision, self.pipeline, self.effort, self.options, self.preprocess, calibration, self.registry,
                self.toolchains, workdir,
            )  # fmt: skip
        with clock("passes"):
            tell("passes")
            lowered = lower(
                graph, self.target, precision, input_shapes=self.input_shapes, compress=self.compress, pipeline=self.pipeline, effort=self.effort,
                accuracy=self.accuracy,
                options=self.options, preprocess=self.preprocess,
                calibrate=not self.target.quantises(precision, self.options),
                verify=self.verify, instruments=self.instruments, registry=self.registry, ctx=ctx,
            )  # fmt: skip
        if ctx.samples is not None:  # quantising leaves out those that are NaN or infinite within the model
            checked = ctx.samples
        with clock("placement"):
            placement = self.target.placement(lowered.graph, lowered.precision)
            placement.diagnose(notes, no_fallback=self.no_fallback)
            notes.raise_if_errors()
        job = EmitJob(
            lowered.precision, workdir, self.toolchains, notes, calibration, checked, self.options, tell, worker,
            ctx.quantization or None, self.preprocess, graph.source, lowered.reference,
        )  # fmt: skip
        with FloatModel(lowered.reference, lowered.graph, checked) as float_model:
            with clock("emit"):
                tell("emit")
                with blaming(lambda: graph):
                    artifact = self.target.emit(lowered.graph, job)
            with clock("verify"):
                tell("verify")
                with _about_generated(checked):
                    verification = verify_artifact(
                        self.target,
                        float_model,
                        lowered.graph,
                        artifact,
                        job,
                        checked,
                        self.accuracy.min_sqnr if self.accuracy is not None else None,
                    )
        if ctx.pruning is not None:
            check_promises(ctx.pruning.promises, artifact, notes)
        with clock("stages"):
            stages = self._stages(lowered, artifact, job, verification, checked, metric)
        differences = _differences(placement, artifact, notes)
        covered = self._coverage(artifact, lowered, ctx.quantization)
        notes.raise_if_errors()
        report = Report(
            edgec_version=__version__,
            model=ModelFacts.of(graph, path=graph.source or "", sha256=self._model_hash()),
            target=self.target.name,
            precision=lowered.precision,
            passes=tuple(lowered.records),
            ops_before=dict(graph.op_counts()),
            ops_after=dict(lowered.graph.op_counts()),
            placement=placement.to_json(),
            differences=differences,
            artifact=ArtifactFacts.of(artifact),
            coverage=covered,
            verification=verification,
            diagnostics=tuple(notes.items),
            seconds=dict(clock.seconds),
            options=dict(job.options),
            compression=stages,
        )
        final = None
        if folder is not None:
            manifest = build_manifest(
                report, source=graph, pipeline=lowered.pipeline, spec=self.target.spec(), calibration=calibration,
                samples=checked, settings=self._settings(),
            )  # fmt: skip
            final = folder.commit(artifact, report, job.logs, manifest)
        tell("done")
        kept = _in_place(artifact, final)
        return Compiled(lowered.graph, kept, placement, report, notes, ctx.rejections, final)

    def _metric(self) -> Metric | None:
        """The user's metric, loaded before the work begins: a wrong name is no reason to wait."""
        if self.metric is None:
            return None
        from edgec.quantization.metric import load_metric

        return load_metric(self.metric)

    def _stages(
        self, lowered: Lowered, artifact: Artifact, job: EmitJob, verification: Verification, samples: Samples,
        metric: Metric | None,
    ) -> tuple[Stage, ...]:  # fmt: skip
        """What each step of a compression cost and brought; nothing where none was asked for."""
        if not lowered.stages and metric is None:
            return ()
        from edgec.stages import Result, measure_stages
        from edgec.weight_patterns import tell_worth, weight_patterns

        self.progress("measure stages")
        runner = None if artifact.simulated is not None else self.target.runner(artifact, lowered.graph, job)
        result = Result(
            artifact, f"{self.target.name} {lowered.precision}", runner, verification.comparison, artifact.simulated, verification.runner
        )  # fmt: skip
        if lowered.stages:
            found = weight_patterns(lowered.stages[-1].graph)
            uses = self.target.spec().weight_patterns
            tell_worth(found, uses, self.target.name, self.diagnostics, lowered.reference.source)
        return measure_stages(lowered.reference, lowered.stages, result, samples, metric, self.diagnostics)

    def _coverage(self, artifact: Artifact, lowered: Lowered, record: QuantRecord | None) -> Coverage | None:
        """What of a quantised artifact computes in integers; warns of what does not. None where nothing was to."""
        scheme = self.target.spec().precisions[lowered.precision].quantization
        if artifact.kernels is None or (scheme is not None and scheme.mode == "weight-only"):
            return None
        setting = Setting(lowered.precision, self.target.spec().platform, lowered.graph.opset)
        found = measure(artifact.kernels, lowered.graph, scheme, setting, record, source=artifact.kernels_by)
        found.diagnose(self.diagnostics, lowered.reference.source)
        return found

    def _load(self) -> Graph:
        if isinstance(self.model, Graph):
            return self.model.clone()
        return Graph.load(self.model, diagnostics=self.diagnostics)

    def _open_samples(self, graph: Graph) -> tuple[Samples | None, Samples]:
        """Those to calibrate with, if any, and those to verify with; both fit the inputs as `input_shapes` fixes them."""
        if self.input_shapes:
            graph = graph.clone()
            freeze(graph, self.input_shapes, self.registry)
        calibration, checked = given_samples(
            self.calibration,
            self.samples,
            graph,
            self.preprocess,
            self.diagnostics,
            choosing=bool(self.accuracy),
            fitting=bool(self.compress),
        )
        return calibration, checked if checked is not None else generated_samples(graph, preprocess=self.preprocess)

    def _model_hash(self) -> str:
        """SHA-256 of the file, or of the graph where one was given: it may have been changed since it was loaded."""
        if isinstance(self.model, Graph):
            return self.model.fingerprint()
        with open(self.model, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()

    def _settings(self) -> dict[str, Any]:
        """What the manifest says of the call."""
        return {
            "input_shapes": list(self.input_shapes),
            "preprocess": self.preprocess.options() if self.preprocess is not None else {},
            "effort": self.effort,
            "no_fallback": self.no_fallback,
            "accuracy": dataclasses.asdict(self.accuracy) if self.accuracy is not None else {},
        }


def _in_place(artifact: Artifact, folder: Path | None) -> Artifact:
    """The artifact with its files where they are now: in `folder`, or in memory where there is none."""
    files = {
        name: folder / name if folder is not None else data.read_bytes() if isinstance(data, Path) else data
        for name, data in artifact.files.items()
    }
    return dataclasses.replace(artifact, files=files)


@contextmanager
def _about_generated(samples: Samples) -> Iterator[None]:
    """A model may not run on inputs that were made up (indices, lengths): say that they were."""
    try:
        yield
    except EdgecError as e:
        if samples.generated:
            e.add_note("the inputs were generated; the model may need real ones: give some with --samples")
        raise


def _differences(placement: Placement, artifact: Artifact, notes: Diagnostics) -> tuple[Mapping[str, Any], ...]:
    """Where the vendor's compiler disagrees with our table; each one is a warning: the table was wrong."""
    if artifact.actual is None:
        return ()
    return tuple(d.to_json() for d in differences(placement, artifact.actual, notes))
