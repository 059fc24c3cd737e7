"""Post-training int8 side by side: edgec and its peers on the same models, calibration samples and judged samples.

    EDGEC_EVAL_DIR=... python benchmarks/accuracy.py --work FOLDER [--models ...] [--tools ...] [--only ...] [--limit N]

Each tool runs as a process of its own, in an environment of its own (benchmarks/peers/), on the same source file (input shapes
fixed, opset 13 at least) and the same 100 calibration samples, and writes an ONNX file. Those files are judged alike: by
evaluate.py of EDGEC_EVAL_DIR where the model has labels there, and against the float model's outputs. Everything is kept in
--work by content, so a second run redoes only what changed; --only limits what is run, the rest is shown as kept.

Columns: the judge's metric; agreement: samples with the float model's class (argmax of the output), or for a detector nothing;
SQNR: 10 log10(sum of squares of the float outputs / sum of squared differences) over all judged samples, the worst output;
s: wall time of the whole process (in brackets without start-up and imports); MB: its peak resident memory; int8 conv and
int8 matmul: integer kernels of all, in the graph that ONNX Runtime's optimiser makes of the file; ms: one inference on ONNX
Runtime, one thread, median, interleaved with the other tools; size in MB. A figure with ~ was taken beside other jobs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from peers.inputs import BENCHES, UNCLASSED
from peers.runs import Runs
from peers.tools import TOOLS

INTEGER_CONV = {"QLinearConv", "ConvInteger"}
FLOAT_CONV = {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose"}
INTEGER_MATMUL = {
    "QLinearMatMul",
    "QGemm",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QAttention",
}
FLOAT_MATMUL = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "TransposeMatMul", "Attention"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, required=True, help="environments, quantised models and results are kept here"
    )
    parser.add_argument("--models", nargs="+", default=list(BENCHES), choices=BENCHES, metavar="MODEL")
    parser.add_argument(
        "--tools", nargs="+", default=[t for t in TOOLS if TOOLS[t].default], choices=TOOLS, metavar="TOOL"
    )
    parser.add_argument(
        "--only", nargs="+", choices=TOOLS, metavar="TOOL", help="run these; show what is kept of the others"
    )
    parser.add_argument("--fresh", action="store_true", help="run again even if nothing changed")
    parser.add_argument("--limit", type=int, default=0, help="judged samples (default: all)")
    parser.add_argument("--calibration", type=int, default=100, help="calibration samples")
    parser.add_argument("--runs", type=int, default=30, help="timed inferences of each output; 0: none")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds a tool may take on a model")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    runs = Runs(args.work, samples=args.calibration, limit=args.limit, timeout=args.timeout, fresh=args.fresh)
    table = []
    for name in args.models:
        rows = measure(runs, name, args.tools, args.only or args.tools, args.runs)
        table += rows
        print(section(name, rows), flush=True)
    print(summary(table))
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


def measure(runs: Runs, name: str, tools: list[str], allowed: list[str], timed: int) -> list[dict[str, Any]]:
    """A row for the float model and one for each tool. Keys are missing where a figure could not be had."""
    source = runs.prepared(name) / "source.onnx"
    reference = runs.judged(name, source)
    if "failed" in reference:
        raise SystemExit(f"{name}: the float model does not run: {reference['failed']}")
    rows = [{"model": name, "tool": "float", "file": str(source), **compared(name, reference, reference)}]
    for tool in tools:
        done = runs.quantized(name, tool, run=tool in allowed)
        row: dict[str, Any] = {"model": name, "tool": tool}
        if done is None:
            continue
        row |= {k: v for k, v in done.report.items() if k != "versions"}
        if done.out:
            judged = runs.judged(name, done.out)
            row |= (
                {"failed": f"does not run: {judged['failed']}"}
                if "failed" in judged
                else compared(name, reference, judged)
            )
            row["file"] = str(done.out)
        rows.append(row)
    files = [Path(r["file"]) for r in rows if "file" in r]
    latency, busy = runs.timed(name, files, timed) if timed else ([None] * len(files), False)
    for row, took in zip([r for r in rows if "file" in r], latency, strict=True):
        row["megabytes"] = Path(row["file"]).stat().st_size / 1e6
        if took:
            row |= {"ms": took["ms"], "ms_busy": busy}
    return rows


def compared(name: str, reference: dict[str, Any], judged: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"sqnr": [sqnr(a, b) for a, b in zip(reference["outputs"], judged["outputs"], strict=True)]}
    if np.isfinite(judged["metric"]):
        row["metric"] = judged["metric"]
    if name not in UNCLASSED:
        a, b = (x["outputs"][0].reshape(len(x["outputs"][0]), -1).argmax(1) for x in (reference, judged))
        row["agreement"] = 100 * float((a == b).mean())
    kernels = judged["kernels"]
    for what, integer, others in (("conv", INTEGER_CONV, FLOAT_CONV), ("matmul", INTEGER_MATMUL, FLOAT_MATMUL)):
        found = sum(kernels.get(k, 0) for k in integer)
        row[what] = [found, found + sum(kernels.get(k, 0) for k in others)]
    return row


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    """Decibels; infinite when they are equal, minus infinite when `other` is not finite."""
    if not np.isfinite(other).all():
        return -np.inf
    noise = float(((reference.astype(np.float64) - other) ** 2).sum())
    return 10 * float(np.log10((reference.astype(np.float64) ** 2).sum() / noise)) if noise else np.inf


def section(name: str, rows: list[dict[str, Any]]) -> str:
    lines = [
        f"\n### {name}\n",
        "| tool | metric % | agreement % | SQNR dB | s | MB | int8 conv | int8 matmul | ms | size |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['tool']} | failed: {row['failed'].replace('|', '/')} | | | | | | | | |")
            continue
        beside = "~" if row.get("busy") else ""
        seconds = f"{beside}{row['seconds']:.1f} ({row['quantize_seconds']:.1f})" if "seconds" in row else "-"
        cells = [
            row["tool"] + ("*" if "note" in row else ""),
            show(row, "metric", ".2f"),
            show(row, "agreement", ".2f"),
            f"{min(row['sqnr']):.2f}",
            seconds,
            show(row, "peak_mb", ".0f"),
            "/".join(map(str, row["conv"])),
            "/".join(map(str, row["matmul"])),
            ("~" if row.get("ms_busy") else "") + show(row, "ms", ".2f"),
            show(row, "megabytes", ".2f"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = {r["note"] for r in rows if "note" in r}
    return "\n".join([*lines, *(f"\n\\* {n}" for n in sorted(notes))])


def show(row: dict[str, Any], key: str, form: str) -> str:
    return format(row[key], form) if key in row else "-"


SUMMARY = (("metric", max), ("agreement", max), ("sqnr", max), ("seconds", min), ("peak_mb", min), ("ms", min))


def kernels_in_integers(row: dict[str, Any]) -> int:
    """Convolutions and matrix products: a tool that leaves half of them in float has an easy time being accurate."""
    return int(row["conv"][0] + row["matmul"][0])


def best(rows: list[dict[str, Any]]) -> list[str]:
    """The best figure of each column, and whose it is."""
    cells = []
    for key, better in SUMMARY:
        have = {r["tool"]: min(r[key]) if key == "sqnr" else r[key] for r in rows if key in r}
        tool = better(have, key=lambda t, have=have: have[t], default=None)
        cells.append("-" if tool is None else f"{have[tool]:.2f} ({tool})")
    return cells


def summary(table: list[dict[str, Any]]) -> str:
    """edgec beside the best peer of each column, a line a model."""
    lines = [
        "\n### edgec and the best peer of each column\n",
        "| model | tool | metric % | agreement % | SQNR dB | s | MB | ms |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(r["model"] for r in table):
        rows = [r for r in table if r["model"] == name and "failed" not in r]
        peers = [r for r in rows if not r["tool"].startswith("edgec") and r["tool"] != "float"]
        for row in rows:
            if row["tool"] == "float" or row["tool"].startswith("edgec"):
                quality = "" if row["tool"] == "float" else f"{min(row['sqnr']):.2f}"
                shown = [show(row, "metric", ".2f"), show(row, "agreement", ".2f"), quality]
                shown += [show(row, "seconds", ".1f"), show(row, "peak_mb", ".0f"), show(row, "ms", ".2f")]
                lines.append(f"| {name} | {row['tool']} | " + " | ".join(shown) + " |")
        own = [r for r in rows if r["tool"].startswith("edgec")]
        integer = min((kernels_in_integers(r) for r in own), default=0)
        lines.append(f"| {name} | best peer | " + " | ".join(best(peers)) + " |")
        if own:
            as_integer = [r for r in peers if kernels_in_integers(r) >= integer]
            lines.append(f"| {name} | best peer, as many integer kernels | " + " | ".join(best(as_integer)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
