"""coremltools' own torch frontend: a traced model (source.pt beside SOURCE.onnx) to a package.  Runs in the torchcoreml environment.

Options: minimum (iOS17), precision (fp16, fp32).
"""

import harness  # isort: skip  (starts the clock)

import logging
import warnings

import coremltools as ct
import numpy as np
import torch

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


def convert(job: harness.Job) -> None:
    feeds = next(job.feeds())
    precision = {"fp16": ct.precision.FLOAT16, "fp32": ct.precision.FLOAT32}[job.options.get("precision", "fp16")]
    kinds = {k: np.float32 if a.dtype.kind == "f" else np.int32 for k, a in feeds.items()}
    made = ct.convert(
        torch.jit.load(str(job.source.with_suffix(".pt"))),
        inputs=[ct.TensorType(name=f"input_{i}", shape=feeds[k].shape, dtype=kinds[k]) for i, k in enumerate(feeds)],
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, job.options.get("minimum", "iOS17")),
        compute_precision=precision,
    )
    made.save(str(job.out))


harness.work(convert, ("coremltools", "torch"))
