"""Flags that are options of targets; `edgec inspect` and `edgec compare` of artifacts."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from edgec.artifact_format import ArtifactFormat, Inspection
from edgec.cli import main
from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.hookspecs import hookimpl
from edgec.infer import infer_shapes
from edgec.plugins import Registry
from edgec.targets.tflite.lower import lower
from edgec.targets.tflite.metadata import ModelInfo, TensorInfo, associated_files, metadata
from edgec.targets.tflite.writer import write

MODEL = """<ir_version: 10, opset_import: ["": 24]>
net (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float[2,2,1,1] w = {1,2,3,4}> { c = Conv <kernel_shape=[1,1]> (x, w) y = Relu(c) }"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    Graph.from_text(MODEL).save(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    graph = Graph.from_text(MODEL)
    infer_shapes(graph)
    lowered = lower(graph)
    info = ModelInfo(
        "net", [TensorInfo("x", mean=(1.0,), std=(2.0,))], [TensorInfo("y", labels=("a", "b"))], author="me"
    )
    lowered.model.metadata |= metadata(info)
    data = write(lowered.model)
    path = tmp_path / "net.tflite"
    path.write_bytes(data + associated_files(info, len(data)))
    return path


def failing(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    code = main(args)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--io-layout", "nhwc"], 1, "target x86-64 has no option 'io-layout'"),
        (["--ram", "80KB", "-t", "rk3588"], 1, "target rk3588 has no option 'ram'"),
        (["--io-layout", "nhcw", "-t", "android"], 1, "keep, nhwc"),
        (["--flash", "much", "-t", "cortex-m"], 1, "a size like 300KB"),
        (["--io-dtype", "uint8", "--option", "io-dtype=float", "-t", "android"], 2, "--option gives it too"),
        (["--io-dtype", "uint8", "--option", "io_dtype=float", "-t", "android"], 2, "--option gives it too"),
    ],
)
def test_flags(model: Path, args: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    got, text = failing(["compile", str(model), *args], capsys)
    assert got == code
    assert said in text.replace("\n", " ")


def test_flags_do_not_go_with_a_project(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = tmp_path / "edgec.yaml"
    project.write_text("schema_version: 1\nmodel: net.onnx\ntargets: [{name: android}]\n")
    code, text = failing(["compile", "--project", str(project), "--io-layout", "nhwc"], capsys)
    assert code == 2
    assert "these stand in it" in text


def test_inspect_for_people(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(artifact)]) == 0
    text = capsys.readouterr().out
    for said in ("CONV_2D 1", "convolutions and products: float32 1", "x: float32[1,2,4,4]", "author me", "labels.txt"):
        assert said in text, text
    assert main(["inspect", str(artifact), "--text"]) == 0
    assert "= CONV_2D(" in capsys.readouterr().out


def test_inspect_for_tools(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(artifact), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["signature"] is True
    assert found["operators"]["CONV_2D"] == 1
    assert found["tflite_metadata"]["inputs"][0]["mean"] == [1.0]
    assert found["files"] == {"labels.txt": 4}
    assert found["constant_bytes"]["float32"] >= 16


def test_text_of_onnx(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), "--text"]) == 0
    assert "y = Relu (c)" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["inspect"], ["compare", "net.onnx"]])
def test_a_file_that_is_none(
    command: list[str], model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model.parent)
    Path("text.tflite").write_text("not a model")
    for name, code in (("text.tflite", "EC0651"), ("missing.tflite", "EC0001")):
        got, text = failing([*command, name], capsys)
        assert (got, code in text, name in text) == (1, True, True), text


def test_every_cut_is_an_error_or_a_model(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = artifact.read_bytes()
    for size in range(0, len(data), max(1, len(data) // 60)):
        artifact.write_bytes(data[:size])
        code, text = failing(["inspect", str(artifact)], capsys)
        assert code == 0 or "EC065" in text, (size, text)


def test_damaged_metadata_is_told(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = artifact.read_bytes()
    at = data.index(b"M001") - 4
    artifact.write_bytes(data[:at] + struct.pack("<I", 1 << 30) + data[at + 4 :])
    assert main(["inspect", str(artifact)]) == 0
    assert "the TFLite Metadata cannot be read" in capsys.readouterr().out


def test_nothing_runs_an_rknn_file_here(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.rknn").write_bytes(b"RKNN" + bytes(100))
    code, text = failing(["compare", str(model), str(tmp_path / "net.rknn")], capsys)
    assert (code, "EC0835" in text) == (1, True)
    code, text = failing(["inspect", str(tmp_path / "net.rknn")], capsys)
    assert (code, "EC0631" in text) == (4, True)


def test_plots_are_of_onnx(model: Path, artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = failing(["compare", str(model), str(artifact), "--plot", "x.svg"], capsys)
    assert (code, "not drawn" in text) == (2, True)


class Words(ArtifactFormat):
    def inspect(self, path: Path) -> Inspection:
        return Inspection([("text", path.read_text())], {"words": len(path.read_text().split())})


def test_a_plugin_adds_a_format(tmp_path: Path) -> None:
    class Plugin:
        @hookimpl
        def edgec_formats(self) -> dict[str, Any]:
            return {".words": Words, ".bad": dict}

    registry = Registry(discover=False)
    registry.register(Plugin(), "words")
    path = tmp_path / "three.WORDS"
    path.write_text("one two three")
    reader = registry.format_of(path)
    assert reader is not None
    assert reader.inspect(path).data == {"words": 3}
    assert reader.open(path, Graph.from_text(MODEL), None, tmp_path) is None  # type: ignore[arg-type]
    assert registry.format_of(tmp_path / "net.onnx") is None
    with pytest.raises(EdgecError, match="EC0114"):
        registry.format_of(tmp_path / "x.bad")


def test_listing_formats_imports_none() -> None:
    for name in [m for m in sys.modules if m.startswith("edgec.targets.") and m.endswith(".format")]:
        del sys.modules[name]
    assert {".tflite", ".rknn"} <= set(Registry().formats())
    assert not [m for m in sys.modules if m.startswith("edgec.targets.") and m.endswith(".format")]
