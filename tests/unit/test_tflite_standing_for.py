"""Whose input is whose, where a .tflite file was made by another converter: names, positions, order of axes, scales."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.targets.tflite.endpoints import Endpoint, Interface
from edgec.targets.tflite.model import Operator, Quant, SubGraph, Tensor, TfliteModel
from edgec.targets.tflite.standing_for import derived, reported

ONNX = """<ir_version: 10, opset_import: ["" : 21]>
net (float[N,3,8,6] image, float[2] state) => (float[N,4] scores) { p = ReduceMean(image) scores = Add(p, state) }"""


def file(shape: tuple[int, ...] = (1, 8, 6, 3), names: tuple[str, ...] = (), dtype: str = "float32") -> TfliteModel:
    quant = Quant.of(0.5, 3) if dtype == "int8" else None
    image, state = Tensor("serving_default_image:0", shape, dtype, quant), Tensor("args_1", (2,), "float32")
    scores = Tensor("PartitionedCall:0", (1, 4), "float32")
    graph = SubGraph("main", [image, state], [scores], [Operator("ADD", [image, state], [scores])])
    return TfliteModel([graph], names, ("scores",) if names else ())


def test_by_name_in_any_order() -> None:
    model = file((2,), ("state", "image"))
    model.main.inputs[1].shape = (1, 3, 8, 6)
    ends, names = derived(model, Graph.from_text(ONNX), Path("x.tflite"))
    assert names == {}
    assert [(e.name, e.shape, e.perm) for e in ends.inputs] == [("state", (2,), None), ("image", (1, 3, 8, 6), None)]


def test_by_position_with_channels_last() -> None:
    ends, names = derived(file(dtype="int8"), Graph.from_text(ONNX), Path("x.tflite"))
    image, _ = ends.inputs
    assert names == {"serving_default_image:0": "image", "args_1": "state", "PartitionedCall:0": "scores"}
    assert (image.shape, image.perm, image.dtype) == ((1, 3, 8, 6), (0, 2, 3, 1), "int8")
    assert image.quant is not None
    assert (image.quant.scale[0], image.quant.zero_point[0]) == (0.5, 3)
    assert ends.outputs[0].shape == (1, 4)


@pytest.mark.parametrize("shape", [(1, 8, 6, 4), (1, 8, 6), (1, 6, 8, 3)])
def test_another_model(shape: tuple[int, ...]) -> None:
    with pytest.raises(EdgecError, match=r"EC0660.*in the file and"):
        derived(file(shape), Graph.from_text(ONNX), Path("x.tflite"))


def test_another_number_of_inputs() -> None:
    model = file()
    model.main.inputs.pop()
    with pytest.raises(EdgecError, match=r"EC0660.*the file has the inputs"):
        derived(model, Graph.from_text(ONNX), Path("x.tflite"))


def test_a_report_counts_only_where_it_is_of_this_file(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"any bytes")
    ends = Interface([Endpoint("image", (1, 3, 8, 6), "float32", "uint8", (0, 2, 3, 1), Quant.of(1.0, 0))], [])
    artifact = {
        "files": {"model.tflite": {"bytes": 9, "sha256": hashlib.sha256(b"any bytes").hexdigest()}},
        "facts": {"interface": ends.to_json()},
    }
    report = tmp_path / "report.json"
    assert reported(path) is None
    report.write_text(json.dumps({"artifact": artifact}))
    found = reported(path)
    assert found is not None
    assert found.to_json() == ends.to_json()
    for text in ("[]", "no JSON", json.dumps({"artifact": {"files": {}}}), json.dumps({"artifact": None})):
        report.write_text(text)
        assert reported(path) is None
    report.write_text(json.dumps({"artifact": artifact}))
    path.write_bytes(b"other bytes")
    assert reported(path) is None
