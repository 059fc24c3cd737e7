"""`edgec compare FOLDER plan.json`: where an artifact was predicted to run against where the device says it does."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.cli.console import Console
from edgec.diagnostics import Location, error

if TYPE_CHECKING:
    from edgec.actual_placement import ActualPlacement
    from edgec.diagnostics import Diagnostics
    from edgec.plugins import Registry

_SHOWN = 20


def compare_plan(folder: Path, plan: Path, console: Console, registry: Registry, found: Diagnostics) -> int:
    """`folder`: of a compilation, its report.json, or its artifact. Each difference is a warning (EC0410).

    Raises:
        EdgecError: EC0901 there is no report; EC0411 the target has no plans; the target's own.
    """
    from edgec.cli import OK
    from edgec.placement import Placement, differences
    from edgec.report import Report

    path = _report(folder)
    report = Report.read(path)
    actual = registry.target(report.target).read_plan(plan, report)
    try:
        placement = Placement.from_json(report.placement or {})
    except (KeyError, TypeError) as e:
        raise error("EC0901", f"the report's placement cannot be read: {e!r}", Location(str(path))) from None
    wrong = differences(placement, actual, found)
    placed = {name for layer in actual.nodes for name in layer.sources}
    told = [n for n in placement.nodes if n.node in placed]
    console.line(f"{report.target}, {report.precision}: {actual.source}", "title")
    console.table(("runs on", "operations", "of the work"), _devices(actual))
    agree = len(told) - len(wrong)
    console.line(f"  {agree} of {len(told)} nodes with operations of their own run where they were predicted")
    by_confidence = Counter((placement.of(d.node) or placement.nodes[0]).confidence for d in wrong)
    if by_confidence:
        parts = ", ".join(f"{name or 'no'} confidence {n}" for name, n in by_confidence.most_common())
        console.line(f"  predicted wrongly with {parts}", "warning")
    rows = [(d.op, d.node, d.predicted, d.explanation) for d in wrong]
    if rows:
        console.table(("op", "node", "predicted", "on the device"), rows[:_SHOWN])
        if len(rows) > _SHOWN:
            console.line(f"  and {len(rows) - _SHOWN} more (--json has all)", "dim")
    off = [(n.device or n.where, n.op, n.name, ", ".join(n.sources)) for n in actual.nodes if n.where == "fallback"]
    if off:
        console.line(f"operations not on {placement.device}", "heading")
        console.table(("runs on", "operation", "output", "node"), off[:_SHOWN])
        if len(off) > _SHOWN:
            console.line(f"  and {len(off) - _SHOWN} more (--json has all)", "dim")
    console.data(
        {
            "target": report.target,
            "precision": report.precision,
            "source": actual.source,
            "nodes": len(told),
            "agree": agree,
            "differences": [d.to_json() for d in wrong],
            "operations": [n.to_json() for n in actual.nodes],
        }
    )
    console.diagnostics(found if console.as_json else [d for d in found if d.code != "EC0410"])
    return OK


def _report(folder: Path) -> Path:
    for path in (folder, folder / "report.json", folder.parent / "report.json"):
        if path.name == "report.json" and path.is_file():
            return path
    hint = "give the folder that `edgec compile -o` wrote"
    raise error("EC0901", "there is no report.json", Location(str(folder)), hint)


def _devices(actual: ActualPlacement) -> list[tuple[str, str, str]]:
    """By device: operations, and the share of the work where the plan tells it."""
    count: Counter[str] = Counter()
    work: dict[str, float] = defaultdict(float)
    for layer in actual.nodes:
        device = layer.device or layer.where
        count[device] += 1
        work[device] += layer.cost or 0.0
    total = sum(work.values())
    return [(d, str(n), f"{work[d] / total:.1%}" if total else "") for d, n in count.most_common()]
