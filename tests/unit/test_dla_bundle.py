"""What a bundle holds for the DLA: the file without Q/DQ, the calibration cache, who runs what, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec
from edgec.api import check
from edgec.diagnostics import EdgecError
from edgec.graph import Graph, constant
from edgec.passes.legalize.global_pool_to_conv import GlobalPoolToConv
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.pipeline import PassContext, PassManager
from edgec.quantization.pairs import DQ, Linear, Q
from edgec.runtime import Session
from edgec.samples import Samples, generated_samples
from edgec.target import settled
from edgec.targets.tensorrt.jetson.calibration_cache import disagreements, read_cache, version_tag, write_cache
from edgec.targets.tensorrt.jetson.dla import dla_subgraphs, settle
from edgec.targets.tensorrt.jetson.implicit import Implicit, implicit
from edgec.targets.tensorrt.jetson.target import Jetson
from edgec.targets.tensorrt.releases import release


def numbers(count: int, seed: int = 0) -> str:
    return ",".join(f"{x:.4f}" for x in np.random.default_rng(seed).normal(0, 0.3, count))


def network() -> Graph:
    """A residual block with a pooling, a Sigmoid gate and a classifier."""
    return Graph.from_text(
        f"""<ir_version: 10, opset_import: ["" : 19]>
        g (float[1,3,16,16] image) => (float[1,5] scores)
        <float[8,3,3,3] w1 = {{{numbers(216)}}}, float[8] b1 = {{{numbers(8, 1)}}}, float[8,8,3,3] w2 = {{{numbers(576, 2)}}},
         float[8,8,1,1] w3 = {{{numbers(64, 3)}}}, float[8,5] w4 = {{{numbers(40, 4)}}}>
        {{
          a = Conv<pads = [1, 1, 1, 1]>(image, w1, b1)  r = Relu(a)
          c = Conv<pads = [1, 1, 1, 1]>(r, w2)  s = Add(c, r)  t = Relu(s)
          m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(t)
          e = Conv(m, w3)  g1 = Sigmoid(e)  h = Mul(e, g1)
          p = GlobalAveragePool(h)  f = Flatten(p)  scores = MatMul(f, w4)
        }}"""
    )


def data(graph: Graph) -> Samples:
    return generated_samples(graph, 8)


def compiled(
    tmp_path: Path,
    *,
    precision: str = "int8",
    target: str = "jetson-orin-nx",
    graph: Graph | None = None,
    **options: Any,
) -> Any:
    graph = graph or network()
    given = {"dla": True, "oracle": "none", **{k.replace("_", "-"): v for k, v in options.items()}}
    return edgec.compile(
        graph, target=target, precision=precision, options=given, calibration=data(graph), output=tmp_path / "out"
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return compiled(tmp_path_factory.mktemp("dla"))


@pytest.fixture(scope="module")
def found(bundle: Any) -> Implicit:
    return implicit(Graph.load(bundle.folder / "model.onnx"))


# --- the cache's format ------------------------------------------------------------------------------------------------


def test_a_cache_as_tensorrt_writes_it() -> None:
    """The scale 0x3c008912 of TensorRT 7.2's cache for LeNet (its input, pixels 0 to 1) is 1 / 127 and a little."""
    text = write_cache({"data": struct.unpack(">f", bytes.fromhex("3c008912"))[0], "a:b": 1.0}, (8, 5, 2)).decode()
    assert text == "TRT-8502-EntropyCalibration2\ndata: 3c008912\na:b: 3f800000\n"
    cache = read_cache(text.encode())
    assert (cache.version, cache.calibrator) == ("8502", "EntropyCalibration2")
    assert cache.scales["data"] == pytest.approx(1 / 127, rel=0.01)
    assert cache.scales["a:b"] == 1.0


def test_hexadecimal_digits_that_tools_leave_out_are_zeros() -> None:
    """0x00800000 and the like begin with zeros, which NVIDIA's own translator drops."""
    assert (
        read_cache(b"TRT-8600-EntropyCalibration2\nx: 800000\n").scales["x"]
        == struct.unpack(">f", bytes.fromhex("00800000"))[0]
    )


