"""ONNX to .tflite side by side: edgec, onnx2tf (float) and ai-edge-quantizer on what onnx2tf made (int8).

    EDGEC_EVAL_DIR=... python benchmarks/tflite.py --work FOLDER [--models ...] [--forms ...] [--fresh] [--json FILE]

Each converter runs as a process of its own, in an environment of its own (benchmarks/peers/), on the same source file with fixed
input shapes and the same 100 calibration samples. All files of a model are then judged alike, in LiteRT with XNNPACK: evaluate.py
of EDGEC_EVAL_DIR where the model has labels there, and the difference to ONNX Runtime on the same samples. Whatever
is unchanged is kept in --work; --fresh converts again.

Columns: s and MB: wall time of the whole process and its peak resident memory (an int8 file of ai-edge-quantizer has onnx2tf's
seconds in its own); file in MB; T: TRANSPOSE operators; ops: all; float: operators that compute in float; ms: one
invocation, median, with one thread and with two, all files of a model in turn; parts: how often LiteRT hands over to
XNNPACK (1 is best); difference: the largest to ONNX Runtime over all outputs and samples, divided by the largest output (float);
SQNR in dB against the float model (int8); metric: the judge's percent; same Q/DQ: its percent of ONNX Runtime, optimiser off, on the
very graph with Q/DQ that became the file. A figure with ~ was taken beside other jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import sqnr
from peers.environments import EnvironmentFailed, python_of
from peers.inputs import BENCHES
from peers.runs import BUSY, HERE, Runs, hashed, last_line, own_version
from peers.tables import failed, head

from edgec.targets.tflite.reader import read

FREE = {"QUANTIZE", "DEQUANTIZE"}
"""Operators between float and integers; where they stand at the interface only, nothing computes in float."""


@dataclass(frozen=True)
class Form:
    """A file to make of each model. `after`: the form whose file is the source; `environment` None: this one's."""

    worker: str
    environment: str | None
    options: dict[str, str] = field(default_factory=dict)
    after: str | None = None
    int8: bool = False


FORMS: dict[str, Form] = {
    "edgec": Form("edgec_tflite", None),
    "edgec nhwc": Form("edgec_tflite", None, {"layout": "nhwc"}),
    "onnx2tf": Form("onnx2tf_float", "onnx2tf"),
    "edgec int8": Form("edgec_tflite", None, {"precision": "int8"}, int8=True),
    "edgec int8 nhwc": Form("edgec_tflite", None, {"precision": "int8", "layout": "nhwc", "io": "integer"}, int8=True),
    "edgec int8 nhwc low": Form(
        "edgec_tflite", None, {"precision": "int8", "layout": "nhwc", "io": "integer", "effort": "low"}, int8=True
    ),
    "onnx2tf+aeq": Form("aeq_static", "aeq", after="onnx2tf", int8=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="environments, files and results are kept here")
    parser.add_argument("--models", nargs="+", default=list(BENCHES), choices=BENCHES, metavar="MODEL")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS, metavar="FORM")
    parser.add_argument("--fresh", action="store_true", help="convert again even if nothing changed")
    parser.add_argument("--limit", type=int, default=0, help="judged samples (default: all)")
    parser.add_argument("--runs", type=int, default=50, help="timed invocations of each file; 0: none")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds a conversion may take")
    parser.add_argument("--no-judge", action="store_true", help="convert and time only")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    files = Files(args.work, limit=args.limit, timeout=args.timeout, fresh=args.fresh)
    table = []
    for name in args.models:
        rows = measure(files, name, args.forms, args.runs, judge=not args.no_judge)
        table += rows
        print(section(name, rows), flush=True)
    print(goals(table))
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


