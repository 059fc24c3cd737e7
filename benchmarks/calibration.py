"""Calibration and quantisation side by side: edgec and ONNX Runtime's quantize_static, wall time and peak memory.

    EDGEC_EVAL_DIR=... python benchmarks/calibration.py [--models ...] [--samples 1 100 500] [--repeat 3] [--json out.json]

Both read the same file (shapes fixed, opset 13 at least, see peers/prepare.py) and the same folder of samples, one .npz each,
and write an int8 file; each run is a process of its own, from its start to its end, as its user would see it (median of
--repeat). Where there are fewer samples than asked for they are repeated. CPU seconds are those of all its threads: on a busy
machine they tell more than wall time. Peak memory is VmHWM of the process.

Memory has a floor: Python with numpy and onnxruntime takes 45 MB, and 85 to 99 MB (nudenet_320n, mobilenet_v2) after one session
over the float model has run once. ONNX Runtime's minmax takes 292 MB at 100 samples of mobilenet_v2: a third of that is the floor.

onnxruntime   quant_pre_process, then quantize_static: Q/DQ, uint8 activations, int8 weights per channel
edgec         `edgec quantize --effort low --method ...`: float passes, calibration, Q/DQ, and the comparison with the float
              model on 8 samples, which quantize_static does not make
edgec medium  the same without `--effort low`: with the corrections that are the default; mse only

A run of ONNX Runtime whose memory, extrapolated from fewer samples, exceeds --memory-limit is not made; the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODELS = ["mobilenet_v2", "efficientnet_lite0", "nudenet_320n"]
METHODS = ["minmax", "percentile", "entropy", "mse"]

PEAK = "atexit.register(lambda: sys.stderr.write([x for x in open('/proc/self/status') if x.startswith('VmHWM')][0]))"
"""Peak memory as the process itself sees it: ru_maxrss of a child also counts the parent it was forked from."""

EDGEC = "from edgec.cli import main; sys.exit(main(['quantize', SRC, '-o', DST, '--calib', DATA, '-q', *ARGS]))"

ORT = """
import os, tempfile
import numpy as np
from pathlib import Path
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

class Reader(CalibrationDataReader):
    def __init__(self):
        self.files = iter(sorted(Path(DATA).glob('*.npz')))
    def get_next(self):
        for path in self.files:
            with np.load(path) as z:
                return {k: z[k] for k in z.files}

with tempfile.TemporaryDirectory() as scratch:
    ready = os.path.join(scratch, 'ready.onnx')
    try:
        quant_pre_process(SRC, ready)
    except AssertionError:  # its symbolic shape inference has gaps; this is the way round that its message names
        quant_pre_process(SRC, ready, skip_symbolic_shape=True)
    quantize_static(ready, DST, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                    calibrate_method=getattr(CalibrationMethod, ARGS[0]))
