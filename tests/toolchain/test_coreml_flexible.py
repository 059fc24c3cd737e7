"""Open dimensions: ranges and lists of shapes, through coremltools and back, evaluated at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.runtime import Session
from edgec.specs.schema import builtin_pipeline
from edgec.targets.coreml.flexible import Flexible, flexible
from edgec.targets.coreml.lower import LoweredProgram, lower
from edgec.targets.coreml.package import build, decode
from edgec.targets.coreml.runner import DecodedRunner
from edgec.toolchain import Toolchain

BATCH = """<ir_version: 10, opset_import: ["": 23]>
net (float[N,3,8,8] x) => (float[N,5] y)
{ c = Conv <pads = [1, 1, 1, 1]> (x, w)
  r = Relu(c)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  y = Gemm <transB = 1> (f, v, b) }"""

IMAGES = """<ir_version: 10, opset_import: ["": 23]>
net (float[N,3,H,W] x) => (float[N,4,OH,OW] y, int64[4] sizes)
{ c = Conv <pads = [1, 1, 1, 1]> (x, w)
  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
  a = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (p)
  u = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (a, , scales)
  l = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (a, , scales)
  s = Concat <axis = 1> (u, l)
  y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]> (s, t)
  sizes = Shape(y) }"""

WORDS = """<ir_version: 10, opset_import: ["": 23]>
net (int64[N,S] ids) => (float[N,S,8] y, bool[N,S] first)
{ e = Gather(table, ids)
  shape = Shape(ids)
  count = Gather(shape, one_scalar)
  last = Unsqueeze(count, zero)
  place = Slice(places, zero, last, zero)
  h = Add(e, place)
  n = LayerNormalization(h, gamma)
  q = MatMul(n, w)
  heads = Reshape(q, to_heads)
  t = Transpose <perm = [0, 2, 1, 3]> (heads)
  k = Transpose <perm = [0, 2, 3, 1]> (heads)
  scores = MatMul(t, k)
  both = Concat <axis = 0> (last, last)
  ones = ConstantOfShape <value = float[1] {1}> (both)
  mask = Trilu <upper = 0> (ones)
  no = Equal(mask, nothing)
  masked = Where(no, low, scores)
  soft = Softmax(masked)
  mixed = MatMul(soft, t)
  back = Transpose <perm = [0, 2, 1, 3]> (mixed)
  y = Reshape(back, from_heads)
  begin = Slice(ids, zero, one, axis1)
  first = Equal(ids, begin) }"""

_RNG = np.random.default_rng(3)


def _floats(*shape: int) -> Any:
    return _RNG.normal(0, 0.5, shape).astype(np.float32)


WEIGHTS: Mapping[str, Mapping[str, Any]] = {
    BATCH: {"w": _floats(4, 3, 3, 3), "v": _floats(5, 4), "b": _floats(5)},
    IMAGES: {"w": _floats(6, 3, 3, 3), "t": _floats(12, 4, 3, 3), "scales": np.asarray([1, 1, 2, 2], np.float32)},
    WORDS: {
        "table": _floats(20, 8), "places": _floats(32, 8), "gamma": _floats(8), "w": _floats(8, 8),
        "zero": np.asarray([0]), "one": np.asarray([1]), "axis1": np.asarray([1]), "one_scalar": np.asarray(1),
        "to_heads": np.asarray([0, 0, 2, 4]), "from_heads": np.asarray([0, 0, 8]),
        "nothing": np.zeros((), np.float32), "low": np.asarray(-1e4, np.float32),
    },
}  # fmt: skip


def model(text: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    for name, data in WEIGHTS[text].items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    return proto


def graph(text: str) -> Graph:
    made = Graph.from_proto(model(text))
    PassManager(build_passes(builtin_pipeline("coreml-fp32").steps, Registry().passes())).run(made, PassContext())
    return made


@pytest.fixture(scope="module")
def coreml(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("coreml")


def _package(
    text: str, ranges: str | None, shapes: str | None, coreml: Toolchain, folder: Path
) -> tuple[LoweredProgram, DecodedRunner, Path]:
    made = graph(text)
    told = flexible(made, ranges, shapes, Diagnostics())
    lowered = lower(made, "iOS18")
    package = build(lowered.program, coreml, folder, request=told.request(lowered.interface))
    program = decode(package.path, coreml, folder / "decoded")
    assert any(isinstance(d, str) for d in program.inputs[0].known)
    return lowered, DecodedRunner(program, lowered.interface, half=False), package.path


def _same(runner: DecodedRunner, text: str, feeds: Mapping[str, Any]) -> None:
    (got,) = runner.run([feeds])
    want = Session(Graph.from_proto(model(text))).run(feeds)
    for name, w in want.items():
        assert got[name].shape == w.shape
        assert got[name].dtype == w.dtype
        np.testing.assert_allclose(got[name], w, rtol=1e-4, atol=1e-5)


@pytest.mark.toolchain
@pytest.mark.parametrize(
    ("text", "ranges", "shapes", "fed"),
    [
        (BATCH, None, None, [(1, 3, 8, 8), (7, 3, 8, 8)]),
        (BATCH, "N=1..8..4", None, [(1, 3, 8, 8), (8, 3, 8, 8)]),
        (IMAGES, "N=1..2;H=16..64;W=16..64", None, [(1, 3, 16, 16), (2, 3, 31, 48)]),
        (IMAGES, None, "1x3x32x32; 1x3x64x48", [(1, 3, 32, 32), (1, 3, 64, 48)]),
        (WORDS, "N=1..4; S=1..32", None, [(1, 1), (3, 17), (2, 32)]),
        (WORDS, None, "1x8; 1x16", [(1, 8), (1, 16)]),
    ],
    ids=["batch", "batch-range", "image", "image-shapes", "words", "words-shapes"],
)
def test_same_answers_at_every_size(
    text: str, ranges: str | None, shapes: str | None, fed: Sequence[tuple[int, ...]], coreml: Toolchain, tmp_path: Path
) -> None:
    _, runner, _ = _package(text, ranges, shapes, coreml, tmp_path)
    for shape in fed:
        (name,) = (v.name for v in model(text).graph.input)
        data = _RNG.integers(0, 20, shape) if name == "ids" else _floats(*shape)
        _same(runner, text, {name: data})


@pytest.mark.toolchain
def test_the_package_says_its_sizes(coreml: Toolchain, tmp_path: Path) -> None:
    """Bytes of the ranges, read without coremltools: two packages that differ in nothing else."""
    files = []
    for i, ranges in enumerate(("N=1..8", "N=1..9")):
        _, _, package = _package(BATCH, ranges, None, coreml, tmp_path / str(i))
        files.append((package / "Data" / "com.apple.CoreML" / "model.mlmodel").read_bytes())
    assert len(files[0]) == len(files[1])
    assert [(a, b) for a, b in zip(*files, strict=True) if a != b] == [(8, 9)]


def test_one_open_batch_needs_no_option() -> None:
    notes = Diagnostics()
    assert flexible(graph(BATCH), None, None, notes).ranges == {"N": (1, 64, 1)}
    assert [d.code for d in notes.items] == ["EC0478"]


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (IMAGES, {}, "how large open dimensions get: x Nx3xHxW"),
        (IMAGES, {"ranges": "H=1..4"}, "how large"),
        (IMAGES, {"ranges": "N=1..2;H=8..4;W=1..2"}, "the least first"),
        (IMAGES, {"ranges": "N=1..2;Z=1..4"}, "no input has an open dimension 'Z'"),
        (IMAGES, {"ranges": "H"}, "is no range"),
        (IMAGES, {"shapes": "1x3x8"}, "does not fit"),
        (IMAGES, {"shapes": "1x4x8x8"}, "does not fit"),
        (IMAGES, {"shapes": "z=1x3x8x8"}, "is no shape of x"),
        (IMAGES, {"shapes": " ; "}, "no shapes were given"),
        (IMAGES, {"shapes": "1x3x8x8", "ranges": "N=1..2"}, "not both"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(text: str, options: Mapping[str, str], says: str) -> None:
    with pytest.raises(EdgecError) as e:
        flexible(graph(text), options.get("ranges"), options.get("shapes"), Diagnostics())
    assert e.value.diagnostics[0].code == "EC0478"
    assert says in e.value.diagnostics[0].message


def test_dimensions_without_a_name_get_one() -> None:
    text = '<ir_version: 10, opset_import: ["": 23]> g (float[?,?] x, float[?,4] z) => (float[?,?] y, float[?,4] r) { y = Relu(x) r = Relu(z) }'
    made = Graph.from_text(text)
    told = flexible(made, "x_0=1..2; x_1=3..4; z_0=1..2", None, Diagnostics())
    assert told.ranges == {"x_0": (1, 2, 1), "x_1": (3, 4, 3), "z_0": (1, 2, 1)}
    lowered = lower(made, "iOS17")
    assert told.request(lowered.interface) == {
        "flexible": {"x": {"shape": [[1, 2, 1], [3, 4, 3]]}, "z": {"shape": [[1, 2, 1], 4]}}
    }


def test_lists_for_several_inputs_need_ios_18() -> None:
    text = '<ir_version: 10, opset_import: ["": 23]> g (float[N,S] x, float[N,S] z) => (float[N,S] y) { y = Add(x, z) }'
    with pytest.raises(EdgecError, match="before iOS 18"):
        flexible(Graph.from_text(text), None, "x=1x2,z=1x2", Diagnostics(), at_least_ios18=False)
    told = flexible(Graph.from_text(text), None, "x=1x2,z=1x2; z=1x4,x=1x4", Diagnostics())
    assert told.enumerated == {"x": [(1, 2), (1, 4)], "z": [(1, 2), (1, 4)]}
    with pytest.raises(EdgecError, match="does not fit 'z'"):
        flexible(Graph.from_text(text), None, "x=1x2,z=1x3", Diagnostics())


def test_a_model_of_fixed_sizes_takes_no_ranges() -> None:
    text = '<ir_version: 10, opset_import: ["": 23]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    assert flexible(Graph.from_text(text), None, None, Diagnostics()) == Flexible()
    with pytest.raises(EdgecError, match="this model has none"):
        flexible(Graph.from_text(text), "N=1..2", None, Diagnostics())
