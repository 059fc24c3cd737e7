"""Latency of several models on the same input, one thread, interleaved so that no model has the quieter minutes.

    python timing.py RUNS SAMPLE.npz MODEL.onnx ...

Prints a JSON list: the median and the 10th percentile in milliseconds of each model, or null where it does not load.
Runs in the judge's environment.
"""

from __future__ import annotations

import json
import random
import sys
import time

import numpy as np
import onnxruntime as ort

WARM_UP = 3


def main() -> None:
    runs, sample, *models = sys.argv[1:]
    with np.load(sample) as z:
        feeds = {k: z[k] for k in z.files}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    sessions = []
    for model in models:
        try:
            sessions.append(ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]))
        except Exception as e:  # noqa: BLE001  a peer's output that does not load is a result, not our failure
            print(f"{model}: {e}", file=sys.stderr)
            sessions.append(None)
    times: list[list[float]] = [[] for _ in models]
    order = list(zip(times, sessions, strict=True))
    shuffle = random.Random(0).shuffle  # who runs after whom matters: what the one left in the caches
    for i in range(WARM_UP + int(runs)):
        shuffle(order)
        for taken, session in order:
            if session is None:
                continue
            start = time.perf_counter()
            session.run(None, feeds)
            if i >= WARM_UP:
                taken.append(1e3 * (time.perf_counter() - start))
    print(json.dumps([{"ms": float(np.median(t)), "p10": float(np.percentile(t, 10))} if t else None for t in times]))


main()
