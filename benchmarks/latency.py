"""Latency of int8 on ONNX Runtime's CPU provider: edgec's output, ONNX Runtime's own quantised output, and the float model.

    EDGEC_EVAL_DIR=... python benchmarks/latency.py --work FOLDER [--models ...] [--tools ...] [--runs 100] [--repeat 3]

One thread, a real sample, runs of all files interleaved; the whole is repeated in fresh processes. Shown: the median of the
processes' medians, the spread between processes, the 10th percentile (what is left where other jobs disturb least), and how many convolutions and matrix products became integer kernels.
Quantised files are those of accuracy.py if --work is the same; missing ones are made. A figure with ~ was taken beside other
jobs: compare within a row only.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from accuracy import compared
from peers.inputs import BENCHES
from peers.runs import Runs
from peers.tools import TOOLS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(BENCHES), choices=BENCHES, metavar="MODEL")
    parser.add_argument("--tools", nargs="+", default=["edgec", "ort-minmax"], choices=TOOLS, metavar="TOOL")
    parser.add_argument("--runs", type=int, default=100, help="timed inferences of each file in a process")
    parser.add_argument("--repeat", type=int, default=3, help="processes")
    parser.add_argument(
        "--limit", type=int, default=50, help="samples used to count kernels and check that a file runs"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    runs = Runs(args.work, limit=args.limit)
    table: list[dict[str, Any]] = []
    print("| model | file | ms | spread ms | 10 % ms | float / this | int8 conv | int8 matmul | SQNR dB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.models:
        rows = measure(runs, name, args.tools, args.runs, args.repeat)
        table += rows
        print("\n".join(line(r, rows[0]) for r in rows), flush=True)
    print(verdict(table))
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


def measure(runs: Runs, name: str, tools: list[str], timed: int, repeat: int) -> list[dict[str, Any]]:
    files: dict[str, Path] = {"float": runs.prepared(name) / "source.onnx"}
    rows: dict[str, dict[str, Any]] = {"float": {}}
    for tool in tools:
        done = runs.quantized(name, tool)
        assert done is not None
        rows[tool] = {k: v for k, v in done.report.items() if k == "failed"}
        if done.out:
            files[tool] = done.out
    reference = runs.judged(name, files["float"])
    for tool in list(files):
        judged = runs.judged(name, files[tool])
        if "failed" in judged:
            rows[tool]["failed"] = judged["failed"]
            del files[tool]
        else:
            rows[tool] |= compared(name, reference, judged)
    taken = [runs.timed(name, list(files.values()), timed) for _ in range(repeat)]
    for i, tool in enumerate(files):
        medians = [t["ms"] for found, _ in taken if (t := found[i])]
        rows[tool] |= {"ms": statistics.median(medians), "spread": max(medians) - min(medians)}
        rows[tool]["p10"] = statistics.median(t["p10"] for found, _ in taken if (t := found[i]))
        rows[tool]["busy"] = any(b for _, b in taken)
    return [{"model": name, "tool": tool, **row} for tool, row in rows.items()]


def line(row: dict[str, Any], base: dict[str, Any]) -> str:
    if "failed" in row:
        return f"| {row['model']} | {row['tool']} | failed: {row['failed'].replace('|', '/')} | | | | | | |"
    conv, matmul = ("/".join(map(str, row[k])) for k in ("conv", "matmul"))
    return (
        f"| {row['model']} | {row['tool']} | {'~' if row['busy'] else ''}{row['ms']:.3f} | {row['spread']:.3f} | {row['p10']:.3f} | "
        f"{base['ms'] / row['ms']:.2f} | {conv} | {matmul} | {min(row['sqnr']):.2f} |"
    )


def verdict(table: list[dict[str, Any]]) -> str:
    """On how many models edgec's file is no slower than each other file, 5 % being noise."""
    times = {(r["model"], r["tool"]): r["ms"] for r in table if "ms" in r}
    names = list(dict.fromkeys(r["model"] for r in table))
    lines = [""]
    for other in dict.fromkeys(r["tool"] for r in table if r["tool"] != "edgec"):
        both = [n for n in names if (n, "edgec") in times and (n, other) in times]
        slower = [n for n in both if times[n, "edgec"] > 1.05 * times[n, other]]
        lines.append(
            f"edgec against {other}: no slower on {len(both) - len(slower)} of {len(both)}; slower: {slower or 'none'}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
