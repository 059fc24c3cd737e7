"""NVIDIA ModelOpt's ONNX quantiser on the CPU provider, the rest of the graph in float32 or float16.

Options: method=max|entropy; dtype=fp32|fp16 (of what is not quantised, and of the scales).
"""

import harness  # isort: skip  (starts the clock)

from collections.abc import Iterator

import numpy as np
from modelopt.onnx.quantization import quantize as modelopt_quantize
from onnxruntime.quantization import CalibrationDataReader


class Samples(CalibrationDataReader):
    """One by one: arrays of all samples in one, as the tool takes them else, cannot hold inputs without dimensions."""

    def __init__(self, job: harness.Job) -> None:
        self.job = job
        self.rewind()

    def rewind(self) -> None:
        self.left: Iterator[dict[str, np.ndarray]] = self.job.feeds()

    def get_first(self) -> dict[str, np.ndarray]:
        return next(self.job.feeds())

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


def quantize(job: harness.Job) -> None:
    modelopt_quantize(
        str(job.source),
        quantize_mode="int8",
        calibration_data_reader=Samples(job),
        calibration_method=job.options.get("method", "entropy"),
        calibration_eps=["cpu"],
        high_precision_dtype=job.options.get("dtype", "fp32"),
        output_path=str(job.out),
    )


harness.work(quantize, ("nvidia-modelopt", "onnx", "onnxruntime"))
