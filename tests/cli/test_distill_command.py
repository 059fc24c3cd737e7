"""`edgec distill` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.cli import main
from edgec.graph import Graph
from edgec.runtime import Session


def numbers(count: int, seed: int) -> str:
    return ", ".join(f"{v:.4f}" for v in np.random.default_rng(seed).normal(size=count) * 0.4)


def net(width: int, seed: int, classes: int = 5) -> Graph:
    return Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 21]>
    g (float[N,3,8,8] x) => (float[N,{classes}] y)
    <float[{width},3,3,3] w = {{{numbers(27 * width, seed)}}}, float[{width}] b = {{{numbers(width, seed + 1)}}},
     float[{classes},{width}] fc = {{{numbers(classes * width, seed + 2)}}}>
    {{ c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, fc) }}""")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    net(24, 0).save(tmp_path / "big.onnx")
    net(8, 50).save(tmp_path / "small.onnx")
    rng = np.random.default_rng(4)
    images = 2 * rng.normal(size=(64, 3, 1, 1)) + rng.normal(size=(64, 3, 8, 8))
    np.save(tmp_path / "x.npy", images.astype(np.float32))
    return {
        n: tmp_path / f for n, f in {"big": "big.onnx", "small": "small.onnx", "x": "x.npy", "out": "out.onnx"}.items()
    }


def arguments(files: dict[str, Path], *more: object, **other: object) -> list[str]:
    given = {"teacher": files["big"], "student": files["small"], "data": files["x"], "output": files["out"],
             "checkpoints": files["out"].parent / "state", "threads": 1, "lr": 0.02} | other  # fmt: skip
    return ["distill", *(str(a) for k, v in given.items() for a in (f"--{k}", v)), *map(str, more)]


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_student_comes_closer(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *arguments(files))
    assert code == 0, err
    assert "before" in out
    assert "after" in out
    assert "kept out of training" in out
    assert "train: batch" in err
    x = {"x": np.load(files["x"])}
    want, was, now = (Session(files[n]).run(x)["y"] for n in ("big", "small", "out"))
    assert np.mean((now - want) ** 2) < 0.5 * np.mean((was - want) ** 2)


def test_json(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *arguments(files, "--json", epochs=3))
    assert code == 0, err
    data = json.loads(out)
    assert data["loss"]["after"] < data["loss"]["before"]
    assert data["batches"] == len(data["history"][1:]) * 2
    assert data["after"]["samples"] == 8
    assert data["resumed_at"] == 0


def test_labels(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    text, array = files["x"].with_name("labels.txt"), files["x"].with_name("labels.npy")
    classes = Session(files["big"]).run({"x": np.load(files["x"])})["y"].argmax(1)
    text.write_text("\n".join(map(str, classes)))
    np.save(array, classes)
    for n, path in enumerate((text, array)):
        code, _, err = run(capsys, *arguments(files, "--hard", 0.5, labels=path, epochs=2, seed=n))
        assert code == 0, err


MISTAKES: dict[str, tuple[dict[str, Any], int, str]] = {
    "another output": ({"student": "other"}, 1, "EC0327"),
    "no such data": ({"data": "nothing.npy"}, 1, "error"),
    "labels of other samples": ({"labels": "few"}, 1, "EC0323"),
    "labels that are scores": ({"labels": "scores"}, 1, "EC0356"),
    "no labels": ({"labels": "empty"}, 1, "EC0356"),
    "labels beyond the classes": ({"labels": "beyond"}, 1, "there is a label 105"),
    "labels beyond any number": ({"labels": "huge"}, 1, "EC0356"),
    "a single number": ({"labels": "single"}, 1, "EC0356"),
    "no such device": ({"device": "tpu"}, 1, "EC0323"),
    "a device without memory": ({"device": "meta"}, 1, "EC0323"),
    "a device that is not here": ({"device": "cuda:99"}, 1, "EC0323"),
    "a negative seed": ({"seed": -1}, 1, "EC0323"),
    "no such view": ({"augment": "turn"}, 2, "turn"),
    "no such feature": ({"features": "turn"}, 1, "EC0322"),
    "a batch of none": ({"batch": 0}, 1, "EC0323"),
    "over the teacher": ({"output": "big"}, 1, "EC0932"),
}


@pytest.mark.parametrize(("given", "code", "said"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], given: dict[str, Any], code: int, said: str
) -> None:
    folder = files["x"].parent
    net(8, 50, classes=4).save(folder / "other.onnx")
    (folder / "few").write_text("1\n2\n3\n")
    np.save(folder / "scores.npy", np.ones((64, 5)))
    (folder / "empty").write_text("")
    (folder / "huge").write_text("1e30\n" * 64)
    np.save(folder / "beyond.npy", np.arange(64) + 42)
    np.save(folder / "single.npy", np.array(3))
    labels = {"empty": folder / "empty", "huge": folder / "huge", "beyond": folder / "beyond.npy",
              "single": folder / "single.npy"}  # fmt: skip
    paths = labels | {"other": folder / "other.onnx", "few": folder / "few", "scores": folder / "scores.npy", "big": files["big"],
             "nothing.npy": folder / "nothing.npy"}  # fmt: skip
    got, _, err = run(capsys, *arguments(files, **{k: paths.get(v, v) for k, v in given.items()}))
    assert got == code, err
    assert said in err
    assert "Warning" not in err
    assert not files["out"].exists()


def test_checkpoints_that_cannot_be_written(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *arguments(files, checkpoints=files["x"]))
    assert code == 1
    assert "give another folder with checkpoints" in err
    assert not files["out"].exists()


def test_without_torch(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    code, _, err = run(capsys, *arguments(files))
    assert code == 1
    assert "EC0320" in err
    assert 'pip install "edgec[train]"' in err


def test_ctrl_c_says_that_the_next_run_goes_on(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "edgec", *arguments(files, epochs=2000, augment="flip")]
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=dict(os.environ)
    )
    assert child.stderr is not None
    said = []
    for line in child.stderr:
        said.append(line)
        if "train: batch" in line and len([s for s in said if "train: batch" in s]) == 3:
            child.send_signal(signal.SIGINT)
    assert child.wait(timeout=120) == 130
    text = "".join(said)
    assert "interrupted" in text
    assert "goes on there when it is run again" in text
    assert not files["out"].exists()
    again = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=dict(os.environ)
    )
    assert again.stderr is not None
    for line in again.stderr:
        if "resume after batch" in line:
            break
    else:
        raise AssertionError("it began anew")
    again.kill()
    again.wait()
    again.stderr.close()
