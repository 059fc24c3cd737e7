"""`edgec compile`: one model for one target, or every job of edgec.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console
from edgec.diagnostics import EdgecError

if TYPE_CHECKING:
    from edgec.api import Compiled

app = single()


@app.command()
def compile_command(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]", help="An ONNX file; without one: edgec.yaml in this folder.", show_default=False
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="A name of `edgec targets`; default: ONNX Runtime, x86-64.")
    ] = None,
    precision: o.Precision = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Default: build/<model>-<target>[-<precision>].", show_default=False
        ),
    ] = None,
    input_shape: o.InputShape = None,
    calib: o.Calib = None,
    samples: o.SamplesOption = None,
    mean: o.Mean = None,
    std: o.Std = None,
    scale: o.Scale = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    fit: o.Fit = None,
    layout: o.Layout = None,
    colour: o.Colour = None,
    io_layout: o.IoLayout = None,
    io_dtype: o.IoDtype = None,
    flash: o.Flash = None,
    ram: o.Ram = None,
    jetpack: o.Jetpack = None,
    dla: o.Dla = False,
    option: o.TargetOptions = None,
    compress: o.Compress = None,
    pipeline: o.PipelineText = None,
    effort: o.EffortOption = "medium",
    no_fallback: o.NoFallback = False,
    min_sqnr: o.MinSqnr = None,
    min_agreement: o.MinAgreement = None,
    max_drop: o.MaxDrop = None,
    metric: o.MetricOption = None,
    max_kept: o.MaxKept = None,
    verify_each: o.VerifyEach = False,
    dump_after_each: o.DumpAfterEach = None,
    offline: o.Offline = False,
    toolchain: o.ToolchainPath = None,
    project: Annotated[
        Path | None, typer.Option("--project", metavar="FILE", help="A project file other than ./edgec.yaml.")
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Compile a model for a target, run the result on this machine where that is possible, and compare it with the
    float model. Writes a folder with the artifact, report.json, manifest.json and logs.

    Without MODEL every job of the project file is compiled: see docs/project.md.
    """
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    pre = o.preprocess(mean=mean, std=std, scale=scale, resize=resize, crop=crop, fit=fit, layout=layout, colour=colour)
    given: dict[str, Any] = {
        "target": target,
        "precision": precision,
        "input_shapes": input_shape,
        "calibration": calib,
        "samples": samples,
        "preprocess": pre,
        "options": o.target_options(
            option,
            io_layout=io_layout,
            io_dtype=io_dtype,
            flash=flash,
            ram=ram,
            jetpack=jetpack,
            dla="true" if dla else None,
        ),
        "compress": compress,
        "pipeline": pipeline,
        "effort": effort if effort != "medium" else None,
        "no_fallback": no_fallback,
        "accuracy": o.accuracy(min_sqnr, min_agreement, max_drop, metric, max_kept, measured=True),
        "metric": metric,
    }
    given = {k: v for k, v in given.items() if v is not None and v is not False and v != {}}
    jobs = _jobs(model, project, output, given)
    results = []
    for i, job in enumerate(jobs):
        try:
            results.append(_one(job, console, verify_each, dump_after_each, offline, toolchain))
        except EdgecError as e:
            if model is None:
                left = len(jobs) - i - 1
                later = f"; {left} after it {'was' if left == 1 else 'were'} not begun" if left else ""
                e.add_note(f"in job {i + 1} of {len(jobs)} of the project, {job.get('target')}{later}")
            raise
    reports = [r.report.to_json() for r in results]
    console.data(reports[0] if model is not None else reports)
    return 0


def _jobs(model: Path | None, project: Path | None, output: Path | None, given: dict[str, Any]) -> list[dict[str, Any]]:
    """Arguments of edgec.api.compile, one mapping a compilation."""
    if model is not None:
        if project is not None:
            raise typer.BadParameter("give a model or a project file, not both", param_hint="--project")
        return [{**given, "model": model, "output": output or default_output(model, **given)}]
    from edgec.project import Project

    jobs = Project.load(project or Path("edgec.yaml")).jobs()
    wanted = {k: given.pop(k) for k in ("target", "precision") if k in given}
    if given or output is not None:
        what = ", ".join([f"--{k.replace('_', '-')}" for k in given] + (["--output"] if output else []))
        raise typer.BadParameter(f"{what}: with a project file these stand in it; only --target and --precision choose")
    chosen = [j for j in jobs if all(j.get(k) == v for k, v in wanted.items())]
    if not chosen:
        raise typer.BadParameter(f"the project has no job for {', '.join(wanted.values())}", param_hint="--target")
    return chosen


def default_output(
    model: Path,
    target: str | None = None,
    precision: str | None = None,
    options: Mapping[str, str] | None = None,
    **_: Any,
) -> Path:
    """build/<model>-<target>, and -<precision>, -dla, -jetpack<release> where asked for, so that two results do not collide."""
    from edgec.api import DEFAULT_TARGET

    asked = options or {}
    parts = [model.stem, target or DEFAULT_TARGET, precision, "dla" if asked.get("dla") == "true" else None]
    if "jetpack" in asked:
        parts.append(f"jetpack{asked['jetpack']}")
    return Path("build", "-".join(p for p in parts if p))


def _one(
    job: dict[str, Any],
    console: Console,
    verify_each: bool,
    dump: Path | None,
    offline: bool,
    toolchain: list[str] | None,
) -> Compiled:
    from edgec import api
    from edgec.cli.instruments import DumpAfterEach
    from edgec.diagnostics import Diagnostics
    from edgec.plugins import Registry

    found = Diagnostics()
    registry = Registry()
    try:
        with console.progress() as tell:
            result = api.compile(
                **job,
                verify="each" if verify_each else "none",
                instruments=[DumpAfterEach(dump)] if dump is not None else [],
                registry=registry,
                toolchains=o.toolchains(offline, toolchain, registry, tell),
                diagnostics=found,
                progress=tell,
            )
    except BaseException as e:
        raised = {*getattr(e, "diagnostics", ())}
        console.diagnostics(d for d in found if d not in raised)
        raise
    if console.verbose:
        console.diagnostics(found)
    if console.quiet:
        if not console.as_json:
            console.line(str(result.folder))
    else:
        from edgec.summary import summary_lines

        console.lines(summary_lines(result.report, _shown(result.folder)))
    return result


def _shown(folder: Path | None) -> Path | None:
    """Relative where it is below the current folder: what a user would type."""
    if folder is None:
        return None
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
