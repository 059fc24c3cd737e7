"""fix-zero-points, float-biases and `edgec check --fix`: Q/DQ TensorRT would misread, mended where no number changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdq_models import Build, check, errors
from trt_models import trt_conv

from edgec.diagnostics import Severity
from edgec.graph import Graph
from edgec.passes.quantize.value_bounds import bounds
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes, parse_pipeline
from edgec.runtime import Session

rng = np.random.default_rng(7)


def run(steps: str, graph: Graph) -> tuple[Graph, PassContext]:
    ctx = PassContext()
    after = graph.clone()
    PassManager(build_passes(parse_pipeline(steps), Registry().passes()), verify="structure").run(after, ctx)
    return after, ctx


def same(before: Graph, after: Graph, reach: float = 8.0) -> None:
    """Bit-equal on inputs that go far beyond every range."""
    for _ in range(3):
        feeds = {v.name: rng.uniform(-reach, reach, [*v.shape]).astype(np.float32) for v in before.inputs}  # type: ignore[misc]
        a, b = Session(before).run(feeds), Session(after).run(feeds)  # type: ignore[arg-type]
        assert all(np.array_equal(a[k], b[k]) for k in a)


def refused(graph: Graph) -> set[str]:
    return errors(check(graph, "tensorrt-int8"))


def behind(op: str, scale: float, zero: Any = None, **attributes: Any) -> Graph:
    """op(x) -> Q -> DQ -> Relu."""
    b = Build(13)
    b.input("x", [2, 16])
    inputs = ["x", *(b.const(f"c{i}", np.float32(v)) for i, v in enumerate(attributes.pop("limits", ())))]
    b.op(op, inputs, "r", **attributes)
    b.op("Relu", [b.pair("r", zero, np.float32(scale))], "y")
    b.output("y", [2, 16])
    return b.graph()


@pytest.mark.parametrize("zero", [None, np.uint8(0)])
def test_a_range_that_ends_at_127_is_the_same_in_int8(zero: Any) -> None:
    for graph in (
        behind("Sigmoid", 1 / 127, zero),
        behind("Softmax", 1 / 100, zero),
        behind("Clip", 6 / 127, zero, limits=(0.0, 6.0)),
    ):
        assert refused(graph) == {"dtype"}
        fixed, ctx = run("fix-zero-points", graph)
        assert refused(fixed) == set()
        assert not list(ctx.diagnostics)
        same(graph, fixed)


@pytest.mark.parametrize("zero", [None, np.uint8(0), np.uint8(3)])
def test_a_range_that_may_go_beyond_127_stays_and_is_told(zero: Any) -> None:
    for graph in (behind("Relu", 0.02, zero), behind("Sigmoid", 1 / 255, zero), behind("Tanh", 1 / 127, zero)):
        fixed, ctx = run("fix-zero-points", graph)
        assert refused(fixed) == {"dtype"}
        assert [d.code for d in ctx.diagnostics] == ["EC0864"]
        same(graph, fixed)


def test_uint8_around_128_is_retyped() -> None:
    graph = trt_conv(zero=np.uint8(128))
    fixed, ctx = run("fix-zero-points", graph)
    assert refused(fixed) == set()
    assert not list(ctx.diagnostics)
    same(graph, fixed)


def test_each_tensor_for_itself() -> None:
    """One can be retyped, one is equal, one must stay."""
    b = Build(13)
    b.input("x", [2, 16])
    b.op("Sigmoid", [b.pair("x", np.uint8(128))], "s")
    b.op("Relu", [b.pair("s", np.uint8(0), np.float32(1 / 127))], "r")
    b.op("Relu", [b.pair("r", np.uint8(0), np.float32(1 / 255))], "y")
    b.output("y", [2, 16])
    graph = b.graph()
    fixed, ctx = run("fix-zero-points", graph)
    assert [(d.code, d.location.node) for d in ctx.diagnostics] == [("EC0864", "r_q_node")]
    kept = [n.name for n in fixed.nodes() if n.op_type == "QuantizeLinear" and n.outputs[0].dtype.name == "UINT8"]  # type: ignore[union-attr]
    assert kept == ["r_q_node"]
    same(graph, fixed)


def test_stored_weights() -> None:
    def conv(weights: Any, zero: int) -> Graph:
        b = Build(13)
        b.input("x", [1, 4, 8, 8])
        w = b.weight("w", weights, 0, np.full(4, 0.01, np.float32), np.full(4, zero, np.uint8))
        b.op("Conv", [b.pair("x"), w], "y")
        b.output("y", [1, 4, 6, 6])
        return b.graph()

    shape = (4, 4, 3, 3)
    around = conv(rng.integers(1, 256, shape).astype(np.uint8), 128)
    small = conv(rng.integers(0, 128, shape).astype(np.uint8), 0)
    large = conv(rng.integers(0, 256, shape).astype(np.uint8), 0)
    for graph in (around, small):
        fixed, _ = run("fix-zero-points", graph)
        assert refused(fixed) == set()
        same(graph, fixed)
    fixed, _ = run("fix-zero-points", large)
    assert refused(fixed) == {"dtype"}
    same(large, fixed)


def test_a_zero_point_of_the_dequantizer_alone_is_read_from_what_it_dequantises() -> None:
    b = Build(13)
    b.input("x", [2, 16])
    scale = b.const("s", np.float32(0.05))
    b.op("QuantizeLinear", ["x", scale, b.const("z", np.int8(0))], "q")
    b.op("Relu", [b.op("DequantizeLinear", ["q", scale], "d")], "y")
    b.output("y", [2, 16])
    graph = b.graph()
    fixed, _ = run("fix-zero-points", graph)
    assert all(len(n.inputs) == 3 for n in fixed.nodes() if n.op_type.endswith("Linear"))
    assert refused(fixed) == set()
    same(graph, fixed)


def test_the_type_of_output_dtype_is_kept() -> None:
    b = Build(21)
    b.input("x", [2, 16])
    scale = b.const("s", np.float32(0.05))
    b.op("QuantizeLinear", ["x", scale], "q", output_dtype=3)  # int8
    b.op("Relu", [b.op("DequantizeLinear", ["q", scale], "d")], "y")
    b.output("y", [2, 16])
    fixed, _ = run("fix-zero-points", b.graph())
    assert refused(fixed) == set()
    same(b.graph(), fixed)


def test_rescaling_is_asked_for() -> None:
    graph = behind("Relu", 0.02, np.uint8(0))
    fixed, ctx = run("fix-zero-points{rescale=true}", graph)
    assert refused(fixed) == set()
    assert not list(ctx.diagnostics)
    x = {"x": np.linspace(0, 5.1, 32, dtype=np.float32).reshape(2, 16)}
    a, b = Session(graph).run(x)["y"], Session(fixed).run(x)["y"]
    assert 0 < np.abs(a - b).max() <= 0.02 * 255 / 127


def test_biases_become_the_floats_they_are() -> None:
    for op in ("Conv", "ConvTranspose"):
        graph = trt_conv(bias="int32", op=op)
        fixed, _ = run("float-biases", graph)
        assert refused(fixed) == set()
        same(graph, fixed)
    assert not run("float-biases", fixed)[0].op_counts() - fixed.op_counts()


def test_bounds() -> None:
    graph = Graph.from_text("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[4] x, float[4] z) => (float[8] y, float[4] u) <float six = {6}, float zero = {0}, float[2] k = {-3, 4}> {
      a = Clip (x, zero, six)  s = Sigmoid (z)  t = Tanh (s)  c = Concat <axis = 0> (a, t)  y = Relu (c)
      h = Clip (x, , six)  r = Relu (h)  n = Neg (r)  u = Identity (r)
    }""")
    found = {v.name: bounds(v) for n in graph.nodes() for v in n.outputs}
    assert found["a"] == (0, 6)
    assert found["y"] == (0, 6)
    assert found["c"] == (-1, 6)
    assert found["u"] == (0, 6)
    assert found["h"] == (-np.inf, 6)
    assert found["n"] == (-np.inf, np.inf)


def test_check_fix_writes_what_it_then_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgec.cli import main

    bad, good = tmp_path / "bad.onnx", tmp_path / "good.onnx"
    graph = trt_conv(zero=np.uint8(128), bias="int32")
    graph.save(bad)
    words = ["check", str(bad), "--target", "jetson-orin-nano", "--precision", "int8"]
    assert main(words) == 1
    capsys.readouterr()
    assert main([*words, "--fix", str(good), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fixed"] == {"retyped": 1, "biases": 1}
    fixed = Graph.load(good)
    assert not [f for f in check(fixed, "tensorrt-int8") if f.severity is Severity.ERROR]
    same(graph, fixed)
    before = bad.read_bytes()
    assert main([*words, "--fix", str(bad)]) != 0  # the source is spared
    assert bad.read_bytes() == before
