"""Accuracy asked for: what the user wants kept, and the pipeline with the fewest nodes in higher precision that keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from edgec.diagnostics import error

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.pipeline import Pass, PassContext
    from edgec.quantization.mixed import Mixed

QUANTIZE = "quantize"
"""The pass whose options `keep` and `wide` name the nodes in float and in 16 bits."""


@dataclass(frozen=True)
class Accuracy:
    """All that is given must hold on the verification samples. `metric`: "file.py:function"; see docs/mixed-precision.md."""

    min_sqnr: float | None = None
    """dB, of the output where it is lowest."""
    min_agreement: float | None = None
    """Share of samples with the float model's class, 0..1."""
    max_drop: str | None = None
    """How much of the metric may be lost: "1%" of the float model's, or "0.5pt"."""
    metric: str | None = None
    max_kept: float = 0.5
    """Share of the multiply-accumulates that may leave integers to reach it, 0..1."""

    def __bool__(self) -> bool:
        return any(v is not None for v in (self.min_sqnr, self.min_agreement, self.max_drop))


@runtime_checkable
class Settles(Protocol):
    """A pass with options that stand for a choice made anew each time it runs."""

    def settled(self, graph: Graph, ctx: PassContext) -> Pass: ...


def quantize_at(passes: Sequence[Pass]) -> int | None:
    """Where the quantising pass stands, None where there is none."""
    return next((i for i, p in enumerate(passes) if p.name == QUANTIZE), None)


def keep_enough(
    passes: Sequence[Pass],
    graph: Graph,
    ctx: PassContext,
    wanted: Accuracy,
    progress: Callable[[str], None] | None = None,
) -> tuple[list[Pass], Mixed]:
    """The passes from the quantising one on, which keep what `wanted` needs; and every choice that was tried.

    `passes` begin with the quantising pass; `graph` is what it gets, and is not changed.

    Raises:
        EdgecError: EC0755 nothing found meets it, with how close the best choice came; EC0754 what is wanted is no budget.
    """
    from edgec.quantization.metric import Drop, load_metric
    from edgec.quantization.mixed_runs import search_mixed

    first = passes[0]
    if isinstance(first, Settles):
        first = first.settled(graph, ctx)
    correcting = _while_calibrating(passes[1:])

    def make(keep: frozenset[str], wide: frozenset[str], ranges: str) -> list[Pass]:
        given: dict[str, Any] = {"ranges": ranges} if ranges else {}
        return [_keeping(first, keep, wide, **given), *correcting]

    if wanted.max_drop is not None and wanted.metric is None:
        raise error("EC0754", "max-drop needs a metric", hint="--metric metric.py:function")
    mixed = search_mixed(
        graph, ctx, make,
        min_sqnr=wanted.min_sqnr,
        min_agreement=wanted.min_agreement,
        max_drop=Drop.parse(wanted.max_drop) if wanted.max_drop is not None else None,
        metric=load_metric(wanted.metric) if wanted.metric is not None else None,
        max_kept=wanted.max_kept,
        progress=progress,
    )  # fmt: skip
    if mixed.keep or mixed.wide:
        rows = [f"{layer} {became}" for layer, _, _, became in mixed.layer_table()]
        share = f"{mixed.chosen.share:.1%} of the MACs in integers"
        ctx.diagnostics.note("EC0756", f"mixed precision, {share}: {', '.join(rows)}")
    return [_keeping(first, frozenset(mixed.keep), frozenset(mixed.wide)), *passes[1:]], mixed


def _while_calibrating(passes: Sequence[Pass]) -> list[Pass]:
    """The passes that correct, which follow the quantising one."""
    out: list[Pass] = []
    for p in passes:
        if not p.needs_calibration:
            break
        out.append(p)
    return out


def _keeping(p: Pass, keep: frozenset[str], wide: frozenset[str], **options: Any) -> Pass:
    kept = tuple(dict.fromkeys((*getattr(p, "keep", ()), *sorted(keep))))
    if wide:
        options["wide"] = tuple(dict.fromkeys((*getattr(p, "wide", ()), *sorted(wide))))
    return dataclasses.replace(p, keep=kept, **options)  # type: ignore[call-arg]
