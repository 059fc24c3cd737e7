"""What edgec adds to an RKNN compile: `edgec compile` beside a hand-written rknn-toolkit2 script that does the same.

    EDGEC_EVAL_DIR=... python benchmarks/overhead.py [--models mobilenet_v2 ...] [--repeat 5]

All are whole processes, run in turn. Each loads the model, fixes its shape, builds for the RK3588 in fp16, exports, runs
the simulator on the same four inputs, and runs the float model on them for comparison. The script runs in the same
environment as edgec's worker. It is run twice: on the file edgec gets too, its shape fixed by the SDK ("source"), and on the
graph that edgec's passes make of it ("ready": as if somebody had simplified the model before, for nothing). edgec besides
runs its passes, checks placement, and writes report and manifest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPES = {
    "mobilenet_v2": "1x3x224x224",
    "efficientnet_lite0": "1x3x224x224",
    "ppocrv4_det": "1x3x480x480",
    "nudenet_320n": "1x3x320x320",
}

SCRIPT = """
import sys, numpy as np, onnxruntime as ort
from rknn.api import RKNN
source, ready, folder, out = sys.argv[1:5]
feeds = [np.load(f"{folder}/{i}.npy") for i in range(4)]
session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
want = [session.run(None, {name: x})[0] for x in feeds]
rknn = RKNN(verbose=True)
assert rknn.config(target_platform="rk3588") == 0
fixed = {} if ready != source else {"inputs": [name], "input_size_list": [list(feeds[0].shape)]}
assert rknn.load_onnx(model=ready, **fixed) == 0
assert rknn.build(do_quantization=False) == 0
assert rknn.export_rknn(out) == 0
assert rknn.init_runtime() == 0
got = [rknn.inference(inputs=[x], data_format=["nchw"])[0] for x in feeds]
noise = sum(float(((a - b) ** 2).sum()) for a, b in zip(want, got))
print("SQNR", 10 * np.log10(sum(float((a ** 2).sum()) for a in want) / noise))
rknn.release()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    import numpy as np

    from edgec.graph import Graph
    from edgec.lowering import lower
    from edgec.pipeline import PassContext
    from edgec.plugins import Registry
    from edgec.samples import generated_samples
    from edgec.toolchain import ToolchainManager

    home = Path(os.environ["EDGEC_EVAL_DIR"], "models")
    python = ToolchainManager(progress=lambda text: print(text, file=sys.stderr)).ensure("rknn").python
    registry = Registry()
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    print("| model | script on source s | script on ready s | edgec s | overhead | over ready | nodes: source, ready |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            source = home / f"{name}.onnx"
            ready = lower(
                Graph.load(source),
                registry.target("rk3588"),
                input_shapes=[SHAPES[name]],
                registry=registry,
                ctx=PassContext(),
            ).graph
            ready.save(folder / "ready.onnx")
            for i, sample in enumerate(generated_samples(ready, count=4)):
                np.save(folder / f"{i}.npy", next(iter(sample.values())))
            (folder / "script.py").write_text(SCRIPT)
            by_hand = [str(python), "script.py", str(source), str(source), ".", "out.rknn"]
            prepared = [str(python), "script.py", str(source), "ready.onnx", ".", "out.rknn"]
            ours = [
                sys.executable,
                "-m",
                "edgec",
                "compile",
                str(source),
                "-t",
                "rk3588",
                "--input-shape",
                SHAPES[name],
            ]
            ours += ["--output", str(folder / "out"), "--quiet", "--offline"]
            commands = {"script": by_hand, "prepared": prepared, "edgec": ours}
            times: dict[str, list[float]] = {who: [] for who in commands}
            for i in range(args.repeat + 1):
                for who, command in commands.items():
                    start = time.perf_counter()
                    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
                    if done.returncode:
                        sys.exit(f"{who} failed on {name}: {done.stderr[-800:]}")
                    if i:  # the first run of each fills caches
                        times[who].append(time.perf_counter() - start)
            a, ready_s, b = (statistics.median(times[k]) for k in commands)
            nodes = sum(Graph.load(source).op_counts().values()), sum(ready.op_counts().values())
            print(
                f"| {name} | {a:.2f} | {ready_s:.2f} | {b:.2f} | {100 * (b / a - 1):+.0f} % | "
                f"{100 * (b / ready_s - 1):+.0f} % | {nodes[0]}, {nodes[1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