@pytest.mark.parametrize(
    ("tensorrt", "tag"), [((8, 5, 2), "8502"), ((8, 6, 2), "8602"), ((10, 3, 0), "100300"), ((10, 7), "100700")]
)
def test_version_tags(tensorrt: tuple[int, ...], tag: str) -> None:
    assert version_tag(tensorrt) == tag


@pytest.mark.parametrize("scale", [0.0, -0.5, float("nan"), float("inf"), 1e-60])
def test_scales_that_are_none(scale: float) -> None:
    with pytest.raises(EdgecError, match="positive"):
        write_cache({"x": scale}, (8, 5, 2))


@pytest.mark.parametrize(
    "text",
    ["", "x: 3f800000\n", "TRT-8502-EntropyCalibration2\nx 3f800000\n", "TRT-8502-EntropyCalibration2\nx: 3f80zz00\n",
     "TRT-8502-EntropyCalibration2\nx: 3f800000\nx: 3f800000\n", "TRT-8502-EntropyCalibration2\nx: 3f8000000000\n"],
)  # fmt: skip
def test_what_is_no_cache(text: str) -> None:
    with pytest.raises(EdgecError) as e:
        read_cache(text.encode())
    assert e.value.diagnostics[0].code == "EC0699"


def test_disagreements_are_told() -> None:
    cache = read_cache(write_cache({"a": 0.5, "b": 0.25}, (10, 3, 0)))
    assert disagreements(cache, {"a": 0.5}) == []
    assert [line.split(":")[0] for line in disagreements(cache, {"a": 0.51, "b": 0.25, "c": 1.0})] == ["a", "c"]


# --- the bundle --------------------------------------------------------------------------------------------------------


def test_the_bundle_has_both(bundle: Any) -> None:
    assert {"model.onnx", "model.dla.onnx", "calib.cache", "dla.json", "build_engine.sh"} <= set(bundle.artifact.files)
    assert bundle.report.precision == "int8-dla"
    assert any(n.op_type == Q for n in Graph.load(bundle.folder / "model.onnx").nodes())
    assert not any(n.op_type in (Q, DQ) for n in Graph.load(bundle.folder / "model.dla.onnx").nodes())
    script = (bundle.folder / "build_engine.sh").read_text()
    assert "bundle_model='model.dla.onnx'" in script
    assert "bundle_calibration='calib.cache'" in script
    assert "bundle_type_flags='--fp16 --int8'" in script
    assert "bundle_dla_fallback='yes'" in script
    assert "--precisionConstraints=prefer" in script
    told = " ".join(bundle.artifact.not_verified)
    assert "rule-based" in told
    assert "not validated on hardware" in told


def test_the_cache_says_what_the_pairs_say(bundle: Any) -> None:
    """Read back, against the Q/DQ graph itself."""
    cache = read_cache((bundle.folder / "calib.cache").read_bytes())
    plain = Graph.load(bundle.folder / "model.dla.onnx")
    tensors = {v.name for n in plain.nodes() for v in (*n.inputs, *n.outputs) if v is not None}
    assert set(cache.scales) <= tensors
    compared = 0
    for n in Graph.load(bundle.folder / "model.onnx").nodes():
        if n.op_type != Q:
            continue
        pair = Linear(n, 17)
        if pair.real.name in tensors:
            compared += 1
            assert cache.scales[pair.real.name] == pytest.approx(float(pair.scale), rel=1e-6)  # type: ignore[arg-type]
    assert compared > 8


def test_every_tensor_of_an_int8_layer_has_a_scale(found: Implicit) -> None:
    for n in found.graph.nodes():
        if n.name in found.half:
            continue
        for v in (*n.inputs[:1], *n.outputs):
            assert v is not None
            assert v.name in found.scales, f"{v.name} of {n.op_type}"
    assert {v.name for v in found.graph.inputs} <= set(found.scales)
    assert any("Sigmoid" in name or n.op_type == "Sigmoid" for n in found.graph.nodes() for name in [n.name or ""])


def test_sigmoid_is_left_to_fp16(found: Implicit) -> None:
    sigmoids = [n.name for n in found.graph.nodes() if n.op_type == "Sigmoid"]
    assert sigmoids
    assert set(sigmoids) <= set(found.half)


