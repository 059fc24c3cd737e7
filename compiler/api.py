"""compile() and check(): what the command line and every embedding tool call."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgec import __version__
from edgec.diagnostics import Diagnostics, EdgecError, error
from edgec.graph import Graph
from edgec.pipeline import Instrument, PassContext, PassManager, PassRecord
from edgec.plugins import Registry
from edgec.recipe import Step, build_passes, parse_pipeline, pipeline_text
from edgec.target import Artifact, EmitJob, Target

if TYPE_CHECKING:
    from edgec.output import OutputFolder
    from edgec.placement import Placement
    from edgec.report import Report
    from edgec.samples import Preprocess, Samples
    from edgec.toolchain import ToolchainManager

DEFAULT_TARGET = "x86-64"
VERIFY_SAMPLES = 8
"""How many calibration samples verification takes where no samples of its own are given."""

Verify = Literal["none", "structure", "each"]


@dataclass(frozen=True)
class Compiled:
    """What one compilation made.

    `folder` is None where no output was asked for; the artifact's files are then in memory. `rejections`: rule -> {node: reason}, the matches that rules declined.
    """

    graph: Graph
    artifact: Artifact
    placement: Placement
    report: Report
    diagnostics: Diagnostics
    rejections: Mapping[str, Mapping[str, str]]
    folder: Path | None


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
class Lowered:
    """A model taken through a target's pipeline."""

    target: Target
    precision: str
    reference: Graph
    """The model as loaded: what everything is compared with."""
    graph: Graph
    records: Sequence[PassRecord]
    pipeline: str


def compile(
    model: str | os.PathLike[str] | Graph,
    *,
    target: str | None = None,
    precision: str | None = None,
    output: str | os.PathLike[str] | None = None,
    calibration: str | os.PathLike[str] | Samples | None = None,
    samples: str | os.PathLike[str] | Samples | None = None,
    preprocess: Preprocess | None = None,
    input_shapes: Sequence[str] = (),
    pipeline: str | Sequence[Step] | None = None,
    options: Mapping[str, Any] | None = None,
    no_fallback: bool = False,
    min_sqnr: float | None = None,
    verify: Verify = "none",
    instruments: Sequence[Instrument] = (),
    registry: Registry | None = None,
    toolchains: ToolchainManager | None = None,
    diagnostics: Diagnostics | None = None,
    progress: Callable[[str], None] | None = None,
) -> Compiled:
    """Take a model through a target's pipeline, emit, run what was emitted on this host, and compare.

    Args:
        model: an ONNX file, or a Graph (left unchanged).
        target: a name of `edgec targets`; default "x86-64" (ONNX Runtime).
        precision: one the target offers; default its own.
        output: folder to write artifact, report and manifest to; replaced as a whole, or left alone on failure.
        calibration: unlabelled inputs for quantising: .npy, .npz, a folder of images, "module:function", or Samples.
        samples: inputs for verifying; default: the first calibration samples, else generated ones (said in the report).
        preprocess: how images become inputs.
        input_shapes: "name=1x3x224x224", one an input; a lone shape for a model with one input.
        pipeline: replaces the target's own, as text or steps.
        options: the target's options.
        no_fallback: a node off the accelerator is an error.
        min_sqnr: dB every output must reach against the float model, else EC0820.
        verify: check the graph, or the passes' contracts, after every pass.
        diagnostics: where notes and warnings go, for callers that want them even when this raises.

    Raises:
        EdgecError: with every diagnostic that led to it. Nothing is left behind in `output`.
    """
    from edgec.manifest import build_manifest
    from edgec.report import ArtifactFacts, ModelFacts, Report
    from edgec.verify import FloatModel, verify_artifact

    clock, tell = _Clock(), progress or (lambda text: None)
    registry = registry or Registry()
    notes = diagnostics if diagnostics is not None else Diagnostics()
    with clock("load"):
        tell("load")
        graph = model.clone() if isinstance(model, Graph) else Graph.load(model, diagnostics=notes)
    chosen = _target(registry, target or DEFAULT_TARGET, notes)
    _check_options(chosen, options or {})
    ctx = PassContext(diagnostics=notes)
    with _output(output) as folder, _workdir(folder) as workdir:
        with clock("samples"):
            shaped = graph.clone()
            if input_shapes:
                freeze(shaped, input_shapes, registry)
            calib = _samples(calibration, shaped, preprocess, notes)
            checked = _verification(samples, calib, shaped, preprocess, notes)
            ctx.samples = checked
        with clock("passes"):
            tell("passes")
            lowered = lower(
                graph, chosen, precision, input_shapes=input_shapes, pipeline=pipeline, verify=verify,
                instruments=instruments, registry=registry, ctx=ctx,
            )  # fmt: skip
        with clock("placement"):
            placement = chosen.placement(lowered.graph, lowered.precision)
            placement.diagnose(notes, no_fallback=no_fallback)
            notes.raise_if_errors()
        job = EmitJob(
            lowered.precision, workdir, toolchains or _toolchains(registry, tell), notes, calib, checked,
            dict(options or {}), tell,
        )  # fmt: skip
        with FloatModel(lowered.reference, lowered.graph, checked) as float_model:
            with clock("emit"):
                tell("emit")
                artifact = chosen.emit(lowered.graph, job)
            with clock("verify"):
                tell("verify")
                with _about_generated(checked):
                    verification = verify_artifact(
                        chosen, float_model, lowered.graph, artifact, checked, notes, min_sqnr
                    )
        differences = _differences(placement, artifact, notes)
        notes.raise_if_errors()
        report = Report(
            edgec_version=__version__,
            model=ModelFacts.of(graph, path=graph.source or "", sha256=_hash(model)),
            target=chosen.name,
            precision=lowered.precision,
            passes=tuple(lowered.records),
            ops_before=dict(graph.op_counts()),
            ops_after=dict(lowered.graph.op_counts()),
            placement=placement.to_json(),
            differences=differences,
            artifact=ArtifactFacts.of(artifact),
            verification=verification,
            diagnostics=tuple(notes.items),
            seconds=dict(clock.seconds),
            options=dict(job.options),
        )
        final = None
        if folder is not None:
            settings = {
                "input_shapes": list(input_shapes),
                "preprocess": preprocess.options() if preprocess is not None else {},
                "no_fallback": no_fallback,
                "min_sqnr": min_sqnr,
            }
            manifest = build_manifest(
                report, source=graph, pipeline=lowered.pipeline, spec=chosen.spec(), calibration=calib, samples=checked,
                settings=settings,
            )  # fmt: skip
            final = folder.commit(artifact, report, job.logs, manifest)
        artifact = dataclasses.replace(
            artifact,
            files={
                name: final / name if final is not None else data.read_bytes() if isinstance(data, Path) else data
                for name, data in artifact.files.items()
            },
        )
        tell("done")
    return Compiled(lowered.graph, artifact, placement, report, notes, ctx.rejections, final)


