"""Mixed precision of a real graph: quantise it with a choice of layers kept, run it, compare it with the float graph."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.compare import compare
from edgec.diagnostics import Diagnostics, EdgecError, Location, error
from edgec.graph import Graph
from edgec.pipeline import Pass, PassContext, PassManager
from edgec.quantization.budget import Budget, Score
from edgec.quantization.mixed import Mixed, search
from edgec.quantization.sensitivity import PROBES, Sensitivity, sensitivity
from edgec.runtime import Session
from edgec.specs.conditions import Setting

if TYPE_CHECKING:
    from edgec.quantization.metric import Drop, Metric
    from edgec.quantization.record import QuantRecord
    from edgec.samples import Samples

Arrays = dict[str, npt.NDArray[Any]]

MakePasses = Callable[[frozenset[str], frozenset[str], str], Sequence[Pass]]
"""The quantising pass first, then those that correct: given the nodes in float, the nodes with 16-bit activations, and a
calibration.json ("" for none yet)."""


def search_mixed(
    graph: Graph,
    ctx: PassContext,
    make_passes: MakePasses,
    *,
    min_sqnr: float | None = None,
    min_agreement: float | None = None,
    max_drop: Drop | None = None,
    metric: Metric | None = None,
    samples: Samples | None = None,
    costs: Mapping[str, float] | None = None,
    max_kept: float = 0.5,
    probes: int = PROBES,
    progress: Callable[[str], None] | None = None,
) -> Mixed:
    """Choose the nodes of `graph`, as it is before quantisation, that stay in higher precision. `graph` is not changed.

    Calibration runs once: later trials read its statistics. `samples` judge (default: `ctx.samples`, then the
    calibration data). `metric` is also reported where only another figure is asked for. Sensitivity weighs all channels of an output equally unless the SQNR is asked for.

    Raises:
        EdgecError: EC0750 no samples; EC0754 the budget is no budget; EC0755 nothing meets it; those of the passes.
    """
    judged = samples or ctx.samples or ctx.calibration
    if judged is None:
        raise error("EC0750", "mixed precision needs samples to judge by", Location(graph.source))
    if ctx.calibration is not None and ctx.calibration in (judged, judged.start_of):
        judged = _finite(graph, judged)
    with tempfile.TemporaryDirectory(prefix="edgec-mixed-") as folder:
        trials = Trials(graph, ctx, make_passes, judged, metric, Path(folder))
        budget = Budget(min_sqnr, min_agreement, max_drop, trials.baseline)
        found = trials.sensitivity(probes, balanced=min_sqnr is None)
        wide, dtype = trials.widenable()
        return search(
            found, trials.evaluate, budget,
            costs=costs, max_kept=max_kept, wide=wide, dtype=dtype, progress=progress,
        )  # fmt: skip


def _finite(graph: Graph, samples: Samples) -> Samples:
    """Those whose outputs are finite: no error can be told of the others, and calibration leaves them out too."""
    lost = {
        i
        for i, outputs in enumerate(Session(graph).run_all(samples))
        if not all(np.isfinite(y).all() for y in outputs.values() if y.dtype.kind == "f")
    }
    return samples.without(lost) if lost and len(lost) < len(samples) else samples


KEPT_BYTES = 256 << 20
"""Outputs of the float graph up to this size stay in memory, and all of them where a metric asks for them."""

NOT_CALIBRATED = "EC0223"
"""What the quantising pass says where a calibration.json lacks a value."""


class Trials:
    """Quantised variants of one graph, judged on the same samples."""

    def __init__(
        self,
        graph: Graph,
        ctx: PassContext,
        make_passes: MakePasses,
        samples: Samples,
        metric: Metric | None,
        folder: Path,
    ) -> None:
        self.graph, self.ctx, self.make_passes, self.samples, self.metric = graph, ctx, make_passes, samples, metric
        self._ranges = folder / "calibration.json"
        self._plain: tuple[Graph, QuantRecord | None] | None = None
        self._inputs = [v.name or "" for v in graph.inputs]
        self._float = Session(graph)
        first = next(self._float.run_all(samples), None)
        if first is None:
            raise error("EC0750", "mixed precision needs samples to judge by", Location(samples.describe))
        size = sum(a.nbytes for a in first.values()) * len(samples)
        self._kept = list(self._float.run_all(samples)) if size <= KEPT_BYTES or self._wants_outputs else None
        self.baseline = self._metric(self._float, self._kept or [])

    @property
    def _wants_outputs(self) -> bool:
        return self.metric is not None and self.metric.form == "outputs"

    @property
    def _reference(self) -> Iterable[Arrays]:
        """The float graph's outputs: kept, or run anew where they are too large for that."""
        return self._kept if self._kept is not None else self._float.run_all(self.samples)

    def quantize(
        self, keep: frozenset[str], wide: frozenset[str] = frozenset(), *, correct: bool = True
    ) -> tuple[Graph, QuantRecord | None]:
        """A copy, quantised. The first time, calibration runs; if a later choice needs values it did not see, again.

        `correct`: False leaves out the passes after the quantising one, which take most of the time.
        """
        plain = not keep and not wide and correct
        if plain and self._plain is not None:
            return self._plain
        made = self._retried(keep, wide, correct)
        if plain:
            self._plain = made
        return made

    def _retried(self, keep: frozenset[str], wide: frozenset[str], correct: bool) -> tuple[Graph, QuantRecord | None]:
        try:
            return self._quantize(keep, wide, str(self._ranges) if self._ranges.exists() else "", correct)
        except EdgecError as e:
            if not self._ranges.exists() or e.diagnostics[0].code != "EC0223":
                raise
            return self._quantize(keep, wide, "", correct)

    def _quantize(
        self, keep: frozenset[str], wide: frozenset[str], ranges: str, correct: bool
    ) -> tuple[Graph, QuantRecord | None]:
        after = self.graph.clone()
        ctx = dataclasses.replace(self.ctx, diagnostics=Diagnostics(), quantization=None, rejections={})
        passes = self.make_passes(keep, wide, ranges)
        PassManager(passes if correct else passes[:1]).run(after, ctx)
        record = ctx.quantization
        if record is not None and record.statistics is not None and not ranges and not self._ranges.exists():
            record.statistics.save(self._ranges)
        return after, record

    def sensitivity(self, probes: int, *, balanced: bool) -> Sensitivity:
        """Of the graph with nothing kept, on the samples that judge: values beyond the calibrated ranges count."""
        after, record = self.quantize(frozenset())
        if record is None:
            return sensitivity(self.graph, self.graph, self.samples, probes=1)
        return sensitivity(
            record.reference, after, self.samples, scheme=record.scheme, probes=probes, balanced=balanced
        )

    def widenable(self) -> tuple[frozenset[str], str]:
        """Nodes that can have 16-bit activations on this target, and their element type."""
        from edgec.quantization.wide import wide_nodes, wide_scheme

        _, record = self.quantize(frozenset())
        other = wide_scheme(record.scheme) if record is not None else None
        if record is None or other is None or other.activations is None:
            return frozenset(), "16 bits"
        ctx = self.ctx
        setting = Setting(ctx.precision or "", ctx.target.platform if ctx.target is not None else "", self.graph.opset)
        return wide_nodes(self.graph, record.scheme, setting), other.activations.dtype

    def evaluate(self, keep: frozenset[str], wide: frozenset[str] = frozenset()) -> Score:
        """What a choice reaches, as ONNX Runtime runs it with its optimiser: the way results are verified."""
        return self._score(self.quantize(keep, wide)[0])

    def _score(self, after: Graph) -> Score:
        session = Session(after, optimise=True)
        outputs: Iterable[Arrays] = session.run_all(self.samples)
        if self._wants_outputs:
            outputs = list(outputs)
        found = compare(self._reference, outputs)
        top = [o.top1_agreement for o in found.outputs if o.top1_agreement is not None]
        return Score(found.worst_sqnr_db, min(top, default=None), self._metric(session, outputs))

    def _metric(self, session: Session, outputs: Iterable[Arrays]) -> float | None:
        if self.metric is None:
            return None
        if self.metric.form == "predict":
            return self.metric.of_session(session, self._inputs)
        return self.metric.of_outputs(outputs, self._reference)
