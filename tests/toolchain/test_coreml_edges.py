"""What stands at the ends of a model: names, scalars, bools, wide integers, outputs that are inputs; and the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.runtime import Session
from edgec.specs.schema import builtin_pipeline
from edgec.targets.coreml.lower import LoweredProgram, lower
from edgec.targets.coreml.package import build, decode
from edgec.targets.coreml.runner import DecodedRunner
from edgec.toolchain import Toolchain

HEAD = '<ir_version: 10, opset_import: ["": 23]>\n'

_X = np.asarray([[1.5, -2.0, 0.0]], np.float32)

CASES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "scalars": (
        "g (float x, int64 n, bool b) => (float y, int64 m, bool c) { y = Neg(x) m = Add(n, n) c = Not(b) }",
        {"x": np.asarray(2.5, np.float32), "n": np.asarray(7), "b": np.asarray(True)},
    ),
    "an output that is an input": (
        "g (float[1,3] x) => (float[1,3] x2, float[1,3] y) { x2 = Identity(x) y = Relu(x) }",
        {"x": _X},
    ),
    "a value that is two outputs": (
        "g (float[1,3] x) => (float[1,3] y, float[1,3] z) { y = Relu(x) z = Identity(y) }",
        {"x": _X},
    ),
    "outputs that are constants": (
        "g (float[1,3] x) => (float[1,3] y, int64[2] k, float s) <int64[2] k = {3, 4}, float s = {2.5}> { y = Relu(x) }",
        {"x": _X},
    ),
    "an input that nothing reads": (
        "g (float[1,3] x, float[2] unused) => (float[1,3] y) { y = Relu(x) }",
        {"x": _X, "unused": np.ones(2, np.float32)},
    ),
    "integers of 64 and 8 bits": (
        "g (int64[3] i, uint8[3] u, int8[3] s) => (int64[3] a, uint8[3] b, int8[3] c)"
        "{ a = Mul(i, i) b = Add(u, u) t = Neg(s) c = Sub(s, t) }",
        {"i": np.asarray([1, -5, 1000]), "u": np.asarray([1, 200, 255], np.uint8), "s": np.asarray([1, -128, 100], np.int8)},
    ),
    "bools": (
        "g (bool[3] p, float[3] x) => (bool[3] q, float[3] y) { q = Not(p) n = Neg(x) y = Where(p, x, n) }",
        {"p": np.asarray([True, False, True]), "x": np.asarray([1, 2, 3], np.float32)},
    ),
    "double and half": (
        "g (double[1,3] x, float16[1,3] h) => (double[1,3] y, float16[1,3] z) { y = Relu(x) z = Neg(h) }",
        {"x": _X.astype(np.float64), "h": _X.astype(np.float16)},
    ),
}  # fmt: skip


def lowered(graph: Graph) -> LoweredProgram:
    PassManager(build_passes(builtin_pipeline("coreml-fp32").steps, Registry().passes())).run(graph, PassContext())
    return lower(graph, "iOS17")


@pytest.fixture(scope="module")
def coreml(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("coreml")


def run(made: LoweredProgram, feeds: Mapping[str, Any], coreml: Toolchain, folder: Path) -> dict[str, Any]:
    package = build(made.program, coreml, folder)
    program = decode(package.path, coreml, folder / "decoded")
    (got,) = DecodedRunner(program, made.interface, half=False).run([feeds])
    return got


@pytest.mark.toolchain
@pytest.mark.parametrize("case", CASES)
def test_ends_are_as_in_the_model(case: str, coreml: Toolchain, tmp_path: Path) -> None:
    text, feeds = CASES[case]
    proto = onnx.parser.parse_model(HEAD + text)
    got = run(lowered(Graph.from_proto(proto)), feeds, coreml, tmp_path)
    want = Session(Graph.from_proto(proto)).run(feeds) if case not in _BY_NUMPY else _BY_NUMPY[case]
    assert got.keys() == want.keys()
    for name, w in want.items():
        assert got[name].dtype == np.asarray(w).dtype
        np.testing.assert_allclose(np.asarray(got[name], np.float64), np.asarray(w, np.float64), rtol=1e-6)


_BY_NUMPY: Mapping[str, Mapping[str, Any]] = {
    "integers of 64 and 8 bits": {
        "a": np.asarray([1, 25, 1000000]), "b": np.asarray([2, 144, 254], np.uint8), "c": np.asarray([2, 0, -56], np.int8),
    },
}  # fmt: skip
"""ONNX Runtime has no kernels for these."""

ODD = ["x:0", "x.0", "9th", "größe/αβ", "a b", "x 0", "''", "var", "input", "main"]
ODD += ["state", "string", "int8", "tensor", "list"]  # words of MIL


@pytest.mark.toolchain
def test_odd_names_are_features(coreml: Toolchain, tmp_path: Path) -> None:
    """Letters, digits and underscores, no two the same; the interface knows both names."""
    vi = [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in ODD]
    vo = [onnx.helper.make_tensor_value_info(f"{name}!", 1, [2]) for name in ODD]
    nodes = [onnx.helper.make_node("Neg", [name], [f"{name}!"], name=f"node {name}") for name in ODD]
    graph = onnx.helper.make_graph(nodes, "odd names", vi, vo)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    made = lowered(Graph.from_proto(proto))
    features = [p.feature for p in (*made.interface.inputs, *made.interface.outputs)]
    assert len(set(features)) == len(features) == 2 * len(ODD)
    assert all(re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", f) for f in features)
    feeds = {name: np.asarray([i, -i], np.float32) for i, name in enumerate(ODD)}
    got = run(made, feeds, coreml, tmp_path)
    for i, name in enumerate(ODD):
        np.testing.assert_array_equal(got[f"{name}!"], np.asarray([-i, i], np.float32))


def test_tensors_without_elements_are_refused() -> None:
    graph = Graph.from_text(HEAD + "g (float[0,3] x) => (float[0,3] y) { y = Relu(x) }")
    with pytest.raises(EdgecError) as e:
        lower(graph, "iOS17")
    assert e.value.diagnostics[0].code == "EC0678"
    assert "no elements" in e.value.diagnostics[0].message


@pytest.mark.toolchain
def test_the_same_bytes_each_time(coreml: Toolchain, tmp_path: Path) -> None:
    """Two processes of coremltools, two lowerings: every file of the package, the manifest among them."""
    text, _ = CASES["bools"]
    seen = []
    for i in range(2):
        made = lowered(Graph.from_proto(onnx.parser.parse_model(HEAD + text)))
        package = build(made.program, coreml, tmp_path / str(i))
        files = sorted(p for p in package.path.rglob("*") if p.is_file())
        seen.append({str(p.relative_to(package.path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})
    assert seen[0] == seen[1]
    assert "Manifest.json" in seen[0]
    manifest = json.loads((tmp_path / "0" / "model.mlpackage" / "Manifest.json").read_text(encoding="utf-8"))
    assert manifest["rootModelIdentifier"] in manifest["itemInfoEntries"]