"""

Run = tuple[str, str, str, list[str]]
"""Tool, method, code, arguments."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--samples", nargs="+", type=int, default=[1, 100, 500])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--memory-limit", type=float, default=16, help="GB that a run may take")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds that a run may take")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("| model | samples | method | tool | seconds | CPU seconds | peak MB | times faster | part of the memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.models:
            folder = prepared(name, Path(scratch, name), max(args.samples))
            for count in sorted(args.samples):
                data = subset(folder / "calibration", folder / str(count), count)
                for tool, method, code, options in runs(args.methods):
                    row: dict[str, Any] = {"model": name, "samples": count, "method": method, "tool": tool}
                    need = expected_gb(rows, row)
                    if need > min(args.memory_limit, free_gb()):
                        row["failed"] = f"not run: would need about {need:.0f} GB"
                    else:
                        row.update(measure(code, folder / "source.onnx", data, options, args.repeat, args.timeout))
                    rows.append(row)
                    print(line(row, rows), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def runs(methods: list[str]) -> list[Run]:
    out: list[Run] = []
    for m in methods:
        if m != "mse":
            out.append(("onnxruntime", m, ORT, [{"minmax": "MinMax"}.get(m, m.capitalize())]))
        out.append(("edgec", m, EDGEC, ["--effort", "low", "--method", m]))
        if m == "mse":
            out.append(("edgec medium", m, EDGEC, []))
    return out


def prepared(name: str, folder: Path, count: int) -> Path:
    """A folder with source.onnx and the samples, by the script the accuracy benchmark uses."""
    folder.mkdir(parents=True)
    script = Path(__file__).parent / "peers" / "prepare.py"
    done = subprocess.run([sys.executable, str(script), name, str(folder), str(count)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} cannot be prepared: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return folder


def subset(every: Path, folder: Path, count: int) -> Path:
    """`count` samples: the first ones, from the beginning again where there are fewer."""
    files = sorted(every.glob("*.npz"))
    folder.mkdir()
    for i in range(count):
        target, source = folder / f"{i:05}.npz", files[i % len(files)]
        try:
            os.link(source, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, target)
    return folder


def measure(
    code: str, source: Path, data: Path, options: list[str], repeat: int, timeout: int
) -> dict[str, Any]:  # fmt: skip
    """Median seconds and MB of `repeat` runs, after one that fills caches where there is more than one."""
    seconds, cpu, memory = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "out.onnx")
        setting = f"SRC, DST, DATA, ARGS = {str(source)!r}, {str(out)!r}, {str(data)!r}, {options!r}"
        script = f"import atexit, sys\n{setting}\n{PEAK}\n{code}"
        env = {
            k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"
        }  # as installed: bytecode is cached
        for i in range(repeat + (repeat > 1)):
            out.unlink(missing_ok=True)
            used, start = cpu_seconds(), time.perf_counter()
            try:
                done = subprocess.run(
                    [sys.executable, "-c", script],
                    capture_output=True,
                    text=True,
                    env=env,
                    timeout=timeout,
                    cwd=scratch,
                )
            except subprocess.TimeoutExpired:
                return {"failed": f"not done after {timeout} s"}
            took = time.perf_counter() - start
            lines = done.stderr.strip().splitlines()
            if done.returncode or not out.exists():
                return {"failed": next((x for x in reversed(lines) if not x.startswith("VmHWM")), "no output")[:80]}
            if i or repeat == 1:
                seconds.append(took)
                cpu.append(cpu_seconds() - used)
                memory.append(next(int(x.split()[1]) for x in lines if x.startswith("VmHWM:")) / 1024)
    return {"seconds": statistics.median(seconds), "cpu": statistics.median(cpu), "mb": statistics.median(memory)}


def cpu_seconds() -> float:
    """Of all processes run so far, in user and system mode."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def expected_gb(rows: list[dict[str, Any]], row: dict[str, Any]) -> float:
    """Memory of a run by those of the same tool on fewer samples, as a straight line; 0 with less than two of them."""
    same = [r for r in rows if all(r[k] == row[k] for k in ("model", "method", "tool"))]
    known = [(r["samples"], r["mb"]) for r in same if "mb" in r]
    if len(known) < 2:
        return 0.0
    (n, a), (m, b) = known[-2:]
    return (b + (row["samples"] - m) * max(b - a, 0) / (m - n)) / 1024


def free_gb() -> float:
    text = Path("/proc/meminfo").read_text()
    return next(int(x.split()[1]) for x in text.splitlines() if x.startswith("MemAvailable:")) / 2**20


def line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    head = f"| {row['model']} | {row['samples']} | {row['method']} | {row['tool']} |"
    if "failed" in row:
        return f"{head} {row['failed']} | | | | |"
    peer = next(
        (r for r in rows if r["tool"] == "onnxruntime" and all(r[k] == row[k] for k in ("model", "samples", "method"))),
        None,
    )
    beside = " | |" if peer is None or peer is row or "mb" not in peer else (
        f" {peer['seconds'] / row['seconds']:.1f} | {row['mb'] / peer['mb']:.2f} |"
    )  # fmt: skip
    return f"{head} {row['seconds']:.2f} | {row['cpu']:.2f} | {row['mb']:.0f} |{beside}"


if __name__ == "__main__":
    main()
