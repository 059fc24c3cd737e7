"""Whole compilations: images, classifiers, metadata, plans, and what is in the package and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec
from edgec.cli import main
from edgec.graph import Graph
from edgec.samples import Preprocess
from edgec.targets.coreml.package import decode
from edgec.targets.coreml.spec_reader import MODEL, read_model
from edgec.toolchain import Toolchain

pytestmark = pytest.mark.toolchain

IMAGENET = Preprocess(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
LABELS = ["cat", "dog", "fox", "owl"]


@pytest.fixture(scope="module")
def coreml(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("coreml")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = np.random.default_rng(3).normal(size=(4, 3, 3, 3))
    text = ",".join(f"{w:.6f}" for w in weights.ravel())
    graph = Graph.from_text(f"""<ir_version: 10, opset_import: ["": 23]>
    net (float[1,3,16,16] photo) => (float[1,4] "scores/out") <float[4,3,3,3] w = {{{text}}}>
    {{ c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (photo, w)
       r = Relu(c)
       p = GlobalAveragePool(r)
       f = Flatten(p)
       "scores/out" = Softmax(f) }}""")
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    graph.save(path)
    return path


@pytest.fixture(scope="module")
def labels(net: Path) -> Path:
    path = net.with_name("labels.txt")
    path.write_text("\n".join(LABELS) + "\n")
    return path


def compiled(net: Path, folder: Path, **more: Any) -> edgec.Compiled:
    return edgec.compile(net, target="iphone", output=folder, **more)


def test_an_image_classifier(coreml: Toolchain, net: Path, labels: Path, tmp_path: Path) -> None:
    options = {
        "labels": str(labels), "author": "A. Body", "license": "MIT", "model-version": "3", "description": "Names pets",
        "descriptions": "photo=A pet;classLabel=What it is", "user-metadata": "com.example.build=42",
    }  # fmt: skip
    done = compiled(net, tmp_path / "out", preprocess=IMAGENET, options=options)
    package = tmp_path / "out" / "model.mlpackage"
    assert done.artifact.entry == "model.mlpackage"
    told = read_model(package / MODEL)
    assert [(f.name, f.about) for f in told.inputs] == [("photo", "image RGB 16x16")]
    assert [(f.name, f.about) for f in told.outputs] == [("classLabel", "string"), ("classLabel_probs", "dictionary")]
    assert told.metadata == {
        "description": "Names pets", "version": "3", "author": "A. Body", "license": "MIT", "com.example.build": "42",
    }  # fmt: skip
    assert [f.description for f in (*told.inputs, *told.outputs)] == ["A pet", "What it is", ""]
    facts = done.report.artifact.facts if done.report.artifact else {}
    assert facts["takes"] == "photo: image RGB 16x16"
    assert facts["gives"] == "classLabel: text, classLabel_probs: dictionary of 4"
    # what was run took pixels and gave the model's own output
    verified = done.report.verification
    assert verified is not None
    assert "8-bit pixels" in (verified.runner or "")
    (output,) = (verified.comparison or {})["outputs"]
    assert output["name"] == "scores/out"
    assert output["cosine"] > 0.9999
    assert any("plan_on_mac.py" in text for text in verified.not_verified)


def test_the_labels_are_in_their_order(coreml: Toolchain, net: Path, labels: Path, tmp_path: Path) -> None:
    """Those of the classify operation, which gives the label of the largest number."""
    compiled(net, tmp_path / "out", preprocess=IMAGENET, options={"labels": str(labels)})
    program = decode(tmp_path / "out" / "model.mlpackage", coreml, tmp_path / "decoded")
    assert [v.name for v in program.outputs] != ["classLabel"]  # the numbers behind the label
    data = (tmp_path / "out" / "model.mlpackage" / MODEL).read_bytes()
    at = [data.index(label.encode()) for label in LABELS]
    assert at == sorted(at)


def test_what_the_user_did_not_say_is_not_in_it(coreml: Toolchain, net: Path, tmp_path: Path) -> None:
    compiled(net, tmp_path / "out")
    model = tmp_path / "out" / "model.mlpackage" / MODEL
    told = read_model(model)
    assert told.metadata == {}
    assert [f.description for f in (*told.inputs, *told.outputs)] == ["", ""]
    everything = b"".join(
        p.read_bytes() for p in sorted((tmp_path / "out" / "model.mlpackage").rglob("*")) if p.is_file()
    )
    for word in (b"edgec", b"coremltools", str(tmp_path).encode(), str(net.parent).encode()):
        assert word not in everything.lower().replace(b"com.apple.coreml", b""), word


def test_the_same_bytes_each_time(coreml: Toolchain, net: Path, labels: Path, tmp_path: Path) -> None:
    options = {"labels": str(labels), "author": "A. Body", "user-metadata": "b=2;a=1;c=3"}
    made = [compiled(net, tmp_path / n, preprocess=IMAGENET, options=options).artifact.hashes() for n in "ab"]
    assert made[0] == made[1]


def test_arrays_where_no_image_is_wanted(coreml: Toolchain, net: Path, tmp_path: Path) -> None:
    done = compiled(net, tmp_path / "out", preprocess=IMAGENET, options={"image": "none"})
    told = read_model(tmp_path / "out" / "model.mlpackage" / MODEL)
    assert [(f.name, f.about) for f in told.inputs] == [("photo", "fp32[1,3,16,16]")]
    assert [(f.name, f.about) for f in told.outputs] == [("scores_out", "fp32[1,4]")]  # what Core ML allows of the name
    assert not any(d.code == "EC0648" for d in done.diagnostics)


@pytest.mark.parametrize("preprocess", [Preprocess(scale=255.0, colour="BGR"), Preprocess()])
def test_colours(coreml: Toolchain, net: Path, tmp_path: Path, preprocess: Preprocess) -> None:
    compiled(net, tmp_path / "out", preprocess=preprocess)
    told = read_model(tmp_path / "out" / "model.mlpackage" / MODEL)
    assert told.inputs[0].about == f"image {preprocess.colour or 'RGB'} 16x16"


def test_int8_takes_pixels_too(coreml: Toolchain, net: Path, tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, (16, 3, 16, 16)).astype(np.uint8)
    np.save(tmp_path / "data.npy", data)
    done = compiled(net, tmp_path / "out", precision="int8", preprocess=IMAGENET, calibration=tmp_path / "data.npy")
    (output,) = (done.report.verification.comparison or {})["outputs"] if done.report.verification else ({},)
    assert output["cosine"] > 0.99
    program = decode(tmp_path / "out" / "model.mlpackage", coreml, tmp_path / "decoded")
    kinds = [o.op for o in program.operations]
    # the normalising convolution is before the first number in 8 bits
    assert kinds.index("conv") < kinds.index("quantize")


def test_compare_reads_a_plan(coreml: Toolchain, net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiled(net, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    artifact = report["artifact"]
    operations = [
        {"outputs": [name], "operator": "ios17.op", "preferred": "MLCPUComputeDevice", "supported": [], "cost": 0.1}
        for name in artifact["facts"]["placement"]["sources"]
    ]
    sha256 = artifact["files"][f"model.mlpackage/{MODEL.as_posix()}"]["sha256"]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({
        "plan": "MLComputePlan", "system": "macOS 15.1", "machine": "arm64", "compute_units": "ALL",
        "model_sha256": sha256, "operations": operations,
    }))  # fmt: skip
    assert main(["compare", str(tmp_path / "out"), str(plan)]) == 0
    shown = capsys.readouterr().out
    assert "MLComputePlan on macOS 15.1" in shown
    assert "operations not on the Neural Engine" in shown
    assert main(["compare", str(tmp_path / "out" / "model.mlpackage"), str(plan), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["differences"]) == told["nodes"] - told["agree"] > 0
    assert main(["compare", str(tmp_path), str(plan)]) != 0  # no report there
    assert (tmp_path / "out" / "plan_on_mac.py").read_text().startswith('"""Where Core ML runs each operation')
