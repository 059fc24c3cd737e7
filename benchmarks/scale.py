"""Large graphs: 10,000 nodes through the default pipeline, and 2.5 GB of external weights through the float passes.

    python benchmarks/scale.py [--nodes 10000] [--gigabytes 2.5]

Each measurement is a fresh process: seconds of wall time, and its own peak memory (VmHWM; memory-mapped weights count
while they are resident). The peers' numbers on the same two models are printed beside where they can run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEAK = "import atexit, sys; atexit.register(lambda: print([x for x in open('/proc/self/status') if x.startswith('VmHWM')][0], file=sys.stderr))"
EDGEC = "from edgec.cli import main; sys.exit(main(['opt', SRC, '-o', DST, '-q']))"
ORT = (
    "import onnxruntime as ort; o = ort.SessionOptions(); o.log_severity_level = 4; "
    "o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC; o.optimized_model_filepath = DST; "
    "o.add_session_config_entry('session.optimized_model_external_initializers_file_name', 'ort.data'); "
    "ort.InferenceSession(SRC, o, providers=['CPUExecutionProvider'])"
)
ONNXSIM = "import onnx, onnxsim; m, ok = onnxsim.simplify(SRC); onnx.save(m, DST, save_as_external_data=True)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--gigabytes", type=float, default=2.5)
    args = parser.parse_args()
    print("| model | tool | seconds | peak MB | nodes |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        deep = many_nodes(folder / "deep.onnx", args.nodes)
        for tool, code in (("edgec", EDGEC), ("onnxruntime basic", ORT), ("onnxsim", ONNXSIM)):
            row(f"{args.nodes:,} nodes", tool, code, deep, folder / f"deep.{tool.split()[0]}.onnx")
        heavy = big_weights(folder / "heavy.onnx", args.gigabytes)
        for tool, code in (("edgec", EDGEC), ("onnxruntime basic", ORT)):
            out = folder / tool.split()[0]
            out.mkdir()
            row(f"{args.gigabytes:g} GB of weights", tool, code, heavy, out / "heavy.onnx")


def many_nodes(path: Path, count: int) -> Path:
    """Residual blocks of Conv, BatchNormalization, Relu, Add and a redundant Identity, with shared small weights."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((8, 8, 1, 1)).astype(np.float32) / 8, "w")]
    weights += [
        numpy_helper.from_array(np.full(8, v, np.float32), n) for n, v in zip("sbmv", (1, 0.1, 0.2, 1), strict=True)
    ]
    nodes, last = [], "x"
    for i in range(count // 5):
        block = (
            ("Conv", [last, "w"]),
            ("BatchNormalization", [f"Conv{i}", "s", "b", "m", "v"]),
            ("Relu", [f"BatchNormalization{i}"]),
            ("Identity", [f"Relu{i}"]),
            ("Add", [f"Identity{i}", last]),
        )
        nodes += [helper.make_node(op, ins, [f"{op}{i}"], name=f"{op}_{i}") for op, ins in block]
        last = f"Add{i}"
    x = helper.make_tensor_value_info("x", 1, [1, 8, 4, 4])
    y = helper.make_tensor_value_info(last, 1, [1, 8, 4, 4])
    graph = helper.make_graph(nodes, "deep", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def big_weights(path: Path, gigabytes: float) -> Path:
    """A chain of MatMul + Add over square weights that live in one external file."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    side = 8192
    layers = max(1, round(gigabytes * 1e9 / (4 * side * side)))
    data = path.with_name("heavy.data")
    weights, nodes, last = [], [], "x"
    rng = np.random.default_rng(0)
    with open(data, "wb") as f:
        for i in range(layers):
            w = TensorProto(name=f"w{i}", data_type=1, dims=[side, side], data_location=TensorProto.EXTERNAL)
            for key, value in (("location", data.name), ("offset", str(f.tell())), ("length", str(4 * side * side))):
                w.external_data.add(key=key, value=value)
            row = (rng.standard_normal(side) / side).astype(np.float32)
            for _ in range(side):
                f.write(row.tobytes())
            weights += [w, numpy_helper.from_array(np.zeros(side, np.float32), f"b{i}")]
            nodes += [
                helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]),
                helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"]),
            ]
            nodes += [helper.make_node("Relu", [f"a{i}"], [f"r{i}"])]
            last = f"r{i}"
    x = helper.make_tensor_value_info("x", 1, [1, 4, side])
    y = helper.make_tensor_value_info(last, 1, [1, 4, side])
    graph = helper.make_graph(nodes, "heavy", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def row(model: str, tool: str, code: str, source: Path, out: Path) -> None:
    import onnx

    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    program = f"{PEAK}\nSRC, DST = {str(source)!r}, {str(out)!r}\n{code}"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, cwd=out.parent)
    seconds = time.perf_counter() - start
    if done.returncode or not out.exists():
        print(f"| {model} | {tool} | failed: {(done.stderr.strip().splitlines() or ['?'])[-1][:90]} | | |", flush=True)
        return
    peak = next(int(x.split()[1]) for x in done.stderr.splitlines() if x.startswith("VmHWM")) / 1024
    nodes = sum(n.op_type != "Constant" for n in onnx.load(out, load_external_data=False).graph.node)
    print(f"| {model} | {tool} | {seconds:.1f} | {peak:.0f} | {nodes} |", flush=True)


if __name__ == "__main__":
    main()
