"""What is said of a `.tflite` file: kernels in float, storage, the interface, pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgec.diagnostics import Location
from edgec.graph import Graph
from edgec.target import EmitJob
from edgec.targets.tflite.endpoints import Interface
from edgec.targets.tflite.lower import LoweredModel
from edgec.targets.tflite.metadata import ModelInfo
from edgec.targets.tflite.options import TfliteOptions
from edgec.targets.tflite.pixels import takes

if TYPE_CHECKING:
    from edgec.samples import Preprocess


def say_floats(lowered: LoweredModel, job: EmitJob, graph: Graph) -> None:
    """Every kernel of a quantised model that computes in float, with the reason."""
    if job.precision not in ("int8", "int16x8"):
        return
    for node, why in lowered.forms.why_float.items():
        hint = "DEQUANTIZE and QUANTIZE stand around it; an NPU leaves it to the CPU"
        what = f"{node.op_type} computes in float: {why}"
        job.diagnostics.warn("EC0642", what, Location(graph.source, node=node.name or node.op_type), hint)


def say_interface(ends: Interface, job: EmitJob, options: TfliteOptions) -> None:
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


def say_pixels(ends: Interface, how: dict[str, str], preprocess: Preprocess, job: EmitJob) -> dict[str, str]:
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


def told(info: ModelInfo) -> str:
    """What the metadata says, by name."""
    parts = [n for n in ("description", "version", "author", "license") if getattr(info, n)]
    if any(t.mean for t in info.inputs):
        parts.append("preprocessing")
    parts += [f"{len(t.labels)} labels of {t.name}" for t in info.outputs if t.labels]
    return f"{info.name}: {', '.join(parts)}" if parts else info.name


def say_layout(lowered: LoweredModel, job: EmitJob, options: TfliteOptions) -> None:
    turned = [p.name for p in (*lowered.inputs, *lowered.outputs) if p.perm is not None]
    if turned:
        job.diagnostics.note("EC0643", f"stored channels last in the file: {', '.join(turned)}")
    elif options.io_layout == "keep" and lowered.transposes:
        what = f"the file keeps the model's own order of axes, with {lowered.transposes} TRANSPOSE"
        job.diagnostics.note(
            "EC0643", what, hint="--option io-layout=nhwc stores images channels last at the interface"
        )
