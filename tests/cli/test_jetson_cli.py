"""`edgec compile --target jetson-...` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgec.cli import main
from edgec.graph import Graph


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    w = ", ".join(f"{v:.4f}" for v in np.random.default_rng(0).normal(size=108))
    text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float[1,3,8,8] x) => (float[1,4,8,8] y)
    <float[4,3,3,3] w = {{{w}}}> {{ c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) }}"""
    path = tmp_path / "model.onnx"
    Graph.from_text(text).save(path)
    np.save(tmp_path / "calib.npy", np.random.default_rng(1).normal(size=(8, 3, 8, 8)).astype(np.float32))
    return path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, err


COMPILE = ("--offline", "--option", "oracle=none")


def test_a_bundle_where_it_is_expected(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "compile", model, "-t", "jetson-orin-nano", *COMPILE)
    assert code == 0, err
    assert "JetPack 6.2: TensorRT 10.3.0" in out
    assert "sh build_engine.sh && python3 verify.py" in out
    assert "the engine: TensorRT builds it on the board" in out
    assert (tmp_path / "build" / "model-jetson-orin-nano" / "build_engine.sh").is_file()


def test_jetpack_is_a_flag(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "compile", model, "-t", "jetson-orin-nano", "--jetpack", "7.2", *COMPILE)
    assert code == 0, err
    assert "JetPack 7.2" in out
    folder = tmp_path / "build" / "model-jetson-orin-nano-jetpack7.2"
    assert json.loads((folder / "bundle.json").read_text())["form"] == "strong"
    assert json.loads((folder / "manifest.json").read_text())["settings"]["options"]["jetpack"] == "7.2"


def test_dla_is_a_flag(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--precision", "int8", "--calib", tmp_path / "calib.npy", "--effort", "low", *COMPILE)
    code, _, err = run(capsys, "compile", model, "-t", "jetson-orin-nx", "--dla", *given)
    assert code == 0, err
    folder = tmp_path / "build" / "model-jetson-orin-nx-int8-dla"
    assert "bundle_calibration='calib.cache'" in (folder / "build_engine.sh").read_text()
    code, out, err = run(capsys, "check", model, "-t", "jetson-orin-nx", "--dla")
    assert code == 0, err
    assert "DLA" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-t", "jetson-orin-nano", "--dla"), "EC0695"),
        (("-t", "jetson-thor", "--jetpack", "5"), "JetPack 5 does not run on jetson-thor"),
        (("-t", "jetson-orin-nano", "--jetpack", "6.9"), "EC0690"),
        (("-t", "jetson-orin-nano", "--option", "max-shapes=z:1x3"), "no input 'z'"),
        (("-t", "jetson-orin-nano", "--precision", "fp8"), "Orin's GPU (compute capability 8.7) has no fp8"),
        (("-t", "x86-64", "--jetpack", "6.2"), "has no option 'jetpack'"),
    ],
)
def test_what_is_refused(
    model: Path, arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "compile", model, *arguments, "--offline")
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert not list((tmp_path / "build").glob("*/model.onnx"))


def test_a_flag_and_an_option_that_say_the_same(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "compile", model, "-t", "jetson-orin-nano", "--jetpack", "6.2", "--option", "jetpack=5")
    assert code == 2
    assert "--option gives it too" in err