def test_names_of_layers_are_plain_and_unique(found: Implicit) -> None:
    names = [n.name or "" for n in found.graph.nodes()]
    assert len(set(names)) == len(names)
    assert not any(set(name) & set(",:' \n") for name in names)


def test_tensorrt_finds_the_same_weights(bundle: Any, found: Implicit) -> None:
    """Rounding the weights of the file without Q/DQ as TensorRT does gives the integers of the Q/DQ graph."""
    assert not found.coarser
    plain = {n.outputs[0].name: n for n in Graph.load(bundle.folder / "model.dla.onnx").nodes() if n.op_type == "Conv"}
    compared = 0
    for n in Graph.load(bundle.folder / "model.onnx").nodes():
        if n.op_type != "Conv" or (dq := n.inputs[1].producer()) is None:  # type: ignore[union-attr]
            continue
        stored, real = constant(dq.inputs[0]), constant(plain[n.outputs[0].name].inputs[1])
        assert stored is not None
        assert real is not None
        scale = np.abs(real).max(axis=(1, 2, 3), keepdims=True) / 127
        np.testing.assert_array_equal(np.rint(real / np.where(scale > 0, scale, 1)).astype(np.int8), stored)
        compared += 1
    assert compared >= 4


def test_the_file_for_the_dla_computes_nearly_what_the_pairs_compute(bundle: Any) -> None:
    """Without rounding: the float graph with rounded weights."""
    sample = next(iter(data(network())))
    got = Session(bundle.folder / "model.dla.onnx").run(sample)["scores"]
    want = Session(network()).run(sample)["scores"]
    assert np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_the_residue_is_listed(bundle: Any) -> None:
    about = json.loads((bundle.folder / "dla.json").read_text())
    off = [n for n in about["nodes"] if n["where"] != "accelerator"]
    assert [n["op"] for n in off] == ["Flatten"]
    assert "same rank" in off[0]["reason"]
    assert about["device"] == "the DLA"
    assert about["fallback"] == "the GPU"
    warned = [d for d in bundle.diagnostics if d.code == "EC0402"]
    assert len(warned) == 1
    assert "runs on the GPU" in warned[0].message


def test_no_fallback_names_the_node_and_the_rule(tmp_path: Path) -> None:
    with pytest.raises(EdgecError) as e:
        compiled(tmp_path, gpu_fallback=False)
    assert {d.code for d in e.value.diagnostics if d.severity.name == "ERROR"} == {"EC0696"}
    assert "Flatten" in e.value.diagnostics[-1].message
    assert not (tmp_path / "out").exists()


def test_fp16_has_no_cache(tmp_path: Path) -> None:
    made = compiled(tmp_path, precision="fp16")
    assert made.report.precision == "fp16-dla"
    assert "calib.cache" not in made.artifact.files
    assert "bundle_type_flags='--fp16'" in (made.folder / "build_engine.sh").read_text()


@pytest.mark.parametrize("jetpack", ["6.2", "7.2.2"])
def test_fp16_of_a_quantised_model_is_judged_as_what_is_built(jetpack: str, tmp_path: Path) -> None:
    quantised = edgec.quantize(
        network(), target="jetson-orin-nx", precision="int8", calibration=data(network()), effort="low"
    ).graph
    made = compiled(tmp_path, precision="fp16", graph=quantised, target="jetson-agx-orin", jetpack=jetpack)
    assert {"QuantizeLinear", "DequantizeLinear"}.isdisjoint(made.graph.op_counts())


def test_an_average_of_a_quantised_image_has_the_zero_point_tensorrt_takes() -> None:
    graph = Graph.from_text("""<ir_version: 10, opset_import: ["" : 21]>
        g (int8[1,2,3,3] x) => (float[1,2,1,1] y) <float s = {0.5}, int8 z = {0}>
        { d = DequantizeLinear(x, s, z)  y = GlobalAveragePool(d) }""")
    PassManager([InferShapes(), GlobalPoolToConv()]).run(graph, PassContext())
    conv = next(n for n in graph.nodes() if n.op_type == "Conv")
    weight = conv.inputs[1].producer() if conv.inputs[1] is not None else None
    assert weight is not None
    stored, scale, zero = (constant(v) for v in weight.inputs)
    assert zero == 0
    assert stored * scale == pytest.approx(1 / 9)


