"""The report as an engineer reads it in a terminal: about forty lines, the same text with and without colours."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgec.coverage import INTEGER_PRODUCTS
from edgec.diagnostics import Severity
from edgec.placement import CPU

if TYPE_CHECKING:
    from edgec.report import Report, Stage, TensorInfo, Verification

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
    yield from _coverage(report)
    yield from _compression(report.compression)
    yield from (("text", f"  {d.message}") for d in report.diagnostics if d.code == _GOAL)
    if report.verification is not None:
        yield from _verification(report.verification, _source(report))
    yield from _diagnostics(report)
    yield from _files(report, folder)


def _model(report: Report) -> Iterator[Line]:
    m = report.model
    yield "title", f"{Path(m.path).name or m.name or 'model'} -> {report.target}, {report.precision}"
    inputs, outputs = (", ".join(_some([_tensor(t) for t in ts], 3)) for ts in (m.inputs, m.outputs))
    yield "text", f"  {inputs} -> {outputs}"
    weights = f"{m.parameters:,} parameters ({size(m.weight_bytes)})"
    yield "dim", f"  {weights}, {m.nodes:,} nodes, opset {m.opset}"


def _tensor(t: TensorInfo) -> str:
    """`images float[Nx3x640x640]`; a symbol as long as an exporter's "p2o.DynamicDimension.0" is shown as ?."""
    dims = None if t.shape is None else tuple(None if isinstance(d, str) and len(d) > 12 else d for d in t.shape)
    return _one_line(str(replace(t, shape=dims)))


def _passes(report: Report) -> Iterator[Line]:
    if not report.passes:
        return
    changed = [p for p in report.passes if p.changed]
    before, after = sum(report.ops_before.values()), sum(report.ops_after.values())
    seconds = sum(p.seconds for p in report.passes)
    head = f"Passes: {len(changed)} of {len(report.passes)} changed the graph, {before:,} -> {after:,} nodes, {seconds:.2f} s"
    yield "heading", head
    quiet = []
    for p in changed:
        stats = [f"{name} {n}" for name, n in sorted(p.stats.items(), key=lambda kv: -kv[1]) if n]
        if not stats and p.nodes_before == p.nodes_after:
            quiet.append(_pass_name(p.spec))
            continue
        what = ", ".join(_some(stats, 4))
        yield "text", f"  {_pass_name(p.spec):<30} {p.nodes_before:>5} -> {p.nodes_after:<5} {what}".rstrip()
    if quiet:
        yield "dim", f"  nodes unchanged: {', '.join(dict.fromkeys(quiet))}"
    yield "text", f"  ops: {_op_changes(report.ops_before, report.ops_after)}"


def _pass_name(spec: str) -> str:
    """A pass without its options, a group by its first members: report.json has the whole text."""
    name = re.sub(r"\{.*?\}(?=[,\]]|$)", "", spec)
    if len(name) <= 30 or not name.startswith("["):
        return name
    return f"{name[:25].rpartition(',')[0]},…]*"


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
    device, other = p.get("device", "the accelerator"), p.get("fallback", CPU)
    head = "Placement, predicted" if p.get("predicted") else "Placement"
    text = f"{head}: {counts['accelerator']:,} nodes on {device}"
    if other not in device:
        text += f", {counts['fallback']:,} on {other}" if counts["fallback"] else f", none on {other}"
    if counts["impossible"]:
        text += f", {counts['impossible']:,} impossible"
    if p.get("macs"):
        text += f" ({p['mac_share']:.1%} of {p['macs'] / 1e6:,.0f} M multiply-adds)"
    yield "heading", text
    if p.get("predicted"):
        yield "dim", f"  {_confidence(p['nodes'])}; {p['predicted']}"
    by_name = {n["node"]: n for n in p["nodes"]}
    islands = p["islands"]
    for island in islands[:_SHOWN]:
        yield from _island(island, by_name, other)
    if len(islands) > _SHOWN:
        yield "warning", f"  and {len(islands) - _SHOWN} more islands (report.json has all)"
    for n in [n for n in p["nodes"] if n["where"] == "impossible"][:_SHOWN]:
        yield "error", f"  impossible: {n['op']} {n['node']}: {n.get('reason', 'not in the op table')}"
    for d in report.differences[:_SHOWN]:
        yield "warning", f"  predicted {d['predicted']}, really {d['actual']}: {d['op']} {d['node']}"
    if len(report.differences) > _SHOWN:
        yield "warning", f"  and {len(report.differences) - _SHOWN} more differences"


def _confidence(nodes: Sequence[Mapping[str, Any]]) -> str:
    """`confidence high for 64 nodes, medium for 38`."""
    found = Counter(n.get("confidence", "low") for n in nodes)
    parts = [f"{name} for {found[name]:,}" for name in ("high", "medium", "low") if found[name]]
    return f"confidence {', '.join(parts)} nodes" if parts else "no nodes"


