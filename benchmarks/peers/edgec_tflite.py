"""edgec's conversion for LiteRT: passes, quantisation, lowering and the file, without running the result.

OUT is the .tflite file; the graph that was lowered is left beside it as OUT with the suffix .onnx. Options: precision (fp32,
int8), effort, layout (keep, nhwc), io (float; integer: as ai-edge-quantizer's files).
"""

import harness  # isort: skip  (starts the clock)

from edgec.diagnostics import Diagnostics
from edgec.graph import Graph
from edgec.lowering import lower
from edgec.pipeline import PassContext
from edgec.plugins import Registry
from edgec.samples.given import given_samples
from edgec.target import EmitJob
from edgec.targets.tflite.emit import write_model
from edgec.targets.tflite.options import TfliteOptions
from edgec.toolchain import ToolchainManager


def convert(job: harness.Job) -> None:
    defaults = {"precision": "fp32", "effort": "medium", "layout": "keep", "io": "float"}
    precision, effort, layout, io = (job.options.get(k, v) for k, v in defaults.items())
    registry, notes = Registry(), Diagnostics()
    graph = Graph.load(job.source, diagnostics=notes)
    calibration = checked = None
    if precision != "fp32":
        calibration, checked = given_samples(str(job.samples[0].parent), None, graph, None, notes)
    ctx = PassContext(diagnostics=notes, samples=checked, calibration=calibration)
    lowered = lower(graph, registry.target("android"), precision, effort=effort, registry=registry, ctx=ctx)
    notes.raise_if_errors()
    emit = EmitJob(precision, job.out.parent, ToolchainManager(), notes)
    path, *_ = write_model(lowered.graph, emit, TfliteOptions(io_layout=layout, io_dtype=io), xnnpack=True)
    path.replace(job.out)
    lowered.graph.save(job.out.with_suffix(".onnx"))


harness.work(convert, ("edgec", "onnx", "onnxruntime"))
