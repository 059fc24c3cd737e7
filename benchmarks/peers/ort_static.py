"""ONNX Runtime: quant_pre_process, then quantize_static (Q/DQ, u8 activations, s8 per-channel weights). Option method=..."""

import harness  # isort: skip  (starts the clock)

import tempfile
from pathlib import Path

from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process


class Reader(CalibrationDataReader):
    def __init__(self, job: harness.Job) -> None:
        self.feeds = job.feeds()

    def get_next(self):
        return next(self.feeds, None)


def quantize(job: harness.Job) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        ready = Path(scratch, "ready.onnx")
        try:
            quant_pre_process(str(job.source), str(ready))
        except AssertionError:  # its symbolic shape inference has gaps; this is the way round that its message names
            quant_pre_process(str(job.source), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(job.out),
            Reader(job),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[job.options.get("method", "MinMax")],
        )


harness.work(quantize, ("onnxruntime", "onnx"))
