"""Models of other floating-point types computed in float32: interface kept, numbers kept, loss told."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.passes.legalize.to_float32 import ToFloat32
from edgec.pipeline import PassContext
from edgec.testing import assert_equivalent

OTHER = {ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def convert(text: str) -> tuple[Graph, Graph, PassContext]:
    before = Graph.from_text(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    after, context = before.clone(), PassContext()
    infer_shapes(after)
    assert ToFloat32().run(after, context).changed
    after.verify()
    public = {*after.inputs, *after.outputs}
    left = [v.name for n in after.nodes() for v in n.outputs if v.dtype in OTHER and v not in public]
    assert not left
    return before, after, context


@pytest.mark.parametrize("kind", ["double", "float16"])
def test_numbers_and_interface(kind: str) -> None:
    before, after, context = convert(
        f"g ({kind}[2,3] x, int64[1] i) => ({kind}[2,4] y, int64[1] k) <{kind}[3,4] w = {{1,2,3,4,5,6,7,8,9,8,7,6}}>"
        "{ a = MatMul(x, w)  y = Relu(a)  k = Add(i, i) }"
    )
    assert_equivalent(before, after, rtol=2e-3, atol=2e-3)
    assert [d.code for d in context.diagnostics] == ["EC0229"]


def test_casts_and_attributes_that_name_a_type() -> None:
    before, after, _ = convert(
        "g (float[2,2] x) => (float[2,2] y) { h = Cast <to = 11> (x)  e = EyeLike <dtype = 11> (x)  s = Add(h, e)"
        "  y = Cast <to = 1> (s) }"
    )
    assert_equivalent(before, after)


def test_an_output_read_inside_and_an_input_passed_on() -> None:
    before, after, _ = convert("g (double[3] x) => (double[3] a, double[3] b) { a = Neg(x)  b = Abs(a) }")
    assert_equivalent(before, after)


def test_bodies_of_if_are_converted() -> None:
    before, after, _ = convert(
        "g (bool c, double[3] x) => (double[3] y) { y = If (c) <then_branch = t () => (double[3] a) { a = Neg(x) },"
        " else_branch = e () => (double[3] b) { b = Abs(x) }> }"
    )
    assert_equivalent(before, after)


def test_a_float32_model_stays() -> None:
    graph = Graph.from_text('<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    assert not ToFloat32().run(graph, PassContext()).changed


def test_overflow_is_told() -> None:
    graph = Graph.from_text(
        '<ir_version: 10, opset_import: ["" : 21]> g (double[2] x) => (double[2] y)'
        " <double[2] w = {1, 2}> { y = Max(x, w) }"
    )
    value = graph.model.graph.initializers["w"]
    value.const_value = ir.tensor(np.array([-1e300, 1.0]), name="w")
    context = PassContext()
    ToFloat32().run(graph, context)
    assert any("infinite" in d.message for d in context.diagnostics)
