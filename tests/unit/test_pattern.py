"""What a pattern matches, and what it must not."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.graph import Graph, ir
from edgec.pattern import Match, NodePattern, P, anyof, attributes_of, const, lit, match, opt, rest, var

x, y, w = var("x"), var("y"), const("w")


def graph(body: str, outputs: str = "float[N] out", weights: str = "", inputs: str = "float[N] x, float[N] y") -> Graph:
    return Graph.from_text(
        f'<ir_version: 10, opset_import: ["" : 24, "com.acme" : 1]> g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}'
    )


def last(pattern: NodePattern, g: Graph) -> Match | None:
    """The match at the node that makes the first output."""
    root = g.outputs[0].producer()
    assert root is not None
    return match(pattern, root)


def values(m: Match | None) -> dict[str, str | None]:
    assert m is not None
    return {k: v.name if v is not None else None for k, v in m.values.items()}


def test_values_by_position() -> None:
    m = last(P.Sub(x, y), graph("out = Sub (x, y)"))
    assert values(m) == {"x": "x", "y": "y"}


def test_non_commutative_ops_keep_their_order() -> None:
    assert last(P.Sub(x, P.Relu(y)), graph("a = Relu (y)  out = Sub (a, x)")) is None


@pytest.mark.parametrize("op", ["Add", "Mul", "Max", "Min", "Sum", "Mean"])
def test_commutative_ops_match_either_way(op: str) -> None:
    for body in (f"a = Relu (y)  out = {op} (a, x)", f"a = Relu (y)  out = {op} (x, a)"):
        assert values(last(getattr(P, op)(P.Relu(y), x), graph(body))) == {"x": "x", "y": "y"}


def test_nested_commutative_ops_backtrack() -> None:
    """The first order of the inner Add must be undone when the outer one fails because of it."""
    pattern = P.Mul(P.Add(x, y), x)
    assert values(last(pattern, graph("a = Add (y, x)  out = Mul (y, a)"))) == {"x": "y", "y": "x"}


def test_a_name_stands_for_one_value() -> None:
    silu = P.Mul(x, P.Sigmoid(x))
    assert last(silu, graph("s = Sigmoid (x)  out = Mul (s, x)")) is not None
    assert last(silu, graph("s = Sigmoid (y)  out = Mul (s, x)")) is None


def test_alternatives_in_order_with_their_index() -> None:
    pattern = P.Neg(anyof(P.Relu(x), P.Abs(x), P.op("Exp", "Log")(x), as_="which"))
    for op, index in (("Relu", 0), ("Abs", 1), ("Exp", 2), ("Log", 2)):
        m = last(pattern, graph(f"a = {op} (x)  out = Neg (a)"))
        assert m is not None
        assert m.choice("which") == index
    assert last(pattern, graph("a = Tanh (x)  out = Neg (a)")) is None


def test_alternatives_backtrack_over_what_comes_after() -> None:
    """Both alternatives fit the Relu, only the second agrees with the last input."""
    pattern = P.Sum(anyof(P.Relu(x), P.Relu(y)), P.Abs(y), x)
    assert values(last(pattern, graph("a = Relu (x)  b = Abs (x)  out = Sum (a, b, y)"))) == {"y": "x", "x": "y"}


def test_optional_inputs() -> None:
    pattern = P.Clip(x, opt(const("low")), opt(const("high")))
    m = last(pattern, graph("out = Clip (x, , h)", weights="float h = {6}"))
    assert m is not None
    assert not m.has("low")
    assert m.get("low") is None
    assert m.scalar("high") == 6
    with pytest.raises(KeyError, match="absent"):
        m.value("low")
    assert last(pattern, graph("out = Clip (x)")) is not None
    assert last(P.Clip(x, const("low")), graph("out = Clip (x)")) is None


def test_too_many_inputs_do_not_match_without_rest() -> None:
    g = graph("out = Concat <axis = 0> (x, y, x)", inputs="float[2] x, float[2] y", outputs="float[6] out")
    assert last(P.Concat(x, y), g) is None
    m = last(P.Concat(x, rest("more")), g)
    assert m is not None
    assert [v.name for v in m.rest("more") if v is not None] == ["y", "x"]


def test_rest_may_be_empty() -> None:
    m = last(P.Clip(x, rest("limits")), graph("out = Clip (x)"))
    assert m is not None
    assert m.rest("limits") == ()


@pytest.mark.parametrize(
    ("stored", "wanted", "fits"),
    [("float c = {3}", 3.0, True), ("float[1] c = {3}", 3.0, True), ("float[2] c = {3, 3}", 3.0, False),
     ("float c = {0.7978845608}", 0.7978845608028654, True), ("float c = {0.798}", 0.7978845608, False),
     ("float c = {0}", 0.0, True), ("float c = {1e-7}", 0.0, False)],
)  # fmt: skip
def test_literals(stored: str, wanted: float, fits: bool) -> None:
    assert (last(P.Add(x, lit(wanted)), graph("out = Add (x, c)", weights=stored)) is not None) is fits


def test_literals_know_the_rounding_of_half_precision() -> None:
    g = graph("out = Mul (x, c)", inputs="float16[N] x", outputs="float16[N] out", weights="float16 c = {0}")
    g.model.graph.initializers["c"].const_value = ir.tensor(np.float16(1.702), name="c")
    assert last(P.Mul(x, lit(1.702)), g) is not None


def test_a_literal_is_no_input() -> None:
    assert last(P.Add(x, lit(0.0)), graph("out = Add (x, y)")) is None


def test_predicates_on_constants_values_and_nodes() -> None:
    g = graph("out = Mul (x, c)", weights="float[2] c = {1, 2}", inputs="float[2] x", outputs="float[2] out")
    assert last(P.Mul(x, const("w", lambda a: a.size == 2)), g) is not None
    assert last(P.Mul(x, const("w", lambda a: a.size == 1)), g) is None
    assert last(P.Mul(var("x", lambda v: v.dtype == ir.DataType.FLOAT), w), g) is not None
    assert last(P.Mul(var("x", lambda v: v.dtype == ir.DataType.INT8), w), g) is None
    assert last(P.Mul(x, w, where_=lambda n: len(n.inputs) == 3), g) is None


def test_predicates_see_only_constants() -> None:
    seen: list[int] = []

    def note(a: np.ndarray) -> bool:
        seen.append(a.size)
        return True

    assert last(P.Mul(x, const("w", note)), graph("out = Mul (x, y)")) is None
    assert seen == []


def test_attributes_and_their_defaults() -> None:
    g = graph("out = Softmax (x)")
    assert last(P.Softmax(x, axis=-1), g) is not None
    assert last(P.Softmax(x, axis=1), g) is None
    assert last(P.Softmax(x, axis=lambda a: a < 0), g) is not None
    t = graph("out = Transpose <perm = [1, 0]> (x)", inputs="float[2,3] x", outputs="float[3,2] out")
    assert last(P.Transpose(x, perm=[1, 0]), t) is not None
    assert last(P.Transpose(x, perm=(0, 1)), t) is None


def test_domains_are_apart() -> None:
    g = graph("out = com.acme.Relu (x)")
    assert last(P.Relu(x), g) is None
    assert last(P.Relu(x, domain_="com.acme"), g) is not None


SPLIT = "a, b = Split <num_outputs = 2> (x)  out = Sub (b, a)"


def test_second_output() -> None:
    split = P.Split(x, as_="split")
    g = graph(SPLIT, inputs="float[4] x", outputs="float[2] out")
    assert last(P.Sub(split.out(1), split.out(0)), g) is not None
    assert last(P.Sub(split.out(0), split.out(1)), g) is None
    assert last(P.Sub(split.out(1), split), g) is not None
    two = "a, b = Split <num_outputs = 2> (x)  c, d = Split <num_outputs = 2> (x)  out = Sub (d, a)"
    other = graph(two, inputs="float[4] x", outputs="float[2] out")
    assert last(P.Sub(split.out(1), split.out(0)), other) is None


def test_two_patterns_are_two_nodes() -> None:
    """Patterns that merely look alike may not share a node; one with a name is one node wherever it is written."""
    one = graph("a = Relu (x)  out = Add (a, a)")
    two = graph("a = Relu (x)  b = Relu (x)  out = Add (a, b)")
    relu = P.Relu(x, as_="relu")
    assert last(P.Add(relu, relu), one) is not None
    assert last(P.Add(relu, relu), two) is None
    assert last(P.Add(P.Relu(x), P.Relu(x)), one) is None
    assert last(P.Add(P.Relu(x), P.Relu(x)), two) is not None


def test_inner_values_used_outside_forbid_a_match() -> None:
    pattern = P.Neg(P.Relu(x))
    assert last(pattern, graph("a = Relu (x)  out = Neg (a)  b = Abs (a)", "float[N] out, float[N] b")) is None
    assert last(pattern, graph("a = Relu (x)  out = Neg (a)", "float[N] out, float[N] a")) is None
    shared = P.Neg(P.Relu(x, shared_=True))
    assert last(shared, graph("a = Relu (x)  out = Neg (a)", "float[N] out, float[N] a")) is not None


IF = """
a = Relu (x)
out = If (c) <then_branch = t () => (float[N] t) { n = Neg (a)  t = Neg (n) },
              else_branch = e () => (float[N] e) { e = Abs (a) }>
