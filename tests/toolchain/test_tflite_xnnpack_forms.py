"""Forms chosen because XNNPACK takes them: which operators they are, that XNNPACK takes all of them, and their numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgec.graph import Graph
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.pipeline import PassContext
from edgec.runtime import Session
from edgec.targets.tflite.endpoints import Interface
from edgec.targets.tflite.lower import LoweredModel, LowerOptions, lower
from edgec.targets.tflite.model_runs import ModelRun, run_litert
from edgec.targets.tflite.writer import write
from edgec.toolchain import Toolchain

HEAD = '<ir_version: 10, opset_import: ["" : 22]> g '


def activation(op: str, scale: float, zero: int) -> Graph:
    """`op` between int8 of scale 0.07, zero point -3, and the output's."""
    return graph(
        f"""(float[1,4,9,8] x) => (float[1,4,9,8] y)
        <float s = {{0.07}}, int8 z = {{-3}}, float t = {{{scale}}}, int8 u = {{{zero}}}> {{
          q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) h = {op} (d)
          r = QuantizeLinear (h, t, u) y = DequantizeLinear (r, t, u) }}"""
    )


def graph(text: str) -> Graph:
    made = Graph.from_text(HEAD + text)
    InferShapes().run(made, PassContext())
    return made


def kinds(lowered: LoweredModel) -> dict[str, int]:
    found = Counter(o.op for o in lowered.model.main.operators)
    return {k: v for k, v in found.items() if k not in ("QUANTIZE", "DEQUANTIZE")}


@pytest.fixture(scope="module")
def litert(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("litert")


GATE = "HardSigmoid <alpha = 0.2, beta = 0.4>"
CASES = {
    "HardSwish": (activation("HardSwish", 0.035, -117), {"MUL": 2, "ADD": 1}),
    "HardSigmoid": (activation(GATE, 1 / 255, -128), {"MUL": 1, "ADD": 1}),
    "HardSigmoid, a part of its range": (activation(GATE, 0.003, -128), {"MUL": 1, "ADD": 1}),
    "HardSigmoid, beyond its range": (activation(GATE, 0.01, -20), {"MUL": 1, "ADD": 1, "MINIMUM": 1}),
}


@pytest.mark.toolchain
@pytest.mark.parametrize("name", CASES)
def test_integer_activations(name: str, litert: Toolchain, tmp_path: Path) -> None:
    """Every stored input there is; within 2 steps of ONNX Runtime in all three kernels: the gate is rounded once more."""
    made, operators = CASES[name]
    lowered = lower(made, LowerOptions(xnnpack=True))
    assert kinds(lowered) == operators
    x = np.resize((np.arange(-128, 128) + 3) * 0.07, (1, 4, 9, 8)).astype(np.float32)
    want = next(iter(Session(made).run_all([{"x": x}])))["y"]
    ends = Interface.of(lowered, made)
    step = float(lowered.model.main.operators[-1].inputs[0].quant.scale[0])  # type: ignore[union-attr]
    for kernels in ("xnnpack", "builtin", "reference"):
        run = ModelRun(write(lowered.model), [ends.store({"x": x})])
        (outcome,) = run_litert(litert, [run], folder=tmp_path, kernels=kernels)  # type: ignore[arg-type]
        assert outcome.status == "ok", outcome.message
        assert np.abs(ends.restore(outcome.outputs[0])["y"] - want).max() <= 2.01 * step
        if kernels == "xnnpack":
            assert [op for op, taken in outcome.operators if not taken] == (
                ["MINIMUM"] if "MINIMUM" in operators else []
            )


def test_hard_swish_stays_one_operator_without_xnnpack() -> None:
    assert kinds(lower(CASES["HardSwish"][0])) == {"HARD_SWISH": 1}


@pytest.mark.toolchain
def test_channel_shuffle(litert: Toolchain, tmp_path: Path) -> None:
    """ShuffleNet's split of even and odd channels: one TRANSPOSE for both, then blocks of memory."""
    made = graph(
        """(float[1,8,9,10] x) => (float[1,4,9,10] a, float[1,4,9,10] b)
        <int64[4] s = {4,2,9,10}, int64[5] r = {2,1,4,9,10}, int64 zero = {0}, int64 one = {1}> {
          v = Reshape (x, s) t = Transpose <perm = [1,0,2,3]> (v) w = Reshape (t, r)
          a = Gather <axis = 0> (w, zero) b = Gather <axis = 0> (w, one) }"""
    )
    lowered = lower(made, LowerOptions(io_layout="nhwc"))
    assert kinds(lowered)["TRANSPOSE"] <= 2
    x = np.random.default_rng(0).standard_normal((1, 8, 9, 10)).astype(np.float32)
    ends = Interface.of(lowered, made)
    run = ModelRun(write(lowered.model), [ends.store({"x": x})])
    (outcome,) = run_litert(litert, [run], folder=tmp_path)
    assert outcome.status == "ok", outcome.message
    got = ends.restore(outcome.outputs[0])
    assert np.array_equal(got["a"], x[:, 0::2])
    assert np.array_equal(got["b"], x[:, 1::2])
    assert all(taken for _, taken in outcome.operators)


@pytest.mark.parametrize(("before", "pad"), [("Relu", "PAD"), ("Neg", "PADV2")])
def test_padding_of_max_pool(before: str, pad: str) -> None:
    """Zeros are no maximum of what is never negative."""
    made = graph(
        f"""(float[1,3,8,8] x) => (float[1,3,4,4] y) {{
          h = {before} (x) y = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (h) }}"""
    )
    assert kinds(lower(made, LowerOptions(io_layout="nhwc")))[pad] == 1


@pytest.mark.toolchain
def test_a_constant_next_to_nothing(litert: Toolchain, tmp_path: Path) -> None:
    """XNNPACK's ADD takes no scale below 1/1024 of the output's."""
    made = graph(
        """(float[1,4,9,8] x) => (float[1,4,9,8] y)
        <float s = {0.07}, int8 z = {-3}, float c = {0.000001}, int8 k = {100}, int8 o = {0}> {
          q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) e = DequantizeLinear (k, c, o) h = Add (d, e)
          r = QuantizeLinear (h, s, z) y = DequantizeLinear (r, s, z) }"""
    )
    lowered = lower(made, LowerOptions(xnnpack=True))
    x = np.resize((np.arange(-128, 128) + 3) * 0.07, (1, 4, 9, 8)).astype(np.float32)
    ends = Interface.of(lowered, made)
    run = ModelRun(write(lowered.model), [ends.store({"x": x})])
    (outcome,) = run_litert(litert, [run], folder=tmp_path)
    assert outcome.status == "ok", outcome.message
    assert all(taken for _, taken in outcome.operators)
    assert np.abs(ends.restore(outcome.outputs[0])["y"] - x).max() < 1e-5
