"""`edgec inspect`: what is in a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console

if TYPE_CHECKING:
    from edgec.artifact_format import ArtifactFormat
    from edgec.graph import Graph
    from edgec.plugins import Registry

app = single()


@app.command()
def inspect(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="An ONNX file, or an artifact: .tflite, .rknn, .mlpackage.", show_default=False
        ),
    ],
    text: Annotated[bool, typer.Option("--text", help="The whole graph as text, one operator a line.")] = False,
    prunable: Annotated[
        bool, typer.Option("--prunable", help="Groups of channels that `prune` can cut, and why it cannot cut others.")
    ] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Show what is in a model: inputs, outputs, operators, weights, and what edgec notices while loading it. Of an
    artifact also how much computes in integers, and its metadata."""
    from edgec.plugins import Registry

    console = Console(as_json=as_json, quiet=quiet, verbose=verbose)
    registry = Registry()
    reader = registry.format_of(model)
    if reader is not None:
        return _artifact(console, reader, model, text)
    if prunable:
        return _prunable(console, model, registry)
    return _onnx(console, model, text)


def _artifact(console: Console, reader: ArtifactFormat, path: Path, text: bool) -> int:
    from edgec.diagnostics import Location, error

    if not path.exists():
        raise error("EC0001", "there is no such file", Location(str(path)))
    found = reader.inspect(path)
    if text:
        typer.echo(found.text)
    else:
        console.lines(found.lines)
    console.data(found.data)
    return 0


def _onnx(console: Console, model: Path, text: bool) -> int:
    from edgec.diagnostics import Diagnostics
    from edgec.graph import Graph
    from edgec.manifest import sha256_file
    from edgec.report import ModelFacts
    from edgec.summary import size

    found = Diagnostics()
    graph = Graph.load(model, diagnostics=found)
    if text:
        typer.echo(graph.to_text())
        return 0
    facts = ModelFacts.of(graph, path=str(model), sha256=sha256_file(model))
    ops = dict(graph.op_counts().most_common())
    domains = dict(sorted(graph.model.opset_imports.items()))
    weights = _largest(graph)
    console.line(f"{model}: {facts.name}" if facts.name else str(model), "title")
    producer = " ".join(x for x in (graph.model.producer_name, graph.model.producer_version) if x)
    sets = ", ".join(f"{d or 'ai.onnx'} {v}" for d, v in domains.items())
    console.line(f"  ONNX IR {graph.model.ir_version}, {sets}" + (f", made by {producer}" if producer else ""))
    for title, tensors in (("inputs", facts.inputs), ("outputs", facts.outputs)):
        console.line(f"  {title}:  " + ", ".join(map(str, tensors)))
    console.line(f"  {facts.parameters:,} parameters, {size(facts.weight_bytes)}; {facts.nodes:,} nodes")
    console.line("ops", "heading")
    console.line("  " + ", ".join(f"{op} {n}" for op, n in ops.items()))
    console.line("largest weights", "heading")
    for w in weights:
        console.line(f"  {size(w['bytes']):>10}  {w['name']} {w['dtype']}{w['shape']}")
    console.data(
        {**vars(facts), "ir_version": graph.model.ir_version, "producer": producer, "opsets": domains, "ops": ops,
         "largest_weights": weights, "diagnostics": list(found)}
    )  # fmt: skip
    console.diagnostics(found)
    return 0


def _prunable(console: Console, model: Path, registry: Registry) -> int:
    """The groups after the float pipeline, as the pass finds them there."""
    from edgec.diagnostics import Diagnostics
    from edgec.graph import Graph
    from edgec.pipeline import PassManager
    from edgec.recipe import build_passes
    from edgec.specs.schema import builtin_pipeline

    found = Diagnostics()
    graph = Graph.load(model, diagnostics=found)
    known: Any = registry.passes()
    PassManager(build_passes(builtin_pipeline("float").steps, known)).run(graph)
    rows = known["prune"].prunable(graph)
    free = [r for r in rows if r["fixed"] is None]
    channels = sum(r["channels"] for r in free)
    console.line(f"{model}: {len(free)} of {len(rows)} groups can be pruned, {channels:,} channels", "title")
    for r in free:
        each = f", {r['channels'] // r['atoms']} at a time" if r["channels"] != r["atoms"] else ""
        work = f", {r['macs_per_atom']:,} multiply-accumulates" if r["macs_per_atom"] is not None else ""
        saves = f"each saves {r['params_per_atom']:,} parameters{work}"
        console.line(f"  {r['name']}: {r['channels']:,} channels{each}; {saves}")
        console.line(f"    written by {_names(r['writers'])}; read by {_names(r['readers'])}", "dim")
    if any(r["macs_per_atom"] is None for r in free):
        console.line("multiply-accumulates are not counted: input shapes are open", "dim")
    if len(free) < len(rows):
        console.line("fixed", "heading")
    for r in rows:
        if r["fixed"] is not None:
            console.line(f"  {r['name']}: {r['channels']:,} channels: {r['fixed']}")
    console.data({"groups": rows, "diagnostics": list(found)})
    console.diagnostics(found)
    return 0


def _names(nodes: list[str], shown: int = 4) -> str:
    more = f" and {len(nodes) - shown} more" if len(nodes) > shown else ""
    return (", ".join(nodes[:shown]) or "nothing") + more


def _largest(graph: Graph, count: int = 5) -> list[dict[str, Any]]:
    """The largest initializers, from their descriptions: no weight is read."""
    tensors = [v.const_value for v in graph.model.graph.initializers.values() if v.const_value is not None]
    tensors.sort(key=lambda t: (-t.nbytes, t.name or ""))
    return [
        {
            "name": t.name,
            "dtype": t.dtype.name.lower(),
            "shape": [int(d) for d in t.shape if isinstance(d, int)],
            "bytes": t.nbytes,
        }
        for t in tensors[:count]
    ]