"""


def test_subgraphs_are_users_and_worlds_of_their_own() -> None:
    g = graph(IF + " b = Exp (a)", "float[N] b", inputs="float[N] x, bool c")
    assert last(P.Exp(P.Relu(x)), g) is None  # the branches still need the Relu
    inner = next(n for n in g.nodes() if n.op_type == "Neg" and n.outputs[0].name == "n")
    assert match(P.Neg(P.Relu(x, shared_=True)), inner) is None  # a match never reaches out of its graph
    m = match(P.Neg(x), inner)
    assert m is not None
    assert m.value("x").name == "a"


def test_match_gives_nodes_arrays_and_scalars() -> None:
    g = graph("a = Mul (x, c)  out = Relu (a)", weights="float[1] c = {2}")
    m = last(P.Relu(P.Mul(x, w, as_="mul")), g)
    assert m is not None
    assert [n.op_type for n in m.nodes] == ["Relu", "Mul"]
    assert m.node("mul").op_type == "Mul"
    assert m.array("w").tolist() == [2]
    assert m.scalar("w") == 2
    assert m.scalar("x") is None
    with pytest.raises(KeyError, match="not a constant"):
        m.array("x")


def test_attributes_of_keeps_everything() -> None:
    node = graph("out = Elu <alpha = 0.5> (x)").outputs[0].producer()
    assert node is not None
    assert attributes_of(node)["alpha"].value == 0.5


def test_patterns_print() -> None:
    assert str(P.Mul(x, anyof(P.Sigmoid(x), lit(2.0)))) == "Mul(x, (Sigmoid(x) | 2.0))"
    assert str(P.op("A", "B")(x, rest("r"))) == "A|B(x, *r)"


def test_deep_chains_do_not_recurse_over_the_graph() -> None:
    """Matching goes as deep as the pattern, not as the graph."""
    body = "v0 = Relu (x) " + " ".join(f"v{i} = Relu (v{i - 1})" for i in range(1, 3000)) + " out = Neg (v2999)"
    assert last(P.Neg(P.Relu(x)), graph(body)) is not None
