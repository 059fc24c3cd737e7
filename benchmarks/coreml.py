"""ONNX to .mlpackage side by side: edgec, onnx2coreml, and coremltools' torch frontend on the same network.

    EDGEC_EVAL_DIR=... python benchmarks/coreml.py --work FOLDER [--models ...] [--forms ...] [--precision fp16|fp32] [--json FILE]

Each converter runs as a process of its own, in an environment of its own (benchmarks/peers/), on the same source file with fixed
input shapes, for iOS 17. The torch form is the same graph run by edgec's TorchGraph and traced; tracing is not in the figures.
All packages of a model are then judged alike: decoded by coremltools, evaluated in ONNX Runtime by rules written from MIL's
definitions, fp16 values rounded after each operation; and compared with ONNX Runtime on the model, on real samples.

Rows: "edgec": `edgec compile` as users run it, which decodes the package, evaluates it and compares it with the model, and
writes a report; "edgec, conversion alone": what the peers do too.

Columns: s: wall time of the process; CPU s: processor time of it and its children, which other jobs disturb least; MB: the most
resident memory that all of them held at one time; bytes of the
package; ops: operations of the program without constants; correlation: with ONNX Runtime, the worst output; difference: the
largest, divided by the largest output. A figure with ~ was taken beside other jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from peers.environments import EnvironmentFailed, python_of
from peers.inputs import BENCHES
from peers.memory import watched
from peers.runs import BUSY, HERE, Runs, hashed, last_line, own_version
from peers.tables import failed, head

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.runtime import Session
from edgec.targets.coreml.standing_for import StandingFor
from edgec.toolchain import ToolchainManager

SAMPLES = 8


@dataclass(frozen=True)
class Form:
    """A package to make. `worker` "": edgec's command line. `environment` None: this one's. `traced`: needs the torch form."""

    worker: str
    environment: str | None
    options: dict[str, str] = field(default_factory=dict)
    traced: bool = False


FORMS: dict[str, Form] = {
    "edgec": Form("", None),
    "edgec, conversion alone": Form("edgec_coreml", None),
    "onnx2coreml": Form("onnx2coreml_package", "onnx2coreml", {"minimum": "iOS17"}),
    "torch, coremltools": Form("torch_coreml", "torchcoreml", {"minimum": "iOS17"}, traced=True),
}
COLUMNS = ("package", "s", "CPU s", "MB", "bytes", "ops", "correlation", "difference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="environments, packages and results are kept here")
    parser.add_argument("--models", nargs="+", default=list(BENCHES), choices=BENCHES, metavar="MODEL")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS, metavar="FORM")
    parser.add_argument("--precision", default="fp16", choices=("fp16", "fp32"))
    parser.add_argument("--repeats", type=int, default=3, help="conversions; that of least processor time counts")
    parser.add_argument("--fresh", action="store_true", help="convert again even if nothing changed")
    parser.add_argument("--timeout", type=int, default=1200, help="seconds a conversion may take")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    made = Packages(args.work, args.precision, args.repeats, args.timeout, args.fresh)
    table = []
    for name in args.models:
        rows = [{"model": name, "form": form, **made.measured(name, form)} for form in args.forms]
        table += rows
        print(section(name, rows), flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


class Packages:
    """Converts and judges, and keeps what came out by the hash of all that went in."""

    def __init__(self, work: Path, precision: str, repeats: int, timeout: int, fresh: bool) -> None:
        self.work, self.precision, self.repeats, self.timeout, self.fresh = work, precision, repeats, timeout, fresh
        self.runs = Runs(work, samples=SAMPLES)
        self.toolchains = ToolchainManager()

    def measured(self, name: str, form_name: str) -> dict[str, Any]:
        form, folder = FORMS[form_name], self.runs.prepared(name)
        source, samples = folder / "source.onnx", folder / "calibration"
        listed = HERE / "requirements" / f"{form.environment}.txt"
        version = own_version() if form.environment is None else listed.read_text()
        code = [HERE / f"{w}.py" for w in (form.worker, "harness") if w]
        key = hashed(source, *code, version, json.dumps(form.options), self.precision, form_name)
        kept = self.work / "coreml-packages" / f"{name}-{form_name.replace(' ', '-').replace(',', '')}-{key[:10]}"
        report = kept / "bench.json"
        if self.fresh or not report.exists():
            found = self.converted(form, source, samples, kept)
            ready = source.with_name("preprocessed.onnx")
            if "failed" in found and form.environment is not None:
                second = self.converted(form, ready, samples, kept)
                if "failed" not in second:
                    found = {**second, "note": "after quant_pre_process"}
            if "failed" not in found:
                found |= self.judged(source, samples, kept / "model.mlpackage")
            report.write_text(json.dumps(found, indent=1))
        told: dict[str, Any] = json.loads(report.read_text())
        return told

    def converted(self, form: Form, source: Path, samples: Path, kept: Path) -> dict[str, Any]:
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        try:
            python = Path(sys.executable) if form.environment is None else python_of(form.environment, self.work)
        except EnvironmentFailed as e:
            return {"failed": f"does not install: {last_line(str(e))}"}
        best: dict[str, Any] = {}
        for _ in range(self.repeats):
            load = os.getloadavg()[0]
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                private = shutil.copy(source, folder / "source.onnx")
                if form.traced:
                    why = self.trace(source, samples, folder / "source.pt")
                    if why:
                        return {"failed": f"no torch form: {why}"}
                out = folder / "out" / "model.mlpackage"
                if form.worker:
                    out.parent.mkdir()
                    command = [str(HERE / f"{form.worker}.py"), str(private), str(samples), str(out)]
                    options = {"precision": self.precision, **form.options}
                    command += [f"{k}={v}" for k, v in options.items()]
                else:
                    command = ["-m", "edgec", "compile", str(private), "--target", "iphone", "-o", str(out.parent)]
                    command += ["--precision", self.precision, "--samples", str(samples)]
                try:
                    done = watched([str(python), *command], folder=folder, timeout=self.timeout)
                except subprocess.TimeoutExpired:
                    return {"failed": f"more than {self.timeout} s"}
                (kept / "log.txt").write_text(done.stdout + "\n--- stderr ---\n" + done.stderr)
                if done.returncode or not out.exists():
                    return {"failed": last_line(done.stderr) or f"exit status {done.returncode}"}
                if not best or done.cpu_seconds < best["cpu"]:
                    busy = max(load, os.getloadavg()[0]) > 1 + BUSY
                    best = {"seconds": done.seconds, "cpu": done.cpu_seconds, "peak_mb": done.peak_mb, "busy": busy}
                if not (kept / "model.mlpackage").exists():
                    shutil.copytree(out, kept / "model.mlpackage")
                    if (out.parent / "report.json").exists():
                        shutil.copy(out.parent / "report.json", kept)
        return best

    def trace(self, source: Path, samples: Path, out: Path) -> str:
        """Why there is none, or nothing."""
        sample = sorted(samples.glob("*.npz"))[0]
        command = [sys.executable, str(HERE / "torch_trace.py"), str(source), str(sample), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        return (last_line(done.stderr) or f"exit status {done.returncode}") if done.returncode else ""

    def judged(self, source: Path, samples: Path, package: Path) -> dict[str, Any]:
        """Size, operations, and agreement with ONNX Runtime on the samples."""
        files = [p for p in package.rglob("*") if p.is_file()]
        found: dict[str, Any] = {"bytes": sum(p.stat().st_size for p in files)}
        graph, feeds = Graph.load(source), []
        for path in sorted(samples.glob("*.npz")):
            with np.load(path) as z:
                feeds.append({k: z[k] for k in z.files})
        try:
            with tempfile.TemporaryDirectory() as scratch:
                stands = StandingFor(package, graph, self.toolchains, Path(scratch))
                got = list(stands.run(feeds))
        except EdgecError as e:
            return {**found, "not_judged": e.diagnostics[0].message}
        reference = Session(graph)
        wanted = [reference.run(s) for s in feeds]
        operations = [o for o in stands.program.operations if o.op != "const"]
        return {**found, "operations": len(operations), **agreement(wanted, got)}


def agreement(wanted: list[Mapping[str, Any]], got: list[Mapping[str, Any]]) -> dict[str, float]:
    """The worst output's, over all samples."""
    correlations, differences = [], []
    for name in wanted[0]:
        a, b = (np.concatenate([np.ravel(x[name]).astype(np.float64) for x in side]) for side in (wanted, got))
        same = np.array_equal(a, b) or min(a.std(), b.std()) == 0
        correlations.append(float(np.allclose(a, b, rtol=1e-3)) if same else float(np.corrcoef(a, b)[0, 1]))
        differences.append(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)))
    return {"correlation": min(correlations), "difference": max(differences)}


def section(name: str, rows: list[dict[str, Any]]) -> str:
    lines = [f"\n### {name}\n", *head(*COLUMNS)]
    for row in rows:
        if "failed" in row:
            lines.append(failed(row["form"], row["failed"], len(COLUMNS)))
            continue
        cells = [
            row["form"] + (f" ({row['note']})" if "note" in row else ""),
            ("~" if row["busy"] else "") + f"{row['seconds']:.1f}",
            f"{row['cpu']:.1f}",
            f"{row['peak_mb']:.0f}",
            f"{row['bytes']:,}",
            str(row.get("operations", "")),
            f"{row['correlation']:.6f}" if "correlation" in row else f"not judged: {row['not_judged']}",
            f"{row['difference']:.1e}" if "difference" in row else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
