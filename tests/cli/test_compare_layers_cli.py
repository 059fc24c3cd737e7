"""`edgec compare` of a quantised model: layers, plot, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.cli import main
from edgec.graph import Graph

HEAD = '<ir_version: 8, opset_import: ["" : 13]> g (float[1,2] x) => (float[1,2] y)'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Graph.from_text(HEAD + "{ a = Neg(x) y = Relu(a) }").save(tmp_path / "float.onnx")
    quantised = HEAD + (
        " <float s = {0.1}, int8 z = {0}>"
        "{ a = Neg(x) a_q = QuantizeLinear(a, s, z) a_dq = DequantizeLinear(a_q, s, z) y = Relu(a_dq) }"
    )
    Graph.from_text(quantised).save(tmp_path / "int8.onnx")
    np.save(tmp_path / "x.npy", np.array([[[0.31, -0.72]], [[1.04, 0.22]]], np.float32))
    return tmp_path


def edgec(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, *args: str) -> tuple[int, str]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["edgec", "compare", *args])
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main())
    return int(stopped.value.code or 0), capsys.readouterr().out


def test_a_quantised_model_shows_its_layers(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out = edgec(folder, capsys, monkeypatch, "float.onnx", "int8.onnx", "--calib", "x.npy", "--plot", "e.svg")
    assert code == 0
    assert "a (Neg) adds most" in out
    assert "1 layers add no error" in out
    assert (folder / "e.svg").read_text().startswith("<svg")


def test_layers_in_json_and_left_out(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out = edgec(folder, capsys, monkeypatch, "float.onnx", "int8.onnx", "--samples", "x.npy", "--json")
    layers = json.loads(out)["layer_errors"]
    assert layers["born"] == "a"
    assert [e["name"] for e in layers["layers"]] == ["a", "y"]
    _, out = edgec(folder, capsys, monkeypatch, "float.onnx", "int8.onnx", "--no-layers", "--json")
    assert "layer_errors" not in json.loads(out)
    _, out = edgec(folder, capsys, monkeypatch, "float.onnx", "float.onnx", "--json")
    assert "layer_errors" not in json.loads(out)


def test_a_plot_that_cannot_be_written(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _ = edgec(folder, capsys, monkeypatch, "float.onnx", "int8.onnx", "--plot", "no/such/folder/e.svg")
    assert code != 0