class Files:
    """Converts, judges and times, and keeps what came out by the hash of all that went in."""

    def __init__(self, work: Path, *, limit: int, timeout: int, fresh: bool) -> None:
        self.work, self.limit, self.timeout, self.fresh = work, limit, timeout, fresh
        self.runs = Runs(work, limit=limit, timeout=timeout)

    def made(self, name: str, form_name: str) -> dict[str, Any]:
        """`file` and what its conversion took, or `failed`."""
        form, folder = FORMS[form_name], self.runs.prepared(name)
        source, before = folder / "source.onnx", 0.0
        if form.after is not None:
            first = self.made(name, form.after)
            if "failed" in first:
                return {"failed": f"{form.after} failed"}
            source, before = Path(first["file"]), first["seconds"]
        worker = HERE / f"{form.worker}.py"
        if form.environment is None:
            environment = own_version()
        else:
            environment = (HERE / "requirements" / f"{form.environment}.txt").read_text()
        key = hashed(source, worker, HERE / "harness.py", environment, json.dumps(form.options), name)
        kept = self.work / "tflite" / f"{name}-{form_name.replace(' ', '-')}-{key[:10]}"
        report = kept / "report.json"
        if not report.exists() or (self.fresh and report.stat().st_mtime < STARTED):
            report_data = self.convert(form, source, folder / "calibration", kept)
            if "seconds" in report_data:
                report_data["seconds"] += before
            report.write_text(json.dumps(report_data, indent=1))
        found: dict[str, Any] = json.loads(report.read_text())
        return found

    def convert(self, form: Form, source: Path, calibration: Path, kept: Path) -> dict[str, Any]:
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        out, load = kept / "out.tflite", os.getloadavg()[0]
        try:
            python = Path(sys.executable) if form.environment is None else python_of(form.environment, self.work)
        except EnvironmentFailed as e:
            return {"failed": f"does not install: {last_line(str(e))}"}
        with tempfile.TemporaryDirectory() as scratch:
            private = shutil.copy(source, scratch)
            command = [str(python), str(HERE / f"{form.worker}.py"), private, str(calibration), str(out)]
            command += [f"{k}={v}" for k, v in form.options.items()]
            start = time.perf_counter()
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, errors="replace", timeout=self.timeout, cwd=scratch
                )
            except subprocess.TimeoutExpired:
                return {"failed": f"more than {self.timeout} s"}
            seconds = time.perf_counter() - start
        (kept / "log.txt").write_text(done.stdout + "\n--- stderr ---\n" + done.stderr)
        if done.returncode or not out.exists():
            return {"failed": last_line(done.stderr) or f"exit status {done.returncode}"}
        told = json.loads(done.stdout.strip().splitlines()[-1])
        busy = max(load, os.getloadavg()[0]) > 1 + BUSY
        return {"file": str(out), "seconds": seconds, "peak_mb": told["peak_mb"], "busy": busy}

    def judged(self, name: str, file: Path) -> dict[str, Any]:
        """Metric and outputs in LiteRT, or `failed`."""
        source = self.runs.prepared(name) / "source.onnx"
        code = [HERE / f for f in ("tflite_judge.py", "tflite_session.py", "tflite_shapes.py", "inputs.py")]
        kept = self.work / "tflite-judged" / f"{name}-{hashed(file, name, *code, str(self.limit))}.npz"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.script("tflite_judge.py", name, str(file), str(source), str(kept), str(self.limit))
            except subprocess.CalledProcessError as e:
                return {"failed": last_line(e.stderr) or f"exit status {e.returncode}"}
        with np.load(kept) as z:
            return {"metric": float(z["metric"]), "outputs": [z[k] for k in z.files if k != "metric"]}

    def timed(self, name: str, files: list[Path], runs: int, threads: int) -> list[dict[str, Any]]:
        folder = self.runs.prepared(name)
        sample = sorted((folder / "calibration").glob("*.npz"))[0]
        source = folder / "source.onnx"
        done = self.script("tflite_timing.py", str(runs), str(threads), str(sample), str(source), *map(str, files))
        found: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
        return found

    def script(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(python_of("litert", self.work)), str(HERE / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)


STARTED = time.time()
COLUMNS = (
    "file", "s", "MB", "file MB", "T", "ops", "float", "ms, 1 thread", "2 threads", "parts", "difference", "SQNR", "metric",
    "same Q/DQ",
)  # fmt: skip


def measure(files: Files, name: str, forms: list[str], runs: int, *, judge: bool) -> list[dict[str, Any]]:
    """A row for each form. Keys are missing where a figure could not be had."""
    rows = []
    source = files.runs.prepared(name) / "source.onnx"
    for form in forms:
        row = {"model": name, "form": form, **files.made(name, form)}
        if "file" in row:
            row |= counted(Path(row["file"]))
        rows.append(row)
    have = [r for r in rows if "file" in r]
    for threads in (1, 2) if runs else ():
        busy = os.getloadavg()[0] > BUSY
        for row, took in zip(have, files.timed(name, [Path(r["file"]) for r in have], runs, threads), strict=True):
            if "ms" in took:
                row |= {
                    f"ms{threads}": took["ms"],
                    f"p{threads}": took["p10"],
                    "parts": took["delegates"],
                    "ms_busy": busy,
                }
            else:
                row["failed"] = f"does not run: {took['failed']}"
    if not judge:
        return rows
    reference = files.runs.judged(name, source)
    if np.isfinite(reference["metric"]):
        rows.insert(0, {"model": name, "form": "ONNX Runtime, float", "metric": reference["metric"]})
    for row in have:
        if "failed" not in row:
            row |= compared(files, name, row, reference)
    return rows


def counted(file: Path) -> dict[str, Any]:
    """What is in the file."""
    operators = [o for g in read(file.read_bytes()).subgraphs for o in g.operators]
    kinds = [o.op for o in operators]
    floats = [o.op for o in operators if o.op not in FREE and any(t.dtype == "float32" for t in o.outputs)]
    return {
        "megabytes": file.stat().st_size / 1e6,
        "transposes": kinds.count("TRANSPOSE"),
        "operators": len(kinds),
        "floats": len(floats),
        "kinds": {k: kinds.count(k) for k in sorted(set(kinds))},
    }


def compared(files: Files, name: str, row: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    got = files.judged(name, Path(row["file"]))
    if "failed" in got:
        return {"failed": f"does not run: {got['failed']}"}
    pairs = list(zip(reference["outputs"], got["outputs"], strict=True))
    found: dict[str, Any] = {
        "difference": max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in pairs),
        "sqnr": min(sqnr(a, b) for a, b in pairs),
    }
    if np.isfinite(got["metric"]):
        found["metric"] = got["metric"]
        graph = Path(row["file"]).with_suffix(".onnx")
        if FORMS[row["form"]].int8 and graph.exists():
            same = files.judged(name, graph)
            found["same_qdq"] = same.get("metric", float("nan"))
    return found


def section(name: str, rows: list[dict[str, Any]]) -> str:
    lines = [
        f"\n### {name}\n",
        *head(*COLUMNS),
    ]
    for row in rows:
        if "failed" in row:
            lines.append(failed(row["form"], row["failed"], len(COLUMNS)))
            continue
        form = FORMS.get(row["form"])
        busy, late = ("~" if row.get(k) else "" for k in ("busy", "ms_busy"))
        cells = [
            row["form"],
            busy + show(row, "seconds", ".1f"),
            show(row, "peak_mb", ".0f"),
            show(row, "megabytes", ".2f"),
            show(row, "transposes", "d"),
            show(row, "operators", "d"),
            show(row, "floats", "d"),
            late + show(row, "ms1", ".2f"),
            late + show(row, "ms2", ".2f"),
            show(row, "parts", "d"),
            show(row, "difference", ".1e") if form and not form.int8 else "",
            show(row, "sqnr", ".1f") if form and form.int8 else "",
            show(row, "metric", ".2f"),
            show(row, "same_qdq", ".2f"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def show(row: dict[str, Any], key: str, form: str) -> str:
    return format(row[key], form) if key in row else ""


def goals(table: list[dict[str, Any]]) -> str:
    """edgec as it compares, with the peer's own interface (nhwc): by the 10th percentile, which other jobs disturb least."""
    lines = [
        "\n### edgec beside the peers: transposes, and latency of edgec divided by the peer's\n",
        "| model | float T | float, 1 thread | 2 threads | int8 T | int8, 1 thread | 2 threads |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(r["model"] for r in table):
        rows = {r["form"]: r for r in table if r["model"] == name and "failed" not in r}
        cells = []
        for own, peer in (("edgec nhwc", "onnx2tf"), ("edgec int8 nhwc", "onnx2tf+aeq")):
            a, b = rows.get(own), rows.get(peer)
            cells.append(f"{a['transposes'] if a else '-'} / {b['transposes'] if b else '-'}")
            cells += [f"{a[k] / b[k]:.2f}" if a and b and k in a and k in b else "-" for k in ("p1", "p2")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
