"""Schemes and linter against the vendors' own parsers and runtimes; no GPU and no phone is needed.

TensorRT's parser is asked through the toolchain tensorrt-rtx. QNN runs in an environment of its own, made from the package
index, or in one that is named: EDGEC_QNN_PYTHON has onnxruntime-qnn.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdq_models import check, errors
from test_quant_lint_tensorrt import TRT_ACCEPTED, TRT_REFUSED, TRT_WARNED

from edgec.graph import Graph
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext
from edgec.samples import Samples
from edgec.targets.tensorrt.oracle import judge_all
from edgec.toolchain import Toolchain, ToolchainManager
from edgec.toolchain.installer import uv_binary

pytestmark = pytest.mark.toolchain

QNN = """
import json, sys
import numpy as np
import onnxruntime as ort
import onnxruntime_qnn as qnn
ort.register_execution_provider_library("QNNExecutionProvider", qnn.get_library_path())
devices = [d for d in ort.get_ep_devices() if d.ep_name == "QNNExecutionProvider"]
out = {}
for path in sys.argv[1:]:
    feeds = {"x": np.load(path + ".npy")}
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    want = ort.InferenceSession(path, plain, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    for soc in ("35", "43"):  # Hexagon v68, which computes nothing in float, and v73
        options = ort.SessionOptions()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.add_provider_for_devices(devices, {"backend_type": "htp", "soc_model": soc})
        try:
            got = ort.InferenceSession(path, options, enable_fallback=0).run(None, feeds)[0]
        except Exception as e:
            out[path + soc] = str(e)[:200]
            continue
        off = float(np.abs(got - want).max() / np.abs(want).max())
        out[path + soc] = "" if off < 0.05 else f"off by {off:.3f} of the largest value"
print("RESULT" + json.dumps(out))
"""

SILENT = {"uint8 zero point 0 clips at 127, silently", "zero point left out: uint8, silently"}
"""What the parser takes and computes wrongly: the linter knows better."""


PACKAGES = {
    "EDGEC_QNN_PYTHON": ["onnxruntime-qnn==2.7.0", "onnxruntime==1.31.1", "numpy", "onnx"],
}


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The Python of a vendor's environment; skips where the machine cannot have one."""
    made: dict[str, str] = {}

    def get(variable: str) -> str:
        if os.environ.get(variable):
            return os.environ[variable]
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            pytest.skip("the vendors' packages are for x86-64 Linux")
        if variable not in made:
            folder = tmp_path_factory.mktemp("oracle")
            uv = str(uv_binary())
            subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder / "venv")], check=True)
            python = str(folder / "venv/bin/python")
            subprocess.run([uv, "pip", "install", "-q", "--python", python, *PACKAGES[variable]], check=True)
            made[variable] = python
        return made[variable]

    return get


@pytest.fixture(scope="module")
def tensorrt(
    installed: Callable[[str], Toolchain], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[list[Path]], dict[str, str]]:
    """What TensorRT-RTX says of each file: nothing, or what is wrong. Skips where the machine cannot have it."""
    manager = ToolchainManager()
    installed("tensorrt-rtx")

    def say(paths: list[Path]) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("tensorrt")
        found = judge_all(paths, manager, workdir=folder, capabilities=("sm89",))
        return {str(p): "" if v.accepted else v.summary for p, v in zip(paths, found, strict=True)}

    return say


def ask(python: str, script: str, paths: list[Path]) -> dict[str, str]:
    """What a vendor's tool says of each file: nothing, or what is wrong."""
    run = subprocess.run(
        [python, "-c", script, *map(str, paths)], capture_output=True, text=True, timeout=600, check=False
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, run.stderr[-2000:]
    answer: dict[str, str] = json.loads(lines[-1].removeprefix("RESULT"))
    return answer


def numbers(count: int, seed: int) -> str:
    return ", ".join(f"{v:.4f}" for v in np.random.default_rng(seed).normal(size=count) * 0.2)


def network() -> Graph:
    """Convolutions, a residual addition, SiLU, pooling, a concatenation, a linear layer, a softmax."""
    weights = ", ".join(
        f"float[{shape}] {name} = {{{numbers(int(np.prod([int(d) for d in shape.split(',')])), i)}}}"
        for i, (name, shape) in enumerate(
            [("w1", "16,4,3,3"), ("b1", "16"), ("w2", "16,16,3,3"), ("b2", "16"), ("wd", "16,1,3,3"), ("wf", "10,32"), ("bf", "10")]
        )
    )  # fmt: skip
    graph = Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,4,16,16] x) => (float[1,10] y) <{weights}> {{
            c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
            r1 = Relu(c1)
            c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
            a = Add(c2, r1)
            r2 = Relu(a)
            d = Conv<pads=[1,1,1,1], group=16>(r2, wd)
            s = Sigmoid(d)
            m = Mul(d, s)
            p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(m)
            q = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r2)
            k = Concat<axis=1>(p, q)
            v = GlobalAveragePool(k)
            f = Flatten(v)
            l = Gemm<transB=1>(f, wf, bf)
            y = Softmax(l)
        }}""")
    InferShapes().run(graph, PassContext())
    return graph


def quantised(scheme: str, path: Path) -> Path:
    graph = network()
    rng = np.random.default_rng(3)
    samples: list[dict[str, Any]] = [{"x": rng.normal(size=(1, 4, 16, 16)).astype(np.float32)} for _ in range(8)]
    Quantize(scheme=scheme).run(graph, PassContext(calibration=Samples(lambda: iter(samples), describe="random")))
    graph.save(path)
    np.save(f"{path}.npy", samples[0]["x"])
    return path


def test_the_linter_and_tensorrts_parser_agree(
    tmp_path: Path, tensorrt: Callable[[list[Path]], dict[str, str]]
) -> None:
    graphs = {**TRT_ACCEPTED, **{k: g for k, (g, _) in {**TRT_WARNED, **TRT_REFUSED}.items()}}
    paths = {}
    for i, (case, graph) in enumerate(graphs.items()):
        paths[case] = tmp_path / f"{i}.onnx"
        graph.save(paths[case])
    said = tensorrt(list(paths.values()))
    for case, path in paths.items():
        refused = bool(said[str(path)])
        found = errors(check(graphs[case], "tensorrt-int8"))
        assert bool(found) == (refused or case in SILENT), f"{case}: parser says {said[str(path)]!r}, linter {found}"


@pytest.mark.parametrize("scheme", ["tensorrt-int8", "tensorrt-dla", "tensorrt-fp8"])
def test_tensorrt_builds_what_we_quantise(
    scheme: str, tmp_path: Path, tensorrt: Callable[[list[Path]], dict[str, str]]
) -> None:
    path = quantised(scheme, tmp_path / "m.onnx")
    assert tensorrt([path]) == {str(path): ""}


@pytest.mark.parametrize("scheme", ["qnn-int8", "qnn-a16w8"])
def test_qnn_runs_what_we_quantise_whole_on_the_htp(scheme: str, tmp_path: Path, pythons: Callable[[str], str]) -> None:
    path = quantised(scheme, tmp_path / "m.onnx")
    assert ask(pythons("EDGEC_QNN_PYTHON"), QNN, [path]) == {f"{path}35": "", f"{path}43": ""}
