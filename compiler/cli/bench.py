"""`edgec bench`: latency on ONNX Runtime, models taking turns so that a slow moment hits all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console

if TYPE_CHECKING:
    from edgec.runtime import Session
    from edgec.samples import Samples

app = single()


@app.command()
def bench(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="ONNX files.", show_default=False)],
    optimised: Annotated[bool, typer.Option("--opt", help="Also measure each model after `edgec opt`.")] = False,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Measured runs of each.")] = 50,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Runs before measuring.")] = 5,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Within one op; default ONNX Runtime's.")
    ] = None,
    input_shape: o.InputShape = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Measure latency on ONNX Runtime's CPU provider, its own optimiser on, one generated input: median and 95th
    percentile in milliseconds. The figures are of this machine; for a device measure there."""
    from edgec.graph import Graph
    from edgec.latency import in_turns
    from edgec.lowering import freeze
    from edgec.pipeline import PassContext, PassManager
    from edgec.plugins import Registry
    from edgec.recipe import build_passes
    from edgec.runtime import Session
    from edgec.specs.schema import builtin_pipeline

    console = Console(as_json=as_json, quiet=quiet)
    registry = Registry()
    sessions: list[tuple[str, Session, Samples]] = []
    for path in models:
        graph = Graph.load(path)
        if input_shape:
            freeze(graph, input_shape, registry)
        sessions.append((str(path), Session(graph, optimise=True, threads=threads), o.samples(None, graph, None, 1)))
        if optimised:
            after = graph.clone()
            PassManager(build_passes(builtin_pipeline("onnxruntime").steps, registry.passes())).run(
                after, PassContext()
            )
            sessions.append((f"{path} + edgec opt", Session(after, optimise=True, threads=threads), sessions[-1][2]))
    seconds = in_turns([(s, next(iter(data))) for _, s, data in sessions], warmup, runs)
    rows = [
        {
            "model": name,
            "p50_ms": _percentile(t, 50),
            "p95_ms": _percentile(t, 95),
            "min_ms": min(t) * 1e3,
            "runs": runs,
        }
        for (name, _, _), t in zip(sessions, seconds, strict=True)
    ]
    console.table(
        ("model", "p50 ms", "p95 ms", "min ms"),
        [(str(r["model"]), *(f"{r[k]:.3f}" for k in ("p50_ms", "p95_ms", "min_ms"))) for r in rows],
    )
    if not quiet:
        console.line(f"{sessions[0][1].describe}, {runs} runs each, in turns", "dim")
    console.data({"runner": sessions[0][1].describe, "results": rows})
    return 0


def _percentile(seconds: list[float], percent: int) -> float:
    """In milliseconds; the nearest rank (the smallest value that `percent` of all do not exceed)."""
    ordered = sorted(seconds)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] * 1e3
