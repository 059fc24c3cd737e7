"""judge.py for a .tflite file: runs it in LiteRT over the judged samples.  Runs in the LiteRT environment.

    python tflite_judge.py NAME MODEL.tflite SOURCE.onnx OUT.npz LIMIT

A MODEL.onnx runs in ONNX Runtime with its optimiser off: node by node what a graph with Q/DQ says, which the optimiser's
integer kernels do not (they move as far from it as LiteRT's).
OUT.npz: `metric` (evaluate.py's percent; NaN for the models it does not know) and every output as the ONNX model has it.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import inputs
import numpy as np
import onnxruntime as ort
from tflite_session import LiteRt

UNLABELLED = 100


class NodeByNode:
    """ONNX Runtime without its optimiser."""

    def __init__(self, model: str) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, feeds: inputs.Feeds) -> list[np.ndarray]:
        return self.session.run(None, feeds)


def main() -> None:
    name, model, source, out, limit = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5])
    session = NodeByNode(model) if model.endswith(".onnx") else LiteRt(model, source, threads=2)
    kept: list[list[np.ndarray]] = []

    def run(feeds: inputs.Feeds) -> list[np.ndarray]:
        outputs = session.run(feeds)
        kept.append([np.asarray(o, np.float32) for o in outputs])
        return outputs

    if inputs.BENCHES[name].samples is None:
        judge, (key,) = inputs.judge(), inputs.BENCHES[name].shapes
        every = judge._samples
        judge._samples = lambda task, *, judged: islice(every(task, judged=judged), limit or None)
        metric = judge.evaluate(name, lambda x: run({key: x}))
    else:
        metric = float("nan")
        for feeds in inputs.judged(name, limit or UNLABELLED):
            run(feeds)
    np.savez(out, metric=metric, **{f"out{i}": np.stack(o) for i, o in enumerate(zip(*kept, strict=True))})


main()
