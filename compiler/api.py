"""compile() and check(): what the command line and every embedding tool call.

This module imports neither onnx nor numpy: `compile` starts the vendor's SDK first, and they load beside it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.accuracy import Accuracy
from edgec.diagnostics import Diagnostics, error
from edgec.plugins import Registry
from edgec.target import Artifact, Target, settled

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.lowering import Lowered, Verify
    from edgec.output import OutputFolder
    from edgec.pipeline import Instrument
    from edgec.placement import Placement
    from edgec.recipe import Step
    from edgec.report import Report
    from edgec.samples import Preprocess, Samples
    from edgec.specs.schema import Effort
    from edgec.toolchain import ToolchainManager

DEFAULT_TARGET = "x86-64"


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
    compress: str | Sequence[Step] | None = None,
    pipeline: str | Sequence[Step] | None = None,
    effort: Effort = "medium",
    options: Mapping[str, Any] | None = None,
    no_fallback: bool = False,
    min_sqnr: float | None = None,
    accuracy: Accuracy | None = None,
    metric: str | None = None,
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
        compress: passes that make the float model smaller before the target's own ("prune{macs=0.3},recover"), as text or
            steps. The report then says what each of them cost and brought.
        pipeline: replaces the target's own, as text or steps.
        effort: how much time to spend on accuracy: "low", "medium" or "high", where the target makes a difference.
        options: the target's options.
        no_fallback: a node off the accelerator is an error.
        min_sqnr: dB every output must reach against the float model, else EC0820; short for `accuracy`.
        accuracy: what the result must reach. Where edgec quantises, nodes are kept in higher precision until it does.
        metric: "file.py:function", measured of the float model, each of `compress`, and the artifact; docs/mixed-precision.md.
        verify: check the graph, or the passes' contracts, after every pass.
        diagnostics: where notes and warnings go, for callers that want them even when this raises.

    Raises:
        EdgecError: with every diagnostic that led to it. Nothing is left behind in `output`.
    """
    tell = progress or (lambda text: None)
    registry = registry or Registry()
    notes = diagnostics if diagnostics is not None else Diagnostics()
    chosen = _target(registry, target or DEFAULT_TARGET, notes)
    _check_options(chosen, options or {})
    toolchains = toolchains or _toolchains(registry, tell)
    with _output(output) as folder, _workdir(folder) as workdir, chosen.warm_up(toolchains, workdir) as worker:
        from edgec.compilation import Compilation

        compilation = Compilation(
            model, chosen, precision, calibration, samples, preprocess, input_shapes, compress, pipeline, effort,
            dict(options or {}), no_fallback, accuracy or Accuracy(min_sqnr) or None, metric, verify, instruments, registry, toolchains, notes, tell,
        )  # fmt: skip
        return compilation.run(folder, workdir, worker)


def check(
    model: str | os.PathLike[str] | Graph,
    targets: Sequence[str],
    *,
    precision: str | None = None,
    input_shapes: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    diagnostics: Diagnostics | None = None,
) -> dict[str, Placement]:
    """Where each node would run, for each target; no SDK is needed. Targets that share a pipeline share its run.

    A precision or option that only some of the targets have is for those; one that none has raises EC0102, EC0103.
    """
    from edgec.graph import Graph
    from edgec.lowering import lower
    from edgec.pipeline import PassContext

    registry = registry or Registry()
    notes = diagnostics if diagnostics is not None else Diagnostics()
    graph = model.clone() if isinstance(model, Graph) else Graph.load(model, diagnostics=notes)
    lowered: dict[tuple[str, int], Lowered] = {}
    out: dict[str, Placement] = {}
    found = [_target(registry, name, notes) for name in targets]
    if precision is not None and found and all(precision not in t.spec().precisions for t in found):
        offered = ", ".join(dict.fromkeys(p for t in found for p in t.spec().choices))
        who = ", ".join(targets)
        raise error("EC0102", f"{who} does not offer precision {precision!r}", hint=f"offered: {offered}")
    theirs = _shared_options(found, options or {})
    for name, target, given in zip(targets, found, theirs, strict=True):
        spec = target.spec()
        asked = precision if precision in spec.precisions else None
        chosen = settled(target, asked, given)
        steps = target.prepare(target.pipeline(chosen), chosen, given, None)
        key = (repr(steps), spec.static_shapes or spec.precisions[chosen].static_shapes)
        if key not in lowered:
            ctx = PassContext(diagnostics=notes)
            lowered[key] = lower(
                graph, target, chosen, input_shapes=input_shapes, options=given, calibrate=False, registry=registry, ctx=ctx
            )  # fmt: skip
        out[name] = target.placement(lowered[key].graph, chosen)
        _lint(graph, target, [chosen] if asked else [chosen, *spec.choices], notes)
    return out


def fix(
    graph: Graph,
    target: str,
    *,
    precision: str | None = None,
    options: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
    diagnostics: Diagnostics | None = None,
) -> dict[str, int]:
    """Mend the Q/DQ of `graph`, in place, for the scheme of a target, where that changes no number. Returns what was
    done, and how often. What could not be mended is warned of; `check` says what is left.
    """
    from edgec.pipeline import PassContext, PassManager
    from edgec.quantization.fixes import fixes
    from edgec.recipe import build_passes

    registry = registry or Registry()
    notes = diagnostics if diagnostics is not None else Diagnostics()
    found = _target(registry, target, notes)
    spec = found.spec()
    _check_options(found, options or {})
    asked = [settled(found, precision, options or {})]
    scheme = next(
        (s for n in asked + ([] if precision else list(spec.choices)) if (s := spec.precisions[n].quantization)), None
    )
    if scheme is None:
        return {}
    records = PassManager(build_passes(fixes(scheme), registry.passes())).run(graph, PassContext(diagnostics=notes))
    return {name: n for r in records for name, n in r.stats.items()}


def _shared_options(targets: Sequence[Target], options: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """For each target those of the options that it has. One that none has is an error, a wrong value too."""
    known = {o.replace("-", "_") for t in targets for o in t.options}
    stray = {k: v for k, v in options.items() if k.replace("-", "_") not in known}
    out: list[Mapping[str, Any]] = []
    for target in targets:
        own = {o.replace("-", "_") for o in target.options}
        given = {k: v for k, v in options.items() if k.replace("-", "_") in own}
        _check_options(target, {**given, **stray})
        out.append(given)
    return out


def _lint(graph: Graph, target: Target, precisions: Sequence[str], notes: Diagnostics) -> None:
    """What breaks the rules of the scheme of the first of `precisions` that has one, where the model has Q/DQ already."""
    from edgec.quantization.findings import summarise
    from edgec.quantization.lint import lint
    from edgec.specs.conditions import Setting

    spec = target.spec()
    for name in precisions:
        offered = spec.precisions[name]
        if offered.quantization is not None:
            setting = Setting(name, spec.platform, graph.opset)
            findings = lint(graph, offered.quantization, setting, newest_opset=spec.opset)
            notes.items.extend(summarise(findings, graph.source))
            return


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
    if target.option_type is not None:
        from edgec.target_options import parse_options

        parse_options(target.option_type, options)
