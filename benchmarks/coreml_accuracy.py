"""Core ML packages by accuracy and bytes: edgec's precisions, and coremltools' own weight compression of edgec's float16 package.

    EDGEC_EVAL_DIR=... python benchmarks/coreml_accuracy.py --work FOLDER [--models ...] [--forms ...] [--limit N] [--json FILE]

Every package is judged as it is on disk: decoded by coremltools, evaluated in ONNX Runtime by rules written from MIL's
definitions, fp16 values rounded after each operation. So the figures are those of the file's numbers; what Apple's kernels add
or lose is not in them. Calibration: 96 samples of evaluate.py's `calibration`, for the forms that say so; coremltools' data-free
forms take none. Judged: evaluate.py, or its first --limit samples. What is unchanged is kept in --work.

Columns: bytes: of the whole package; weights: of its weight.bin; top-1 and points lost against ONNX Runtime on the float
model; agreement with the float model's class; SQNR of the output in dB; s: of compiling, or of coremltools' compression alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import sqnr
from peers.environments import EnvironmentFailed, python_of
from peers.inputs import BENCHES, calibration, judge, model_path
from peers.runs import HERE, hashed, last_line, own_version
from peers.tables import failed, head

import edgec
from edgec.graph import Graph
from edgec.runtime import Session
from edgec.targets.coreml.interface import Interface
from edgec.targets.coreml.package import decode
from edgec.targets.coreml.runner import DecodedRunner
from edgec.toolchain import ToolchainManager

SAMPLES = 96


@dataclass(frozen=True)
class Form:
    """A package to make. `peer`: what coremltools makes of edgec's fp16 package for the same target, instead."""

    target: str
    precision: str
    effort: str = "medium"
    calibrated: bool = False
    peer: str = ""
    options: dict[str, str] = field(default_factory=dict)


