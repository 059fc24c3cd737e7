"""A graph to a `.tflite` file, and what the report says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.actual_placement import ActualNode, ActualPlacement
from edgec.diagnostics import Location
from edgec.graph import Graph
from edgec.passes.legalize.fold_preprocess import folded, strip
from edgec.target import Artifact, EmitJob
from edgec.target_options import parse_options
from edgec.targets.tflite.endpoints import Interface
from edgec.targets.tflite.halve import halve_weights
from edgec.targets.tflite.kernels import kernels
from edgec.targets.tflite.lower import IoDtype, LoweredModel, LowerOptions, lower
from edgec.targets.tflite.metadata import ModelInfo, associated_files, metadata
from edgec.targets.tflite.model import TfliteModel
from edgec.targets.tflite.model_info import model_info
from edgec.targets.tflite.options import TfliteOptions
from edgec.targets.tflite.pixels import takes
from edgec.targets.tflite.runner import LiteRtRunner
from edgec.targets.tflite.unsigned import unsigned_interface
from edgec.targets.tflite.writer import pieces

if TYPE_CHECKING:
    from edgec.samples import Preprocess

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
    _say_floats(lowered, job, graph)
    _say_layout(lowered, job, options)
    _say_interface(ends, job, options)
    facts = figures(lowered.model, path)
    if job.preprocess is not None and (how_folded := folded(graph)):
        facts["preprocessing in the file"] = _say_pixels(ends, how_folded, job.preprocess, job)
    if info is not None:
        facts["metadata"] = _told(info)
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
    if sample is not None:
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


def _say_floats(lowered: LoweredModel, job: EmitJob, graph: Graph) -> None:
    """Every kernel of a quantised model that computes in float, with the reason."""
    if job.precision not in ("int8", "int16x8"):
        return
    for node, why in lowered.forms.why_float.items():
        hint = "DEQUANTIZE and QUANTIZE stand around it; an NPU leaves it to the CPU"
        what = f"{node.op_type} computes in float: {why}"
        job.diagnostics.warn("EC0642", what, Location(graph.source, node=node.name or node.op_type), hint)


def _say_interface(ends: Interface, job: EmitJob, options: TfliteOptions) -> None:
    """Inputs and outputs that stay float where integers were asked for."""
    wanted = {"integer": ("int8", "int16"), "uint8": ("uint8",)}.get(options.io_dtype, ())
    left = [e for e in (*ends.inputs, *ends.outputs) if e.onnx_dtype == "float32" and e.dtype not in wanted]
    if wanted and left:
        what = f"{', '.join(f'{e.name} ({e.dtype})' for e in left)}: io-dtype={options.io_dtype} does not hold for them"
        hint = "they are not quantised" if left[0].dtype == "float32" else "uint8 is for models in int8"
        job.diagnostics.warn("EC0649", what, hint=hint)


_HOW = {
    "as it is": "the input's scale and zero point are those of the preprocessing",
    "weights": "mean and std are in the first convolution's weights",
    "depthwise": "a convolution 1x1 takes off mean and std first: the model's first operator cannot, or pads its borders",
}


def _say_pixels(ends: Interface, how: dict[str, str], preprocess: Preprocess, job: EmitJob) -> dict[str, str]:
    """What to write into each input that takes pixels."""
    out: dict[str, str] = {}
    for e in ends.inputs:
        if e.name in how:
            out[e.name] = takes(e, preprocess)
            nothing = how[e.name] == "as it is" and e.quant is None and preprocess.normalises
            why = "it is not quantised, so there is no scale to fold into" if nothing else _HOW[how[e.name]]
            what = f"input {e.name!r} takes {out[e.name]}: {why}"
            job.diagnostics.note("EC0648", what)
    return out


def _told(info: ModelInfo) -> str:
    """What the metadata says, by name."""
    parts = [n for n in ("description", "version", "author", "license") if getattr(info, n)]
    if any(t.mean for t in info.inputs):
        parts.append("preprocessing")
    parts += [f"{len(t.labels)} labels of {t.name}" for t in info.outputs if t.labels]
    return f"{info.name}: {', '.join(parts)}" if parts else info.name


def _say_layout(lowered: LoweredModel, job: EmitJob, options: TfliteOptions) -> None:
    turned = [p.name for p in (*lowered.inputs, *lowered.outputs) if p.perm is not None]
    if turned:
        job.diagnostics.note("EC0643", f"stored channels last in the file: {', '.join(turned)}")
    elif options.io_layout == "keep" and lowered.transposes:
        what = f"the file keeps the model's own order of axes, with {lowered.transposes} TRANSPOSE"
        job.diagnostics.note(
            "EC0643", what, hint="--option io-layout=nhwc stores images channels last at the interface"
        )
