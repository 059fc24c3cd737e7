"""A graph to a `.tflite` file, and what the report says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgec.actual_placement import ActualNode, ActualPlacement
from edgec.graph import Graph
from edgec.passes.legalize.fold_preprocess import folded, strip
from edgec.target import Artifact, EmitJob
from edgec.target_options import parse_options
from edgec.targets.tflite.endpoints import Interface
from edgec.targets.tflite.halve import halve_weights
from edgec.targets.tflite.kernels import kernels
from edgec.targets.tflite.lower import IoDtype, LoweredModel, LowerOptions, lower
from edgec.targets.tflite.metadata import associated_files, metadata
from edgec.targets.tflite.model import TfliteModel
from edgec.targets.tflite.model_info import model_info
from edgec.targets.tflite.notes import say_floats, say_interface, say_layout, say_pixels, told
from edgec.targets.tflite.options import TfliteOptions
from edgec.targets.tflite.runner import LiteRtRunner, available
from edgec.targets.tflite.unsigned import unsigned_interface
from edgec.targets.tflite.writer import pieces

MODEL = "model.tflite"

HYBRID = frozenset({"int8-dynamic", "int4-weights"})
"""Precisions whose products quantise their inputs at run time (`Quantised.hybrid`)."""


def write_model(
    graph: Graph,
    job: EmitJob,
    options: TfliteOptions,
    *,
    xnnpack: bool = False,
    adjust: Callable[[TfliteModel], object] | None = None,
) -> tuple[Path, LoweredModel, Interface, dict[str, Any]]:
    """The file, how it was lowered, its interface, and figures for the report. `adjust` may change the model before."""
    stripped, affine = strip(graph)
    io_dtype: IoDtype = "float" if options.io_dtype == "float" else "integer"
    how = LowerOptions(options.io_layout, io_dtype, hybrid=job.precision in HYBRID, xnnpack=xnnpack)
    lowered = lower(stripped, how, job.diagnostics)
    if options.io_dtype == "uint8":
        unsigned_interface(lowered)
    if job.precision == "fp16":
        for name in halve_weights(lowered.model):
            job.diagnostics.warn("EC0647", f"weight {name!r} does not fit float16 and stays float32")
    if adjust is not None:
        adjust(lowered.model)
    ends = Interface.of(lowered, stripped, affine)
    info = model_info(ends, options, job.preprocess, job.source)
    if info is not None:
        lowered.model.metadata.update(metadata(info))
    path = job.workdir / MODEL
    with path.open("wb") as f:
        for piece in pieces(lowered.model, large=options.large):
            f.write(piece)
        if info is not None:
            f.write(associated_files(info, f.tell()))
    say_floats(lowered, job, graph)
    say_layout(lowered, job, options)
    say_interface(ends, job, options)
    facts = figures(lowered.model, path)
    if job.preprocess is not None and (how_folded := folded(graph)):
        facts["preprocessing in the file"] = say_pixels(ends, how_folded, job.preprocess, job)
    if info is not None:
        facts["metadata"] = told(info)
    return path, lowered, ends, facts


def figures(model: TfliteModel, path: Path) -> dict[str, Any]:
    """Bytes, and operators by kind."""
    operators = [o for g in model.subgraphs for o in g.operators]
    return {
        "bytes": path.stat().st_size,
        "operators": dict(Counter(o.op for o in operators).most_common()),
    }


def litert_artifact(graph: Graph, job: EmitJob) -> Artifact:
    """For processors with LiteRT. XNNPACK's own decisions are read back from LiteRT."""
    options = parse_options(TfliteOptions, job.options)
    path, lowered, ends, facts = write_model(graph, job, options, xnnpack=True)
    facts["interface"] = ends.to_json()
    actual = None
    sample = next(iter(job.verification or ()), None)
    if sample is not None and available(job, "litert"):
        taken = litert_runner(path, ends, job).operators(sample)
        made = lowered.model.main.operators
        if len(taken) == len(made):
            actual = ActualPlacement(
                tuple(
                    ActualNode(
                        o.outputs[0].name, o.op, "accelerator" if ours else "fallback", (o.source,) if o.source else ()
                    )
                    for o, (_, ours) in zip(made, taken, strict=True)
                ),
                "LiteRT's execution plan with XNNPACK on this host",
            )
            facts["operators XNNPACK takes"] = f"{sum(ours for _, ours in taken)} of {len(taken)}"
    found = None
    if job.precision.startswith("int"):
        found = kernels(lowered.model, hybrid=job.precision in HYBRID)
    return Artifact({MODEL: path}, MODEL, actual=actual, facts=facts, kernels=found, kernels_by="the .tflite file")


def litert_runner(path: Path, ends: Interface, job: EmitJob) -> LiteRtRunner:
    options = parse_options(TfliteOptions, job.options)
    folder = job.workdir / "litert"
    folder.mkdir(exist_ok=True)
    return LiteRtRunner(
        path,
        ends,
        job.toolchains,
        folder,
        kernels=options.kernels,
        seconds=options.timeout,
        log=job.logs / "litert.log",
    )
