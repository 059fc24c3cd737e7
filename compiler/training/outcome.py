"""What a training run brought, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgec.diagnostics import Diagnostics, Location
from edgec.graph import Graph

if TYPE_CHECKING:
    from edgec.training.run import Distilled


def tell(result: Distilled, graph: Graph, found: Diagnostics) -> None:
    """A note on what training brought, and a warning where it brought nothing."""
    where = Location(graph.source)
    if not result.best_step:
        hint = "a smaller lr, more epochs or more samples"
        found.warn("EC0354", "training brought nothing: on held-out samples no epoch was better", where, hint)
        return
    gained = f"loss on held-out samples {result.loss_before:.4g} -> {result.loss_after:.4g}"
    again = f", resumed after batch {result.resumed_at}" if 0 < result.resumed_at < result.steps else ""
    found.note("EC0355", f"trained on {result.steps} batches: {gained}{again}", where)
