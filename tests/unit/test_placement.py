"""Placement: reasons, islands, bytes, shares, messages, and the comparison with what a compiler really did."""

from __future__ import annotations

import json

from edgec.diagnostics import Diagnostics, Severity
from edgec.graph import Graph
from edgec.placement import ActualNode, ActualPlacement, differences, place
from edgec.specs.schema import builtin_target

X = "float[1,4,8,8]"
W = "float[4,4,1,1] w = {" + ", ".join(["1"] * 16) + "}"


def graph(body: str, inputs: str = f"{X} x", output: str = X, weights: str = W) -> Graph:
    g = Graph.from_text(
        f'<ir_version: 10, opset_import: ["" : 19]> g ({inputs}) => ({output} y) <{weights}> {{ {body} }}'
    )
    from edgec.infer import infer_shapes

    infer_shapes(g)
    for i, n in enumerate(g.nodes()):
        n.name = f"{n.op_type}{i}"
    return g


MIXED = graph("a = Conv(x, w) b = Exp(a) c = Log(b) y = Conv(c, w)")


def test_reasons_islands_bytes_and_shares() -> None:
    p = place(MIXED, builtin_target("rk3588"), "fp16")
    assert [n.where for n in p.nodes] == ["accelerator", "fallback", "fallback", "accelerator"]
    assert p.counts == {"accelerator": 2, "fallback": 2, "impossible": 0}
    (island,) = p.islands
    assert island.nodes == ("Exp1", "Log2")
    assert dict(island.tensors) == {"a": 512, "c": 512}  # 1*4*8*8 elements of two bytes, each way
    assert p.boundary_bytes == 1024
    assert place(MIXED, builtin_target("rk3588"), "int8").boundary_bytes == 512
    assert p.macs == p.macs_on_accelerator == 2 * 256 * 4
    assert all(n.evidence for n in p.nodes)
    assert json.loads(json.dumps(p.to_json()))["islands"][0]["bytes"] == 1024


def test_fallback_at_the_end_moves_its_input_only() -> None:
    (island,) = place(graph("a = Conv(x, w) y = Exp(a)"), builtin_target("rk3588")).islands
    assert dict(island.tensors) == {"a": 512}


def test_units_decide_together() -> None:
    body = "a = Div(x, r) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)"
    weights = "float half = {0.5}, float one = {1}, float r = {1.4142135}"
    p = place(graph(body, weights=weights), builtin_target("rk3588"))
    assert p.counts["accelerator"] == 5
    assert p.units == {"gelu-1": ("Erf1", "Div0", "Add2", "Mul3", "Mul4")}
    alone = place(graph("y = Erf(x)"), builtin_target("rk3588"))
    assert alone.counts["fallback"] == 1


def test_impossible_is_an_error_fallback_a_warning_unless_forbidden() -> None:
    g = graph("a = Exp(x) b = NonZero(a) c = Exp(x) y = Add(a, c)")
    p = place(g, builtin_target("rk3588"))
    d = Diagnostics()
    p.diagnose(d)
    assert [(x.code, x.severity) for x in d] == [("EC0402", Severity.WARNING), ("EC0401", Severity.ERROR)]
    assert "2 Exp nodes (Exp0, Exp2) run on the CPU" in d.items[0].message
    strict = Diagnostics()
    p.diagnose(strict, no_fallback=True)
    assert all(x.severity == Severity.ERROR for x in strict)


def test_an_op_without_a_row_is_impossible() -> None:
    g = Graph.from_text(
        f'<ir_version: 10, opset_import: ["" : 19, "acme" : 1]> g ({X} x) => ({X} y) {{ y = acme.Foo(x) }}'
    )
    (n,) = place(g, builtin_target("rk3588")).nodes
    assert (n.where, n.op) == ("impossible", "acme::Foo")


def test_a_shape_that_is_not_known_is_said() -> None:
    g = graph("y = Transpose<perm = [0, 2, 1, 3]>(x)", inputs="float[1,4,H,W] x", output="float[1,H,4,W]")
    p = place(g, builtin_target("rk3588"))
    assert p.nodes[0].where == "accelerator"
    assert not p.nodes[0].certain
    d = Diagnostics()
    p.diagnose(d)
    assert [x.code for x in d] == ["EC0406"]
    assert "'x' is not fixed" in d.items[0].message


def test_limits_of_the_rk3588_transpose() -> None:
    def where(h: int, w: int) -> str:
        g = graph("y = Transpose<perm = [0, 2, 1, 3]>(x)", f"float[1,16,{h},{w}] x", f"float[1,{h},16,{w}]")
        return place(g, builtin_target("rk3588")).nodes[0].where

    assert (where(64, 128), where(64, 136), where(100, 80)) == ("accelerator", "fallback", "fallback")


def test_nodes_inside_an_impossible_node_go_with_it() -> None:
    g = Graph.from_text(
        f'<ir_version: 10, opset_import: ["" : 19]> g (bool c, {X} x) => ({X} y) {{ '
        f"y = If(c)<then_branch = t () => ({X} p) {{ p = Relu(x) }}, else_branch = e () => ({X} q) {{ q = Neg(x) }}> }}"
    )
    p = place(g, builtin_target("rk3588"))
    assert p.counts == {"accelerator": 0, "fallback": 0, "impossible": 3}
    assert place(g, builtin_target("x86-64")).counts["accelerator"] == 3


def test_onnxruntime_needs_kernels_of_the_opset() -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : {}]> g (float[1,4,8,8] x) => (float[1,4,1,1] y) {{ y = GlobalLpPool(x) }}'
    )
    spec = builtin_target("x86-64")
    assert place(Graph.from_text(text.format(24)), spec).counts["impossible"] == 1
    assert place(Graph.from_text(text.format(21)), spec).counts["accelerator"] == 1


def test_differences_between_predicted_and_actual() -> None:
    p = place(MIXED, builtin_target("rk3588"), "fp16")
    layers = (
        ActualNode("Conv:Conv0", "Conv", "accelerator", ("Conv0",)),
        ActualNode("Exp:Exp1", "Exp", "accelerator", ("Exp1",)),
        ActualNode("Transpose:a_tp", "Transpose", "fallback"),
    )
    actual = ActualPlacement(layers, "a test")
    d = Diagnostics()
    (only,) = differences(p, actual, d)  # Log2 and Conv3 have no layer: fused or folded, no difference
    assert (only.node, only.predicted, only.actual) == ("Exp1", "fallback", "accelerator")
    assert [x.code for x in d] == ["EC0410"]
    assert [n.name for n in actual.added] == ["Transpose:a_tp"]


def test_what_was_impossible_and_compiled_is_a_difference() -> None:
    p = place(graph("y = NonZero(x)", output="int64[4,N]"), builtin_target("rk3588"))
    (only,) = differences(p, ActualPlacement((), "a test"))
    assert (only.predicted, only.actual) == ("impossible", "compiled")
