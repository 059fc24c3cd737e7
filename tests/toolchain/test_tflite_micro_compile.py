"""From ONNX to firmware: keyword spotting and MobileNet on microcontrollers and Ethos-U, with the vendors' own tools."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

import edgec
from edgec.api import Compiled
from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.specs.schema import builtin_target
from edgec.target import EmitJob
from edgec.targets.tflite.ethosu.options import EthosUOptions
from edgec.targets.tflite.ethosu.vela import run_vela
from edgec.targets.tflite.model import Operator, Quant, SubGraph, Tensor, TfliteModel
from edgec.targets.tflite.reader import read
from edgec.targets.tflite.writer import write
from edgec.toolchain import Toolchain, ToolchainManager

pytestmark = pytest.mark.toolchain

BIT_EQUAL = "bit-equal to LiteRT's reference kernels"


@pytest.fixture(scope="module", autouse=True)
def toolchains(installed: Callable[[str], Toolchain]) -> None:
    for name in ("litert", "tflite-micro", "vela"):
        installed(name)


Calibrate = Callable[[str, int, Callable[[Any], Any]], Path]


@pytest.fixture(scope="module")
def calibrate(judge: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Calibrate:
    """Calibration inputs of a task, as a folder of .npy files."""

    def write(task: str, n: int, change: Callable[[Any], Any]) -> Path:
        folder: Path = tmp_path_factory.mktemp(task)
        for i, x in enumerate(islice(judge.calibration(task), n)):
            np.save(folder / f"{i:03d}.npy", change(np.asarray(x)))
        return folder

    return write


@pytest.fixture(scope="module")
def keywords(eval_dir: Path, calibrate: Calibrate) -> dict[str, Any]:
    return {
        "model": eval_dir / "models/mlperf_kws_dscnn.onnx",
        "input_shapes": ["input_1=1x49x10x1"],
        "calibration": calibrate("mlperf_kws_dscnn", 40, lambda x: x),
    }


@pytest.fixture(scope="module")
def mobilenet(eval_dir: Path, calibrate: Calibrate, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """MobileNetV2 for images of 96x96: its file fixes 224, which nothing in it depends on."""
    model = onnx.load(eval_dir / "models/mobilenet_v2.onnx")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_value = dims[3].dim_value = 96
    del model.graph.value_info[:]
    path = tmp_path_factory.mktemp("model") / "mobilenet_v2_96.onnx"
    onnx.save(model, path)
    pick = np.linspace(0, 223, 96).round().astype(int)
    return {
        "model": path,
        "input_shapes": ["input=1x3x96x96"],
        "calibration": calibrate("mobilenet_v2", 20, lambda x: np.ascontiguousarray(x[:, :, pick][:, :, :, pick])),
        "effort": "low",
    }


def facts(compiled: Compiled) -> dict[str, Any]:
    assert compiled.report.artifact is not None
    return dict(compiled.report.artifact.facts)


def codes(compiled: Compiled) -> set[str]:
    return {d.code for d in compiled.report.diagnostics}


def check_source(folder: Path, model: str, told: str) -> None:
    """The array is the file; a compiler took it, where there is one."""
    array = (folder / "model_data.cc").read_text()
    listed = array[array.index("= {") + 3 : array.index("};")]
    assert bytes(int(b, 16) for b in listed.replace("\n", "").split(",") if b) == (folder / model).read_bytes()
    if shutil.which("g++") or shutil.which("arm-none-eabi-g++"):
        assert told.startswith("model_data.cc compiled with ")


@pytest.mark.parametrize("network", ["keywords", "mobilenet"])
def test_microcontroller(network: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    given = request.getfixturevalue(network)
    compiled = edgec.compile(**given, target="cortex-m7", output=tmp_path / "out")
    told = facts(compiled)
    assert told[BIT_EQUAL].startswith("yes, on ")
    assert "EC0670" not in codes(compiled)
    check_source(tmp_path / "out", "model.tflite", told["generated source"])
    model = read((tmp_path / "out/model.tflite").read_bytes())
    assert {t.dtype for t in (*model.main.inputs, *model.main.outputs)} == {"int8"}
    assert not {"QUANTIZE", "DEQUANTIZE"} & {o.op for o in model.main.operators}
    least = max(sum(t.nbytes for t in (*o.inputs[:1], *o.outputs) if t is not None) for o in model.main.operators)
    assert told["arena bytes"] >= least
    header = (tmp_path / "out/model_data.h").read_text()
    assert f"kArenaSize = {told['arena']['kArenaSize'].removesuffix(' bytes')};" in header
    verification = compiled.report.verification
    assert verification is not None
    assert (verification.runner or "").startswith("tflite-micro ")
    assert any("no board was used" in text for text in verification.not_verified)
    # a budget of what it takes is enough, a byte less is not
    arena, flash = told["arena bytes"], told["flash bytes"]
    if network == "keywords":
        fits = edgec.compile(**given, target="cortex-m7", output=tmp_path / "b", options={"ram": arena, "flash": flash})
        assert "EC0669" in codes(fits)  # CMSIS-NN's scratch no longer fits
        assert f"kArenaSize = {arena};" in (tmp_path / "b/model_data.h").read_text()
        with pytest.raises(EdgecError) as caught:
            edgec.compile(**given, target="cortex-m7", options={"ram": arena - 1, "flash": flash - 1})
        assert [d.code for d in caught.value.diagnostics] == ["EC0665", "EC0666"]
        assert (tmp_path / "b/model_data.cc").read_bytes() == (tmp_path / "out/model_data.cc").read_bytes()


@pytest.mark.parametrize("network", ["keywords", "mobilenet"])
def test_ethos_u_runs_all_of_it(network: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    given = request.getfixturevalue(network)
    compiled = edgec.compile(**given, target="ethos-u55-128", output=tmp_path / "out")
    told = facts(compiled)
    total = sum(told["operators"].values())
    assert told["operators on the NPU"] == f"{total} of {total}"
    assert told["cycles"] > told["multiply-adds"] / 128
    seconds = told["Vela"]["seconds an inference"]
    assert seconds == pytest.approx(told["cycles"] / told["Vela"]["clock MHz"] / 1e6, rel=1e-3)
    assert told["inference time"] == f"{seconds * 1e3:.3g} ms"
    assert told["SRAM bytes"] > 0
    assert not codes(compiled) & {"EC0673", "EC0675", "EC0410"}
    assert all(row["Target"] == "NPU" for row in told["layers"])
    check_source(tmp_path / "out", "model_vela.tflite", told["generated source"])
    assert "AddEthosU());" in (tmp_path / "out/model_ops.h").read_text()
    vela = read((tmp_path / "out/model_vela.tflite").read_bytes())
    assert [o.options["custom_code"] for o in vela.main.operators] == ["ethos-u"]
    actual = compiled.artifact.actual
    assert actual is not None
    assert {n.where for n in actual.nodes} == {"accelerator"}
    assert len(actual.nodes) == total
    verification = compiled.report.verification
    assert verification is not None
    assert (verification.runner or "").endswith("the file before Vela")
    assert any("nothing on this host executes it" in text for text in verification.not_verified)


def small(last: str) -> Graph:
    weights = ",".join(f"{x:.3f}" for x in np.random.default_rng(0).normal(0, 0.3, 216))
    return Graph.from_text(
        f"""<ir_version: 10, opset_import: ["" : 17]> small (float[1,3,16,16] x) => (float[1,8] y)
        <float[8,3,3,3] w = {{{weights}}}> {{
            c = Conv<pads=[1,1,1,1]>(x, w)  r = Relu(c)  p = GlobalAveragePool(r)  f = Flatten(p)  y = {last}(f) }}"""
    )


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    folder = tmp_path / "noise"
    folder.mkdir()
    for i in range(8):
        np.save(folder / f"{i}.npy", np.random.default_rng(i).standard_normal((1, 3, 16, 16), np.float32))
    return folder


def test_what_vela_leaves_to_the_cpu_has_a_name_and_a_reason(noise: Path, tmp_path: Path) -> None:
    compiled = edgec.compile(
        small("LogSoftmax"),
        target="ethos-u55-128",
        calibration=noise,
        output=tmp_path / "out",
        options={"io-dtype": "float"},
    )
    told = facts(compiled)
    left = [d.message for d in compiled.report.diagnostics if d.code == "EC0675"]
    assert any(text == "Vela leaves LOG_SOFTMAX to the CPU: Unsupported opType" for text in left)
    assert any("QUANTIZE" in text and "Float32" in text for text in left)
    assert "LOG_SOFTMAX 1" in told["operators on the CPU"]
    assert "AddLogSoftmax());" in (tmp_path / "out/model_ops.h").read_text()
    assert "EC0673" not in codes(compiled)


def test_nothing_on_the_npu_is_a_warning(tmp_path: Path) -> None:
    graph = Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 17]> none (float[1,8] x) => (float[1,8] y) { y = LogSoftmax(x) }"""
    )
    folder = tmp_path / "noise"
    folder.mkdir()
    for i in range(8):
        np.save(folder / f"{i}.npy", np.random.default_rng(i).standard_normal((1, 8), np.float32))
    compiled = edgec.compile(graph, target="ethos-u55-128", calibration=folder, output=tmp_path / "out")
    (found,) = (d for d in compiled.report.diagnostics if d.code == "EC0673")
    assert "nothing of the model runs on the NPU" in found.message
    assert "Unsupported opType" in found.message


