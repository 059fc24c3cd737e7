"""edgec.yaml: what it becomes, and how mistakes in it are reported."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from edgec import api
from edgec.diagnostics import EdgecError
from edgec.project import Project, json_schema

ROOT = Path(__file__).resolve().parents[2]

FULL = """
schema_version: 1
model: models/net.onnx
input_shapes: {images: 1x3x64x64, size: [1, 2]}
preprocess: {mean: [1, 2, 3], std: 58, resize: 256}
calibration: data
min_sqnr: 20
targets:
  - name: rk3588
    precision: int8
    options: {quantized-method: layer}
    min_sqnr: 10.5
    no_fallback: true
  - name: x86-64
    output: out/pc
    compress: prune{macs=0.3},recover
    samples: loader:batches
    input_shapes: {images: 2x3x64x64}
    pipeline: [fold-bn, {fold-constants: {max_bytes: 10}}]
"""


def load(tmp_path: Path, text: str) -> Project:
    path = tmp_path / "edgec.yaml"
    path.write_text(text)
    return Project.load(path)


def test_a_full_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rk, pc = load(tmp_path, FULL).jobs()
    assert rk["model"] == tmp_path / "models/net.onnx"
    assert rk["output"] == tmp_path / "build/net-rk3588-int8"
    assert rk["input_shapes"] == ["images=1x3x64x64", "size=1x2"]
    assert rk["preprocess"].mean == (1, 2, 3)
    assert rk["calibration"] == str(tmp_path / "data")
    assert (rk["accuracy"].min_sqnr, rk["no_fallback"], rk["options"]) == (10.5, True, {"quantized-method": "layer"})
    assert pc["output"] == tmp_path / "out/pc"
    assert pc["input_shapes"] == ["images=2x3x64x64", "size=1x2"]
    assert pc["samples"] == "loader:batches", "a function is no path"
    assert pc["compress"] == [{"prune": {"macs": 0.3}}, {"recover": {}}]
    assert pc["pipeline"] == ["fold-bn", {"fold-constants": {"max_bytes": 10}}]
    assert pc["accuracy"].min_sqnr == 20
    assert "precision" not in pc


def test_options_of_targets_that_are_settings(tmp_path: Path) -> None:
    text = """
schema_version: 1
model: net.onnx
io_layout: nhwc
flash: 300KB
targets:
  - {name: cortex-m, ram: 80000, io_dtype: integer}
  - {name: android, flash: 1MB, options: {io-layout: keep, labels: data/labels.txt}}
"""
    micro, phone = (job["options"] for job in load(tmp_path, text).jobs())
    assert micro == {"io-layout": "nhwc", "io-dtype": "integer", "flash": "300KB", "ram": 80000}
    assert phone == {"io-layout": "keep", "flash": "1MB", "labels": str(tmp_path / "data/labels.txt")}


def test_jobs_are_arguments_of_compile(tmp_path: Path) -> None:
    known = set(inspect.signature(api.compile).parameters)
    for job in load(tmp_path, FULL).jobs():
        assert set(job) <= known


def test_every_mistake_with_its_place(tmp_path: Path) -> None:
    text = """schema_version: 1
model: net.onnx
presicion: int8
input_shapes: {x: 1x3xW}
targets:
  - name: rk3588
    no_fallback: 1
  - precision: fp16
"""
    with pytest.raises(EdgecError) as e:
        load(tmp_path, text)
    found = {(d.location.line, d.message) for d in e.value.diagnostics}
    assert {d.code for d in e.value.diagnostics} == {"EC0911"}
    assert {line for line, _ in found} == {3, 4, 7, 8}
    assert any(m.startswith("targets.1.name: field required") for _, m in found)
    assert any("1x3xW" in m for _, m in found)


def test_a_misspelt_setting_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(EdgecError) as e:
        load(tmp_path, "schema_version: 1\nmodel: a\ntargets:\n  - {name: x86-64, no_falback: true}\n")
    (d,) = e.value.diagnostics
    assert (d.location.line, d.hint) == (4, "did you mean 'no_fallback'?")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "EC0912"),
        ("- a\n", "EC0912"),
        ("a: [\n", "EC0912"),
        ("\tmodel: x\n", "EC0912"),
        ("schema_version: 1\nmodel: a\nmodel: b\ntargets: [{name: t}]\n", "EC0911"),
        ("schema_version: 2\nmodel: a\ntargets: [{name: t}]\n", "EC0911"),
        ("schema_version: 1\nmodel: a\ntargets: []\n", "EC0911"),
        ("schema_version: 1\nmodel: a\ntargets: [{name: t}, {name: t}]\n", "EC0911"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(EdgecError) as e:
        load(tmp_path, text)
    assert {d.code for d in e.value.diagnostics} == {code}


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(EdgecError) as e:
        Project.load(tmp_path / "edgec.yaml")
    assert e.value.diagnostics[0].code == "EC0910"


def test_the_published_schema_is_current() -> None:
    assert json.loads((ROOT / "docs/schema/project.json").read_text()) == json_schema()
