"""onnxsim: simplify, then quantize_static. Options: method=minmax|mse|entropy|percentile|auto, full=1 for the whole graph."""

import harness  # isort: skip  (starts the clock)

import onnx
import onnxsim


def quantize(job: harness.Job) -> None:
    model, _ = onnxsim.simplify(onnx.load(job.source))
    quantized = onnxsim.quantize_static(
        model,
        calibration_data=list(job.feeds()),
        method=job.options.get("method", "minmax"),
        full_graph=job.options.get("full") == "1",
    )
    onnx.save(quantized, job.out)


harness.work(quantize, ("onnxsim", "onnx", "onnxruntime"))
