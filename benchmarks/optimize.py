"""Float optimisation side by side: edgec, onnxsim, onnxslim, and ONNX Runtime's offline optimiser (basic and extended).

    EDGEC_EVAL_DIR=... python benchmarks/optimize.py [--models mobilenet_v2 ...] [--repeat 5] [--json out.json]

Each tool runs in a fresh process for each model and reads and writes a file, as its user would; wall time and peak memory
are those of the process (median of --repeat runs). The outputs are then run by ONNX Runtime with its own optimiser on,
one thread, interleaved so that no tool has the quieter minutes, and compared with the source model on random inputs.
Shapes are fixed first, the same way for everyone, so that each tool has the same chances. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

SHAPES = {
    "mobilenet_v2": "1x3x224x224",
    "efficientnet_lite0": "1x3x224x224",
    "cifar10_resnet20": "1x3x32x32",
    "mlperf_kws_dscnn": "1x49x10x1",
    "mnist_cnn_digitrec": "1x1x28x28",
    "nudenet_320n": "1x3x320x320",
    "ppocrv4_det": "1x3x480x480",
    "ppocrv4_rec": "1x3x48x320",
    "ppocr_cls_mbv3": "1x3x48x192",
    "sr_rdn_x2_upscalerjs": "1x3x64x64",
}
SILERO = ("input=1x576", "state=2x1x128")

TOOLS = {
    "edgec": "from edgec.cli import main; sys.exit(main(['opt', SRC, '-o', DST, '-q']))",
    "onnxsim": "import onnx, onnxsim; m, ok = onnxsim.simplify(onnx.load(SRC)); onnx.save(m, DST)",
    "onnxslim": "import onnx, onnxslim; onnx.save(onnxslim.slim(SRC), DST)",
    "ort-basic": (
        "import onnxruntime as ort; o = ort.SessionOptions(); o.log_severity_level = 4; "
        "o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC; o.optimized_model_filepath = DST; "
        "ort.InferenceSession(SRC, o, providers=['CPUExecutionProvider'])"
    ),
    "ort-extended": (
        "import onnxruntime as ort; o = ort.SessionOptions(); o.log_severity_level = 4; "
        "o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED; o.optimized_model_filepath = DST; "
        "ort.InferenceSession(SRC, o, providers=['CPUExecutionProvider'])"
    ),
}


PEAK = "atexit.register(lambda: sys.stderr.write([x for x in open('/proc/self/status') if x.startswith('VmHWM')][0]))"
"""Peak memory as the process itself sees it: ru_maxrss of a child also counts the parent it was forked from."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", help="default: every model of EDGEC_EVAL_DIR and the light nets of onnx")
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--runs", type=int, default=15, help="timed inferences of each output")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("| model | nodes | tool | seconds | peak MB | nodes out | ms | max rel. error |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in models(args.models):
            source = fix_shapes(name, path, Path(scratch))
            outputs: dict[str, Path] = {}
            measured: dict[str, dict[str, Any]] = {}
            for tool in args.tools:
                out = Path(scratch, f"{name}.{tool}.onnx")
                measured[tool] = run_tool(tool, source, out, args.repeat)
                if out.exists():
                    outputs[tool] = out
            timing = latency(source, outputs, args.runs)
            before = count(source)
            for tool in args.tools:
                row = {"model": name, "nodes": before, "tool": tool, **measured[tool], **timing.get(tool, {})}
                if tool in outputs:
                    row["out"] = count(outputs[tool])
                rows.append(row)
                print(line(row), flush=True)
                if tool in outputs:
                    outputs[tool].unlink()
    summary(rows, args.tools)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def models(wanted: list[str] | None) -> list[tuple[str, Path]]:
    import onnx

    found: dict[str, Path] = {}
    if home := os.environ.get("EDGEC_EVAL_DIR"):
        found.update({p.stem: p for p in sorted(Path(home, "models").glob("*.onnx"))})
    light = Path(onnx.__file__).parent / "backend/test/data/light"
    found.update({p.stem: p for p in sorted(light.glob("light_*.onnx"))})
    return [(n, p) for n, p in found.items() if not wanted or n in wanted]


def fix_shapes(name: str, path: Path, folder: Path) -> Path:
    """The same model with fixed input shapes: nothing else is changed."""
    from edgec.graph import Graph
    from edgec.lowering import freeze
    from edgec.plugins import Registry

    out = folder / f"{name}.onnx"
    if name not in SHAPES and name != "silero_vad_16k_op15":
        out.symlink_to(path)
        return out
    import onnx

    model = onnx.load(path)
    graph = Graph.load(path)
    freeze(graph, SILERO if name.startswith("silero") else [SHAPES[name]], Registry())
    shapes = {v.name: v.shape for v in graph.inputs}
    for v in model.graph.input:
        if v.name in shapes:
            for d, n in zip(v.type.tensor_type.shape.dim, shapes[v.name], strict=True):
                d.dim_value = int(n)
    onnx.save(model, out)
    return out


