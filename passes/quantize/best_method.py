"""Which way of choosing ranges suits a model: each is tried on the same statistics, and the closest result is kept.

With `quantize{corrected=true}` biases are corrected in the trials of those that are close: what clips much loses more or less of
it there.

No method wins everywhere (measured: moving averages are best on mobilenet_v2 and worst on a small ResNet). Observing takes most
of the time and is done once; a trial costs a few inferences.
"""

from __future__ import annotations

import dataclasses
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.diagnostics import Diagnostics
from edgec.passes.quantize.correct_bias import correct_biases
from edgec.passes.quantize.judge import Judge

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.passes.quantize.quantize import Method, Quantize
    from edgec.pipeline import PassContext
    from edgec.quantization.record import QuantRecord

TRIED: tuple[Method, ...] = ("mse", "minmax", "moving-average")

SAMPLES = 32
"""Calibration samples a trial is judged on, spread over the set: data often comes sorted by class."""

MARGIN_DB = 1.0
"""What another method must gain over the first: with few samples less is chance (measured)."""

REACH_DB = 3.0
"""What correcting biases may make good between two methods: those further behind are not tried with it."""

CORRECTED = 8
"""Samples that biases are corrected by in a trial: its time goes into this. No trial is judged on them."""


def best_method(p: Quantize, graph: Graph, ctx: PassContext, folder: Path) -> Quantize:
    """`p` with the method whose result is closest to `graph` (see `Judge`), reading saved ranges."""
    if ctx.calibration is None:
        return dataclasses.replace(p, method="mse")
    count = SAMPLES + (CORRECTED if p.corrected else 0)
    every = max(1, len(ctx.calibration) // count)
    judge = Judge(graph, list(islice(ctx.calibration, 0, every * count, every)))
    seen = range(len(judge.samples))
    fit = seen[:: max(2, len(seen) // CORRECTED)] if p.corrected and len(seen) > 1 else ()
    judged = [i for i in seen if i not in fit]
    ranges = folder / "calibration.json"
    scores: dict[Method, float] = {}
    made: dict[Method, tuple[Graph, QuantRecord]] = {}
    for method in TRIED:
        trial, after = dataclasses.replace(p, method=method), graph.clone()
        if ranges.exists():
            trial = dataclasses.replace(trial, ranges=str(ranges))
        quiet = dataclasses.replace(ctx, diagnostics=Diagnostics(), quantization=None, rejections={})
        trial.run(after, quiet)
        record = quiet.quantization
        if record is None or record.statistics is None:
            return trial  # nothing to choose
        if not ranges.exists() and not p.ranges:
            record.statistics.save(ranges)
        made[method] = after, record
        scores[method] = judge.closeness(after, judged)
    close = [m for m in TRIED if scores[m] >= max(scores.values()) - REACH_DB]
    if fit and len(close) > 1:
        for method in close:
            after, record = made[method]
            if correct_biases(after, record, [judge.samples[i] for i in fit]):
                scores[method] = max(scores[method], judge.closeness(after, judged))
    best = max(close, key=lambda m: scores[m] + (MARGIN_DB if m == TRIED[0] else 0.0))
    told = ", ".join(f"{m} {scores[m]:.1f} dB" for m in TRIED)
    ctx.diagnostics.note("EC0225", f"ranges are chosen by {best}: {told}")
    return dataclasses.replace(p, method=best, ranges=p.ranges or str(ranges))


def trial_folder() -> tempfile.TemporaryDirectory[str]:
    """Where the statistics wait between trials."""
    return tempfile.TemporaryDirectory(prefix="edgec-ranges-")
