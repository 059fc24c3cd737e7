"""`edgec bisect`: which pass breaks the numbers."""

from __future__ import annotations

from typing import Annotated

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console

app = single()


@app.command()
def bisect_command(
    model: o.Model,
    target: Annotated[str | None, typer.Option("--target", "-t", help="Use this target's pipeline.")] = None,
    precision: o.Precision = None,
    option: o.TargetOptions = None,
    pipeline: o.PipelineText = None,
    input_shape: o.InputShape = None,
    samples: o.SamplesOption = None,
    min_sqnr: Annotated[
        float | None,
        typer.Option("--min-sqnr", metavar="DB", help="What counts as broken; default: more than rounding."),
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Find the first pass of a pipeline after which the model computes something else, the rule in it where it is one
    rule, and the first tensor that differs. Exit code 3 if there is one."""
    from edgec.bisect import bisect
    from edgec.cli import OK, VERIFICATION
    from edgec.diagnostics import Diagnostics
    from edgec.graph import Graph
    from edgec.pipeline import PassContext
    from edgec.plugins import Registry
    from edgec.recipe import build_passes, parse_pipeline
    from edgec.specs.schema import builtin_pipeline
    from edgec.target import settled

    if pipeline is not None and target is not None:
        raise typer.BadParameter("give --pipeline or --target, not both", param_hint="--pipeline")
    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    found = Diagnostics()
    registry = Registry()
    graph = Graph.load(model, diagnostics=found)
    ctx = PassContext(diagnostics=found)
    if target is not None:
        chosen = registry.target(target)
        ctx.target = chosen.spec()
        ctx.precision = settled(chosen, precision, o.target_options(option))
        steps = list(chosen.pipeline(ctx.precision))
    else:
        steps = list(builtin_pipeline("float").steps if pipeline is None else parse_pipeline(pipeline))
    if input_shape:
        steps = [{"freeze-shapes": {"shapes": list(input_shape)}}, *steps]
    data = o.samples(samples, graph, None, diagnostics=found)
    result = bisect(graph, build_passes(steps, registry.passes()), data, ctx, min_sqnr_db=min_sqnr)
    console.data(result.to_json())
    console.diagnostics(found)
    if result.culprit is None:
        console.line(f"no pass is at fault: {len(result.steps)} steps ran; compared on {data.describe}", "good")
        return OK
    console.line(f"{result.culprit} breaks the model: {result.problem}", "error")
    if result.rule:
        console.line(f"  its rule: {result.rule}")
    if result.first:
        console.line(f"  first difference: {result.first}")
    console.line(
        f"  step {(result.index or 0) + 1} of {len(result.steps)}; {result.tried} graphs run on {data.describe}", "dim"
    )
    return VERIFICATION
