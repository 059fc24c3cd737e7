"""The report as an engineer reads it in a terminal: about forty lines, the same text with and without colours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgec.diagnostics import Severity

if TYPE_CHECKING:
    from edgec.report import Report, Verification

Style = Literal["title", "heading", "text", "good", "warning", "error", "dim"]
Line = tuple[Style, str]

_SHOWN = 8
"""Lines of one kind before the rest is left to report.json."""


def summary_text(report: Report, folder: str | Path | None = None) -> str:
    """Plain lines, for files, pipes and `print`."""
    return "\n".join(text for _, text in summary_lines(report, folder))


def summary_lines(report: Report, folder: str | Path | None = None) -> Iterator[Line]:
    """The lines with the style each one has on a terminal. `folder`: where the files are, if they were written."""
    yield from _model(report)
    yield from _passes(report)
    yield from _placement(report)
    yield from _artifact(report)
    if report.verification is not None:
        yield from _verification(report.verification)
    yield from _diagnostics(report)
    yield from _files(report, folder)


def _model(report: Report) -> Iterator[Line]:
    m = report.model
    yield "title", f"{Path(m.path).name or m.name or 'model'} -> {report.target}, {report.precision}"
    inputs, outputs = (", ".join(_some([str(t) for t in ts], 3)) for ts in (m.inputs, m.outputs))
    yield "text", f"  {inputs} -> {outputs}"
    weights = f"{m.parameters:,} parameters ({size(m.weight_bytes)})"
    yield "dim", f"  {weights}, {m.nodes:,} nodes, opset {m.opset}"


def _passes(report: Report) -> Iterator[Line]:
    if not report.passes:
        return
    changed = [p for p in report.passes if p.changed]
    before, after = sum(report.ops_before.values()), sum(report.ops_after.values())
    seconds = sum(p.seconds for p in report.passes)
    head = f"Passes: {len(changed)} of {len(report.passes)} changed the graph, {before:,} -> {after:,} nodes, {seconds:.2f} s"
    yield "heading", head
    for p in changed:
        stats = [f"{name} {n}" for name, n in sorted(p.stats.items(), key=lambda kv: -kv[1]) if n]
        what = ", ".join(_some(stats, 4))
        name = p.spec if len(p.spec) <= 30 else p.spec[:29] + "…"
        yield "text", f"  {name:<30} {p.nodes_before:>5} -> {p.nodes_after:<5} {what}".rstrip()
    yield "text", f"  ops: {_op_changes(report.ops_before, report.ops_after)}"


def _op_changes(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """`Conv 52, BatchNormalization 52 -> 0`: the commonest first, those that changed before those that did not."""
    names = sorted(
        {*before, *after},
        key=lambda o: (before.get(o, 0) == after.get(o, 0), -max(before.get(o, 0), after.get(o, 0)), o),
    )
    parts = []
    for op in names:
        b, a = before.get(op, 0), after.get(op, 0)
        parts.append(f"{op} {a}" if a == b else f"{op} {b} -> {a}")
    return ", ".join(_some(parts, 12))


def _placement(report: Report) -> Iterator[Line]:
    p = report.placement
    if p is None:
        return
    counts = p["counts"]
    text = f"Placement: {counts['accelerator']:,} nodes on the accelerator"
    text += f", {counts['fallback']:,} on the CPU" if counts["fallback"] else ", none on the CPU"
    if counts["impossible"]:
        text += f", {counts['impossible']:,} impossible"
    if p.get("macs"):
        text += f" ({p['mac_share']:.1%} of {p['macs'] / 1e6:,.0f} M multiply-adds)"
    yield "heading", text
    by_name = {n["node"]: n for n in p["nodes"]}
    islands = p["islands"]
    for island in islands[:_SHOWN]:
        yield from _island(island, by_name)
    if len(islands) > _SHOWN:
        yield "warning", f"  and {len(islands) - _SHOWN} more islands (report.json has all)"
    for n in [n for n in p["nodes"] if n["where"] == "impossible"][:_SHOWN]:
        yield "error", f"  impossible: {n['op']} {n['node']}: {n.get('reason', 'not in the op table')}"
    for d in report.differences[:_SHOWN]:
        yield "warning", f"  predicted {d['predicted']}, really {d['actual']}: {d['op']} {d['node']}"
    if len(report.differences) > _SHOWN:
        yield "warning", f"  and {len(report.differences) - _SHOWN} more differences"


def _island(island: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]]) -> Iterator[Line]:
    nodes = [by_name[n] for n in island["nodes"] if n in by_name]
    ops = ", ".join(_some([f"{n['op']} {n['node']}" for n in nodes], 3))
    moved = f"; {size(island['bytes'])} cross to and from it" if island["bytes"] else ""
    yield "warning", f"  on the CPU: {ops}{moved}"
    for reason in list(dict.fromkeys(n["reason"] for n in nodes if n.get("reason")))[:3]:
        yield "dim", f"    why: {reason}"
    for rewrite in dict.fromkeys(n["rewrite"] for n in nodes if n.get("rewrite")):
        yield "dim", f"    pass {rewrite} brings it back"
    for hint in list(dict.fromkeys(n["hint"] for n in nodes if n.get("hint")))[:2]:
        yield "dim", f"    hint: {hint}"


def _artifact(report: Report) -> Iterator[Line]:
    a = report.artifact
    if a is None:
        return
    total = sum(f.bytes for f in a.files.values())
    more = f" and {len(a.files) - 1} more files, {size(total)} together" if len(a.files) > 1 else ""
    entry = f", {size(a.files[a.entry].bytes)}" if a.entry in a.files else ""
    yield "heading", f"Artifact: {a.entry}{entry}{more}"
    for name, value in a.facts.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if isinstance(v, (str, int, float)))
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and str(value):
            label = name.replace("_", " ")
            shown = size(int(value)) if label.endswith(" bytes") else f"{value:,}" if isinstance(value, int) else value
            yield "text", f"  {label.removesuffix(' bytes')}: {_short(str(shown))}"
    if not a.reproducible and "not_reproducible" not in a.facts:
        yield "dim", "  compiling again writes other bytes (the vendor's SDK)"


def _verification(v: Verification) -> Iterator[Line]:
    source = f" ({_short(v.source)})" if v.source else ""
    if v.comparison is not None:
        samples = f"{v.samples:,} sample{'' if v.samples == 1 else 's'}{source}"
        yield "heading", f"Accuracy against the float model on {samples}"
        if v.generated and "not real data" not in (v.source or ""):
            yield "warning", "  generated samples: not real data"
        if v.runner:
            yield "dim", f"  executed by {v.runner}"
        yield from _outputs(v.comparison["outputs"])
    elif v.optimised is not None:
        yield "heading", f"Graph after our passes against the float model on {v.samples:,} samples{source}"
        yield from _outputs(v.optimised["outputs"])
    if v.not_verified:
        yield "heading", "Not verified"
        for text in v.not_verified:
            yield "warning", f"  {text}"


def _outputs(outputs: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    width = min(32, max((len(o["name"]) for o in outputs), default=0))
    for o in outputs[:_SHOWN]:
        yield "good" if o["finite"] else "error", f"  {o['name']:<{width}}  {figures(o)}"
    if len(outputs) > _SHOWN:
        yield "dim", f"  and {len(outputs) - _SHOWN} more outputs"


def figures(o: Mapping[str, Any]) -> str:
    """`SQNR 45.2 dB  cosine 0.999990  max error 0.012  top-1 agreement 100.00%` of one compared output."""
    if o.get("exact"):
        return "bit-equal"
    if not o["finite"]:
        return "has NaN or infinite values"
    sqnr = "SQNR -" if o["sqnr_db"] is None else f"SQNR {o['sqnr_db']:.1f} dB"
    cosine = "" if o["cosine"] is None else f"  cosine {o['cosine']:.6f}"
    worst = "" if o["max_abs"] is None else f"  max error {o['max_abs']:.3g}"
    top1 = "" if o.get("top1_agreement") is None else f"  top-1 agreement {o['top1_agreement']:.2%}"
    return sqnr + cosine + worst + top1


def _diagnostics(report: Report) -> Iterator[Line]:
    found = [d for d in report.diagnostics if d.severity >= Severity.WARNING]
    if not found:
        return
    yield "heading", f"Warnings: {len(found)}"
    for d in found[:_SHOWN]:
        yield "warning", f"  {d.code}: {_short(d.message, 150)}"
    if len(found) > _SHOWN:
        yield "warning", f"  and {len(found) - _SHOWN} more (report.json has all)"


def _files(report: Report, folder: str | Path | None) -> Iterator[Line]:
    spent = ", ".join(f"{stage} {s:.1f} s" for stage, s in report.seconds.items() if s >= 0.05)
    if spent:
        yield "dim", f"Time: {spent}"
    if folder is not None:
        names = sorted(p.name + ("/" if p.is_dir() else "") for p in Path(folder).iterdir())
        entry = report.artifact.entry if report.artifact is not None else ""
        rest = ", ".join(_some([n for n in names if n != entry], 6))
        yield "heading", f"Written: {Path(folder) / entry}" + (f" (and {rest})" if rest else "")


def size(n: int) -> str:
    """`13.4 MiB`."""
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{n:,} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def _some(parts: Sequence[str], limit: int) -> list[str]:
    return [*parts[:limit], f"{len(parts) - limit} more"] if len(parts) > limit else list(parts)


def _short(text: str, limit: int = 110) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
