"""NNCF: nncf.quantize on the ONNX model, defaults (with fast bias correction). Option preset=mixed|performance."""

import harness  # isort: skip  (starts the clock)

import nncf
import onnx


def quantize(job: harness.Job) -> None:
    preset = {"mixed": nncf.QuantizationPreset.MIXED, "performance": nncf.QuantizationPreset.PERFORMANCE}
    model = nncf.quantize(
        onnx.load(job.source),
        nncf.Dataset(list(job.feeds())),
        preset=preset.get(job.options.get("preset", "")),
        subset_size=len(job.samples),
    )
    onnx.save(model, job.out)


harness.work(quantize, ("nncf", "onnx", "onnxruntime", "torch"))
