"""Fused units: what is one kernel, and what breaks one."""

from __future__ import annotations

import pytest

from edgec.graph import Graph
from edgec.specs.op_table import UnitSpec
from edgec.specs.schema import builtin_target
from edgec.specs.unit_pattern import parse
from edgec.units import find_units

X = "float[1,4,8,8]"
W = "float[4,4,1,1] w = {" + ", ".join(["1"] * 16) + "}"
CONSTANTS = f"{W}, float half = {{0.5}}, float one = {{1}}, float r = {{1.4142135}}"


def graph(body: str, more: str = "") -> Graph:
    head = f'<ir_version: 10, opset_import: ["" : 19]> g ({X} x, {X} z) => ({X} y{more})'
    return Graph.from_text(f"{head} <{CONSTANTS}> {{ {body} }}")


def kinds(body: str, more: str = "") -> list[tuple[str, list[str], str]]:
    found = find_units(graph(body, more), builtin_target("rk3588").units)
    return [(u.spec.name, [n.op_type for n in u.nodes], u.main.op_type) for u in found]


def test_conv_and_activation() -> None:
    assert kinds("c = Conv(x, w) y = Relu(c)") == [("conv-act", ["Conv", "Relu"], "Conv")]


def test_the_larger_unit_wins() -> None:
    assert kinds("c = Conv(x, w) a = Add(z, c) y = Relu(a)") == [("conv-add-act", ["Conv", "Add", "Relu"], "Conv")]


def test_a_second_use_of_an_inner_value_breaks_the_unit() -> None:
    assert kinds("c = Conv(x, w) d = Relu(c) y = Sub(d, c)") == []


def test_a_public_inner_value_breaks_the_unit() -> None:
    assert kinds("c = Conv(x, w) y = Relu(c)", more=f", {X} c") == []


def test_composites_of_one_value() -> None:
    silu = "s = Sigmoid(x) y = Mul(x, s)"
    assert kinds(silu) == [("silu", ["Sigmoid", "Mul"], "Sigmoid")]
    conv_silu = "c = Conv(x, w) s = Sigmoid(c) y = Mul(s, c)"
    assert kinds(conv_silu) == [("conv-silu", ["Conv", "Sigmoid", "Mul"], "Conv")]
    gelu = "a = Div(x, r) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)"
    assert kinds(gelu) == [("gelu", ["Div", "Erf", "Add", "Mul", "Mul"], "Erf")]
    assert kinds(gelu.replace("one", "half")) == []  # the constant counts


def test_a_node_is_in_one_unit_and_ids_are_unique() -> None:
    g = graph("c = Conv(x, w) d = Relu(c) e = Conv(d, w) y = Relu(e)")
    units = find_units(g, builtin_target("rk3588").units)
    assert [u.id for u in units] == ["conv-act-1", "conv-act-2"]
    assert len(units.of) == 4
    assert g.to_text() == graph("c = Conv(x, w) d = Relu(c) e = Conv(d, w) y = Relu(e)").to_text()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Conv ->", "too early"),
        ("Conv -> x", "an op type is expected"),
        ("Mul(x, Sigmoid(x)", "parenthesis is missing"),
        ("Conv Relu", "unexpected 'Relu'"),
        ("Conv | relu", "both sides"),
        ("Conv -> Add(x)", "only the first link"),
        ("Conv$", "cannot read"),
    ],
)
def test_unreadable_patterns(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        UnitSpec(name="u", pattern=text, evidence="e")


def test_numbers_and_names() -> None:
    op = parse("Mul(0.5, c=Conv|Gemm(...))")
    assert op.ops == ("Mul",)
    assert [type(t).__name__ for t in op.inputs] == ["Number", "Op"]
