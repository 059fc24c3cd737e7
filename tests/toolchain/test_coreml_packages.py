"""Packages on disk: compressed constants through coremltools and back, damaged files, `edgec inspect` and `edgec compare`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.cli import main
from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.runtime import Session
from edgec.target import Artifact, EmitJob
from edgec.targets.coreml.builder import Builder
from edgec.targets.coreml.emit import MODEL, package_runner
from edgec.targets.coreml.evaluate.to_onnx import to_onnx
from edgec.targets.coreml.lower import lower
from edgec.targets.coreml.package import build, decode
from edgec.targets.coreml.program import Array, Operation, Packed, Program, Value
from edgec.toolchain import Toolchain, ToolchainManager

pytestmark = pytest.mark.toolchain

NET = """<ir_version: 10, opset_import: ["": 23]>
net (float[1,3,8,8] x) => (float[1,4,8,8] y)
{ c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
  y = Relu(c) }"""


@pytest.fixture(scope="module")
def coreml(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("coreml")


def net() -> Graph:
    weights = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
    text = ",".join(f"{w:.6f}" for w in weights.ravel())
    graph = Graph.from_text(NET.replace("\n{", f"\n<float[4,3,3,3] w = {{{text}}}>\n{{", 1))
    infer_shapes(graph)
    return graph


@pytest.fixture(scope="module")
def package(coreml: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with its ONNX model beside."""
    folder = tmp_path_factory.mktemp("package")
    graph = net()
    graph.save(folder / "net.onnx")
    return build(lower(graph).program, coreml, folder).path


# --- compressed constants -------------------------------------------------------------------------------------------------

rng = np.random.default_rng(2)
MASK = (rng.random((4, 6)) < 0.5).astype(np.uint8)
COUNT = int(MASK.sum())
LEVELS = np.asarray([-2, -1, 0.5, 3], np.float32)
CODES = rng.integers(0, 4, (4, 6)).astype(np.uint8)
WIDE = rng.integers(0, 4, (20, 30)).astype(np.uint8)
"""More than 255 elements along an axis: sizes of a shape do not fit a byte."""


def bits(codes: Array, width: int) -> Array:
    places = (codes.reshape(-1, 1) >> np.arange(width)) & 1
    return np.packbits(places.astype(np.uint8).reshape(-1), bitorder="little")


def dense(values: Array) -> Array:
    out = np.zeros(MASK.shape, values.dtype)
    out[MASK != 0] = values
    return out


