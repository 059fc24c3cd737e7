"""Structured pruning without labels: edgec and Torch-Pruning, on the same calibration inputs, judged on the same samples.

    EDGEC_EVAL_DIR=... python benchmarks/pruning.py --work FOLDER [--models ...] [--shares 0.1 0.2 ...] [--tools ...] [--only ...]

Each row is a process of its own that writes an ONNX file with that share of the multiply-accumulates gone (at least). `none`: cut
only; `closed`: `recover` in closed form; `distil`: `recover{method=distillation}`. `tp-...`: Torch-Pruning 1.6.1 through
onnx2torch, group magnitude, cut only, or trained on as many batches. No labels are used by any. What is made is kept in --work, by
the hash of the model, the samples and the sources of pruning and training, so that a run that was stopped goes on; distillation
stopped within a row goes on from its checkpoint.

Columns: the judge's metric; agreement with the float model's class; MACs and parameters that are left, counted by edgec on the
file; ms: one inference on ONNX Runtime, one thread, median, all rows of a model interleaved; s: CPU seconds the process took.
A latency with ~ was taken beside other jobs.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers.runs import Runs, hashed
from peers.tools import Tool

MODELS = ("cifar10_resnet20", "mobilenet_v2")
SHARES = (0.1, 0.2, 0.3, 0.5)
KINDS = ("none", "closed", "distil", "tp-none", "tp-distil")
STEPS = {"cifar10_resnet20": 840, "mobilenet_v2": 300, "efficientnet_lite0": 300}
"""Batches that edgec and Torch-Pruning train on: 12 rounds of 32 of the small images, 50 rounds of 16 of the large ones."""
BATCH = {"cifar10_resnet20": 32}
RATE = {"cifar10_resnet20": "0.006"}
"""edgec's learning rate, a part of a weight's size; the default of `recover` for the others."""
SLACK = 0.01
"""Of the MACs that a file may have too many of: tools count a little differently."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, required=True, help="environments, pruned models and results are kept here"
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="MODEL")
    parser.add_argument(
        "--shares", nargs="+", type=float, default=list(SHARES), metavar="SHARE", help="of the MACs that go"
    )
    parser.add_argument("--tools", nargs="+", default=list(KINDS), choices=KINDS, metavar="TOOL")
    parser.add_argument(
        "--only", nargs="+", choices=KINDS, metavar="TOOL", help="run these; show what is kept of the others"
    )
    parser.add_argument("--fresh", action="store_true", help="run again even if nothing changed")
    parser.add_argument("--limit", type=int, default=0, help="judged samples (default: all)")
    parser.add_argument("--calibration", type=int, default=2500, help="calibration samples at most")
    parser.add_argument("--steps", type=int, default=0, help="batches to train on (default: by model)")
    parser.add_argument("--runs", type=int, default=30, help="timed inferences of each model; 0: none")
    parser.add_argument("--timeout", type=int, default=7200, help="seconds a row may take")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    table = []
    for name in args.models:
        tools = {f"{kind}-{share}": tool(name, kind, share, args.steps) for share in args.shares for kind in args.tools}
        runs = Runs(
            args.work, samples=args.calibration, limit=args.limit, timeout=args.timeout, fresh=args.fresh, tools=tools,
            version=own_version,
        )  # fmt: skip
        rows = measure(runs, name, args.shares, args.tools, args.only or args.tools, args.runs)
        table += rows
        print(section(name, rows), flush=True)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


def tool(name: str, kind: str, share: float, steps: int) -> Tool:
    trained = {"steps": str(steps or STEPS.get(name, 300)), "batch": str(BATCH.get(name, 16))}
    if kind.startswith("tp-"):
        more = {**trained, "lr": "0.0001"} if kind == "tp-distil" else {}
        options = {"macs": str(share), "recover": kind[3:], **more}
        return Tool("torch_pruning_magnitude", "torchpruning", options, quantizes=False)
    more = {**trained, **({"lr": RATE[name]} if name in RATE else {})} if kind == "distil" else {}
    return Tool("edgec_prune", None, {"macs": str(share), "recover": kind, **more}, quantizes=False)


