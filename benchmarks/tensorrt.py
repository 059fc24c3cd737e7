"""ONNX for TensorRT side by side: edgec's bundles for a Jetson and NVIDIA ModelOpt's files, of the same models and samples.

    EDGEC_EVAL_DIR=... python benchmarks/tensorrt.py --work FOLDER [--models ...] [--forms ...] [--limit N] [--json FILE]

Each tool runs as a process of its own, in an environment of its own (benchmarks/peers/), on the same source file with fixed
input shapes and the same 100 calibration samples. All files of a model are then judged alike, in ONNX Runtime on a CPU: by
evaluate.py of EDGEC_EVAL_DIR where the model has labels there, and against the float model's outputs. The optimiser is off:
ONNX Runtime 1.31.1 optimises Q/DQ with float16 scales to other numbers (fastestdet, the same file: 15.9 dB without, -1.5 dB with
ORT_ENABLE_BASIC; ModelOpt's: 12.2 and -1.3). No GPU is needed and nothing runs on one: the verdict is that of TensorRT-RTX's own
ONNX parser and ahead-of-time builder (toolchain tensorrt-rtx), which is evidence about the file, not about a board. Whatever is
unchanged is kept in --work.

The forms: weak is float32-typed (trtexec's --fp16 --int8 choose the types), strong has float16 tensors (--stronglyTyped).

Columns: the judge's metric; agreement: samples with the float model's class; SQNR in dB against the float model, the worst
output; pairs: DequantizeLinear nodes; int8 conv and int8 matmul: those whose data and weight come dequantised, of all; s, CPU s
and MB: wall time, processor time and peak memory of the whole process (for edgec with the checks and reports of the
bundle); file in MB; parser; SM86 and SM89: MB of the plan. A figure with ~ was taken beside other jobs.

A second table has the inputs of nodes that only one of the two int8 files quantises, and the rule that made the difference.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from accuracy import compared, show
from peers.inputs import BENCHES
from peers.qdq_placement import Placement, compare, placement, unaligned
from peers.runs import Runs, hashed
from peers.tables import failed, head
from peers.tools import Tool

from edgec.targets.tensorrt.oracle import judge
from edgec.toolchain import ToolchainManager

STRONG = {"jetpack": "7.2"}
FORMS: dict[str, Tool] = {
    "edgec fp16 weak": Tool("edgec_tensorrt", None, {"precision": "fp16"}, quantizes=False),
    "edgec fp16 strong": Tool("edgec_tensorrt", None, {"precision": "fp16", **STRONG}, quantizes=False),
    "ModelOpt AutoCast": Tool("modelopt_autocast", "modelopt", quantizes=False),
    "edgec int8 weak": Tool("edgec_tensorrt", None),
    "edgec int8 strong": Tool("edgec_tensorrt", None, STRONG),
    "ModelOpt entropy": Tool("modelopt_ptq", "modelopt"),
    "ModelOpt max": Tool("modelopt_ptq", "modelopt", {"method": "max"}),
    "ModelOpt entropy fp16": Tool("modelopt_ptq", "modelopt", {"dtype": "fp16"}),
}
OURS, THEIRS = "edgec int8 weak", "ModelOpt entropy"
"""Whose pairs are compared: both keep names and float32."""
CAPABILITIES = ("sm86", "sm89")
COLUMNS = (
    "file", "metric %", "agreement %", "SQNR dB", "pairs", "int8 conv", "int8 matmul", "s", "CPU s", "MB", "file MB", "parser",
    "SM86", "SM89",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="environments, files and results are kept here")
    parser.add_argument("--models", nargs="+", default=list(BENCHES), choices=BENCHES, metavar="MODEL")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS, metavar="FORM")
    parser.add_argument("--fresh", action="store_true", help="convert again even if nothing changed")
    parser.add_argument("--limit", type=int, default=0, help="judged samples (default: all)")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds a conversion may take")
    parser.add_argument("--no-judge", action="store_true", help="convert, place and parse only")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    runs = Runs(args.work, limit=args.limit, timeout=args.timeout, fresh=args.fresh, tools=FORMS)
    oracle = Oracle(args.work)
    table = []
    for name in args.models:
        rows = measure(runs, oracle, name, args.forms, judging=not args.no_judge)
        table += rows
        print(section(name, rows), flush=True)
    print(summary(table))
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


class Oracle:
    """Verdicts of TensorRT-RTX, kept by the content of the file."""

    def __init__(self, work: Path) -> None:
        self.kept = work / "verdicts"
        self.toolchains = ToolchainManager()

    def verdict(self, model: Path) -> dict[str, Any]:
        kept = self.kept / f"{hashed(model, *CAPABILITIES)}.json"
        if not kept.exists():
            self.kept.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as scratch:
                found = judge(model, self.toolchains, workdir=Path(scratch), capabilities=CAPABILITIES)
            kept.write_text(json.dumps(found.to_json() | {"summary": found.summary}, indent=1))
        read: dict[str, Any] = json.loads(kept.read_text())
        return read


def measure(runs: Runs, oracle: Oracle, name: str, forms: list[str], *, judging: bool) -> list[dict[str, Any]]:
    """A row for the float model and one for each form. Keys are missing where a figure could not be had."""
    source = runs.prepared(name) / "source.onnx"
    reference = runs.judged(name, source, optimise=False) if judging else {}
    rows = [row_of(runs, oracle, name, "float", source, reference)]
    for form in forms:
        done = runs.quantized(name, form)
        assert done is not None  # it was allowed to run
        told = {k: v for k, v in done.report.items() if k != "versions"}
        if done.out is None:
            rows.append({"model": name, "form": form, **told})
        else:
            rows.append(row_of(runs, oracle, name, form, done.out, reference) | told)
    files = {r["form"]: Path(r["file"]) for r in rows if "file" in r}
    if OURS in files and THEIRS in files:
        rows[0]["differences"] = differences(placement(files[OURS]), placement(files[THEIRS]))
    return rows


def row_of(runs: Runs, oracle: Oracle, name: str, form: str, file: Path, reference: dict[str, Any]) -> dict[str, Any]:
    """What can be said of a file."""
    placed = placement(file)
    row: dict[str, Any] = {"model": name, "form": form, "file": str(file), "megabytes": file.stat().st_size / 1e6}
    row |= {"pairs": placed.pairs, "int8": dict(placed.integer), "verdict": oracle.verdict(file)}
    if not reference:
        return row
    judged = runs.judged(name, file, optimise=False)
    return row | ({"unjudged": judged["failed"]} if "failed" in judged else compared(name, reference, judged))


def differences(ours: Placement, theirs: Placement) -> list[dict[str, Any]]:
    """Lines of the second table: how many inputs of which op, whose, why."""
    found = Counter((d.op, d.index, d.who, d.rule) for d in compare(ours, theirs))
    lines = [
        {"op": op, "index": index, "who": who, "rule": rule, "count": count}
        for (op, index, who, rule), count in sorted(found.items())
    ]
    for op, count in sorted(unaligned(ours, theirs).items()):
        lines.append(
            {"op": op, "index": None, "who": "only ModelOpt", "rule": "edgec folded or fused the node", "count": count}
        )
    return lines


def section(name: str, rows: list[dict[str, Any]]) -> str:
    lines = [f"\n### {name}\n", *head(*COLUMNS)]
    for row in rows:
        if "failed" in row:
            lines.append(failed(row["form"], row["failed"], len(COLUMNS)))
            continue
        verdict = row["verdict"]
        busy = "~" if row.get("busy") else ""
        cells = [
            row["form"] + ("*" if "note" in row else ""),
            show(row, "metric", ".2f")
            if "unjudged" not in row
            else f"ONNX Runtime: {row['unjudged']}".replace("|", "/"),
            show(row, "agreement", ".2f"),
            f"{min(row['sqnr']):.2f}" if "sqnr" in row else "-",
            show(row, "pairs", "d"),
            *("/".join(map(str, row["int8"][kind])) for kind in ("conv", "matmul")),
            busy + show(row, "seconds", ".1f"),
            show(row, "cpu_seconds", ".1f"),
            show(row, "peak_mb", ".0f"),
            show(row, "megabytes", ".2f"),
            "ok" if verdict["parsed"] else refusal(verdict),
            *(plan(verdict["built"].get(c)) for c in CAPABILITIES),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = {r["note"] for r in rows if "note" in r}
    lines += [f"\n\\* {n}" for n in sorted(notes)]
    if "differences" in rows[0]:
        lines += [f"\n{OURS} and {THEIRS}:\n", *head("op", "input", "inputs", "quantised by", "rule")]
        for d in rows[0]["differences"]:
            index = "any" if d["index"] is None else d["index"]
            lines.append(f"| {d['op']} | {index} | {d['count']} | {d['who']} | {d['rule']} |")
    return "\n".join(lines)


def refusal(verdict: dict[str, Any]) -> str:
    first = verdict["refusals"][0]
    said = "cannot say" if verdict["cannot_say"] else "refuses"
    return f"{said}: {first['op']} {first['node']}: {first['message'][:100]}".replace("|", "/").replace("\n", " ")


def plan(built: int | str | None) -> str:
    return "-" if built is None else f"{built / 1e6:.2f}" if isinstance(built, int) else built[:60].replace("|", "/")


def summary(table: list[dict[str, Any]]) -> str:
    """int8 in one line a model: metric, agreement, SQNR of edgec and of ModelOpt's better calibration, and the verdicts."""
    lines = [
        "\n### int8: metric % / agreement % / SQNR dB, and the verdict for SM86 and SM89\n",
        "| model | float | edgec weak | edgec strong | ModelOpt entropy | ModelOpt max | ModelOpt entropy, float16 scales |",
        "|---|---|---|---|---|---|---|",
    ]
    shown = ("edgec int8 weak", "edgec int8 strong", "ModelOpt entropy", "ModelOpt max", "ModelOpt entropy fp16")
    for name in dict.fromkeys(r["model"] for r in table):
        rows = {r["form"]: r for r in table if r["model"] == name}
        cells = [show(rows["float"], "metric", ".2f"), *(brief(rows.get(form)) for form in shown)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def brief(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if "failed" in row:
        return "failed"
    figures = [
        show(row, "metric", ".2f"),
        show(row, "agreement", ".1f"),
        f"{min(row['sqnr']):.1f}" if "sqnr" in row else "-",
    ]
    built = row["verdict"]["built"]
    accepted = row["verdict"]["parsed"] and all(isinstance(built.get(c), int) for c in CAPABILITIES)
    return " / ".join(figures) + (", builds" if accepted else ", refused")


if __name__ == "__main__":
    main()
