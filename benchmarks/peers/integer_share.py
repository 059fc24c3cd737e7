"""How much of a quantised file ONNX Runtime computes in integers."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnxruntime as ort
from peers.runs import kernels


def integer_share(model: Path, integer: Collection[str], floating: Collection[str]) -> tuple[int, int]:
    """(kernels of `integer`, those and the ones of `floating`) in the graph that ONNX Runtime makes of the file."""
    optimised = model.with_name(f"{model.stem}.optimised.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(optimised)
    options.log_severity_level = 4
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    counts = kernels(optimised)
    optimised.unlink()
    found = sum(counts.get(k, 0) for k in integer)
    return found, found + sum(counts.get(k, 0) for k in floating)
