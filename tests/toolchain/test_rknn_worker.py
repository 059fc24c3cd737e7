"""The real RKNN-Toolkit2, on a small network: numbers, placement, reproducible bytes, both styles of failure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgec.targets.rknn
from edgec.diagnostics import EdgecError
from edgec.targets.rknn.flatbuffer import read_rknn
from edgec.targets.rknn.layer_table import parse_layer_table
from edgec.toolchain import Answer, Toolchain, WorkerError

pytestmark = pytest.mark.toolchain
WORKER = Path(edgec.targets.rknn.__file__).with_name("worker.py")


@pytest.fixture(scope="module")
def rknn(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("rknn")


def conv_model() -> onnx.ModelProto:
    """Conv+Relu, Add, Log (which rk3588 leaves to the CPU), Conv."""
    r = np.random.default_rng(0)
    weights = {
        "w": (r.standard_normal((16, 3, 3, 3)) * 0.2).astype("f4"),
        "b": (r.standard_normal(16) * 0.1).astype("f4"),
        "w2": (r.standard_normal((8, 16, 1, 1)) * 0.1).astype("f4"),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], "relu0"),
        helper.make_node("Log", ["d1"], ["e"], "log0"),
        helper.make_node("Conv", ["e", "w2"], ["y"], "conv1"),
    ]
    nodes.insert(2, helper.make_node("Add", ["d", "one"], ["d1"], "add0"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 32, 32])],
        [numpy_helper.from_array(v, k) for k, v in {**weights, "one": np.ones(1, "f4")}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


MODEL = conv_model()
SAMPLES = [np.random.default_rng(i).standard_normal((1, 3, 32, 32)).astype("f4") for i in range(8)]


def build(rknn: Toolchain, folder: Path, precision: str, **extra: Any) -> Answer:
    folder.mkdir(parents=True)
    names = []
    for i, x in enumerate(SAMPLES):
        np.save(folder / f"s{i}.npy", x)
        names.append([f"s{i}.npy"])
    request = {
        "model": "model.onnx",
        "target_platform": "rk3588",
        "precision": precision,
        "calibration": names if precision == "int8" else [],
        "samples": names[:3],
        "output_names": ["y"],
        **extra,
    }
    return rknn.run(WORKER, request, files={"model.onnx": MODEL.SerializeToString()}, workdir=folder, timeout=300)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.005), ("int8", 0.15)])
def test_compile_and_simulate(rknn: Toolchain, tmp_path: Path, precision: str, tolerance: float) -> None:
    # a blank in the folder's name: the SDK's list of samples separates by blanks
    answer = build(rknn, tmp_path / "a b", precision)
    session = onnxruntime.InferenceSession(MODEL.SerializeToString(), providers=["CPUExecutionProvider"])
    assert len(answer.values["outputs"]) == 3
    for x, (row,) in zip(SAMPLES, answer.values["outputs"], strict=False):
        (expected,) = session.run(None, {"x": x})
        actual = np.load(answer.path(row["file"]))
        assert row["name"] == "y"
        assert actual.dtype == np.float32
        assert actual.shape == expected.shape
        assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < tolerance
    artifact = read_rknn(answer.path(answer.values["artifact"]))
    table = parse_layer_table(answer.log_text())
    assert artifact.platform == "rk3588"
    assert answer.values["versions"]["toolkit"] == rknn.versions["rknn-toolkit2"]
    assert answer.values["versions"]["toolkit"] in artifact.version
    assert table.unparsed == ()
    assert [(r.op, r.target) for r in table.rows] == [(o.type, o.target) for o in artifact.operators]
    assert {r.node: r.target for r in table.rows}["log0"] == "CPU"
    assert {r.node: r.target for r in table.rows}["conv0"] == "NPU"
    assert table.weight_kb
    assert table.internal_kb


def test_same_bytes(rknn: Toolchain, tmp_path: Path) -> None:
    """fp16 only: int8 files hold bytes the SDK never wrote, which differ now and then."""
    first, second = (build(rknn, tmp_path / n, "fp16") for n in "ab")
    if not first.fixed_addresses:
        pytest.skip("this sandbox does not allow personality(ADDR_NO_RANDOMIZE)")
    assert first.path("model.rknn").read_bytes() == second.path("model.rknn").read_bytes()


def test_sparse_ratio_column(rknn: Toolchain, tmp_path: Path) -> None:
    table = parse_layer_table(build(rknn, tmp_path / "w", "fp16", target_platform="rk3576").log_text())
    assert table.unparsed == ()
    assert any(r.sparse_ratio is not None for r in table.rows)
    assert any(r.sparse_ratio is None for r in table.rows)


def test_failure_by_exception(rknn: Toolchain, tmp_path: Path) -> None:
    with pytest.raises(WorkerError) as caught:
        build(rknn, tmp_path / "w", "fp16", config={"no_such_key": 1})
    assert (caught.value.reason, caught.value.step) == ("failed", "config")


def test_failure_by_return_code(rknn: Toolchain, tmp_path: Path) -> None:
    """RV1106 has no float: build returns -1 and says why in the log only."""
    with pytest.raises(WorkerError, match=r"build returned -1: .*do_quantization") as caught:
        build(rknn, tmp_path / "w", "fp16", target_platform="rv1106")
    assert (caught.value.reason, caught.value.step) == ("failed", "build")


def test_truncated_artifact(rknn: Toolchain, tmp_path: Path) -> None:
    data = build(rknn, tmp_path / "w", "fp16", samples=[]).path("model.rknn").read_bytes()
    for size in (0, 3, 64, 1000, len(data) // 2):
        with pytest.raises(EdgecError, match="EC0631"):
            read_rknn(data[:size])
    codes: set[str] = set()
    for at in range(64, 3000, 7):  # damage is found or harmless, never a traceback
        broken = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        try:
            read_rknn(broken)
        except EdgecError as e:
            codes.add(e.diagnostics[0].code)
    assert codes == {"EC0631"}