@functools.cache
def own_version() -> str:
    """Of the sources that pruning and recovery consist of: the rest of edgec changes more often, and nothing here."""
    import edgec
    import edgec.passes

    passes = [Path(p) / "prune" for p in edgec.passes.__path__]
    folders = [*passes, *(Path(p) / "training" for p in edgec.__path__)]
    return hashed(*sorted(f for d in folders for f in d.rglob("*.py")))


def measure(
    runs: Runs, name: str, shares: Sequence[float], kinds: Sequence[str], allowed: Sequence[str], timed: int
) -> list[dict[str, Any]]:
    """A row for the float model and one for each share and tool."""
    source = runs.prepared(name) / "source.onnx"
    reference = runs.judged(name, source)
    if "failed" in reference:
        raise SystemExit(f"{name}: the float model does not run: {reference['failed']}")
    full = size_of(source)
    rows: list[dict[str, Any]] = [row(name, "float", 0.0, source, reference, reference, full)]
    for share in shares:
        for kind in kinds:
            done = runs.attempt(name, f"{kind}-{share}", source, kind in allowed)
            if done is None:
                continue
            if done.out is None:
                rows.append({"model": name, "tool": kind, "share": share, **done.report})
                continue
            if (left := size_of(done.out)["macs"] / full["macs"]) > 1 - share + SLACK:
                rows.append({"model": name, "tool": kind, "share": share, "failed": f"leaves {left:.1%} of the MACs"})
                continue
            judged = runs.judged(name, done.out)
            rows.append({**done.report, **row(name, kind, share, done.out, judged, reference, full)})
    measured = [r for r in rows if "file" in r]
    latency, busy = (
        runs.timed(name, [Path(r["file"]) for r in measured], timed) if timed else ([None] * len(rows), False)
    )
    for r, took in zip(measured, latency, strict=False):
        if took:
            r |= {"ms": took["ms"], "ms_busy": busy}
    return rows


def row(
    name: str,
    kind: str,
    share: float,
    file: Path,
    judged: dict[str, Any],
    reference: dict[str, Any],
    full: dict[str, int],
) -> dict[str, Any]:
    first: dict[str, Any] = {"model": name, "tool": kind, "share": share}
    if "failed" in judged:
        return first | {"failed": f"does not run: {judged['failed']}"}
    a, b = (x["outputs"][0].reshape(len(x["outputs"][0]), -1).argmax(1) for x in (reference, judged))
    left = size_of(file)
    sizes = {k: left[k] / full[k] for k in full}
    return first | {"file": str(file), "metric": judged["metric"], "agreement": 100 * float((a == b).mean()), **sizes}


def size_of(file: Path) -> dict[str, int]:
    """Multiply-accumulates of one sample and stored numbers, by edgec's count."""
    from edgec.graph import Graph
    from edgec.infer import infer_shapes
    from edgec.placement import macs
    from edgec.report import parameters

    graph = Graph.load(file)
    infer_shapes(graph)
    return {"macs": sum(macs(n, batch=1) for n in graph.nodes()), "params": parameters(graph)}


def section(name: str, rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"\n### {name}\n",
        "| MACs to go | tool | metric % | agreement % | MACs left | params left | ms | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if "failed" in r:
            lines.append(f"| {r['share']:.0%} | {r['tool']} | failed: {r['failed'].replace('|', '/')} | | | | | |")
            continue
        ms = f"{'~' if r['ms_busy'] else ''}{r['ms']:.2f}" if "ms" in r else "-"
        seconds = f"{r['cpu_seconds']:.0f}" if "cpu_seconds" in r else "-"
        lines.append(
            f"| {r['share']:.0%} | {r['tool']} | {r['metric']:.2f} | {r['agreement']:.2f} | {r['macs']:.1%} | {r['params']:.1%} "
            f"| {ms} | {seconds} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