def test_tensorrt_11_is_typed(tmp_path: Path) -> None:
    made = compiled(tmp_path, precision="fp16", target="jetson-agx-orin", jetpack="7.2.2")
    assert made.report.precision == "fp16-dla-strong"
    assert "model.dla.onnx" not in made.artifact.files
    assert "calib.cache" not in made.artifact.files
    conv = next(n for n in Graph.load(made.folder / "model.onnx").nodes() if n.op_type == "Conv")
    assert conv.outputs[0].dtype is None or conv.inputs[1].dtype.name == "FLOAT16"  # type: ignore[union-attr]
    assert "bundle_from='110400'" in (made.folder / "build_engine.sh").read_text()


def test_pieces_are_counted() -> None:
    graph = Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 17]> g (float[1,4,8,8] x) => (float[1,4,8,8] y)
        { a = Relu(x)  b = Erf(a)  c = Relu(b)  d = Abs(c)  e = Erf(d)  y = Relu(e) }"""
    )
    placed = check(graph, ["jetson-agx-orin"], options={"dla": "true"})["jetson-agx-orin"]
    assert dla_subgraphs(graph, placed) == 3


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("board", "jetpack", "precision", "why"),
    [
        ("jetson-orin-nano", None, "int8", "has no DLA"),
        ("jetson-thor", None, "fp16", "has no DLA"),
        ("jetson-agx-orin", "7.2", "fp16", "does not drive the DLA"),
        ("jetson-agx-orin", "7.2.2", "int8", "is not known"),
        ("jetson-agx-orin", None, "fp32", "does not compute in fp32"),
    ],
)
def test_refusals(board: str, jetpack: str | None, precision: str, why: str) -> None:
    with pytest.raises(EdgecError, match=why) as e:
        settle(board, release(board, jetpack), precision)
    assert e.value.diagnostics[0].code == "EC0695"
    assert e.value.diagnostics[0].hint


@pytest.mark.parametrize(
    ("board", "jetpack", "precision", "name"),
    [
        ("jetson-agx-orin", None, "int8", "int8-dla"),
        ("jetson-orin-nx", "5", "fp16", "fp16-dla"),
        ("jetson-xavier-nx", None, "int8", "int8-dla"),
        ("jetson-agx-orin", "7.2.2", "fp16", "fp16-dla-strong"),
    ],
)
def test_variants(board: str, jetpack: str | None, precision: str, name: str) -> None:
    options = {"dla": True, **({"jetpack": jetpack} if jetpack else {})}
    assert settled(Jetson(board), precision, options) == name


@pytest.mark.parametrize("zero", [3, 0])
def test_pairs_that_no_cache_can_hold(zero: int) -> None:
    kind, scale2 = ("int8", "0.1") if zero else ("int8", "0.2")
    graph = Graph.from_text(
        f"""<ir_version: 10, opset_import: ["" : 19]> g (float[1,4] x) => (float[1,4] y)
        <float s = {{0.1}}, float t = {{{scale2}}}, {kind} z = {{{zero}}}>
        {{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
           p = QuantizeLinear(x, t, z)  e = DequantizeLinear(p, t, z)  y = Add(d, e) }}"""
    )
    with pytest.raises(EdgecError) as e:
        implicit(graph)
    assert e.value.diagnostics[0].code == "EC0699"


def test_weights_that_do_not_use_their_range_are_told() -> None:
    graph = Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 19]> g (float[1,1,4,4] x) => (float[1,2,4,4] y)
        <float s = {0.1}, int8 z = {0}, int8[2,1,1,1] w = {127, 100}, float[2] ws = {0.01, 0.02}, int8[2] wz = {0, 0}>
        { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
          v = DequantizeLinear<axis = 0>(w, ws, wz)  y = Conv(d, v) }"""
    )
    assert implicit(graph).coarser == {"w": 0.5}
