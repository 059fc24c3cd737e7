"""`edgec compare`: two models on the same inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console

if TYPE_CHECKING:
    from edgec.compare import Comparison
    from edgec.diagnostics import Diagnostics
    from edgec.graph import Graph
    from edgec.layer_errors import LayerErrors
    from edgec.samples import Samples

app = single()


@app.command()
def compare_command(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="The model taken as right.")],
    other: Annotated[
        Path, typer.Argument(metavar="OTHER", help="The model compared with it: ONNX, or an artifact (.tflite).")
    ],
    samples: Annotated[
        str | None,
        typer.Option("--samples", "--calib", metavar="DATA", help="Inputs; without them 4 generated ones."),
    ] = None,
    layers: Annotated[
        bool | None,
        typer.Option(
            "--layers/--no-layers",
            help="What each layer adds and inherits; default where one of the models is quantised.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=0, help="Layers to print; 0 is all.")] = 20,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw the layers' errors into this file.")
    ] = None,
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
    offline: o.Offline = False,
    toolchain: o.ToolchainPath = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Run two models on the same inputs (ONNX in ONNX Runtime, its optimiser off; .tflite in LiteRT;
    .mlpackage decoded, in ONNX Runtime) and compare their
    outputs: SQNR, cosine, greatest error, top-1 agreement. Of quantised models, or with --layers, also what each layer adds
    itself (fed with the reference's values) and what it inherits, for values that have the same name in both. Of an artifact,
    --layers shows the error of each value that kept its name, with all that came before it."""
    from edgec.compare import Comparison, compare
    from edgec.comparing_artifacts import compare_artifact
    from edgec.diagnostics import Diagnostics
    from edgec.graph import Graph
    from edgec.layer_errors import layer_errors
    from edgec.plugins import Registry
    from edgec.runtime import Session

    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    found = Diagnostics()
    registry = Registry()
    if other.suffix == ".json":
        from edgec.cli.compare_plan import compare_plan

        return compare_plan(reference, other, console, registry, found)
    reader = registry.format_of(other)
    if reader is not None:
        if plot is not None:
            raise typer.BadParameter("layers of an artifact are not drawn", param_hint="--plot")
        pre = o.preprocess(
            mean=mean, std=std, scale=scale, resize=resize, crop=crop, fit=fit, layout=layout, colour=colour
        )
        with console.progress() as tell:
            tools = o.toolchains(offline, toolchain, registry, tell)
            done = compare_artifact(reader, reference, other, samples, pre, tools, found, layers=bool(layers))
        console.line(f"{other} against {reference} on {done.source}", "title")
        console.line(f"  executed by {done.ran_by}", "dim")
        console.table(Comparison.COLUMNS, done.outputs.table())
        if done.values is not None:
            _print_values(console, done.values, top)
        console.data(done.to_json())
        console.diagnostics(found)
        return _judged(console, done.outputs, min_sqnr)
    a, b = Graph.load(reference, diagnostics=found), Graph.load(other, diagnostics=found)
    pre = o.preprocess(mean=mean, std=std, scale=scale, resize=resize, crop=crop, fit=fit, layout=layout, colour=colour)
    data = o.samples(samples, a, pre, diagnostics=found)
    result = compare(Session(a).run_all(data), Session(b).run_all(data))
    console.line(f"{other} against {reference} on {data.describe}", "title")
    console.table(Comparison.COLUMNS, result.table())
    document = {**result.to_json(), "source": data.describe, "generated": data.generated}
    if layers or plot is not None or (layers is None and (_quantised(a) or _quantised(b))):
        errors = layer_errors(a, b, data) if layers or plot is not None else _layers_if_any(a, b, data, found)
        if errors is not None:
            _print_layers(console, errors, top)
            document["layer_errors"] = errors.to_json()
            if plot is not None:
                _write_plot(plot, errors, f"{other.name} against {reference.name}")
                console.line(f"{plot}: drawn", "dim")
    console.data(document)
    console.diagnostics(found)
    return _judged(console, result, min_sqnr)


def _judged(console: Console, result: Comparison, min_sqnr: float | None) -> int:
    from edgec.cli import OK, VERIFICATION

    if min_sqnr is not None and result.worst_sqnr_db < min_sqnr:
        console.line(f"{result.worst_sqnr_db:.1f} dB is below the {min_sqnr:g} dB asked for", "error")
        return VERIFICATION
    return OK


def _print_values(console: Console, values: Comparison, top: int) -> None:
    """In the order they are computed: where the error begins is what one looks for."""
    rows = values.table()
    console.line()
    console.line("values inside, by the ONNX model's names, with the error of all before them", "heading")
    shown = rows if not top else rows[:top]
    console.table(values.COLUMNS, shown)
    if len(rows) > len(shown):
        console.line(f"  and {len(rows) - len(shown)} more (--top 0)", "dim")


def _quantised(graph: Graph) -> bool:
    return any(n.op_type == "DequantizeLinear" for n in graph.model.graph)


def _layers_if_any(a: Graph, b: Graph, data: Samples, found: Diagnostics) -> LayerErrors | None:
    """Layers nobody asked for: models without common values inside are no mistake."""
    from edgec.diagnostics import EdgecError
    from edgec.layer_errors import layer_errors

    try:
        return layer_errors(a, b, data)
    except EdgecError as e:
        if [d.code for d in e.diagnostics] != ["EC0833"]:
            raise
        found.note("EC0833", e.diagnostics[0].message)
        return None


def _print_layers(console: Console, errors: LayerErrors, top: int) -> None:
    rows = errors.table(top or None)
    console.line()
    if rows:
        console.line("layers by the error they add themselves", "heading")
        console.table(errors.COLUMNS, rows)
    with_error = len(errors.by_own_error())
    if with_error > len(rows):
        console.line(f"  and {with_error - len(rows)} more (--top 0)", "dim")
    exact = len(errors.layers) - with_error
    if exact:
        console.line(f"  {exact} layers add no error", "dim")
    born = errors.born
    if born is not None:
        what = f"{born.name} ({born.op_type}) adds most: {born.own_db:.1f} dB, mostly from its {born.cause}"
        console.line(what, "title")
    for name, why in errors.skipped.items():
        console.line(f"  not compared: {name}: {why}", "dim")


def _write_plot(path: Path, errors: LayerErrors, title: str) -> None:
    from edgec.layer_plot import layer_plot
    from edgec.output import writing

    with writing(path):
        path.write_text(layer_plot(errors, title), encoding="utf-8")