def test_an_arena_a_little_too_small_may_crash_the_runtime(tmp_path: Path) -> None:
    """LOG_SOFTMAX alone in int8 does (0.dev20261023182759): its smallest arena is found all the same."""
    graph = Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 17]> none (float[1,8] x) => (float[1,8] y) { y = LogSoftmax(x) }"""
    )
    folder = tmp_path / "noise"
    folder.mkdir()
    for i in range(8):
        np.save(folder / f"{i}.npy", np.random.default_rng(i).standard_normal((1, 8), np.float32))
    told = facts(edgec.compile(graph, target="cortex-m4", calibration=folder))
    assert 500 < told["arena bytes"] < 3000
    assert told[BIT_EQUAL].startswith("yes")


def test_an_operator_without_kernel_is_refused_before(noise: Path) -> None:
    """The table says so of Sign; the runtime says the same of the file (test_tflite_runners: GELU)."""
    graph = Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 17]> s (float[1,8] x) => (float[1,8] y) { y = Sign(x) }"""
    )
    with pytest.raises(EdgecError) as caught:
        edgec.compile(graph, target="cortex-m4", precision="fp32")
    (first, *_) = caught.value.diagnostics
    assert (first.code, first.location.node) == ("EC0401", "y")
    assert "SIGN" in first.message