def _island(island: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]], other: str) -> Iterator[Line]:
    nodes = [by_name[n] for n in island["nodes"] if n in by_name]
    ops = ", ".join(_some([f"{n['op']} {n['node']}" for n in nodes], 3))
    moved = f"; {size(island['bytes'])} cross to and from it" if island["bytes"] else ""
    yield "warning", f"  on {other}: {ops}{moved}"
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
    own = [f.bytes for name, f in a.files.items() if name == a.entry or name.startswith(f"{a.entry}/")]
    others = len(a.files) - len(own)
    entry = f", {size(sum(own))}" + (f" in {len(own)} files" if len(own) > 1 else "") if own else ""
    total = sum(f.bytes for f in a.files.values())
    more = f" and {others} more file{'s' * (others > 1)}, {size(total)} together" if others else ""
    yield "heading", f"Artifact: {a.entry}{entry}{more}"
    told = report.verification.runner if report.verification is not None else None
    facts = {k: v for k, v in a.facts.items() if v != told}
    figures_ = [_figure(k, v) for k, v in facts.items() if isinstance(v, (int, float)) and not isinstance(v, bool)]
    for start in range(0, len(figures_), 4):
        yield "text", f"  {', '.join(figures_[start : start + 4])}"
    for name, value in facts.items():
        if isinstance(value, Mapping):
            value = ", ".join(_parts(name, value))
        if isinstance(value, str) and value:
            yield "text", f"  {name.replace('_', ' ')}: {_short(value)}"
    if not a.reproducible and "not_reproducible" not in a.facts:
        yield "dim", "  compiling again writes other bytes (the vendor's SDK)"


def _coverage(report: Report) -> Iterator[Line]:
    c = report.coverage
    if c is None:
        return
    short = [f for f in c.in_float if not f.asked]
    yield "warning" if short else "good", f"  {report.precision}: {c}, says {c.source}"
    causes: dict[str, list[str]] = {}
    for f in c.in_float:
        causes.setdefault(f"{f.op}: {f.cause}", []).append(f.node)
    for cause, nodes in list(causes.items())[:_SHOWN]:
        yield "dim", f"    in float: {', '.join(_some(nodes, 3))}: {_short(cause)}"


def _compression(stages: Sequence[Stage]) -> Iterator[Line]:
    if not stages:
        return
    yield "heading", "Stages"
    columns = ["stage", "size", "coded", "MACs", "ms", "SQNR dB", "agreement", "metric"]
    rows = [
        [
            _short(s.name, 40), size(s.bytes), _coded(s), f"{s.macs / 1e6:,.1f} M", _optional(s.latency_ms, ".2f"), _optional(s.sqnr_db, ".1f"),
            _optional(s.agreement, ".1%"), _optional(s.metric, ".4g"),
        ]
        for s in stages
    ]  # fmt: skip
    shown = [i for i in range(len(columns)) if i in (0, 1, 3) or any(row[i] for row in rows)]
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for n, row in enumerate([columns, *rows]):
        cells = (row[i].ljust(widths[i]) if i == 0 else row[i].rjust(widths[i]) for i in shown)
        yield "dim" if n == 0 else "text", f"  {'  '.join(cells)}".rstrip()
    if by := list(dict.fromkeys(s.latency_by for s in stages if s.latency_by)):
        yield "dim", f"  ms: one inference with one thread, {'; the artifact: '.join(by)}"
    yield "text", f"  {_ratios(stages)}"


def _coded(stage: Stage) -> str:
    """Where coding would make it a tenth smaller or more."""
    coded = stage.coded_bytes
    return size(coded) if coded is not None and coded < 0.9 * stage.bytes else ""


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _ratios(stages: Sequence[Stage]) -> str:
    """`together: 4.6 times smaller, 3.1 times faster on this machine (LiteRT ...)`."""
    first, last = stages[0], stages[-1]
    text = f"together: {first.bytes / max(last.bytes, 1):.1f} times smaller"
    fast = next((s for s in reversed(stages) if s.latency_ms is not None), first)
    if first.latency_ms is not None and fast.latency_ms is not None and fast is not first:
        text += f", {first.latency_ms / fast.latency_ms:.1f} times faster on this machine"
        if fast is not last:
            text += f" up to {_short(fast.name, 40)} (the artifact's latency cannot be measured here)"
    return text


_GOAL = "EC0362"
"""What a goal of pruning in time or flash came to: said with the stages."""

_UNITS = ("bytes", "KB", "MB", "KiB", "MiB", "ms", "s")
_COMMON = frozenset({"python", "numpy", "onnx", "onnxruntime"})
"""Versions that tell little in a summary; the manifest has all."""


def _figure(name: str, value: float) -> str:
    """`weight memory 3,610.8 KB`: the unit that ends a fact's name goes behind the number."""
    label, _, unit = name.replace("_", " ").rpartition(" ")
    if unit not in _UNITS or not label:
        label, unit = name.replace("_", " "), ""
    if unit == "bytes":
        return f"{label} {size(int(value))}"
    return f"{label} {value:,}{' ' * bool(unit)}{unit}" if isinstance(value, int) else f"{label} {value:,.1f} {unit}"


