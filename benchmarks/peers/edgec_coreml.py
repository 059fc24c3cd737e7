"""edgec's conversion to a Core ML package: passes, lowering, coremltools' builder; the result is not run.

OUT is the .mlpackage folder. Options: target, precision.
"""

import harness  # isort: skip  (starts the clock)

import shutil

from edgec.diagnostics import Diagnostics
from edgec.graph import Graph
from edgec.lowering import lower
from edgec.pipeline import PassContext
from edgec.plugins import Registry
from edgec.samples.given import given_samples
from edgec.target import EmitJob
from edgec.toolchain import ToolchainManager


def convert(job: harness.Job) -> None:
    name, precision = job.options.get("target", "iphone"), job.options.get("precision", "fp16")
    registry, notes = Registry(), Diagnostics()
    target = registry.target(name)
    graph = Graph.load(job.source, diagnostics=notes)
    _, checked = given_samples(None, str(job.samples[0].parent), graph, None, notes)
    lowered = lower(graph, target, precision, registry=registry, ctx=PassContext(diagnostics=notes, samples=checked))
    notes.raise_if_errors()
    work = job.out.with_suffix(".work")
    work.mkdir()
    artifact = target.emit(lowered.graph, EmitJob(precision, work, ToolchainManager(), notes))
    package = artifact.files["model.mlpackage/Manifest.json"].parent
    shutil.move(package, job.out)


harness.work(convert, ("edgec", "onnx", "onnxruntime"))
