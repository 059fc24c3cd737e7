"""Stages: what each step of a compression (prune, recover, quantise) costs and brings, all measured on the same samples."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgec.compare import compare
from edgec.diagnostics import Diagnostics, Location
from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.latency import Latency, Timed, in_turns
from edgec.pipeline import Pass, PassResult
from edgec.placement import macs
from edgec.report import Stage, parameters
from edgec.runtime import Session
from edgec.weight_patterns import weight_patterns

if TYPE_CHECKING:
    from edgec.quantization.metric import Metric
    from edgec.target import Arrays, Artifact, Runner

_RUNS = 20
_SECONDS = 5.0
"""What timing all models may take; slow models are run fewer times."""


@dataclass(frozen=True)
class Made:
    """A graph after a step."""

    name: str
    seconds: float
    graph: Graph


class StageRecorder:
    """An instrument: keeps the graph after each of `passes` that changed it on purpose, and how long it took until then."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        self._passes = passes
        self._since = 0.0
        self.made: list[Made] = []

    def before(self, p: Pass, graph: Graph) -> None:
        """Nothing."""

    def after(self, p: Pass, graph: Graph, result: PassResult, seconds: float) -> None:
        self._since += seconds
        if result.changed and p.contract == "lossy" and any(p is q for q in self._passes):
            self.made.append(Made(p.spec(), self._since, graph.clone()))
            self._since = 0.0


@dataclass(frozen=True)
class Result:
    """The last stage: what the target made. `outputs`: of the samples, for targets that can only simulate while they build."""

    artifact: Artifact
    name: str
    runner: Runner | None
    comparison: Mapping[str, Any] | None
    outputs: Sequence[Arrays] | None
    ran_by: str | None


def measure_stages(
    reference: Graph,
    made: Sequence[Made],
    result: Result,
    samples: Iterable[Arrays],
    metric: Metric | None,
    notes: Diagnostics,
) -> tuple[Stage, ...]:
    """The float model, each of `made`, and the artifact: size, work, latency on this host with one thread, closeness to the
    float model on `samples`, and the user's metric where there is one.

    Raises:
        EdgecError: EC0753 the metric failed.
    """
    models = [Made("float", 0.0, reference), *made]
    sessions = [Session(m.graph, optimise=True, threads=1) for m in models]
    samples = list(samples)
    timed = _times(sessions, samples[0])
    first = sessions[0]
    wanted = list(first.run_all(samples))
    inputs = [v.name or "" for v in reference.inputs if v.name not in reference.model.graph.initializers]
    stages = []
    for m, session, latency in zip(models, sessions, timed, strict=True):
        judged = _metric_of(metric, session, inputs, samples, wanted)
        compared = compare(wanted, session.run_all(samples)).to_json() if m is not models[0] else None
        stages.append(_stage(m, samples[0], latency, first.describe, compared, judged))
    stages.append(_last(result, stages[-1], samples, wanted, metric, inputs, first, notes))
    return tuple(stages)


def _stage(
    m: Made, sample: Arrays, latency: Latency, by: str, compared: Mapping[str, Any] | None, judged: float | None
) -> Stage:
    """Counted for inputs of the sample's shapes: a model may leave them open, and has no number of MACs then."""
    graph = m.graph.clone()
    for v in graph.inputs:
        if (given := sample.get(v.name or "")) is not None:
            v.shape = ir.Shape(given.shape)
    infer_shapes(graph)
    sqnr, agreement = _closeness(compared)
    return Stage(
        name=m.name,
        seconds=round(m.seconds, 3),
        bytes=graph.weight_bytes(),
        coded_bytes=weight_patterns(graph).coded_bytes,
        parameters=parameters(graph),
        macs=sum(macs(n, batch=1) for n in graph.nodes()),
        latency_ms=latency.median * 1e3,
        latency_by=by,
        sqnr_db=sqnr,
        agreement=agreement,
        metric=judged,
    )


def _last(
    result: Result,
    before: Stage,
    samples: Sequence[Arrays],
    wanted: Sequence[Arrays],
    metric: Metric | None,
    inputs: Sequence[str],
    first: Session,
    notes: Diagnostics,
) -> Stage:
    artifact, runner = result.artifact, result.runner
    latency = runner.latency(samples[0]) if isinstance(runner, Timed) else None
    judged = None
    if metric is not None:
        if metric.form == "outputs" and (runner is not None or result.outputs is not None):
            outputs = runner.run(samples) if runner is not None else result.outputs
            judged = metric.of_outputs(outputs or (), wanted)
        elif runner is not None:
            judged = metric.of_runner(runner.run, first, inputs)
        else:
            hint = "a metric of (outputs, reference) is measured on the samples that are simulated"
            notes.warn(
                "EC0757",
                "the metric of the artifact was not measured: its simulator runs no other data",
                Location(metric.source),
                hint,
            )
    sqnr, agreement = _closeness(result.comparison)
    return Stage(
        name=result.name,
        seconds=0.0,
        bytes=artifact.entry_size(),
        parameters=before.parameters,
        macs=before.macs,
        latency_ms=latency.median * 1e3 if latency is not None else None,
        latency_by=result.ran_by if latency is not None else None,
        sqnr_db=sqnr,
        agreement=agreement,
        metric=judged,
    )


def _times(sessions: Sequence[Session], sample: Arrays) -> list[Latency]:
    start = time.perf_counter()
    for session in sessions:
        session.run(sample)
    once = time.perf_counter() - start
    runs = max(3, min(_RUNS, int(_SECONDS / max(once, 1e-9))))
    return [Latency.of(s) for s in in_turns([(s, dict(sample)) for s in sessions], 2, runs)]


def _metric_of(
    metric: Metric | None, session: Session, inputs: Sequence[str], samples: Sequence[Arrays], wanted: Sequence[Arrays]
) -> float | None:
    if metric is None:
        return None
    if metric.form == "predict":
        return metric.of_session(session, inputs)
    return metric.of_outputs(session.run_all(samples), wanted)


def _closeness(compared: Mapping[str, Any] | None) -> tuple[float | None, float | None]:
    """SQNR in dB of the worst output, and the least agreement with the float model's class of any that has classes."""
    if compared is None:
        return None, None
    agreements = [o["top1_agreement"] for o in compared["outputs"] if o["top1_agreement"] is not None]
    return compared["worst_sqnr_db"], min(agreements, default=None)