def test_float_on_a_microcontroller(tmp_path: Path) -> None:
    compiled = edgec.compile(small("Softmax"), target="esp32-s3", precision="fp32", output=tmp_path / "out")
    assert "EC0671" not in codes(compiled)
    header = (tmp_path / "out/model_data.h").read_text()
    assert header.count("using Type = float;") == 2
    assert "kScale" not in header
    assert "ESP-NN wants scratch memory on top" in header
    assert facts(compiled)["memory"]["RAM"].endswith("of 524288 bytes, what the spec of esp32-s3 says the chip has")


def test_vela_without_a_board_file(noise: Path) -> None:
    with pytest.raises(EdgecError) as caught:
        edgec.compile(
            small("Softmax"), target="ethos-u55-128", calibration=noise, options={"vela-config": "/nowhere.ini"}
        )
    assert caught.value.diagnostics[0].code == "EC0676"
    with pytest.raises(EdgecError) as caught:
        edgec.compile(
            small("Softmax"), target="ethos-u55-128", calibration=noise, options={"memory-mode": "No_Such_Mode"}
        )
    assert caught.value.diagnostics[0].code == "EC0674"
    assert "No_Such_Mode" in caught.value.diagnostics[0].message


def test_a_crash_of_vela_is_one_error(tmp_path: Path) -> None:
    """Half a file ends Vela's process (SIGSEGV, measured with 5.2.0)."""
    x, y = (Tensor(n, (1, 8, 8, 4), "int8", Quant.of(0.1)) for n in "xy")
    w = Tensor("w", (4, 1, 1, 4), "int8", Quant.of(0.1), np.ones((4, 1, 1, 4), np.int8))
    b = Tensor("b", (4,), "int32", Quant.of(0.01), np.zeros(4, np.int32))
    conv = Operator("CONV_2D", [x, w, b], [y], {"padding": "VALID", "stride_w": 1, "stride_h": 1})
    path = tmp_path / "bad.tflite"
    whole = write(TfliteModel([SubGraph("main", [x], [y], [conv])], ["x"], ["y"]))
    path.write_bytes(whole[: len(whole) // 2])
    job = EmitJob("int8", tmp_path, ToolchainManager(), Diagnostics())
    with pytest.raises(EdgecError) as caught:
        run_vela(path, builtin_target("ethos-u55-128"), EthosUOptions(), job)
    (found,) = caught.value.diagnostics
    assert found.code == "EC0674"
    assert "was killed by SIG" in found.message