FORMS: dict[str, Form] = {
    "fp32": Form("iphone", "fp32"),
    "fp16": Form("iphone", "fp16"),
    "fp16, iOS 18": Form("iphone-ios18", "fp16"),
    "int8 (W8A8) low": Form("iphone", "int8", "low", calibrated=True),
    "int8 (W8A8)": Form("iphone", "int8", calibrated=True),
    "int8 (W8A8) high": Form("iphone", "int8", "high", calibrated=True),
    "int8-weights": Form("iphone", "int8-weights"),
    "int8-weights, coremltools": Form("iphone", "fp16", peer="int8"),
    "int4-weights": Form("iphone-ios18", "int4-weights"),
    "int4-weights high": Form("iphone-ios18", "int4-weights", "high", calibrated=True),
    "int4-weights, coremltools": Form("iphone-ios18", "fp16", peer="int4"),
    "palette4, no data": Form("iphone", "palette4"),
    "palette4": Form("iphone", "palette4", calibrated=True),
    "palette4, coremltools k-means": Form("iphone", "fp16", peer="palette4"),
    "palette4 groups, no data": Form("iphone-ios18", "palette4"),
    "palette4 groups": Form("iphone-ios18", "palette4", calibrated=True),
    "palette4 groups, coremltools k-means": Form("iphone-ios18", "fp16", peer="palette4-groups"),
    "palette6": Form("iphone", "palette6", calibrated=True),
    "sparse 50 %": Form("iphone", "sparse", calibrated=True),
    "sparse 50 %, coremltools": Form("iphone", "fp16", peer="sparse"),
    "sparse 50 % int8": Form("iphone-ios18", "sparse-int8", calibrated=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="environments, packages and results are kept here")
    models = ["mobilenet_v2", "efficientnet_lite0", "cifar10_resnet20"]
    parser.add_argument("--models", nargs="+", default=models, choices=models, metavar="MODEL")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS, metavar="FORM")
    parser.add_argument("--limit", type=int, default=0, help="judged samples (default: all)")
    parser.add_argument("--stale", action="store_true", help="keep packages an older edgec made")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    made = Packages(args.work, args.limit, "any" if args.stale else own_version())
    table = []
    for name in args.models:
        rows = [measured(made, name, form) for form in args.forms]
        table += rows
        print(section(name, made.reference(name)[0], rows), flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


def measured(made: Packages, name: str, form: str) -> dict[str, Any]:
    row = {"model": name, "form": form, **made.package(name, form)}
    if "failed" not in row:
        metric, outputs = made.judged(name, form)
        wanted, reference = made.reference(name)
        classes = [x.reshape(len(x), -1).argmax(1) for x in (reference, outputs)]
        row |= {
            "metric": metric, "lost": wanted - metric, "sqnr": sqnr(reference, outputs),
            "agreement": 100 * float((classes[0] == classes[1]).mean()),
        }  # fmt: skip
    return row


def float16_form(target: str) -> str:
    """The form whose package coremltools compresses."""
    wanted = Form(target, "fp16")
    return next(f for f, form in FORMS.items() if form == wanted)


class Packages:
    """Makes packages and judges them, and keeps what came out."""

    def __init__(self, work: Path, limit: int, version: str) -> None:
        self.work, self.limit, self.version = work, limit, version
        self.toolchains = ToolchainManager()

    def folder(self, name: str, form: str) -> Path:
        key = hashed(model_path(name), json.dumps(FORMS[form].__dict__), self.version, str(SAMPLES))
        return self.work / "coreml" / f"{name}-{form.replace(' ', '-').replace(',', '').replace('%', '')}-{key[:10]}"

    def package(self, name: str, form: str) -> dict[str, Any]:
        """Bytes and seconds, or `failed`."""
        folder, kind = self.folder(name, form), FORMS[form]
        kept = folder / "bench.json"
        if not kept.exists():
            folder.mkdir(parents=True, exist_ok=True)
            done = self.compressed(name, form, folder) if kind.peer else self.compiled(name, form, folder)
            if "failed" not in done:
                files = [p for p in (folder / "model.mlpackage").rglob("*") if p.is_file()]
                done["bytes"] = sum(p.stat().st_size for p in files)
                done["weights"] = sum(p.stat().st_size for p in files if p.name == "weight.bin")
            kept.write_text(json.dumps(done))
        found: dict[str, Any] = json.loads(kept.read_text())
        return found

    def compiled(self, name: str, form: str, folder: Path) -> dict[str, Any]:
        kind, start = FORMS[form], time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            samples = None
            if kind.calibrated:
                samples = Path(scratch, "calibration")
                samples.mkdir()
                for i, feeds in enumerate(calibration(name, SAMPLES)):
                    np.savez(samples / f"{i:03}.npz", **feeds)
            out = Path(scratch, "out")
            (shape,) = BENCHES[name].shapes.values()
            compiled = edgec.compile(
                model_path(name), target=kind.target, precision=kind.precision, effort=kind.effort, output=out,
                calibration=samples, input_shapes=["x".join(map(str, shape))], options=kind.options,
            )  # fmt: skip
            seconds = time.perf_counter() - start
            (out / "model.mlpackage").rename(folder / "model.mlpackage")
            (folder / "interface.json").write_text(json.dumps(compiled.artifact.facts["interface"]))
        return {"seconds": seconds}

    def compressed(self, name: str, form: str, folder: Path) -> dict[str, Any]:
        source = float16_form(FORMS[form].target)
        self.package(name, source)
        given = self.folder(name, source)
        (folder / "interface.json").write_bytes((given / "interface.json").read_bytes())
        command = [
            str(HERE / "coremltools_weights.py"),
            str(given / "model.mlpackage"),
            str(folder / "model.mlpackage"),
        ]
        try:
            python = python_of("coremltools", self.work)
            done = subprocess.run(
                [str(python), *command, FORMS[form].peer], capture_output=True, text=True, check=True, timeout=1800
            )
        except (EnvironmentFailed, subprocess.TimeoutExpired) as e:
            return {"failed": last_line(str(e))}
        except subprocess.CalledProcessError as e:
            return {"failed": last_line(e.stderr) or f"exit status {e.returncode}"}
        told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return told

    def judged(self, name: str, form: str) -> tuple[float, np.ndarray]:
        folder = self.folder(name, form)
        kept = folder / f"judged-{self.limit}.npz"
        if not kept.exists():
            with tempfile.TemporaryDirectory() as scratch:
                program = decode(folder / "model.mlpackage", self.toolchains.ensure("coreml"), Path(scratch))
                interface = Interface.from_json(json.loads((folder / "interface.json").read_text()))
                runner = DecodedRunner(program, interface)
                metric, outputs = self.evaluated(name, lambda feeds: next(iter(runner.run([feeds]))))
            np.savez(kept, metric=metric, outputs=outputs)
        with np.load(kept) as z:
            return float(z["metric"]), z["outputs"]

    def reference(self, name: str) -> tuple[float, np.ndarray]:
        """Of the float model in ONNX Runtime."""
        kept = self.work / "coreml" / f"{name}-float-{hashed(model_path(name))[:10]}-{self.limit}.npz"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            session = Session(Graph.load(model_path(name)), optimise=True)
            metric, outputs = self.evaluated(name, session.run)
            np.savez(kept, metric=metric, outputs=outputs)
        with np.load(kept) as z:
            return float(z["metric"]), z["outputs"]

    def evaluated(self, name: str, run: Callable[[dict[str, Any]], dict[str, Any]]) -> tuple[float, np.ndarray]:
        module, (key,) = judge(), BENCHES[name].shapes
        every, kept = module._samples, []

        def some(task: str, *, judged: bool) -> Iterator[Any]:
            return islice(every(task, judged=judged), self.limit or None)

        def predict(x: np.ndarray) -> list[np.ndarray]:
            outputs = list(run({key: x}).values())
            kept.append(np.asarray(outputs[0], np.float32))
            return outputs

        module._samples = some
        try:
            return module.evaluate(name, predict), np.concatenate(kept)
        finally:
            module._samples = every


def section(name: str, wanted: float, rows: list[dict[str, Any]]) -> str:
    lines = [f"\n### {name} (ONNX Runtime, float: {wanted:.2f} %)\n"]
    lines += head("package", "bytes", "weights", "top-1 %", "points lost", "agreement %", "SQNR dB", "s")
    for r in rows:
        if "failed" in r:
            lines.append(failed(r["form"], r["failed"], 8))
            continue
        cells = [r["form"], f"{r['bytes']:,}", f"{r['weights']:,}", f"{r['metric']:.2f}", f"{r['lost']:+.2f}"]
        lines.append(
            "| " + " | ".join([*cells, f"{r['agreement']:.2f}", f"{r['sqnr']:.1f}", f"{r['seconds']:.1f}"]) + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