def run_tool(tool: str, source: Path, out: Path, repeat: int) -> dict[str, Any]:
    code = f"import atexit, sys; SRC, DST = {str(source)!r}, {str(out)!r}\n{PEAK}\n{TOOLS[tool]}"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # as installed: bytecode is cached
    seconds, memory = [], []
    for i in range(repeat + 1):  # the first run fills caches and does not count
        out.unlink(missing_ok=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, errors="replace")
        took = time.perf_counter() - start
        lines = done.stderr.strip().splitlines()
        if done.returncode or not out.exists():
            return {"failed": (lines or ["no output"])[-1][:80]}
        if i:
            seconds.append(took)
            memory.append(next(int(x.split()[1]) for x in lines if x.startswith("VmHWM:")) / 1024)
    return {"seconds": statistics.median(seconds), "mb": statistics.median(memory)}


def latency(source: Path, outputs: dict[str, Path], runs: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of one inference and the largest relative error, by tool."""
    import numpy as np
    import onnxruntime as ort

    from edgec.graph import Graph
    from edgec.samples import generated_samples

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    feeds = next(iter(generated_samples(Graph.load(source), count=1)))

    def session(path: Path) -> Any:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    reference = session(source).run(None, feeds)
    sessions, result = {}, {}
    for tool, path in outputs.items():
        try:
            made = session(path)
            got = made.run(None, feeds)
        except Exception as e:  # noqa: BLE001  a peer's output that does not run is a result, not our failure
            result[tool] = {"load_error": f"does not run: {str(e)[:40]}"}
            continue
        sessions[tool] = made
        errors = [
            np.abs(a - b).max() / max(np.abs(a).max(), 1e-3) for a, b in zip(reference, got, strict=True) if a.size
        ]
        result[tool] = {"error": float(max(errors))}
    times: dict[str, list[float]] = {t: [] for t in sessions}
    for _ in range(runs):
        for tool, s in sessions.items():
            start = time.perf_counter()
            s.run(None, feeds)
            times[tool].append(time.perf_counter() - start)
    for tool, t in times.items():
        result[tool]["ms"] = 1e3 * statistics.median(t)
    return result


def count(path: Path) -> int:
    """Nodes of the main graph and its subgraphs; Constant nodes are weights, not work."""
    import onnx

    def walk(graph: Any) -> int:
        bodies = [a.g for n in graph.node for a in n.attribute if a.HasField("g")]
        return sum(n.op_type != "Constant" for n in graph.node) + sum(map(walk, bodies))

    return walk(onnx.load(path, load_external_data=False).graph)


def line(row: dict[str, Any]) -> str:
    def show(key: str, form: str) -> str:
        return format(row[key], form) if key in row else "-"

    if "failed" in row:
        return f"| {row['model']} | {row['nodes']} | {row['tool']} | failed: {row['failed']} | | | | |"
    error = row.get("load_error") or show("error", ".1e")
    return (
        f"| {row['model']} | {row['nodes']} | {row['tool']} | {show('seconds', '.2f')} | {show('mb', '.0f')} | "
        f"{show('out', 'd')} | {show('ms', '.2f')} | {error} |"
    )


def summary(rows: list[dict[str, Any]], tools: list[str]) -> None:
    """How often each tool is the best (ties within 5 % of time and latency count for all)."""
    best: dict[str, Counter[str]] = {"seconds": Counter(), "mb": Counter(), "out": Counter(), "ms": Counter()}
    names = list(dict.fromkeys(r["model"] for r in rows))
    for name in names:
        for key, slack in (("seconds", 1.05), ("mb", 1.05), ("out", 1.0), ("ms", 1.05)):
            have = {r["tool"]: r[key] for r in rows if r["model"] == name and key in r}
            if have:
                best[key].update(t for t, v in have.items() if v <= min(have.values()) * slack)
    print(f"\nBest of {len(names)} models (ties count):\n")
    print("| tool | fastest | least memory | fewest nodes | fastest output |")
    print("|---|---|---|---|---|")
    for t in tools:
        print(f"| {t} | {best['seconds'][t]} | {best['mb'][t]} | {best['out'][t]} | {best['ms'][t]} |")


if __name__ == "__main__":
    main()
