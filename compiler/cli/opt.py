"""`edgec opt`: ONNX to ONNX through any pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console

if TYPE_CHECKING:
    from edgec.pipeline import Pass, PassContext

app = single()


@app.command()
def opt(
    model: o.Model,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write; without it nothing is written."),
    ] = None,
    pipeline: o.PipelineText = None,
    input_shape: o.InputShape = None,
    as_text: Annotated[bool, typer.Option("--text", help="Print the result in ONNX's textual form.")] = False,
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
    verify_each: o.VerifyEach = False,
    why_not: o.WhyNot = None,
    dump_after_each: o.DumpAfterEach = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Run passes on a model and write the result as ONNX. Without --pipeline: the float passes, for ONNX Runtime.

    --calib gives the passes inputs that need them: -p "...,quantize{scheme=onnxruntime-int8}". Such a scheme is that of
    no target: `edgec quantize` takes a target's, with the passes that belong to it.

    --verify-each runs the model before and after every pass on --samples, or on generated inputs.
    """
    from edgec.blame import blaming
    from edgec.cli.instruments import DumpAfterEach
    from edgec.diagnostics import Diagnostics
    from edgec.graph import Graph
    from edgec.lowering import frozen
    from edgec.output import check_writable, writing
    from edgec.pipeline import PassContext, PassManager
    from edgec.plugins import Registry
    from edgec.quantizing import graph_coverage
    from edgec.recipe import build_passes, parse_pipeline, pipeline_text
    from edgec.samples.given import given_samples
    from edgec.specs.schema import builtin_pipeline

    console = Console(as_json=as_json or as_text, quiet=quiet, verbose=verbose)
    found = Diagnostics()
    registry = Registry()
    found.items.extend(registry.diagnostics)
    if output is not None:
        spare_the_source(model, output)
        check_writable(output)
    graph = Graph.load(model, diagnostics=found)
    steps = list(builtin_pipeline("onnxruntime").steps if pipeline is None else parse_pipeline(pipeline))
    if input_shape:
        steps = [{"freeze-shapes": {"shapes": list(input_shape)}}, *steps]
    passes = build_passes(steps, registry.passes())
    ctx = PassContext(diagnostics=found)
    pre = o.preprocess(mean=mean, std=std, scale=scale, resize=resize, crop=crop, fit=fit, layout=layout, colour=colour)
    if calib is not None or samples is not None:
        given = frozen(graph, input_shape or (), registry)
        ctx.calibration, ctx.samples = given_samples(calib, samples, given, pre, found)
    before, count = graph.op_counts(), sum(1 for _ in graph.nodes())
    dumps = [DumpAfterEach(dump_after_each)] if dump_after_each is not None else []
    try:
        with blaming(lambda: Graph.load(model)), console.progress() as ctx.progress:
            records = PassManager(passes, dumps, "each" if verify_each else "none").run(graph, ctx)
    except BaseException:
        console.diagnostics(found)  # they may say why
        raise
    graph.verify()
    if why_not is not None:
        _check_rule(why_not, passes, ctx)
    covered = graph_coverage(graph, ctx.quantization or None, found)
    if output is not None:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            graph.save(output)
    console.diagnostics(found)
    changed = [r for r in records if r.changed]
    for r in [] if quiet else changed:
        what = ", ".join(f"{name} {n}" for name, n in r.stats.items() if n)
        console.line(f"  {r.spec:<30} {r.nodes_before:>5} -> {r.nodes_after:<5} {what}".rstrip())
    left = sum(1 for _ in graph.nodes())
    written = f"; written to {output}" if output is not None else ""
    if not quiet:
        console.line(f"{len(changed)} of {len(records)} passes changed the graph: {count:,} -> {left:,} nodes{written}")
        if covered is not None:
            console.line(f"{covered}, says {covered.source}", "warning" if covered.in_float else "good")
    if why_not is not None:
        _why_not(why_not, ctx, console)
    if as_text:
        typer.echo(graph.to_text())
    elif as_json:
        console.data(
            {
                "model": str(model), "output": output, "pipeline": pipeline_text(passes), "passes": records,
                "ops_before": before, "ops_after": graph.op_counts(), "rejections": ctx.rejections,
                "coverage": covered,
                "diagnostics": list(found),
            }
        )  # fmt: skip
    return 0


def spare_the_source(model: Path, output: Path) -> None:
    """A model is often the only copy; the file's mode does not protect it, because the result is renamed into place."""
    from edgec.diagnostics import Location, error

    if output.exists() and model.exists() and output.samefile(model):
        raise error(
            "EC0932", "the result would replace the source model", Location(str(output)), "give another --output"
        )


def _check_rule(rule: str, passes: Sequence[Pass], ctx: PassContext) -> None:
    """A rule that none of the passes has is a mistake of the command line, not a rule that declined nothing."""
    from edgec.diagnostics import did_you_mean

    names = {p.name for outer in passes for p in outer.flat()}  # some decline without rules, under their own name
    declared = {
        r.name for outer in passes for p in outer.flat() for r in getattr(getattr(p, "rules", None), "rules", ())
    }
    known = sorted(ctx.rules | declared | ctx.rejections.keys())
    if rule not in names and rule not in known:
        hint = did_you_mean(rule, known, "`edgec passes NAME` lists the rules of a pass")
        raise typer.BadParameter(f"no pass of this pipeline has a rule {rule!r}; {hint}", param_hint="--why-not")


def _why_not(rule: str, ctx: object, console: Console) -> None:
    """The matches of `rule` that were declined, each with its reason."""
    from edgec.diagnostics import did_you_mean

    rejections: dict[str, dict[str, str]] = getattr(ctx, "rejections", {})
    if rule in rejections:
        for node, reason in rejections[rule].items():
            console.line(f"{rule} left {node} alone: {reason}", "warning")
    else:
        some = did_you_mean(rule, list(rejections), f"rules that declined: {', '.join(rejections) or 'none'}")
        console.line(f"{rule} declined no match: where it did not apply, its pattern was not found ({some})", "dim")
