"""`edgec compare`: two models on the same inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console

app = single()


@app.command()
def compare_command(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="The model taken as right.")],
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="The model compared with it.")],
    samples: Annotated[
        str | None, typer.Option("--samples", metavar="DATA", help="Inputs; without them 4 generated ones.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Every value both models have by name.")] = False,
    min_sqnr: Annotated[
        float | None, typer.Option("--min-sqnr", metavar="DB", help="Exit code 3 if an output is below.")
    ] = None,
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
    """Run two ONNX models on the same inputs (ONNX Runtime, its optimiser off) and compare their outputs: SQNR, cosine,
    greatest error, top-1 agreement. With --layers also everything inside that has the same name in both."""
    from edgec.cli import OK, VERIFICATION
    from edgec.compare import Comparison, compare, compare_layers
    from edgec.diagnostics import Diagnostics
    from edgec.graph import Graph
    from edgec.runtime import Session

    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    found = Diagnostics()
    a, b = Graph.load(reference, diagnostics=found), Graph.load(other, diagnostics=found)
    pre = o.preprocess(mean=mean, std=std, scale=scale, resize=resize, crop=crop, fit=fit, layout=layout, colour=colour)
    data = o.samples(samples, a, pre, diagnostics=found)
    result = compare_layers(a, b, data) if layers else compare(Session(a).run_all(data), Session(b).run_all(data))
    console.line(f"{other} against {reference} on {data.describe}", "title")
    console.table(Comparison.COLUMNS, result.table())
    for name, why in result.skipped.items():
        console.line(f"  not compared: {name}: {why}", "dim")
    console.data({**result.to_json(), "source": data.describe, "generated": data.generated})
    console.diagnostics(found)
    if min_sqnr is not None and result.worst_sqnr_db < min_sqnr:
        console.line(f"{result.worst_sqnr_db:.1f} dB is below the {min_sqnr:g} dB asked for", "error")
        return VERIFICATION
    return OK