def lower(
    graph: Graph,
    target: Target,
    precision: str | None = None,
    *,
    input_shapes: Sequence[str] = (),
    pipeline: str | Sequence[Step] | None = None,
    verify: Verify = "none",
    instruments: Sequence[Instrument] = (),
    registry: Registry,
    ctx: PassContext,
) -> Lowered:
    """Run the target's pipeline on a copy of `graph`; `graph` itself becomes the reference."""
    spec = target.spec()
    precision = spec.default_precision if precision is None else precision
    if precision not in spec.precisions:
        offered = ", ".join(spec.precisions)
        raise error("EC0102", f"{target.name} does not offer precision {precision!r}", hint=f"it offers {offered}")
    ctx.target, ctx.precision = spec, precision
    steps = target.pipeline(precision) if pipeline is None else pipeline
    steps = parse_pipeline(steps) if isinstance(steps, str) else list(steps)
    if input_shapes:
        steps = [{"freeze-shapes": {"shapes": list(input_shapes)}}, *steps]
    passes = build_passes(steps, registry.passes())
    after = graph.clone()
    if spec.static_shapes:
        from edgec.passes.prepare.freeze_shapes import require_static_inputs

        frozen = after
        if input_shapes:
            frozen = graph.clone()
            freeze(frozen, input_shapes, registry)
        require_static_inputs(frozen)
    records = PassManager(passes, instruments, verify).run(after, ctx)
    return Lowered(target, precision, graph, after, records, pipeline_text(passes))


def check(
    model: str | os.PathLike[str] | Graph,
    targets: Sequence[str],
    *,
    precision: str | None = None,
    input_shapes: Sequence[str] = (),
    registry: Registry | None = None,
    diagnostics: Diagnostics | None = None,
) -> dict[str, Placement]:
    """Where each node would run, for each target; no SDK is needed. Targets that share a pipeline share its run."""
    registry = registry or Registry()
    notes = diagnostics if diagnostics is not None else Diagnostics()
    graph = model.clone() if isinstance(model, Graph) else Graph.load(model, diagnostics=notes)
    lowered: dict[tuple[str, int], Lowered] = {}
    out: dict[str, Placement] = {}
    found = [_target(registry, name, notes) for name in targets]
    if precision is not None and found and all(precision not in t.spec().precisions for t in found):
        offered = ", ".join(dict.fromkeys(p for t in found for p in t.spec().precisions))
        who = ", ".join(targets)
        raise error("EC0102", f"{who} does not offer precision {precision!r}", hint=f"offered: {offered}")
    for name, target in zip(targets, found, strict=True):
        spec = target.spec()
        chosen = precision if precision is not None and precision in spec.precisions else spec.default_precision
        key = (repr(target.pipeline(chosen)), spec.static_shapes)
        if key not in lowered:
            ctx = PassContext(diagnostics=notes)
            lowered[key] = lower(graph, target, chosen, input_shapes=input_shapes, registry=registry, ctx=ctx)
        out[name] = target.placement(lowered[key].graph, chosen)
    return out


