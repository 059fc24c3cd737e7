"""NVIDIA ModelOpt's AutoCast: float32 to mixed float16, inputs and outputs as they were.

It decides by the ranges of one calibration sample: it keeps every tensor of every sample it gets (8.2 GB for 100 of mobilenet_v2).
"""

import harness  # isort: skip  (starts the clock)

import onnx
from modelopt.onnx.autocast import convert_to_mixed_precision


def convert(job: harness.Job) -> None:
    sample = str(job.samples[0])
    model = convert_to_mixed_precision(str(job.source), keep_io_types=True, calibration_data=sample, providers=["cpu"])
    onnx.save(model, job.out)


harness.work(convert, ("nvidia-modelopt", "onnx", "onnxruntime"))
