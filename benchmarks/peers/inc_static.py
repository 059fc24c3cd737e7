"""Intel Neural Compressor 2.6, static post-training quantisation with its defaults (all samples calibrate)."""

import harness  # isort: skip  (starts the clock)

from neural_compressor import PostTrainingQuantConfig, quantization


class Loader:
    """What its calibration asks of a data loader: batches of (inputs, label) and the batch size."""

    batch_size = 1

    def __init__(self, job: harness.Job) -> None:
        self.job = job

    def __iter__(self):
        for feeds in self.job.feeds():
            values = list(feeds.values())
            yield (values[0] if len(values) == 1 else feeds), 0


def quantize(job: harness.Job) -> None:
    config = PostTrainingQuantConfig(
        approach="static",
        quant_format=job.options.get("format", "QDQ"),
        calibration_sampling_size=[len(job.samples)],
    )
    model = quantization.fit(str(job.source), config, calib_dataloader=Loader(job))
    if model is None:
        raise SystemExit("quantization.fit returned no model")
    model.save(str(job.out))


harness.work(quantize, ("neural-compressor", "onnx", "onnxruntime"))
