"""Trial builds: what a graph would take on its target, in flash and by the vendor's model of time, before it is chosen."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import Diagnostics
from edgec.lowering import lower
from edgec.pipeline import PassContext
from edgec.target import Artifact, EmitJob, Estimate, Target

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.plugins import Registry
    from edgec.pruning import Promise
    from edgec.recipe import Step
    from edgec.samples import Preprocess, Samples
    from edgec.specs.schema import Effort
    from edgec.toolchain import ToolchainManager

_SAMPLES = 4
"""What int8 is calibrated with: ranges change little of time and size."""


@dataclass(frozen=True)
class Weight:
    """What a graph takes on its target: `bytes` of the file people load; `time` as the vendor's compiler estimates it."""

    bytes: int
    time: Estimate | None

    @classmethod
    def of(cls, artifact: Artifact) -> Weight:
        return cls(artifact.entry_size(), artifact.estimate)

    def of_goal(self, what: str) -> Estimate | None:
        """In what a goal of `flash` or `latency` is told; None where nobody estimates it."""
        return Estimate(self.bytes, "bytes", "the artifact") if what == "flash" else self.time


@dataclass(frozen=True)
class TrialBuilds:
    """Takes float graphs through a target's pipeline and toolchain as one compilation would, with few samples, and keeps
    nothing of it but the figures. What a trial warns of is not told: the real build warns of it again."""

    target: Target
    precision: str
    pipeline: str | Sequence[Step] | None
    effort: Effort
    options: Mapping[str, Any]
    preprocess: Preprocess | None
    calibration: Samples | None
    registry: Registry
    toolchains: ToolchainManager
    workdir: Path

    def __call__(self, graph: Graph) -> Weight:
        """Raises:
        EdgecError: the target does not take the graph, or its toolchain fails.
        """
        notes = Diagnostics()
        few = self.calibration.take(_SAMPLES) if self.calibration is not None else None
        ctx = PassContext(diagnostics=notes, calibration=few)
        lowered = lower(
            graph, self.target, self.precision, pipeline=self.pipeline, effort=self.effort, options=self.options,
            preprocess=self.preprocess, calibrate=not self.target.quantises(self.precision, self.options),
            registry=self.registry, ctx=ctx,
        )  # fmt: skip
        folder = Path(tempfile.mkdtemp(prefix="trial-", dir=self.workdir))
        try:
            job = EmitJob(
                lowered.precision, folder, self.toolchains, notes, few, None, self.options,
                quantization=ctx.quantization or None, preprocess=self.preprocess, source=graph.source,
                reference=lowered.reference, weighing=True,
            )  # fmt: skip
            return Weight.of(self.target.emit(lowered.graph, job))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def check_promises(promises: Sequence[Promise], artifact: Artifact, notes: Diagnostics) -> None:
    """Warn (EC0365) of goals that trial builds met and the artifact does not: weights are recovered and ranges chosen after
    the cut, and vendors code them by their values."""
    for p in promises:
        have = Weight.of(artifact).of_goal(p.what)
        if have is not None and have.amount > p.limit:
            over = have.amount / p.limit - 1
            message = f"prune{{{p.goal}}} is missed by {over:.2%}: the artifact takes {p.shown(have.amount)}"
            notes.warn("EC0365", message, hint="ask for a little more: weights and ranges are settled after the cut")