Q = rng.integers(-8, 8, (4, 6)).astype(np.int8)
S = rng.uniform(0.1, 1, (4, 2)).astype(np.float32)
Z = rng.integers(-8, 8, (4, 2)).astype(np.int8)
NZ = rng.normal(size=COUNT).astype(np.float32)
PACKED: list[tuple[str, str, dict[str, Any], Array]] = [
    (
        "iOS16", "constexpr_affine_dequantize",
        {"quantized_data": Q, "zero_point": np.int8(3), "scale": S[:, 0], "axis": np.int32(0)},
        (Q.astype(np.float32) - 3) * S[:, :1],
    ),
    (
        "iOS16", "constexpr_lut_to_dense",
        {"indices": bits(CODES, 2), "lut": LEVELS, "shape": Packed(np.asarray([4, 6], np.uint32), "uint32")}, LEVELS[CODES],
    ),
    (
        "iOS16", "constexpr_lut_to_dense",
        {"indices": bits(WIDE, 2), "lut": LEVELS, "shape": Packed(np.asarray([2, 300], np.uint32), "uint32")},
        LEVELS[WIDE].reshape(2, 300),
    ),
    (
        "iOS16", "constexpr_sparse_to_dense",
        {"nonzero_data": NZ, "mask": bits(MASK, 1), "shape": Packed(np.asarray([4, 6], np.uint32), "uint32")}, dense(NZ),
    ),
    (
        "iOS18", "constexpr_blockwise_shift_scale", {"data": Packed(Q, "int4"), "scale": S, "offset": Packed(Z, "int4")},
        (Q - np.repeat(Z, 3, 1)).astype(np.float32) * np.repeat(S, 3, 1),
    ),
    (
        "iOS18", "constexpr_lut_to_dense", {"indices": Packed(CODES, "uint2"), "lut": LEVELS.reshape(1, 1, 4, 1)},
        LEVELS[CODES],
    ),
    (
        "iOS18", "constexpr_lut_to_dense",
        {
            "indices": Packed(CODES, "uint2"), "vector_axis": np.int32(0),
            "lut": np.stack([LEVELS, -LEVELS], 1).reshape(1, 1, 4, 2),
        },
        np.stack([LEVELS[CODES], -LEVELS[CODES]], 1).reshape(8, 6),
    ),
    ("iOS18", "constexpr_sparse_to_dense", {"nonzero_data": NZ, "mask": Packed(MASK, "uint1")}, dense(NZ)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("system", "op", "given", "wanted"), PACKED, ids=[f"{s}-{o}-{i}" for i, (s, o, *_) in enumerate(PACKED)]
)
def test_compressed_constants(
    system: str, op: str, given: dict[str, Any], wanted: Array, coreml: Toolchain, tmp_path: Path
) -> None:
    b = Builder(system)
    x = Value("x", wanted.shape, "fp32")
    b.program.inputs.append(x)
    (made,) = b.emit(op, [(wanted.shape, "fp32")], given, "w")
    (y,) = b.emit("add", [(wanted.shape, "fp32")], {"x": x, "y": made}, "y")
    b.program.outputs = [y]
    path = build(b.program, coreml, tmp_path / "build").path
    program = decode(path, coreml, tmp_path / "decode")
    assert [o.op for o in program.operations if o.op != "const"] == [op, "add"]
    data = rng.normal(size=wanted.shape).astype(np.float32)
    found = Session(to_onnx(program, half=False)).run({"x": data})[y.name]
    np.testing.assert_allclose(found, data + wanted, rtol=1e-6, atol=1e-6)


# --- damaged packages -----------------------------------------------------------------------------------------------------


def weights_of(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def model_of(package: Path) -> Path:
    return package.parent / package.name / "Data" / "com.apple.CoreML" / "model.mlmodel"


def cut(size: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(size * len(data)) if isinstance(size, float) else size])

    return damage


def overwrite(at: int, data: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        old = path.read_bytes()
        path.write_bytes(old[:at] + data + old[at + len(data) :])

    return damage


HUGE = (1 << 62).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (weights_of, cut(0)),
        (weights_of, cut(70)),
        (weights_of, cut(0.6)),
        (weights_of, overwrite(64, b"\0" * 64)),  # the header of the first blob
        (weights_of, overwrite(72, HUGE)),  # how long it is
        (weights_of, overwrite(80, HUGE)),  # where it is
        (weights_of, Path.unlink),
        (model_of, cut(0)),
        (model_of, cut(0.5)),
        (model_of, overwrite(0, b"\xff" * 40)),
        (model_of, Path.unlink),
        (lambda p: p / "Manifest.json", cut(0.5)),
        (lambda p: p / "Manifest.json", Path.unlink),
    ],
)
def test_damage_is_one_error(
    file: Callable[[Path], Path], damage: Callable[[Path], None], package: Path, coreml: Toolchain, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mlpackage"
    shutil.copytree(package, broken)
    damage(file(broken))
    with pytest.raises(EdgecError) as caught:
        decode(broken, coreml, tmp_path / "decode", seconds=120)
    assert [d.code for d in caught.value.diagnostics] == ["EC0672"]
    assert "broken.mlpackage" in str(caught.value)


def test_a_link_in_a_package_leads_nowhere(package: Path, coreml: Toolchain, tmp_path: Path) -> None:
    linked = tmp_path / "linked.mlpackage"
    shutil.copytree(package, linked)
    weights_of(linked).unlink()
    weights_of(linked).symlink_to(weights_of(package))
    with pytest.raises(EdgecError, match="no plain file"):
        decode(linked, coreml, tmp_path / "decode")
    assert main(["inspect", str(linked)]) != 0


CLASSIFIER = """
PROTOCOL = 1
def run(job):
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3))], opset_version=ct.target.iOS17)
    def program(x):
        return mb.softmax(x=x, axis=-1, name="p")
    config = ct.ClassifierConfig(["a", "b", "c"])
    model = ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17,
                       compute_precision=ct.precision.FLOAT32, skip_model_load=True, classifier_config=config)
    model.save(str(job.folder / "labels.mlpackage"))
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3, 4, 4))], opset_version=ct.target.iOS17)
    def picture(x):
        return mb.relu(x=x, name="y")
    image = ct.ImageType(name="x", shape=(1, 3, 4, 4), scale=1 / 255, color_layout="RGB")
    model = ct.convert(picture, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17,
                       compute_precision=ct.precision.FLOAT32, skip_model_load=True, inputs=[image])
    model.save(str(job.folder / "picture.mlpackage"))
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3))], opset_version=ct.target.iOS17)
    def branches(x):
        most = mb.greater(x=mb.reduce_max(x=x), y=0.0)
        return mb.cond(pred=most, _true_fn=lambda: mb.add(x=x, y=1.0), _false_fn=lambda: mb.add(x=x, y=2.0))
    model = ct.convert(branches, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17, skip_model_load=True,
                       pass_pipeline=ct.PassPipeline.EMPTY)
    model.save(str(job.folder / "branches.mlpackage"))
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3))], opset_version=ct.target.iOS17)
    def number(x):
        return mb.relu(x=x, name="y"), mb.const(val=0.5, name="s")
    model = ct.convert(number, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17,
                       compute_precision=ct.precision.FLOAT32, skip_model_load=True)
    model.save(str(job.folder / "number.mlpackage"))
    return {}
"""


@pytest.fixture(scope="module")
def others(coreml: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with packages of coremltools' own making."""
    folder = tmp_path_factory.mktemp("others")
    script = folder / "others_worker.py"
    script.write_text(CLASSIFIER)
    coreml.run(script, {}, workdir=folder)
    return folder


def test_the_output_of_a_classifier_is_its_probabilities(
    others: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '<ir_version: 10, opset_import: ["" : 23]> g (float[1,3] x) => (float[1,3] y) { y = Softmax(x) }'
    Graph.from_text(text).save(tmp_path / "net.onnx")
    assert main(["compare", str(tmp_path / "net.onnx"), str(others / "labels.mlpackage"), "--json"]) == 0
    assert (json.loads(capsys.readouterr().out)["outputs"][0]["sqnr_db"] or np.inf) > 100


def test_pixels_of_unknown_meaning_are_not_compared(
    others: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '<ir_version: 10, opset_import: ["" : 23]> g (float[1,3,4,4] x) => (float[1,3,4,4] y) { y = Relu(x) }'
    Graph.from_text(text).save(tmp_path / "net.onnx")
    assert main(["compare", str(tmp_path / "net.onnx"), str(others / "picture.mlpackage")]) == 1
    assert "is an image" in capsys.readouterr().err


def test_what_is_not_decoded_is_no_damage(others: Path, coreml: Toolchain, tmp_path: Path) -> None:
    with pytest.raises(EdgecError, match="operations of its own inside") as caught:
        decode(others / "branches.mlpackage", coreml, tmp_path / "decode")
    assert caught.value.diagnostics[0].code == "EC0681"


def test_a_number_may_be_an_output(others: Path, coreml: Toolchain, tmp_path: Path) -> None:
    program = decode(others / "number.mlpackage", coreml, tmp_path / "decode")
    assert Session(to_onnx(program, half=False)).run({"x": np.ones((1, 3), np.float32)})["s"] == 0.5


# --- verification and commands --------------------------------------------------------------------------------------------


def test_what_has_no_rule_is_a_warning(coreml: Toolchain, tmp_path: Path) -> None:
    x, y = Value("x", (2,), "fp32"), Value("y", (2,), "fp32")
    shape = np.asarray([2], np.int32)
    drawn = Value("drawn", (2,), "fp32")
    program = Program("iOS17", [x], [y])
    given: dict[str, Any] = {"shape": shape, "mean": np.float32(0), "stddev": np.float32(1), "seed": np.int32(1)}
    program.operations = [Operation("random_normal", given, [drawn]), Operation("add", {"x": x, "y": drawn}, [y])]
    path = build(program, coreml, tmp_path).path
    job = EmitJob("fp32", tmp_path, ToolchainManager(), Diagnostics())
    artifact = Artifact(
        {MODEL: path / "Data" / "com.apple.CoreML" / "model.mlmodel"},
        MODEL,
        facts={"interface": {"inputs": [], "outputs": []}},
    )
    assert package_runner(artifact, job) is None
    (said,) = [d for d in job.diagnostics.items if d.code == "EC0681"]
    assert "random_normal" in said.message


def test_inspect(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(package)]) == 0
    text = capsys.readouterr().out
    for said in ("an ML Program, from iOS17 on", "x: fp32[1,3,8,8]", "y: fp32[1,4,8,8]", "conv 1, relu 1"):
        assert said in text, text
    assert main(["inspect", str(package), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["operations"] == {"conv": 1, "relu": 1}
    assert found["minimum_system"] == "iOS17"
    assert main(["inspect", str(package), "--text"]) == 0
    assert 'pad_type="custom", pad=[1, 1, 1, 1]' in capsys.readouterr().out


def test_compare(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = tmp_path / "alone.mlpackage"
    shutil.copytree(package, alone)
    model = str(package.parent / "net.onnx")
    assert main(["compare", model, str(alone), "--layers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["outputs"][0]["sqnr_db"] or np.inf) > 100  # None: equal
    assert {v["name"] for v in found["values"]} == {"c", "y"}
    other = net()
    other.outputs[0].name = "z"
    other.inputs[0].name = "a"
    other.save(tmp_path / "renamed.onnx")
    assert main(["compare", str(tmp_path / "renamed.onnx"), str(alone), "--json"]) == 0  # by position
    Graph.from_text(
        "<ir_version: 10, opset_import: ['' : 23]> g (float[1,5] x) => (float[1,5] y) { y = Relu(x) }".replace("'", '"')
    ).save(tmp_path / "other.onnx")
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "other.onnx"), str(alone)]) == 1
    assert "EC0660" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["inspect"], ["compare", "net.onnx"]])
def test_what_is_no_package(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    net().save(tmp_path / "net.onnx")
    (tmp_path / "empty.mlpackage").mkdir()
    (tmp_path / "file.mlpackage").write_text("no folder")
    for name, code in (("empty", "EC0672"), ("file", "EC0672"), ("missing", "EC0001")):
        assert main([*command, f"{name}.mlpackage"]) != 0
        assert code in capsys.readouterr().err, name
