"""A graph to a `.tflite` file, and what the report says of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from edgec.actual_placement import ActualNode, ActualPlacement
from edgec.diagnostics import Location
from edgec.graph import Graph, static_shape
from edgec.target import Artifact, EmitJob
from edgec.target_options import parse_options
from edgec.targets.tflite.endpoints import Endpoint, Interface
from edgec.targets.tflite.halve import halve_weights
from edgec.targets.tflite.lower import LoweredModel, LowerOptions, Port, lower
from edgec.targets.tflite.model import TfliteModel
from edgec.targets.tflite.options import TfliteOptions
from edgec.targets.tflite.runner import LiteRtRunner
from edgec.targets.tflite.writer import pieces

MODEL = "model.tflite"

_PRODUCTS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"})


def write_model(
    graph: Graph, job: EmitJob, options: TfliteOptions
) -> tuple[Path, LoweredModel, Interface, dict[str, Any]]:
    """The file, how it was lowered, its interface, and figures for the report."""
    how = LowerOptions(options.io_layout, options.io_dtype, hybrid=job.precision == "int8-dynamic")
    lowered = lower(graph, how, job.diagnostics)
    if job.precision == "fp16":
        for name in halve_weights(lowered.model):
            job.diagnostics.warn("EC0647", f"weight {name!r} does not fit float16 and stays float32")
    path = job.workdir / MODEL
    with path.open("wb") as f:
        for piece in pieces(lowered.model):
            f.write(piece)
    _say_floats(lowered, job, graph)
    _say_layout(lowered, job, options)
    return path, lowered, interface(graph, lowered), figures(lowered.model, path)


def interface(graph: Graph, lowered: LoweredModel) -> Interface:
    """How the file holds the ONNX model's inputs and outputs."""
    values = {v.name: v for v in (*graph.inputs, *graph.outputs)}

    def endpoint(p: Port) -> Endpoint:
        v = values[p.name]
        shape = static_shape(v) or ()
        dtype = v.dtype.numpy().name if v.dtype is not None else p.tensor.dtype
        return Endpoint(p.name, shape, dtype, p.tensor.dtype, p.perm, p.quant)

    return Interface([endpoint(p) for p in lowered.inputs], [endpoint(p) for p in lowered.outputs])


def figures(model: TfliteModel, path: Path) -> dict[str, Any]:
    """Operators by kind, and how many convolutions and products compute in integers."""
    operators = [o for g in model.subgraphs for o in g.operators]
    products = [o for o in operators if o.op in _PRODUCTS]
    integer = [o for o in products if o.outputs[0].dtype in ("int8", "int16")]
    return {
        "bytes": path.stat().st_size,
        "operators": dict(Counter(o.op for o in operators).most_common()),
        "integer products": f"{len(integer)} of {len(products)}",
    }


def litert_artifact(graph: Graph, job: EmitJob) -> Artifact:
    """For processors with LiteRT. XNNPACK's own decisions are read back from LiteRT."""
    options = parse_options(TfliteOptions, job.options)
    path, lowered, ends, facts = write_model(graph, job, options)
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
    return Artifact({MODEL: path}, MODEL, actual=actual, facts=facts)


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


def _say_layout(lowered: LoweredModel, job: EmitJob, options: TfliteOptions) -> None:
    turned = [p.name for p in (*lowered.inputs, *lowered.outputs) if p.perm is not None]
    if turned:
        job.diagnostics.note("EC0643", f"stored channels last in the file: {', '.join(turned)}")
    elif options.io_layout == "keep" and lowered.transposes:
        what = f"the file keeps the model's own order of axes, with {lowered.transposes} TRANSPOSE"
        job.diagnostics.note(
            "EC0643", what, hint="--option io-layout=nhwc stores images channels last at the interface"
        )
