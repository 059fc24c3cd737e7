"""`edgec quantize`: ONNX in, ONNX with Q/DQ out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console

if TYPE_CHECKING:
    from edgec.quantizing import Quantized
    from edgec.summary import Style

app = single()


@app.command()
def quantize(
    model: o.Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the quantised ONNX file.")
    ],
    calib: o.Calib = None,
    target: Annotated[str, typer.Option("--target", "-t", help="Whose scheme; `edgec targets`.")] = "x86-64",
    precision: o.Precision = None,
    option: o.TargetOptions = None,
    scheme: Annotated[
        str | None, typer.Option("--scheme", metavar="NAME", help="A scheme of edgec's, instead of the target's.")
    ] = None,
    effort: o.EffortOption = "medium",
    method: Annotated[
        Literal["best", "mse", "minmax", "moving-average", "percentile", "entropy"] | None,
        typer.Option("--method", help="How ranges are chosen."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="NODE", help="A node that stays in float; repeat for more.")
    ] = None,
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="Weights in 7 bits, for x86 processors without VNNI.")
    ] = False,
    ranges: Annotated[
        Path | None,
        typer.Option(
            "--ranges", metavar="FILE", help="A calibration.json instead of observing; above --effort low --calib too."
        ),
    ] = None,
    save_ranges: Annotated[
        Path | None, typer.Option("--save-ranges", metavar="FILE", help="Write what was observed, for --ranges.")
    ] = None,
    min_sqnr: o.MinSqnr = None,
    min_agreement: o.MinAgreement = None,
    max_drop: o.MaxDrop = None,
    metric: o.MetricOption = None,
    max_kept: o.MaxKept = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.svg", help="What was tried to reach the accuracy, as a plot.")
    ] = None,
    samples: o.SamplesOption = None,
    input_shape: o.InputShape = None,
    mean: o.Mean = None,
    std: o.Std = None,
    scale: o.Scale = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    fit: o.Fit = None,
    layout: o.Layout = None,
    colour: o.Colour = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Quantise a model by the scheme of a target, without labels or training code, and compare it with the float model.

    --calib gives inputs like those in use, prepared as in training; about 100 are enough for most networks.
    With --min-sqnr, --min-agreement or --max-drop the layers that hurt most stay in float until the result is good enough.
    """
    from edgec.cli.opt import spare_the_source
    from edgec.diagnostics import Diagnostics
    from edgec.output import check_writable, writing
    from edgec.quantizing import quantize as run

    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    spare_the_source(model, output)
    for path in (output, save_ranges, plot):  # found out now, not after minutes of calibration
        if path is not None:
            check_writable(path)
    pre = o.preprocess(mean=mean, std=std, scale=scale, resize=resize, crop=crop, fit=fit, layout=layout, colour=colour)
    given: dict[str, Any] = {
        "scheme": scheme,
        "method": method,
        "keep": keep,
        "ranges": str(ranges) if ranges else None,
    }
    given["reduce_range"] = reduce_range or None
    found = Diagnostics()
    try:
        with console.progress() as tell:
            result = run(
                model, target=target, precision=precision, calibration=calib, samples=samples, preprocess=pre,
                input_shapes=input_shape or (), effort=effort, diagnostics=found, progress=tell,
                accuracy=o.accuracy(min_sqnr, min_agreement, max_drop, metric, max_kept),
                options={k: v for k, v in given.items() if v is not None}, target_options=o.target_options(option),
            )  # fmt: skip
    except BaseException as e:
        raised = {*getattr(e, "diagnostics", ())}
        console.diagnostics(d for d in found if d not in raised)
        raise
    if save_ranges is not None and result.record is not None and result.record.statistics is not None:
        with writing(save_ranges):
            result.record.statistics.save(save_ranges)
    with writing(output):  # after the ranges: a model that is there was made by a command that succeeded
        result.graph.save(output)
    if plot is not None and result.mixed is not None:
        with writing(plot):
            plot.write_text(result.mixed.svg(f"{model.stem}, {target}"), encoding="utf-8")
    console.diagnostics(found)
    _show(result, model, output, console, quiet)
    console.data(_data(result, model, output))
    return 0


def _show(result: Quantized, model: Path, output: Path, console: Console, quiet: bool) -> None:
    if quiet:
        console.line(str(output))
        return
    if result.record is None:
        arrived = next((d.message for d in result.diagnostics if d.code == "EC0794"), None)
        half = any(v.dtype is not None and v.dtype.name == "FLOAT16" for v in result.graph.inputs)
        what = "a model in float16; quantise the float32 model it was made from" if half else "what this model computes"
        why = arrived or f"nothing was quantised: the scheme has no rule for {what}"
        console.line(why, "warning")
        _coverage(result, console)
        return
    record = result.record
    console.line(
        f"{len(record.weights)} weights and {len(record.activations)} activations stored in integers by "
        f"{record.scheme.name}; {result.seconds:.1f} s"
    )
    _coverage(result, console)
    for node, reason in record.kept.items():
        console.line(f"  {node}: {reason}", "dim")
    if result.mixed is not None and len(result.mixed.points) > 1:
        console.table(result.mixed.COLUMNS, result.mixed.table())
        if layers := result.mixed.layer_table():
            console.table(result.mixed.LAYER_COLUMNS, layers)
    if result.comparison is not None:
        console.table(result.comparison.COLUMNS, result.comparison.table())
    before, after = model.stat().st_size, output.stat().st_size
    console.line(f"written to {output}: {after / 1e6:.2f} MB, the model as given has {before / 1e6:.2f} MB")


def _coverage(result: Quantized, console: Console) -> None:
    if (c := result.coverage) is not None:
        style: Style = "warning" if any(not f.asked for f in c.in_float) else "good"
        console.line(f"{c}, says {c.source}", style)


def _data(result: Quantized, model: Path, output: Path) -> dict[str, Any]:
    record = result.record
    return {
        "model": str(model),
        "output": str(output),
        "pipeline": result.pipeline,
        "scheme": record.scheme.name if record is not None else None,
        "weights": len(record.weights) if record is not None else 0,
        "activations": len(record.activations) if record is not None else 0,
        "coverage": result.coverage,
        "kept": dict(record.kept) if record is not None else {},
        "mixed": result.mixed.to_json() if result.mixed is not None else None,
        "comparison": result.comparison.to_json() if result.comparison is not None else None,
        "diagnostics": list(result.diagnostics),
        "seconds": result.seconds,
    }
