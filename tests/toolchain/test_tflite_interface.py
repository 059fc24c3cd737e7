"""What an app meets of a .tflite file: types, order of axes, pixels, signature, metadata; the same bytes each time."""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgec
from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.samples import Preprocess
from edgec.targets.tflite.metadata import NAME
from edgec.targets.tflite.metadata_reader import associated, read_metadata
from edgec.targets.tflite.model_runs import ModelRun, run_litert
from edgec.targets.tflite.reader import read
from edgec.toolchain import Toolchain

pytestmark = pytest.mark.toolchain

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(scope="module")
def litert(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("litert")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution that pads, a mean over the image, four classes."""
    rng = np.random.default_rng(3)

    def numbers(*shape: int) -> str:
        return ",".join(f"{v:.4f}" for v in rng.normal(size=shape).ravel() / np.sqrt(np.prod(shape[1:])))

    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        net (float[1,3,16,16] image) => (float[1,4] scores)
        <float[12,3,3,3] w = {{{numbers(12, 3, 3, 3)}}}, float[4,12] v = {{{numbers(4, 12)}}}, float[4] b = {{0.1,-0.2,0.3,0}}>
        {{ c = Conv <kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]> (image, w) r = Relu(c)
           p = GlobalAveragePool(r) f = Flatten(p) scores = Gemm <transB=1> (f, v, b) }}"""
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    Graph.from_text(text).save(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that are not one colour, as uint8 [n, 16, 16, 3]."""
    rng = np.random.default_rng(5)
    base = rng.integers(0, 256, (24, 1, 1, 3)) + rng.integers(-60, 60, (24, 16, 16, 3))
    path = tmp_path_factory.mktemp("photos") / "photos.npy"
    np.save(path, np.clip(base, 0, 255).astype(np.uint8))
    return path


def compiled(
    net: Path, photos: Path, out: Path, mean: Any = MEAN, std: Any = STD, precision: str = "int8", **options: Any
) -> tuple[edgec.Compiled, Diagnostics]:
    found = Diagnostics()
    pre = Preprocess.parse({"mean": list(mean), "std": list(std)})
    given = {k.replace("_", "-"): v for k, v in options.items()}
    result = edgec.compile(
        net, target="android", precision=precision, calibration=str(photos), samples=str(photos), preprocess=pre,
        output=out, options=given, diagnostics=found,
    )  # fmt: skip
    return result, found


def outputs(litert: Toolchain, path: Path, images: npt.NDArray[Any], folder: Path) -> npt.NDArray[Any]:
    """The file's own outputs for its own inputs, one image after the other."""
    samples = [{"image": np.ascontiguousarray(i[None])} for i in images]
    (outcome,) = run_litert(litert, [ModelRun(path, samples)], folder=folder)
    assert outcome.status == "ok", outcome.message
    return np.concatenate([o["scores"] for o in outcome.outputs])


def sqnr(result: edgec.Compiled) -> float:
    verification = result.report.verification
    assert verification is not None
    assert verification.comparison is not None
    return float(verification.comparison["outputs"][0]["sqnr_db"])


@pytest.mark.parametrize(
    ("options", "dtype", "shape"),
    [
        ({}, "float32", (1, 3, 16, 16)),
        ({"io_layout": "nhwc"}, "float32", (1, 16, 16, 3)),
        ({"io_dtype": "integer", "io_layout": "nhwc"}, "int8", (1, 16, 16, 3)),
        ({"io_dtype": "uint8", "io_layout": "nhwc"}, "uint8", (1, 16, 16, 3)),
        ({"io_dtype": "uint8"}, "uint8", (1, 3, 16, 16)),
    ],
)
def test_types_and_order(
    litert: Toolchain, net: Path, photos: Path, tmp_path: Path, options: Any, dtype: str, shape: Any
) -> None:
    result, found = compiled(net, photos, tmp_path / "out", **options)
    main = read(tmp_path / "out" / "model.tflite").main
    assert (main.inputs[0].dtype, main.inputs[0].shape) == (dtype, shape)
    assert main.outputs[0].dtype == dtype
    assert sqnr(result) > 25
    assert not [d for d in found if d.code == "EC0649"]


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize(
    ("mean", "std"), [(MEAN, STD), ((127.5,), (127.5,)), ((128.0,), (64.0,))], ids=["channels", "halves", "whole"]
)
def test_pixels_go_in(
    litert: Toolchain, net: Path, photos: Path, tmp_path: Path, precision: str, mean: Any, std: Any
) -> None:
    """The file is fed by hand, with the bytes of the images."""
    integer = precision == "int8"
    options = {"io_layout": "nhwc", "fold_preprocess": "true", **({"io_dtype": "uint8"} if integer else {})}
    result, found = compiled(net, photos, tmp_path / "out", mean, std, precision, **options)
    (note,) = [d.message for d in found if d.code == "EC0648"]
    assert ("pixel as uint8" if integer else "pixel as float32") in note
    assert sqnr(result) > (25 if integer else 100)
    images = np.load(photos)
    got = outputs(litert, tmp_path / "out" / "model.tflite", images if integer else images.astype(np.float32), tmp_path)
    quant = read(tmp_path / "out" / "model.tflite").main.outputs[0].quant
    if quant is not None:
        got = (got.astype(np.float32) - quant.zero_point) * quant.scale
    from edgec.runtime import Session

    x = ((images - np.asarray(mean)) / np.asarray(std)).astype(np.float32).transpose(0, 3, 1, 2)
    session = Session(Graph.load(net))
    want = np.concatenate([session.run({"image": i[None]})["scores"] for i in x])
    error = np.sum((got - want) ** 2) / np.sum(want**2)
    assert -10 * np.log10(error) > (25 if integer else 100)


def test_a_float_model_has_no_integer_interface(net: Path, photos: Path, tmp_path: Path, litert: Toolchain) -> None:
    _, found = compiled(net, photos, tmp_path / "out", precision="fp32", io_dtype="integer")
    assert [d.code for d in found if d.code == "EC0649"] == ["EC0649"]


def test_folding_needs_to_know_what(net: Path) -> None:
    with pytest.raises(EdgecError, match="EC0646"):
        edgec.compile(net, target="android", options={"fold-preprocess": True})


def test_the_same_bytes_each_time(litert: Toolchain, net: Path, photos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\n")
    for name in ("one", "two"):
        compiled(net, photos, tmp_path / name, labels=str(labels), fold_preprocess=True, io_dtype="integer")
    one, two = ((tmp_path / name / "model.tflite").read_bytes() for name in ("one", "two"))
    assert one == two


def test_signature(litert: Toolchain, net: Path, photos: Path, tmp_path: Path) -> None:
    """As an app asks for it."""
    compiled(net, photos, tmp_path / "out", io_dtype="uint8")
    code = (
        "import json, sys\nfrom ai_edge_litert.interpreter import Interpreter\n"
        "i = Interpreter(sys.argv[1])\nprint(json.dumps(i.get_signature_list()))\n"
    )
    path = tmp_path / "out" / "model.tflite"
    done = subprocess.run([litert.python, "-c", code, path], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {"serving_default": {"inputs": ["image"], "outputs": ["scores"]}}


def test_the_large_form_runs(litert: Toolchain, net: Path, photos: Path, tmp_path: Path) -> None:
    plain, _ = compiled(net, photos, tmp_path / "plain")
    large, _ = compiled(net, photos, tmp_path / "large", large=True)
    assert sqnr(plain) == sqnr(large)
    assert (tmp_path / "plain" / "model.tflite").read_bytes() != (tmp_path / "large" / "model.tflite").read_bytes()


def test_metadata_and_labels(litert: Toolchain, net: Path, photos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "pets.txt"
    labels.write_text("cat\ndog\nfish\nÜbergröße\n", encoding="utf-8")
    path = tmp_path / "out" / "model.tflite"
    compiled(net, photos, tmp_path / "out", labels=str(labels), author="somebody", license="MIT", io_layout="nhwc")
    told = read_metadata(read(path).metadata[NAME])
    assert (told["name"], told["author"], told["license"]) == ("net", "somebody", "MIT")
    (image,), (scores,) = told["inputs"], told["outputs"]
    assert image["image"] == "RGB"
    np.testing.assert_allclose(image["mean"], MEAN, rtol=1e-5)
    np.testing.assert_allclose(image["std"], STD, rtol=1e-5)
    assert scores["files"] == ["labels.txt"]
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == ["cat", "dog", "fish", "Übergröße"]


def test_metadata_of_pixels(litert: Toolchain, net: Path, photos: Path, tmp_path: Path) -> None:
    """mean and std are those that are left to do."""
    compiled(net, photos, tmp_path / "out", fold_preprocess=True, io_layout="nhwc", io_dtype="uint8")
    (image,) = read_metadata(read(tmp_path / "out" / "model.tflite").metadata[NAME])["inputs"]
    assert (image["mean"], image["std"]) == ([0.0], [1.0])


def test_no_metadata_where_nothing_is_known(litert: Toolchain, net: Path, photos: Path, tmp_path: Path) -> None:
    compiled(net, photos, tmp_path / "out", metadata="none", author="somebody")
    assert NAME not in read(tmp_path / "out" / "model.tflite").metadata
    edgec.compile(net, target="android", output=tmp_path / "bare")
    assert NAME not in read(tmp_path / "bare" / "model.tflite").metadata
    assert associated(tmp_path / "bare" / "model.tflite") == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a\nb\nc\n", "there are 3 labels"),
        ("", "is empty"),
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_wrong_labels(net: Path, photos: Path, tmp_path: Path, content: Any, said: str, litert: Toolchain) -> None:
    labels = tmp_path / "labels.txt"
    if content is not None:
        labels.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EdgecError, match=f"EC0653.*{said}"):
        compiled(net, photos, tmp_path / "out", labels=str(labels))
    assert not (tmp_path / "out").exists()


def test_compare_and_inspect(
    litert: Toolchain, net: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the report beside it, and without: then the file says what its numbers mean."""
    from edgec.cli import main

    result, _ = compiled(net, photos, tmp_path / "out", io_dtype="integer", io_layout="nhwc")
    inside, alone = tmp_path / "out" / "model.tflite", tmp_path / "alone.tflite"
    alone.write_bytes(inside.read_bytes())
    pre = ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]
    found = []
    for path in (inside, alone):
        capsys.readouterr()
        assert main(["compare", str(net), str(path), "--samples", str(photos), "--layers", "--json", *pre]) == 0
        document = json.loads(capsys.readouterr().out)
        found.append(document["outputs"][0]["sqnr_db"])
        assert {v["name"] for v in document["values"]} >= {"r", "scores"}
        assert all(v["sqnr_db"] > 20 for v in document["values"])
        assert "LiteRT" in document["runner"]
    assert found[0] == found[1]
    assert abs(found[0] - sqnr(result)) < 6, "other samples of the same kind"
    assert main(["inspect", str(alone), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["inputs"][0]["shape"] == [1, 16, 16, 3]
    assert document["products"] == {"int8": 2}
    assert document["tflite_metadata"]["inputs"][0]["image"] == "RGB"


def test_compare_folded(
    litert: Toolchain, net: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The samples are the ONNX model's; the report says how they become pixels."""
    from edgec.cli import main

    compiled(net, photos, tmp_path / "out", io_dtype="uint8", io_layout="nhwc", fold_preprocess=True)
    pre = ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]
    capsys.readouterr()
    path = str(tmp_path / "out" / "model.tflite")
    assert main(["compare", str(net), path, "--samples", str(photos), "--min-sqnr", "25", *pre]) == 0
    assert main(["compare", str(net), path, "--samples", str(photos), "--min-sqnr", "90", *pre]) == 3
