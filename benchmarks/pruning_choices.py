"""The importances and allocations of `prune`, side by side: accuracy after the closed form, and how far the outputs are.

    EDGEC_EVAL_DIR=... python benchmarks/pruning_choices.py --work FOLDER [--models ...] [--share 0.2]

Rows are made and kept as by benchmarks/pruning.py (the same folder can be used). Each is the cut that an importance and an
allocation choose for that share of the multiply-accumulates, then `recover` in closed form, on the same calibration inputs, judged
on the same samples. Columns: the judge's metric and agreement with the float model; dB: SQNR of the outputs; s: CPU seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from peers.runs import Runs
from peers.tools import Tool
from pruning import MODELS, own_version, size_of

IMPORTANCES = ("l1", "l2", "activation", "taylor", "reconstruction")
ALLOCATIONS = ("uniform", "global", "sensitivity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="environments, models and results are kept here")
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--share", type=float, default=0.2, help="of the MACs that go")
    parser.add_argument("--limit", type=int, default=0, help="judged samples (default: all)")
    parser.add_argument("--calibration", type=int, default=2500, help="calibration samples at most")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds a row may take")
    args = parser.parse_args()
    tools = {
        f"{i}-{a}-{args.share}": Tool(
            "edgec_prune", None, {"macs": str(args.share), "recover": "closed", "importance": i, "allocation": a}, quantizes=False
        )
        for i in IMPORTANCES
        for a in ALLOCATIONS
    }  # fmt: skip
    for name in args.models:
        runs = Runs(
            args.work,
            samples=args.calibration,
            limit=args.limit,
            timeout=args.timeout,
            tools=tools,
            version=own_version,
        )
        print(section(runs, name, args.share), flush=True)


def section(runs: Runs, name: str, share: float) -> str:
    source = runs.prepared(name) / "source.onnx"
    reference = runs.judged(name, source)
    full = size_of(source)["macs"]
    lines = [
        f"\n### {name}, {share:.0%} of the multiply-accumulates cut (float {reference['metric']:.2f} %)\n",
        "| importance | allocation | metric % | agreement % | dB | MACs left | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for importance in IMPORTANCES:
        for allocation in ALLOCATIONS:
            done = runs.attempt(name, f"{importance}-{allocation}-{share}", source, True)
            assert done is not None  # it was run
            if done.out is None:
                lines.append(f"| {importance} | {allocation} | failed: {done.report['failed']} | | | | |")
                continue
            judged = runs.judged(name, done.out)
            agreement, sqnr = closeness(reference, judged)
            lines.append(
                f"| {importance} | {allocation} | {judged['metric']:.2f} | {agreement:.2f} | {sqnr:.2f} "
                f"| {size_of(done.out)['macs'] / full:.1%} | {done.report['cpu_seconds']:.0f} |"
            )
    return "\n".join(lines)


def closeness(reference: dict[str, Any], judged: dict[str, Any]) -> tuple[float, float]:
    """Per cent of samples of the same class; SQNR of the first output in dB, what is the same for all classes left out."""
    a, b = (x["outputs"][0].reshape(len(x["outputs"][0]), -1).astype(np.float64) for x in (reference, judged))
    signal, noise = (v - v.mean(1, keepdims=True) for v in (a, a - b))
    return 100 * float((a.argmax(1) == b.argmax(1)).mean()), float(10 * np.log10((signal**2).sum() / (noise**2).sum()))


if __name__ == "__main__":
    main()