def freeze(graph: Graph, input_shapes: Sequence[str], registry: Registry) -> None:
    """Fix the inputs of `graph`, in place, as `--input-shape` does."""
    steps: list[Step] = [{"freeze-shapes": {"shapes": list(input_shapes)}}]
    PassManager(build_passes(steps, registry.passes())).run(graph)


# --- stages ----------------------------------------------------------------------------------------------------------


@contextmanager
def _output(output: str | os.PathLike[str] | None) -> Iterator[OutputFolder | None]:
    if output is None:
        yield None
        return
    from edgec.output import OutputFolder

    with OutputFolder(output) as folder:
        yield folder


@contextmanager
def _workdir(folder: OutputFolder | None) -> Iterator[Path]:
    """Where the target works: on the output's disk, so that files are moved, not copied; else a temporary folder."""
    if folder is not None:
        yield folder.workdir
        return
    path = Path(tempfile.mkdtemp(prefix="edgec-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _toolchains(registry: Registry, tell: Callable[[str], None]) -> ToolchainManager:
    from edgec.toolchain import ToolchainManager

    return ToolchainManager(descriptions=registry.toolchains(), progress=tell)


def _target(registry: Registry, name: str, notes: Diagnostics) -> Target:
    """The target; what is wrong with plugins is told also where it is not found: its plugin may be the broken one."""
    try:
        return registry.target(name)
    finally:
        notes.items.extend(d for d in registry.diagnostics.items if d not in notes.items)


def _check_options(target: Target, options: Mapping[str, Any]) -> None:
    from edgec.diagnostics import did_you_mean

    known = list(target.options)
    found = Diagnostics()
    for name in options:
        if name not in known and name.replace("_", "-") not in known:
            hint = did_you_mean(name, known, f"its options: {', '.join(known) or 'none'}")
            found.error("EC0103", f"target {target.name} has no option {name!r}", hint=hint)
    found.raise_if_errors()


@contextmanager
def _about_generated(samples: Samples) -> Iterator[None]:
    """A model may not run on inputs that were made up (indices, lengths): say that they were."""
    try:
        yield
    except EdgecError as e:
        if samples.generated:
            e.add_note("the inputs were generated; the model may need real ones: give some with --samples")
        raise


def _samples(source: Any, graph: Graph, preprocess: Preprocess | None, notes: Diagnostics) -> Samples | None:
    from edgec.samples import Samples, open_samples

    if source is None:
        return None
    if isinstance(source, Samples):
        _check_first(source, graph)
        return source
    return open_samples(source, graph, preprocess=preprocess, diagnostics=notes)


def _check_first(samples: Samples, graph: Graph) -> None:
    """Samples an embedder made: what `open_samples` promises of names and shapes is not known of them. One is read."""
    from edgec.diagnostics import Location
    from edgec.samples.inputs import input_specs

    first, where = next(iter(samples), None), Location(samples.describe)
    if first is None:
        raise error("EC0702", "there are no samples", where)
    for spec in input_specs(graph):
        if spec.name not in first:
            what = f"no value for input {spec.name!r}"
            raise error("EC0704", what, where, f"the samples have {', '.join(first) or 'nothing'}")
        have = first[spec.name].shape
        want = spec.shape
        if want is None:
            continue
        if len(want) != len(have) or any(w not in (None, h) for w, h in zip(want, have, strict=True)):
            raise error("EC0705", f"input {spec.name!r} is {spec}, the first sample has shape {list(have)}", where)


def _verification(
    source: Any, calibration: Samples | None, graph: Graph, preprocess: Preprocess | None, notes: Diagnostics
) -> Samples:
    from edgec.samples import generated_samples

    given = _samples(source, graph, preprocess, notes)
    if given is not None:
        return given
    if calibration is not None:
        return calibration.take(VERIFY_SAMPLES)
    return generated_samples(graph)


def _differences(placement: Placement, artifact: Artifact, notes: Diagnostics) -> tuple[Mapping[str, Any], ...]:
    """Where the vendor's compiler disagrees with our table; each one is a warning: the table was wrong."""
    if artifact.actual is None:
        return ()
    from edgec.placement import differences

    return tuple(d.to_json() for d in differences(placement, artifact.actual, notes))


def _hash(model: str | os.PathLike[str] | Graph) -> str:
    """SHA-256 of the model file, or of the graph where one was given: it may have been changed since it was loaded."""
    if isinstance(model, Graph):
        return model.fingerprint()
    with open(model, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
