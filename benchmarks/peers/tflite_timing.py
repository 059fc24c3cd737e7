"""timing.py for .tflite files: LiteRT with XNNPACK, interleaved.  Runs in the LiteRT environment.

    python tflite_timing.py RUNS THREADS SAMPLE.npz SOURCE.onnx MODEL.tflite ...

Prints a JSON list: for each model the median and 10th percentile in milliseconds, its operators by name and how many of them
XNNPACK took; or why it does not run. An invocation is timed alone: inputs are set before.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
from tflite_session import LiteRt

WARM_UP = 3


def main() -> None:
    runs, threads, sample, source, *models = sys.argv[1:]
    with np.load(sample) as z:
        feeds = {k: z[k] for k in z.files}
    found: list[dict[str, Any]] = [{} for _ in models]
    order = []
    for about, model in zip(found, models, strict=True):
        try:
            session = LiteRt(model, source, threads=int(threads))
            session.run(feeds)
        except (ValueError, RuntimeError) as e:
            about["failed"] = " ".join(str(e).split())[:200]
            continue
        about |= operators(session)
        order.append((about, session, []))
    shuffle = random.Random(0).shuffle  # who runs after whom matters: what the one left in the caches
    for i in range(WARM_UP + int(runs)):
        shuffle(order)
        for _, session, taken in order:
            session.feed(feeds)
            start = time.perf_counter()
            session.interpreter.invoke()
            if i >= WARM_UP:
                taken.append(1e3 * (time.perf_counter() - start))
    for about, _, taken in order:
        about |= {"ms": float(np.median(taken)), "p10": float(np.percentile(taken, 10))}
    print(json.dumps(found))


def operators(session: LiteRt) -> dict[str, Any]:
    plan = session.interpreter._get_ops_details()
    nodes = [o for o in plan if o["op_name"] != "DELEGATE"]
    return {"operators": Counter(o["op_name"] for o in nodes), "delegates": len(plan) - len(nodes)}


main()