def _parts(name: str, values: Mapping[str, Any]) -> Iterator[str]:
    """A fact that is a mapping, without what says nothing: steps of no time, versions of common packages."""
    for k, v in values.items():
        if isinstance(v, float) and name == "seconds":
            if v >= 0.05:
                yield f"{k} {v:.1f}"
        elif isinstance(v, (str, int, float)) and not (name == "versions" and k in _COMMON):
            yield f"{k} {v}"


def _source(report: Report) -> str:
    """What everything is compared with: a model that came with Q/DQ is no float model."""
    stored = {"DequantizeLinear", "DynamicQuantizeLinear", "MatMulNBits", *INTEGER_PRODUCTS}
    return "the model as given" if stored & report.ops_before.keys() else "the float model"


def _verification(v: Verification, source: str) -> Iterator[Line]:
    if v.comparison is not None:
        yield "heading", f"Accuracy against {source}"
        yield from _outputs(v.comparison["outputs"])
    elif v.optimised is not None:
        yield "heading", f"Graph after our passes against {source}"
        yield from _outputs(v.optimised["outputs"])
    if v.comparison is not None or v.optimised is not None:
        yield "dim", f"  on {_samples(v)}"
        if v.runner:
            yield "dim", f"  executed by {v.runner}"
        if v.generated and not any("real data" in text for text in v.not_verified):
            yield "warning", "  generated samples: not real data"
    if v.not_verified:
        yield "heading", "Not verified"
        for text in v.not_verified:
            yield "warning", f"  {text}"


def _samples(v: Verification) -> str:
    """The samples in the words of their source, which mostly begin with their number."""
    source = (v.source or "").removesuffix(": not real data")
    if source.startswith(("the first ", f"{v.samples} ")):
        return source
    number = f"{v.samples:,} sample{'' if v.samples == 1 else 's'}"
    return f"{number}: {source.removeprefix('samples of ')}" if source else number


def _outputs(outputs: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    width = min(32, max((len(o["name"]) for o in outputs), default=0))
    for o in outputs[:_SHOWN]:
        yield _judged(o), f"  {_one_line(o['name']):<{width}}  {figures(o)}"
    if len(outputs) > _SHOWN:
        yield "dim", f"  and {len(outputs) - _SHOWN} more outputs"


_POOR = 20.0
"""dB of SQNR (a tenth of the signal is error) below which an output is shown as a warning."""


def _judged(o: Mapping[str, Any]) -> Style:
    if not o["finite"]:
        return "error"
    return "warning" if o["sqnr_db"] is not None and not o.get("exact") and float(o["sqnr_db"]) < _POOR else "good"


def _one_line(name: str) -> str:
    """A name with control characters escaped: it must not break the lines of the summary."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def figures(o: Mapping[str, Any]) -> str:
    """`SQNR 45.2 dB  cosine 0.999990  max error 0.012  top-1 agreement 100.00%` of one compared output."""
    if o.get("exact"):
        return "bit-equal" if o["finite"] else "bit-equal, with NaN or infinite values"
    if not o["finite"]:
        return "has NaN or infinite values"
    sqnr = "SQNR -" if o["sqnr_db"] is None else f"SQNR {float(o['sqnr_db']):.1f} dB"
    cosine = "" if o["cosine"] is None else f"  cosine {o['cosine']:.6f}"
    worst = "" if o["max_abs"] is None else f"  max error {o['max_abs']:.3g}"
    top1 = "" if o.get("top1_agreement") is None else f"  top-1 agreement {o['top1_agreement']:.2%}"
    return sqnr + cosine + worst + top1


def _diagnostics(report: Report) -> Iterator[Line]:
    found = [d for d in report.diagnostics if d.severity >= Severity.WARNING]
    if not found:
        return
    places: dict[tuple[str, str], list[str]] = {}
    for d in found:
        places.setdefault((d.code, d.message), []).append(str(d.location))
    yield "heading", f"Warnings: {len(found)}"
    for (code, message), where in list(places.items())[:_SHOWN]:
        at = f" ({where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''})" if where[0] else ""
        yield "warning", f"  {code}: {_short(message, 150)}{at}"
    if len(places) > _SHOWN:
        yield "warning", f"  and {len(places) - _SHOWN} more kinds (report.json has all)"


def _files(report: Report, folder: str | Path | None) -> Iterator[Line]:
    spent = ", ".join(f"{stage} {s:.1f} s" for stage, s in report.seconds.items() if s >= 0.05)
    if spent:
        yield "dim", f"Time: {spent}"
    if folder is not None:
        entry = report.artifact.entry if report.artifact is not None else ""
        found = sorted(p for p in Path(folder).iterdir() if p.name != entry)
        rest = ", ".join(_some([p.name + ("/" if p.is_dir() else "") for p in found], 6))
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
