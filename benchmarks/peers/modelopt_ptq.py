"""NVIDIA ModelOpt's ONNX quantiser on the CPU provider, the rest of the graph in float32. Option method=max|entropy."""

import harness  # isort: skip  (starts the clock)

import numpy as np
from modelopt.onnx.quantization import quantize as modelopt_quantize


def quantize(job: harness.Job) -> None:
    feeds = list(job.feeds())
    modelopt_quantize(
        str(job.source),
        quantize_mode="int8",
        calibration_data={k: np.concatenate([f[k] for f in feeds]) for k in feeds[0]},
        calibration_method=job.options.get("method", "entropy"),
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(job.out),
    )


harness.work(quantize, ("nvidia-modelopt", "onnx", "onnxruntime-gpu", "onnxruntime"))
