"""Coverage: what of a quantised model computes in integers, as its runtime says, and why the rest does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edgec
from edgec.coverage import Coverage, InFloat, stored_kernels
from edgec.diagnostics import Diagnostics
from edgec.graph import Graph
from edgec.quantizing import quantize
from edgec.samples import Samples
from edgec.targets.rknn.emit import kernels as rknn_kernels
from edgec.targets.rknn.layer_table import parse_layer_table


def numbers(count: int, seed: int = 0) -> str:
    return ", ".join(f"{v:.4f}" for v in np.random.default_rng(seed).normal(size=count))


def data(*shape: int, name: str = "x") -> Samples:
    rng = np.random.default_rng(9)
    rows = [{name: rng.normal(size=shape).astype(np.float32)} for _ in range(8)]
    return Samples(lambda: iter(rows), describe="made for the test", count=len(rows))


def covered(body: str, header: str, *shape: int, **options: object) -> Coverage:
    graph = Graph.from_text(f'<ir_version: 10, opset_import: ["" : 21]> g {header} {{ {body} }}')
    found = Diagnostics()
    made = quantize(graph, calibration=data(*shape), effort="low", diagnostics=found, options=options)
    assert made.coverage is not None
    codes = [d.code for d in found if d.code == "EC0795"]
    assert bool(codes) == bool(made.coverage.in_float)
    return made.coverage


CONV = f"<float[4,4,3,3] w = {{{numbers(144)}}}, float[4,2,2,2] t = {{{numbers(32, 1)}}}>"


def test_all_in_integers() -> None:
    c = covered("y = Conv<pads=[1,1,1,1]>(x, w)", f"(float[1,4,8,8] x) => (float[1,4,8,8] y) {CONV}", 1, 4, 8, 8)
    assert (c.integer, c.total, c.in_float) == (1, 1, ())
    assert "ONNX Runtime" in c.source


def test_an_op_without_a_rule_is_named() -> None:
    c = covered(
        "c = Conv<pads=[1,1,1,1]>(x, w)  [up] y = ConvTranspose<strides=[2,2]>(c, t)",
        f"(float[1,4,8,8] x) => (float[1,2,16,16] y) {CONV}", 1, 4, 8, 8,
    )  # fmt: skip
    assert (c.integer, c.total) == (1, 2)
    (short,) = c.in_float
    assert (short.node, short.op) == ("up", "ConvTranspose")
    assert "no rule for ConvTranspose" in short.cause


def test_products_of_two_activations_say_which_condition_fails() -> None:
    c = covered(
        "a = MatMul(x, w) b = Transpose<perm=[0,2,1]>(a) [scores] y = MatMul(a, b)",
        f"(float[1,4,4] x) => (float[1,4,4] y) <float[4,4] w = {{{numbers(16)}}}>", 1, 4, 4,
    )  # fmt: skip
    assert (c.integer, c.total) == (1, 2)
    assert c.in_float[0].node == "scores"
    assert "input 1 is computed" in c.in_float[0].cause


def test_a_product_in_a_body_is_counted() -> None:
    c = covered(
        """a = MatMul(x, w) s = ReduceSum<keepdims=0>(a) p = Greater(s, zero)
           [choice] y = If(p) <then_branch = yes () => (float[4,4] u) { [inner] u = MatMul(a, w) },
                               else_branch = no () => (float[4,4] v) { v = Neg(a) }>""",
        f"(float[4,4] x) => (float[4,4] y) <float[4,4] w = {{{numbers(16)}}}, float zero = {{0}}>", 4, 4,
    )  # fmt: skip
    assert (c.integer, c.total) == (1, 2)
    assert c.in_float[0].node == "inner"
    assert "body of If 'choice'" in c.in_float[0].cause


def test_a_node_kept_on_purpose_is_a_note() -> None:
    c = covered(
        "c = Conv<pads=[1,1,1,1]>(x, w) [last] y = Conv<pads=[1,1,1,1]>(c, w)",
        f"(float[1,4,8,8] x) => (float[1,4,8,8] y) {CONV}", 1, 4, 8, 8, keep=("last",),
    )  # fmt: skip
    assert (c.integer, c.total) == (1, 2)
    assert c.in_float[0].asked
    found = Diagnostics()
    c.diagnose(found)
    assert [d.severity.name for d in found] == ["NOTE"]


def test_a_pair_that_the_runtime_cannot_fuse_counts_as_float() -> None:
    """Q/DQ of int16: ONNX Runtime reads them, and computes in float."""
    body = """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) wd = DequantizeLinear(wq, s, wz)
              [conv] c = Conv(d, wd) r = QuantizeLinear(c, s, z) y = DequantizeLinear(r, s, z)"""
    graph = Graph.from_text(
        f"""<ir_version: 10, opset_import: ["" : 21]> g (float[1,1,2,2] x) => (float[1,1,2,2] y)
        <float s = {{0.01}}, int16 z = {{0}}, int8[1,1,1,1] wq = {{7}}, int8 wz = {{0}}> {{ {body} }}"""
    )
    assert [k.integer for k in stored_kernels(graph)] == [True]
    report = edgec.compile(graph, samples=data(1, 1, 2, 2), pipeline="infer-shapes", precision="int8").report
    assert report.coverage is not None
    assert (report.coverage.integer, report.coverage.total) == (0, 1)
    assert "makes no integer kernel" in report.coverage.in_float[0].cause
    assert "int8: 0 of 1 convolutions and products in integers" in report.summary()
    assert json.loads(report.dumps())["coverage"]["in_float"][0]["node"] == "conv"
    assert type(report).from_json(json.loads(report.dumps())) == report


def test_float_compilation_has_no_coverage() -> None:
    graph = Graph.from_text('<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    assert edgec.compile(graph).report.coverage is None


def test_many_nodes_of_one_cause_are_one_warning() -> None:
    found = Diagnostics()
    Coverage(0, 5, tuple(InFloat(f"n{i}", "MatMul", "why") for i in range(5)), "a test").diagnose(found)
    (d,) = found
    assert "n1, n2, n3, ...; 5 in all" in d.message


_TABLE = """D RKNN: [01:00:00.000]  Network Layer Information Table
D RKNN: [01:00:00.000] ID   OpType   DataType Target InputShape OutputShape Cycles(DDR/NPU/Total) RW(KB) FullName
D RKNN: [01:00:00.000] 1    ConvRelu INT8 NPU (1,1,28,28),(32,1,3,3),(32) (1,32,28,28) 1294/7056/7056 5 Conv:a
D RKNN: [01:00:00.000] 2    exDataConvert INT8 NPU (1,32,14,14) (1,32,14,14) 0/0/0 6 exDataConvert:a__cvt_in
D RKNN: [01:00:00.000] 3    Conv FLOAT16 NPU (1,32,14,14),(64,32,3,3),(64) (1,64,14,14) 3161/7488/7488 48 Conv:b#2
D RKNN: [01:00:00.000] 4    Conv INT8 NPU (1,32,14,14),(64,32,3,3),(64) (1,64,14,14) 1/1/1 48 Conv:pool_2gavg_2conv0
"""


def test_layers_of_rknns_table() -> None:
    class OfTest:
        model = Graph.from_text(
            """<ir_version: 10, opset_import: ["" : 21]> g (float[1,1,4,4] x) => (float[1,1,1,1] y)
            <float[1,1,1,1] w = {1}> { [a] u = Conv(x, w) [b] v = Conv(u, w) [pool] y = GlobalAveragePool(v) }"""
        )
        names = {"a": "a", "b": "b", "pool": "pool"}  # noqa: RUF012

    found = rknn_kernels(parse_layer_table(_TABLE), OfTest())  # type: ignore[arg-type]
    assert [(k.node, k.integer) for k in found] == [("a", True), ("b", False)]


@pytest.mark.parametrize("name", ["mobilenet_v2", "cifar10_resnet20"])
def test_real_models_are_covered(eval_dir: Path, name: str) -> None:
    path = eval_dir / "models" / f"{name}.onnx"
    shape = [d if isinstance(d, int) else 1 for d in Graph.load(path).inputs[0].shape or ()]
    source = Graph.load(path).inputs[0].name or ""
    made = quantize(path, calibration=data(*shape, name=source), effort="low")
    assert made.coverage is not None
    assert made.coverage.integer == made.coverage.total >= 20, made.coverage.in_float


@pytest.mark.parametrize(("stored", "source"), [(True, "the model as given"), (False, "the float model")])
def test_a_quantised_source_is_not_called_a_float_model(stored: bool, source: str) -> None:
    body = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)" if stored else "d = Neg(x)"
    graph = Graph.from_text(
        f"""<ir_version: 10, opset_import: ["" : 21]> g (float[4] x) => (float[4] y)
        <float s = {{0.1}}, uint8 z = {{0}}> {{ {body} y = Relu(d) }}"""
    )
    text = edgec.compile(graph, samples=data(4), pipeline="infer-shapes").report.summary()
    assert f"Accuracy against {source}" in text
