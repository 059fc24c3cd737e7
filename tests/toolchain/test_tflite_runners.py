"""LiteRT, tflite-micro and Vela for real: numbers, refusals, and files that take the process down."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runnable_tflite_models as models

import edgec.targets.tflite
from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.pipeline import PassContext
from edgec.runtime import Session
from edgec.target import EmitJob
from edgec.targets.tflite.endpoints import Endpoint, Interface
from edgec.targets.tflite.lower import LowerOptions, lower
from edgec.targets.tflite.model import Operator, Quant, SubGraph, Tensor, TfliteModel
from edgec.targets.tflite.model_runs import ModelRun, run_litert, run_micro
from edgec.targets.tflite.op_timing import time_operators
from edgec.targets.tflite.runner import LiteRtRunner, MicroRunner, available
from edgec.targets.tflite.writer import write
from edgec.toolchain import Toolchain, ToolchainManager, WorkerError

pytestmark = pytest.mark.toolchain
VELA = Path(edgec.targets.tflite.__file__).with_name("vela_worker.py")


@pytest.fixture(scope="module")
def manager() -> ToolchainManager:
    return ToolchainManager()


@pytest.fixture(scope="module")
def litert(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("litert")


@pytest.fixture(scope="module")
def micro(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("tflite-micro")


SAMPLES = [{"x": np.random.default_rng(i).standard_normal((1, 3, 8, 8)).astype("f4")} for i in range(5)]
ADD = [Tensor(n, (1, 4), "float32") for n in "ab"]
GOOD = models.one_op("ADD", ADD, Tensor("c", (1, 4), "float32"))
FEED = {"x0": np.arange(4, dtype="f4")[None], "x1": np.full((1, 4), 10, "f4")}


def code(caught: pytest.ExceptionInfo[EdgecError]) -> str:
    return caught.value.diagnostics[0].code


def test_litert_kernels_agree(litert: Toolchain, manager: ToolchainManager, tmp_path: Path) -> None:
    """ONNX-side names, shapes and types; the three kinds of kernels within 2 steps of 1/256."""
    model = write(models.small_int8())
    results = {}
    for kernels in ("xnnpack", "builtin", "reference"):
        runner = LiteRtRunner(model, models.interface(), manager, tmp_path, kernels=kernels)
        results[kernels] = list(runner.run(iter(SAMPLES)))
        assert litert.versions["ai-edge-litert"] in runner.describe
        delegated = [taken for _, taken in runner.operators(SAMPLES[0])]
        assert any(delegated) == (kernels == "xnnpack")
    for rows in results.values():
        assert len(rows) == len(SAMPLES)
        for row, reference in zip(rows, results["reference"], strict=True):
            assert list(row) == ["prob"]
            assert (row["prob"].dtype, row["prob"].shape) == (np.float32, (1, 10))
            assert abs(row["prob"].sum() - 1) < 0.03
            assert np.abs(row["prob"] - reference["prob"]).max() <= 2 / 256
    assert len({row["prob"].tobytes() for row in results["reference"]}) == len(SAMPLES)
    assert not any(tmp_path.iterdir())


def test_chunks(litert: Toolchain, manager: ToolchainManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LiteRtRunner(write(models.small_int8()), models.interface(), manager, tmp_path)
    expected = [row["prob"] for row in whole.run(SAMPLES)]
    monkeypatch.setattr("edgec.targets.tflite.runner.CHUNK_BYTES", 300)  # a sample is 192
    assert [row["prob"].tolist() for row in whole.run(SAMPLES)] == [p.tolist() for p in expected]


def test_all_tensors_and_timing(litert: Toolchain, manager: ToolchainManager, tmp_path: Path) -> None:
    model = models.small_int8()
    index = {t.name: i for i, t in enumerate(model.main.tensors())}
    runner = LiteRtRunner(write(model), models.interface(), manager, tmp_path, kernels="reference", threads=1)
    tensors = runner.tensors(SAMPLES[0])
    assert {index[n] for n in ("conv", "add", "mean", "logits", "prob")} == set(tensors)
    assert tensors[index["conv"]].shape == (1, 8, 8, 4)
    stored = models.interface().store(SAMPLES[0])["x"]
    real = (tensors[index["conv"]].astype("f4") + 128) * 0.06
    w, b = model.main.operators[0].inputs[1:]
    assert w is not None
    assert b is not None
    assert w.data is not None
    assert b.data is not None
    assert w.quant is not None
    x = np.pad((stored.astype("f8") - 3) * 0.05, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    bias = b.data * w.quant.scale * 0.05
    expected = np.einsum("bhwckl,oklc->bhwo", windows, w.data * w.quant.scale[:, None, None, None]) + bias
    assert np.abs(real - np.clip(expected, 0, 6)).max() <= 0.06
    latency = runner.latency(SAMPLES[0], runs=5)
    assert 0 < latency.least <= latency.median
    assert latency.runs == 5


def test_time_operators(litert: Toolchain, tmp_path: Path) -> None:
    sample = models.interface().store(SAMPLES[0])
    rows = time_operators(models.small_int8(), sample, litert, tmp_path, runs=3)
    assert [r.op for r in rows] == ["CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    assert all(r.seconds is not None and r.seconds > 0 for r in rows), rows
    assert rows[0].source == "conv0"
    assert rows[0].delegated


def test_a_crash_costs_one_model(litert: Toolchain, tmp_path: Path) -> None:
    bad = models.aborting()
    zeros = {f"x{i}": np.zeros((1, 4), "i1") for i in range(2)}
    good = ModelRun(GOOD, [FEED])
    runs = [good, ModelRun(bad, [zeros]), good, ModelRun(b"garbage", [FEED]), ModelRun(bad, [zeros]), good]
    outcomes = run_litert(litert, runs, folder=tmp_path, kernels="builtin")
    assert [o.status for o in outcomes] == ["ok", "crashed", "ok", "refused", "crashed", "ok"]
    assert outcomes[1].signal in ("SIGABRT", "SIGSEGV", "SIGFPE")
    assert outcomes[3].message
    for i in (0, 2, 5):
        np.testing.assert_array_equal(outcomes[i].outputs[0]["y"], [[10, 11, 12, 13]])
    assert not any(tmp_path.iterdir())


def test_a_hang_costs_one_model(litert: Toolchain, tmp_path: Path) -> None:
    """3 * 10^11 multiplications do not end in a second and a half with the reference kernels."""
    side, channels, window = 512, 96, 11
    weights = np.zeros((channels, window, window, channels), "f4")
    x = Tensor("x", (1, side, side, channels), "float32")
    w = Tensor("w", weights.shape, "float32", data=weights)
    b = Tensor("b", (channels,), "float32", data=np.zeros(channels, "f4"))
    conv = Operator("CONV_2D", [x, w, b], [Tensor("y", x.shape, "float32")], {"stride_w": 1, "stride_h": 1})
    slow = write(TfliteModel([SubGraph(inputs=[x], outputs=conv.outputs, operators=[conv])], ["x0"], ["y"]))
    runs = [ModelRun(slow, [{"x0": np.zeros(x.shape, "f4")}]), ModelRun(GOOD, [FEED])]
    outcomes = run_litert(litert, runs, folder=tmp_path, kernels="reference", seconds=1.5)
    assert [o.status for o in outcomes] == ["hung", "ok"]
    assert outcomes[0].step == "sample 0"


def test_memory_limit(litert: Toolchain, tmp_path: Path) -> None:
    n = 16_000
    column, row = Tensor("a", (n, 1), "float32"), Tensor("b", (1, n), "float32")
    big = models.one_op("ADD", [column, row], Tensor("c", (n, n), "float32"))
    feed = {"x0": np.zeros((n, 1), "f4"), "x1": np.zeros((1, n), "f4")}
    runs = [ModelRun(big, [feed]), ModelRun(GOOD, [FEED])]
    outcomes = run_litert(litert, runs, folder=tmp_path, memory=400 << 20)
    assert [o.status for o in outcomes] == ["memory", "ok"]


@pytest.mark.parametrize(("data", "expected"), [(models.aborting(), "EC0655"), (b"TFL3 garbage", "EC0658")])
def test_runner_says_it_once(
    litert: Toolchain, manager: ToolchainManager, tmp_path: Path, data: bytes, expected: str
) -> None:
    ends = [Endpoint(f"x{i}", (1, 4), "int8", "int8") for i in range(2)]
    runner = LiteRtRunner(
        data,
        Interface(ends, [Endpoint("y", (1, 4), "int8", "int8")]),
        manager,
        tmp_path / "w",
        kernels="builtin",
        log=tmp_path / "l.log",
    )
    with pytest.raises(EdgecError) as caught:
        list(runner.run([{f"x{i}": np.zeros((1, 4), "i1") for i in range(2)}]))
    assert code(caught) == expected
    assert (tmp_path / "l.log").is_file()


def test_wrong_interface(litert: Toolchain, manager: ToolchainManager, tmp_path: Path) -> None:
    ends = [Endpoint(f"x{i}", (1, 4), "float32", "float32") for i in range(2)]
    wrong_name = Interface(ends, [Endpoint("z", (1, 4), "float32", "float32")])
    with pytest.raises(EdgecError) as caught:
        list(LiteRtRunner(GOOD, wrong_name, manager, tmp_path).run([FEED]))
    assert code(caught) == "EC0660"
    wrong_type = Interface(
        [Endpoint(f"x{i}", (1, 4), "float32", "int32") for i in range(2)], [Endpoint("y", (1, 4), "float32", "float32")]
    )
    with pytest.raises(EdgecError) as caught:
        list(LiteRtRunner(GOOD, wrong_type, manager, tmp_path).run([FEED]))
    assert code(caught) == "EC0658"
    assert "float32" in str(caught.value)


def test_micro_equals_litert_reference(
    litert: Toolchain, micro: Toolchain, manager: ToolchainManager, tmp_path: Path
) -> None:
    model = write(models.small_int8())
    mcu = MicroRunner(model, models.interface(), manager, tmp_path)
    got = list(mcu.run(SAMPLES))
    expected = LiteRtRunner(model, models.interface(), manager, tmp_path, kernels="reference").run(SAMPLES)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine["prob"], theirs["prob"])
    arena = mcu.arena
    assert arena is not None
    assert arena.total == arena.head + arena.tail
    assert arena.head >= 2 * 8 * 8 * 4
    assert mcu.measure() == arena
    assert arena.needed >= arena.total
    enough = MicroRunner(model, models.interface(), manager, tmp_path, arena_bytes=arena.needed)
    np.testing.assert_array_equal(next(enough.run(SAMPLES[:1]))["prob"], got[0]["prob"])
    assert enough.measure().needed == arena.needed
    small = MicroRunner(model, models.interface(), manager, tmp_path, arena_bytes=arena.needed - 16)
    with pytest.raises(EdgecError) as caught:
        small.measure()
    assert code(caught) == "EC0659"


def test_micro_refusals(micro: Toolchain, tmp_path: Path) -> None:
    """What it says on standard error is in the message; a crash costs one model here too."""
    gelu = models.one_op("GELU", ADD[:1], Tensor("c", (1, 4), "float32"))
    names = {"inputs": ["x0"], "outputs": ["y"]}
    runs = [
        ModelRun(gelu, [{"x0": FEED["x0"]}], **names),
        ModelRun(GOOD, [FEED, FEED], inputs=["x0", "x1"], outputs=["y"]),
    ]
    outcomes = run_micro(micro, runs, folder=tmp_path, arena=1 << 20)
    assert [o.status for o in outcomes] == ["refused", "ok"]
    assert "GELU" in outcomes[0].message
    np.testing.assert_array_equal(outcomes[1].outputs[1]["y"], [[10, 11, 12, 13]])


def test_vela(installed: Callable[[str], Toolchain], tmp_path: Path) -> None:
    vela = installed("vela")
    request = {
        "model": "m.tflite",
        "accelerator": "ethos-u55-128",
        "system_config": "Ethos_U55_High_End_Embedded",
        "memory_mode": "Shared_Sram",
    }
    files = {"m.tflite": write(models.small_int8())}
    answer = vela.run(VELA, request, files=files, workdir=tmp_path / "a")
    assert answer.path(answer.values["artifact"]).read_bytes()[4:8] == b"TFL3"
    assert {row["Target"] for row in answer.values["layers"]} == {"NPU"}
    assert {row["Original Operator"] for row in answer.values["layers"]} >= {"Conv2D", "Add", "Softmax"}
    assert answer.values["summary"]["cycles_total"] > 0
    assert answer.values["summary"]["accelerator_configuration"] == "Ethos_U55_128"
    assert answer.values["version"] == vela.versions["ethos-u-vela"]
    again = vela.run(VELA, request, files=files, workdir=tmp_path / "b")
    assert answer.path(answer.values["artifact"]).read_bytes() == again.path(again.values["artifact"]).read_bytes()
    floats = vela.run(VELA, request, files={"m.tflite": GOOD}, workdir=tmp_path / "c")
    assert {row["Target"] for row in floats.values["layers"]} == {"CPU"}
    with pytest.raises(WorkerError) as caught:
        vela.run(VELA, {**request, "accelerator": "ethos-u99"}, files=files, workdir=tmp_path / "d")
    assert caught.value.reason == "failed"


def test_endpoint_both_ways() -> None:
    x = np.linspace(-9, 9, 24, dtype="f4").reshape(1, 2, 3, 4)
    end = Endpoint("x", x.shape, "float32", "int8", (0, 2, 3, 1), Quant.of(0.05, 3))
    stored = end.store(x)
    assert (stored.dtype, stored.shape) == (np.int8, (1, 3, 4, 2))
    assert stored.max() == 127
    inside = np.abs(x) < 6
    assert np.abs(end.restore(stored) - x)[inside].max() <= 0.0251
    again = Interface.from_json(json.loads(json.dumps(Interface([end], [end]).to_json())))
    np.testing.assert_array_equal(again.inputs[0].store(x), stored)
    np.testing.assert_array_equal(again.restore({"x": stored})["x"], end.restore(stored))
    with pytest.raises(EdgecError, match="EC0660"):
        Endpoint("i", (1,), "int64", "int32").store(np.array([2**40]))
    with pytest.raises(EdgecError, match="EC0660"):
        end.store(x[0])


def test_not_available(tmp_path: Path) -> None:
    """Offline with nothing installed: a warning, no error; an override without the SDK is an error all the same."""
    offline = EmitJob("int8", tmp_path, ToolchainManager(tmp_path / "cache", offline=True), Diagnostics())
    assert not available(offline, "litert")
    assert [d.code for d in offline.diagnostics.items] == ["EC0661"]
    wrong = ToolchainManager(tmp_path / "cache", overrides={"litert": Path(sys.executable)})
    with pytest.raises(EdgecError) as caught:
        available(EmitJob("int8", tmp_path, wrong, Diagnostics()), "litert")
    assert code(caught) == "EC0613"


QDQ = """<ir_version: 10, opset_import: ["" : 24]> g (float[1,3,4,4] x) => (float[1,2,4,4] y)
<float s = {0.05}, int8 z = {3}, float sy = {0.07}, int8 zy = {-5}, float[2] sw = {0.01, 0.02}, int8[2] zw = {0, 0},
 int8[2,3,1,1] wq = {10, -20, 30, 40, 50, -60}>
{ xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) wd = DequantizeLinear<axis = 0>(wq, sw, zw)
  c = Conv(xd, wd) cq = QuantizeLinear(c, sy, zy) y = DequantizeLinear(cq, sy, zy) }"""


@pytest.mark.parametrize("io_layout", ["keep", "nhwc"])
@pytest.mark.parametrize("io_dtype", ["float", "integer"])
def test_interface_of_a_lowering(
    litert: Toolchain, micro: Toolchain, manager: ToolchainManager, tmp_path: Path, io_layout: Any, io_dtype: Any
) -> None:
    """Whatever the file's interface, ONNX samples go in and ONNX outputs come out: one step of 0.07 from ONNX Runtime."""
    graph = Graph.from_text(QDQ)
    InferShapes().run(graph, PassContext())
    lowered = lower(graph, LowerOptions(io_layout=io_layout, io_dtype=io_dtype))
    interface, model = Interface.of(lowered, graph), write(lowered.model)
    assert (interface.inputs[0].quant is not None) == (io_dtype == "integer")
    assert (interface.inputs[0].perm is not None) == (io_layout == "nhwc")
    samples = [{"x": np.random.default_rng(i).standard_normal((1, 3, 4, 4)).astype("f4") * 2} for i in range(3)]
    expected = list(Session(graph).run_all(samples))
    for runner in (
        LiteRtRunner(model, interface, manager, tmp_path),
        LiteRtRunner(model, interface, manager, tmp_path, kernels="reference"),
        MicroRunner(model, interface, manager, tmp_path),
    ):
        for got, want in zip(runner.run(samples), expected, strict=True):
            assert (got["y"].shape, got["y"].dtype) == (want["y"].shape, want["y"].dtype)
            assert np.abs(got["y"] - want["y"]).max() < 0.0701
