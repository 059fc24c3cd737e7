"""Runs workers and keeps what they made, by the hash of everything that went in: a second run redoes only what changed.

<work>/models/<name>-<hash>/    source.onnx, preprocessed.onnx, calibration/
<work>/quantized/<hash>/        out.onnx, report.json, log.txt      one model by one tool
<work>/judged/<hash>.npz        metric and outputs of one ONNX file
<work>/env/                     environments (environments.py)
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from peers.environments import EnvironmentFailed, python_of
from peers.inputs import eval_dir, model_path
from peers.tools import TOOLS, Tool

HERE = Path(__file__).resolve().parent
BUSY = 0.7
"""Load average above which other jobs share the processor: figures taken then are marked."""


def hashed(*parts: bytes | str | Path) -> str:
    """Of the contents: a Path stands for the file's bytes."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


@cache
def folder_hash(folder: Path) -> str:
    return hashed(*sorted(folder.iterdir()))


def own_version() -> str:
    """Of edgec's installed sources: the compiler is what changes between runs."""
    import edgec
    import edgec.passes
    import edgec.specs
    import edgec.targets

    folders = {p for package in (edgec, edgec.passes, edgec.specs, edgec.targets) for p in package.__path__}
    files = sorted(f for d in folders for kind in ("*.py", "*.yaml") for f in Path(d).rglob(kind))
    return hashed(*files)


@dataclass(frozen=True)
class Run:
    """One model by one tool. `out` is None when it failed; `report` says why, or what the worker measured."""

    out: Path | None
    report: dict[str, Any]


