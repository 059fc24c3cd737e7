"""Metrics of the user's: loading, calling, and how much may be lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.quantization.metric import Drop, load_metric
from edgec.runtime import Session

METRICS = """
import numpy as np

def accuracy(predict):
    return float(np.mean([predict(np.full((1, 3), i, np.float32))[0].argmax() == i % 3 for i in range(6)]))

def by_name(predict, scale=1.0):
    return scale * predict({"x": np.ones((1, 3), np.float32)})[0].sum()

def against_float(outputs, reference):
    return -sum(np.abs(o["y"] - r["y"]).sum() for o, r in zip(outputs, reference))

def three(a, b, c):
    return 1.0

def nothing(predict):
    pass

def broken(predict):
    return predict()

def nan(predict):
    return float("nan")

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "metric.py").write_text(METRICS)
    return tmp_path


@pytest.fixture
def session() -> Session:
    text = '<ir_version: 10, opset_import: ["" : 24]> g (float[1,3] x) => (float[1,3] y) <float[3] w = {1,2,3}> { y = Mul(x, w) }'
    return Session(Graph.from_text(text))


def test_predict_form(folder: Path, session: Session) -> None:
    metric = load_metric(f"{folder}/metric.py:accuracy")
    assert metric.form == "predict"
    assert metric.of_session(session, ["x"]) == 0.5  # the largest is the last, but for x = 0
    metric = load_metric(f"{folder}/metric.py:by_name")  # a default makes an argument optional
    assert metric.of_session(session, ["x"]) == 6


def test_outputs_form(folder: Path) -> None:
    metric = load_metric(f"{folder}/metric.py:against_float")
    assert metric.form == "outputs"
    one, two = ([{"y": np.full(2, v)}] for v in (1.0, 1.5))
    assert metric.of_outputs(one, two) == -1.0
    assert metric.of_outputs(one, one) == 0.0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("metric.py:absent", "has no"),
        ("metric.py:number", "not a function"),
        ("metric.py:three", "3 arguments"),
        ("absent.py:f", "no file"),
        ("metric.py", "does not name a function"),
    ],
)
def test_what_cannot_be_loaded(folder: Path, name: str, says: str) -> None:
    with pytest.raises(EdgecError, match="EC0752") as e:
        load_metric(f"{folder}/{name}")
    assert says in str(e.value)


@pytest.mark.parametrize(("name", "says"), [("nothing", "None"), ("broken", "0 inputs"), ("nan", "nan")])
def test_what_fails_when_called(folder: Path, session: Session, name: str, says: str) -> None:
    metric = load_metric(f"{folder}/metric.py:{name}")
    with pytest.raises(EdgecError, match="EC0753") as e:
        metric.of_session(session, ["x"])
    assert says in str(e.value)


def test_an_error_inside_is_named(folder: Path, session: Session) -> None:
    (folder / "metric.py").write_text("def f(predict):\n    raise KeyError('label')\n")
    with pytest.raises(EdgecError, match="KeyError: 'label'"):
        load_metric(f"{folder}/metric.py:f").of_session(session, ["x"])


def test_drops() -> None:
    assert Drop.parse("1%").floor(80.0) == pytest.approx(79.2)
    assert Drop.parse("0.5pt").floor(80.0) == 79.5
    assert Drop.parse(".5").floor(-3.0) == -3.5
    assert Drop.parse("10 %").floor(-2.0) == pytest.approx(-2.2)
    assert [str(Drop.parse(t)) for t in ("1%", "0.5pt")] == ["1%", "0.5pt"]


@pytest.mark.parametrize("text", ["", "one", "-1%", "1%%", "nan"])
def test_unreadable_drops(text: str) -> None:
    with pytest.raises(EdgecError, match="EC0754"):
        Drop.parse(text)
