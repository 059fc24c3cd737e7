"""Runs one model over the judged samples and keeps what it says.  Runs in the judge's environment.

    python judge.py NAME MODEL.onnx OUT.npz LIMIT [OPTIMISED.onnx]

OUT.npz gets `metric` (evaluate.py's percent; NaN for the models it does not know) and every output, stacked over the samples
(out0, out1, ...). LIMIT 0 means all samples. OPTIMISED.onnx: the graph as ONNX Runtime really runs it; without that its optimiser
is off, and what runs is node by node what the file says.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import inputs
import numpy as np
import onnxruntime as ort

UNLABELLED = 100
"""Samples judged of a model without labels."""


def main() -> None:
    name, model, out, limit = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if len(sys.argv) > 5:
        options.optimized_model_filepath = sys.argv[5]
    else:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    kept: list[list[np.ndarray]] = []

    def run(feeds: inputs.Feeds) -> list[np.ndarray]:
        outputs = session.run(None, feeds)
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
