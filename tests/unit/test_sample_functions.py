"""Sample functions that do what data loaders do: yield labels, or never end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.runtime import Session
from edgec.samples import open_samples, opening

ONE = '<ir_version: 10, opset_import: ["" : 21]> g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }'


def source(tmp_path: Path, body: str) -> str:
    path = tmp_path / "source.py"
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    path.write_text(f"import numpy as np\n\n\ndef samples():\n{lines}\n", encoding="utf-8")
    return f"{path}:samples"


@pytest.mark.parametrize("label", ["3", "np.array(3)", "np.zeros(10)"])
def test_an_array_and_its_label_are_told_apart(tmp_path: Path, label: str) -> None:
    samples = open_samples(source(tmp_path, f"yield np.zeros((2, 3), np.float32), {label}"), Graph.from_text(ONE))
    with pytest.raises(EdgecError) as e:
        next(iter(samples))
    (d,) = e.value.diagnostics
    assert d.code == "EC0704"
    assert "the model has one input: x" in d.message
    assert "label" in (d.hint or "")


def test_rows_of_the_one_input_still_make_one_array(tmp_path: Path) -> None:
    samples = open_samples(source(tmp_path, "yield [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]"), Graph.from_text(ONE))
    np.testing.assert_array_equal(next(iter(samples))["x"], [[1, 2, 3], [4, 5, 6]])


ENDLESS = "while True:\n    yield np.zeros((2, 3), np.float32)"


def test_a_function_that_never_ends_is_cut_off_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MOST", 20)
    found = Diagnostics()
    samples = open_samples(source(tmp_path, ENDLESS), Graph.from_text(ONE), diagnostics=found)
    assert len(list(samples)) == len(list(samples)) == len(samples) == 20
    assert [d.code for d in found] == ["EC0735"]


def test_as_many_as_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MOST", 20)
    found = Diagnostics()
    samples = open_samples(source(tmp_path, ENDLESS), Graph.from_text(ONE), limit=30, diagnostics=found)
    assert len(samples) == 30
    assert not list(found)


def test_one_that_ends_there_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MOST", 20)
    found = Diagnostics()
    body = "yield from (np.zeros((2, 3), np.float32) for _ in range(20))"
    assert len(open_samples(source(tmp_path, body), Graph.from_text(ONE), diagnostics=found)) == 20
    assert not list(found)


def test_a_model_in_float64_is_told_the_way_to_float32() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (double[1,1,4,4] x) => (double[1,1,4,4] y)
    <double[1,1,1,1] w = {2}> { y = Conv(x, w) }"""
    with pytest.raises(EdgecError) as e:
        Session(Graph.from_text(text))
    (d,) = e.value.diagnostics
    assert d.code == "EC0810"
    assert "float64" in (d.hint or "")
    assert "to-float32" in (d.hint or "")
