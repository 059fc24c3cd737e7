"""What LiteRT makes of weights in 16, 8 and 4 bits beside float activations, of 16-bit activations, and of recurrent models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgec.compare import compare
from edgec.diagnostics import Diagnostics
from edgec.graph import Graph
from edgec.lowering import lower as run_pipeline
from edgec.pipeline import PassContext
from edgec.plugins import Registry
from edgec.runtime import Session
from edgec.samples import generated_samples
from edgec.target import EmitJob
from edgec.targets.tflite.emit import write_model
from edgec.targets.tflite.options import TfliteOptions
from edgec.targets.tflite.runner import LiteRtRunner
from edgec.toolchain import Toolchain, ToolchainManager

pytestmark = pytest.mark.toolchain


@pytest.fixture(scope="module")
def manager(installed: Callable[[str], Toolchain]) -> ToolchainManager:
    found = ToolchainManager()
    installed("litert")
    return found


def graph(nodes: list[onnx.NodeProto], x: tuple[int, ...], outputs: list[str], **weights: tuple[int, ...]) -> Graph:
    rng = np.random.default_rng(0)
    held = [numpy_helper.from_array((0.3 * rng.standard_normal(s)).astype(np.float32), n) for n, s in weights.items()]
    ends = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)]
    results = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs]
    made = helper.make_graph(nodes, "g", ends, results, held)
    return Graph.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 22)], ir_version=10))


def cnn() -> Graph:
    """Dense, depthwise, grouped and transposed convolutions, then a layer on the mean."""
    node, pads = helper.make_node, [1, 1, 1, 1]
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], pads=pads),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=pads, group=48),
        node("Conv", ["c2", "w3"], ["c3"], pads=pads, group=4),
        node("Relu", ["c3"], ["r3"]),
        node("ConvTranspose", ["r3", "w4"], ["c4"], strides=[2, 2]),
        node("GlobalAveragePool", ["c4"], ["m"]),
        node("Flatten", ["m"], ["f"]),
        node("Gemm", ["f", "w5", "b5"], ["y"]),
    ]
    return graph(
        nodes, (1, 8, 12, 12), ["y"],
        w1=(48, 8, 3, 3), w2=(48, 1, 3, 3), w3=(48, 12, 3, 3), w4=(48, 32, 2, 2), w5=(32, 40), b5=(40,),
    )  # fmt: skip


def recurrent(op: str) -> Graph:
    gates, outputs = (4, ["y", "h", "c"]) if op == "LSTM" else (3, ["y", "h"])
    node = helper.make_node(op, ["x", "w", "r", "b"], outputs, hidden_size=24, direction="bidirectional")
    return graph([node], (12, 2, 16), outputs, w=(2, gates * 24, 16), r=(2, gates * 24, 24), b=(2, gates * 48))


def compiled(g: Graph, precision: str, folder: Path, manager: ToolchainManager) -> tuple[Graph, LiteRtRunner, Path]:
    """The graph that was lowered, its runner, the file."""
    notes, registry = Diagnostics(), Registry()
    ctx = PassContext(diagnostics=notes, calibration=generated_samples(g))
    done = run_pipeline(g, registry.target("android"), precision, registry=registry, ctx=ctx).graph
    notes.raise_if_errors()
    path, _, ends, _ = write_model(done, EmitJob(precision, folder, manager, notes), TfliteOptions(), xnnpack=True)
    return done, LiteRtRunner(path, ends, manager, folder), path


@pytest.mark.parametrize(
    ("precision", "least", "size"),
    [("fp32", 100, 1.0), ("fp16", 55, 0.6), ("int8-weights", 100, 0.4), ("int8-dynamic", 30, 0.4), ("int4-weights", 30, 0.3),
     ("int16x8", 55, 0.4)],
)  # fmt: skip
def test_litert_computes_what_the_graph_says(
    precision: str, least: float, size: float, tmp_path: Path, manager: ToolchainManager
) -> None:
    """Against the Q/DQ graph in ONNX Runtime: quantised weights are exact in it, inputs of hybrid kernels are not quantised."""
    done, runner, path = compiled(cnn(), precision, tmp_path, manager)
    (tmp_path / "float").mkdir()
    _, _, whole = compiled(cnn(), "fp32", tmp_path / "float", manager)
    assert path.stat().st_size < size * whole.stat().st_size + 1
    samples = list(generated_samples(cnn()))[:3]
    want, got = list(Session(done).run_all(samples)), list(runner.run(samples))
    assert compare(want, got).worst_sqnr_db > least


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_recurrent_models_keep_no_state_of_their_own(op: str, tmp_path: Path, manager: ToolchainManager) -> None:
    _, runner, _ = compiled(recurrent(op), "fp32", tmp_path, manager)
    sample = next(iter(generated_samples(recurrent(op))))
    want = next(iter(Session(recurrent(op)).run_all([sample])))
    for got in runner.run([sample, sample, sample]):
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, atol=1e-5)