class Runs:
    """`tools`: the workers that `quantized` knows by name. `version`: of edgec, as far as its results hang on it."""

    def __init__(
        self,
        work: Path,
        *,
        samples: int = 100,
        limit: int = 0,
        timeout: int = 3600,
        fresh: bool = False,
        tools: Mapping[str, Tool] = TOOLS,
        version: Callable[[], str] = own_version,
    ) -> None:
        self.work, self.samples, self.limit, self.timeout, self.fresh = work, samples, limit, timeout, fresh
        self.tools, self.version = tools, version

    def python(self, tool: Tool) -> Path:
        return Path(sys.executable) if tool.environment is None else python_of(tool.environment, self.work)

    def prepared(self, name: str) -> Path:
        """The folder with the source model and the calibration samples, made once."""
        parts = (
            model_path(name),
            HERE / "inputs.py",
            HERE / "prepare.py",
            eval_dir() / "evaluate.py",
            str(self.samples),
        )
        folder = self.work / "models" / f"{name}-{hashed(*parts)[:8]}"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                made = Path(scratch, "made")
                self.judge_script("prepare.py", name, str(made), str(self.samples))
                made.rename(folder)
        return folder

    def quantized(self, name: str, tool_name: str, *, run: bool = True) -> Run | None:
        """What the tool made of the model; a peer that fails gets the other form of it too. None: not there, not run.

        The forms: the source, and that after quant_pre_process.
        """
        folder = self.prepared(name)
        forms = [folder / "source.onnx", folder / "preprocessed.onnx"]
        if not self.tools[tool_name].prepares:
            forms.reverse()
        first = self.attempt(name, tool_name, forms[0], run)
        if first is None or first.out or self.tools[tool_name].environment in (None, "ort"):
            return first
        second = self.attempt(name, tool_name, forms[1], run)
        if second is None or second.out is None:
            return first
        what = "after quant_pre_process" if self.tools[tool_name].prepares else "as it comes"
        return Run(second.out, {**second.report, "note": f"fails otherwise; this is the model {what}"})

    def attempt(self, name: str, tool_name: str, source: Path, run: bool) -> Run | None:
        tool = self.tools[tool_name]
        worker = HERE / f"{tool.worker}.py"
        if tool.environment is None:
            environment = self.version()
        else:
            environment = (HERE / "requirements" / f"{tool.environment}.txt").read_text()
        calibration = self.prepared(name) / "calibration"
        code = hashed(worker, HERE / "harness.py", environment, json.dumps(tool.options))
        key = hashed(source, folder_hash(calibration), code)
        folder = self.work / "quantized" / f"{name}-{tool_name}-{key[:10]}"
        report = folder / "report.json"
        if run and (self.fresh or not report.exists()):
            try:
                made = self.execute(tool, source, calibration, folder)
            except EnvironmentFailed as e:
                return Run(None, {"failed": f"does not install: {last_line(str(e))}"})
            report.write_text(json.dumps(made, indent=1))
        if not report.exists():
            return None
        kept = json.loads(report.read_text())
        return Run(folder / "out.onnx" if "failed" not in kept else None, kept)

    def execute(self, tool: Tool, source: Path, calibration: Path, folder: Path) -> dict[str, Any]:
        python = self.python(tool)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        out, load = folder / "out.onnx", os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as scratch:
            private = shutil.copy(source, scratch)
            command = [str(python), str(HERE / f"{tool.worker}.py"), private, str(calibration), str(out)]
            command += [f"{k}={v}" for k, v in tool.options.items()]
            start, cpu = time.perf_counter(), children_cpu()
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, errors="replace", timeout=self.timeout, cwd=scratch
                )
            except subprocess.TimeoutExpired:
                return {"failed": f"more than {self.timeout} s"}
            seconds, cpu = time.perf_counter() - start, children_cpu() - cpu
        (folder / "log.txt").write_text(done.stdout + "\n--- stderr ---\n" + done.stderr)
        if done.returncode or not out.exists():
            return {"failed": last_line(done.stderr) or f"exit status {done.returncode}", "seconds": seconds}
        if tool.quantizes and not quantizes(out):
            return {"failed": "wrote a model in which nothing is quantised", "seconds": seconds}
        measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return {
            **measured,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "busy": load > BUSY,
            "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        }

    def judged(self, name: str, model: Path, *, optimise: bool = True) -> dict[str, Any]:
        """`metric`, `outputs` and `kernels` (op type: count, in the graph as ONNX Runtime runs it), or `failed`."""
        code = (HERE / "judge.py", HERE / "inputs.py", eval_dir() / "evaluate.py")
        key = hashed(model, name, *code, str(self.limit), str(optimise))
        kept = self.work / "judged" / f"{name}-{key}.npz"
        counted = kept.with_suffix(".json")
        if not counted.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            optimised = kept.with_suffix(".onnx")
            asked = [str(optimised)] if optimise else []
            try:
                self.judge_script("judge.py", name, str(model), str(kept), str(self.limit), *asked)
            except subprocess.CalledProcessError as e:
                return {"failed": last_line(e.stderr)}
            counted.write_text(json.dumps(kernels(optimised if optimise else model)))
            optimised.unlink(missing_ok=True)
        with np.load(kept) as z:
            outputs = [z[k] for k in z.files if k != "metric"]
            return {"metric": float(z["metric"]), "outputs": outputs, "kernels": json.loads(counted.read_text())}

    def timed(self, name: str, models: list[Path], runs: int) -> tuple[list[dict[str, float] | None], bool]:
        """Median milliseconds of each model, one thread, interleaved; and whether other jobs were running."""
        sample = sorted((self.prepared(name) / "calibration").glob("*.npz"))[0]
        busy = os.getloadavg()[0] > BUSY
        done = self.judge_script("timing.py", str(runs), str(sample), *map(str, models))
        found: list[dict[str, float] | None] = json.loads(done.stdout.strip().splitlines()[-1])
        return found, busy

    def judge_script(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A script in the judge's environment. Raises CalledProcessError."""
        command = [str(python_of("judge", self.work)), str(HERE / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)


def children_cpu() -> float:
    """CPU seconds of all processes that ended: on a busy machine they tell more than wall time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def kernels(model: Path) -> dict[str, int]:
    import onnx

    counts: dict[str, int] = {}
    for node in onnx.load(model, load_external_data=False).graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def quantizes(model: Path) -> bool:
    """Whether any activation becomes an integer: weights may have been stored as integers before."""
    return any(("Quantize" in k and not k.startswith("Dequantize")) or "QLinear" in k for k in kernels(model))


def last_line(text: str) -> str:
    lines = [x.strip() for x in text.strip().splitlines() if x.strip()]
    return lines[-1][:160] if lines else ""
