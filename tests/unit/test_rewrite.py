"""The rewrite engine's promises: names, provenance, several outputs, subgraphs, and an end."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, ir
from edgec.pattern import Match, NodePattern, P, attributes_of, const, rest, var
from edgec.rewrite import FROM_KEY, RULE_KEY, Reject, Result, Rewriter, Rule, RuleSet, rule
from edgec.testing import assert_equivalent

x, y = var("x"), var("y")


def text(body: str, outputs: str, weights: str = "", inputs: str = "float[N] x, float[N] y") -> Graph:
    return Graph.from_text(
        f'<ir_version: 10, opset_import: ["" : 24]> g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}'
    )


@rule(P.Identity(x))
def drop_identity(m: Match, rw: Rewriter) -> Result:
    return m.value("x")


@rule(P.Neg(P.Neg(x)))
def double_negation(m: Match, rw: Rewriter) -> Result:
    return m.value("x")


@rule(P.Sub(x, y))
def sub_to_add(m: Match, rw: Rewriter) -> Result:
    return rw.op("Add", m.value("x"), rw.op("Neg", m.value("y")))


@rule(P.Relu(x))
def relu_to_max(m: Match, rw: Rewriter) -> Result:
    return rw.op("Max", m.value("x"), rw.scalar(0.0, m.value("x"), "zero"))


def apply(g: Graph, *rules: Rule) -> Graph:
    """Rewrite a copy; it must be valid, keep the interface, and compute the same."""
    after = g.clone()
    RuleSet(rules).apply(after)
    after.verify()
    assert_equivalent(g, after)
    names = [v.name for n in after.nodes() for v in n.outputs if v.name]
    assert len(names) == len(set(names))
    return after


# --- names of public values --------------------------------------------------------------------------------------


def test_a_public_output_keeps_its_name() -> None:
    after = apply(text("a = Abs (x)  out = Identity (a)", "float[N] out"), drop_identity)
    assert after.op_counts() == {"Abs": 1}


def test_output_that_is_an_input_stays_a_node() -> None:
    after = apply(text("out = Identity (x)", "float[N] out"), drop_identity)
    assert after.op_counts() == {"Identity": 1}


def test_two_public_names_of_one_value_both_stay() -> None:
    after = apply(text("a = Abs (x)  p = Identity (a)  q = Identity (a)", "float[N] p, float[N] q"), drop_identity)
    assert after.op_counts() == {"Abs": 1, "Identity": 1}


def test_public_output_also_used_inside() -> None:
    g = text("a = Abs (x)  p = Identity (a)  q = Exp (p)  r = Log (a)", "float[N] p, float[N] q, float[N] r")
    assert apply(g, drop_identity).op_counts() == {"Abs": 1, "Exp": 1, "Log": 1}


def test_identity_of_a_public_output() -> None:
    g = text("p = Abs (x)  q = Identity (p)", "float[N] p, float[N] q")
    assert apply(g, drop_identity).op_counts() == {"Abs": 1, "Identity": 1}


def test_initializer_as_output() -> None:
    g = text("out = Identity (c)  z = Abs (x)", "float[2] out, float[N] z", "float[2] c = {1, 2}")
    assert apply(g, drop_identity).op_counts() == {"Abs": 1, "Identity": 1}


def test_new_nodes_under_public_and_private_names() -> None:
    after = apply(text("s = Sub (x, y)  out = Abs (s)  t = Sub (y, x)", "float[N] out, float[N] t"), sub_to_add)
    assert after.op_counts() == {"Neg": 2, "Add": 2, "Abs": 1}
    assert "s" in {v.name for n in after.nodes() for v in n.outputs}  # private names live on too


@rule(P.Abs(P.Relu(x, as_="relu", shared_=True)))
def one_for_both(m: Match, rw: Rewriter) -> Result:
    """Two old values, one new one: |relu(x)| = relu(x)."""
    new = rw.op("Max", m.value("x"), rw.scalar(0.0, m.value("x"), "zero"))
    return {m.root.outputs[0]: new, m.node("relu").outputs[0]: new}


@pytest.mark.parametrize("outputs", ["float[N] p", "float[N] q", "float[N] p, float[N] q", "float[N] q, float[N] p"])
def test_one_new_value_for_two_old_ones(outputs: str) -> None:
    body = "p = Relu (x)  q = Abs (p)"
    after = apply(text(body, outputs), one_for_both)
    assert after.op_counts()["Max"] == 1


def test_a_weight_in_place_of_a_value() -> None:
    @rule(P.Mul(x, const("zero", lambda a: not a.any())))
    def annihilate(m: Match, rw: Rewriter) -> Result:
        return rw.const(np.zeros(3, np.float32), "nothing")

    for body, outputs in (("a = Mul (x, c)  out = Exp (a)", "float[3] out"), ("out = Mul (x, c)", "float[3] out")):
        g = text(body, outputs, "float[3] c = {0, 0, 0}", inputs="float[3] x")
        after = apply(g, annihilate)
        assert "Mul" not in after.op_counts()
        assert len(after.model.graph.initializers) == 1


def test_names_do_not_collide_with_those_of_subgraphs() -> None:
    """Names onnx-ir would give (`val_0`) and names a rule hints at are taken in a branch."""
    body = """s = Sub (x, y)
        out = If (c) <then_branch = t () => (float[N] r) { val_0 = Abs (s)  zero = Exp (val_0)  r = Relu (zero) },
                      else_branch = e () => (float[N] q) { val_1 = Neg (s)  q = Relu (val_1) }>"""
    g = text(body, "float[N] out", inputs="float[N] x, float[N] y, bool c")
    after = apply(g, sub_to_add, relu_to_max)
    assert "Relu" not in after.op_counts()
    names = [v.name for n in after.nodes() for v in n.outputs] + list(after.model.graph.initializers)
    assert len(names) == len(set(names))


# --- provenance --------------------------------------------------------------------------------------------------


def test_new_nodes_say_rule_and_source() -> None:
    g = text("[first] a = Neg (x) [second] out = Sub (y, a)", "float[N] out")

    @rule(P.Sub(y, P.Neg(x)))
    def to_sum(m: Match, rw: Rewriter) -> Result:
        return rw.op("Add", m.value("x"), m.value("y"))

    node = apply(g, to_sum).outputs[0].producer()
    assert node is not None
    assert node.metadata_props[RULE_KEY] == "to-sum"
    assert set(node.metadata_props[FROM_KEY].split("\n")) == {"first", "second"}


def test_provenance_reaches_the_source_over_several_rules() -> None:
    g = text("[one] a = Sub (x, y) [two] out = Relu (a)", "float[N] out")

    @rule(P.Max(P.Add(x, y), rest("zero")))
    def pretend(m: Match, rw: Rewriter) -> Result:
        return rw.op("Max", rw.op("Sum", m.value("x"), m.value("y")), *m.rest("zero"))

    after = apply(g, sub_to_add, relu_to_max, pretend)
    for n in after.nodes():
        assert n.metadata_props[FROM_KEY].split("\n")[0] in ("one", "two")
    total = next(n for n in after.nodes() if n.op_type == "Sum")
    assert set(total.metadata_props[FROM_KEY].split("\n")) == {"one", "two"}


def test_rule_names_and_places() -> None:
    assert drop_identity.name == "drop-identity"
    assert drop_identity.location.split(":")[0].endswith("test_rewrite.py")
    assert rule(P.Relu(x), name="other")(drop_identity.rewrite).name == "other"
    assert str(drop_identity) == "drop-identity: Identity(x)"


# --- several outputs, rejection, subgraphs -------------------------------------------------------------------------

SPLIT = "a, b = Split <num_outputs = 2, axis = 0> (x)  out = Sub (a, b)"


def test_several_outputs_at_once() -> None:
    @rule(P.Split(x, as_="split"))
    def split_in_slices(m: Match, rw: Rewriter) -> Result:
        v = m.value("x")
        zero, two, four = (rw.const(np.asarray([i]), "limit") for i in (0, 2, 4))
        return [rw.op("Slice", v, zero, two), rw.op("Slice", v, two, four)]

    after = apply(text(SPLIT, "float[2] out, float[2] b", inputs="float[4] x"), split_in_slices)
    assert after.op_counts() == {"Slice": 2, "Sub": 1}


def test_an_unused_output_may_be_left() -> None:
    @rule(P.Split(x))
    def first_half(m: Match, rw: Rewriter) -> Result:
        limits = [rw.const(np.asarray([i]), "limit") for i in (0, 2)]
        return [rw.op("Slice", m.value("x"), *limits), None]

    body = "a, b = Split <num_outputs = 2, axis = 0> (x)  out = Abs (a)"
    assert apply(text(body, "float[2] out", inputs="float[4] x"), first_half).op_counts() == {"Slice": 1, "Abs": 1}


def test_new_nodes_with_several_outputs() -> None:
    @rule(P.Sub(x, y))
    def through_split(m: Match, rw: Rewriter) -> Result:
        a, b = rw.ops("Split", m.value("x"), attrs={"num_outputs": 2, "axis": 0}, outputs=2)
        return rw.op("Sub", rw.op("Concat", a, b, attrs={"axis": 0}), m.value("y"), domain="")

    g = text("out = Sub (x, y)", "float[4] out", inputs="float[4] x, float[4] y")
    after = g.clone()
    with pytest.raises(EdgecError, match="EC0302"):  # the new Sub matches again, and again
        RuleSet([through_split]).apply(after)


def test_a_mapping_may_replace_values_before_the_root() -> None:
    """The new nodes then go before the first old one, and the order is put right."""

    @rule(P.Add(P.Exp(x, as_="exp", shared_=True), y))
    def move(m: Match, rw: Rewriter) -> Result:
        new = rw.op("Pow", rw.const(np.asarray(np.e, np.float32), "e"), m.value("x"))
        return {m.node("exp").outputs[0]: new, m.root.outputs[0]: rw.op("Sum", new, m.value("y"))}

    g = text("e = Exp (x)  n = Neg (e)  l = Log (n)  out = Add (e, y)", "float[N] out, float[N] n")
    assert apply(g, move).op_counts() == {"Pow": 1, "Neg": 1, "Sum": 1}


def test_rejection_leaves_the_graph_and_gives_the_reason() -> None:
    @rule(P.Relu(x))
    def never(m: Match, rw: Rewriter) -> Result:
        rw.op("Max", m.value("x"), rw.scalar(0.0, m.value("x"), "zero"))
        return Reject("not today")

    g = text("[r] out = Relu (x)", "float[N] out")
    before = g.fingerprint()
    stats = RuleSet([never]).apply(g)
    assert stats.rejected == {"never": {"r": "not today"}}
    assert not stats.applied
    assert g.fingerprint() == before
    assert len(list(g.inputs[0].uses())) == 1


def test_rules_reach_subgraphs() -> None:
    body = """out = If (c) <then_branch = t () => (float[N] r) { a = Neg (x)  b = Neg (a)  r = Abs (b) },
                           else_branch = e () => (float[N] q) { q = Identity (x) }>"""
    g = text(body, "float[N] out", inputs="float[N] x, bool c")
    after = apply(g, double_negation, drop_identity)
    assert after.op_counts() == {"If": 1, "Abs": 1, "Identity": 1}  # a branch must make what it returns


def test_a_removed_if_releases_what_its_branches_read() -> None:
    @rule(P.If(x, as_="if"))
    def forget(m: Match, rw: Rewriter) -> Result:
        source = next(v for v in rw.graph.inputs if v.name == "x")
        return rw.op("Abs", source)

    body = """k = Exp (x)
        out = If (c) <then_branch = t () => (float[N] r) { r = Abs (k) }, else_branch = e () => (float[N] q) { q = Neg (k) }>"""
    g = text(body, "float[N] out", inputs="float[N] x, bool c")
    RuleSet([forget]).apply(g)
    g.verify()
    assert g.op_counts() == {"Abs": 1}


def test_branches_handed_on_to_a_new_node_live_on() -> None:
    @rule(P.If(P.Not(x), as_="if"))
    def swap(m: Match, rw: Rewriter) -> Result:
        bodies = attributes_of(m.node("if"))
        attrs = {
            "then_branch": bodies["else_branch"].as_graph(),
            "else_branch": bodies["then_branch"].as_graph(),
        }
        return rw.op("If", m.value("x"), attrs=attrs, like=m.root.outputs[0])

    body = """k = Exp (x)  n = Not (c)
        out = If (n) <then_branch = t () => (float[N] r) { r = Abs (k) }, else_branch = e () => (float[N] q) { q = Neg (k) }>"""
    g = text(body, "float[N] out", inputs="float[N] x, bool c")
    assert apply(g, swap).op_counts() == {"Exp": 1, "If": 1, "Abs": 1, "Neg": 1}


# --- order, end, cost -----------------------------------------------------------------------------------------------


def test_earlier_rules_win() -> None:
    @rule(P.Relu(x))
    def to_abs(m: Match, rw: Rewriter) -> Result:
        return rw.op("Abs", m.value("x"))

    g = text("out = Relu (x)", "float[N] out")
    RuleSet([to_abs, relu_to_max]).apply(g)
    assert g.op_counts() == {"Abs": 1}
    h = text("out = Relu (x)", "float[N] out")
    (RuleSet([relu_to_max]) + RuleSet([to_abs])).apply(h)
    assert h.op_counts() == {"Max": 1}


def test_rules_feed_each_other_to_a_fixed_point() -> None:
    body = "a = Neg (x)  b = Neg (a)  c = Identity (b)  d = Neg (c)  e = Neg (d)  out = Abs (e)"
    assert apply(text(body, "float[N] out"), drop_identity, double_negation).op_counts() == {"Abs": 1}


def test_rules_that_undo_each_other_end_in_an_error_naming_them() -> None:
    def flip(old: str, new: str) -> Rule:
        pattern: NodePattern = P.op(old)(x)

        @rule(pattern, name=f"{old}-to-{new}")
        def go(m: Match, rw: Rewriter) -> Result:
            return rw.op(new, m.value("x"))

        return go

    g = text("out = Relu (x)", "float[N] out")
    with pytest.raises(EdgecError, match=r"EC0302.*Relu-to-Abs.*Abs-to-Relu|EC0302.*Abs-to-Relu.*Relu-to-Abs"):
        RuleSet([flip("Relu", "Abs"), flip("Abs", "Relu")]).apply(g)


def test_a_rule_that_changes_nothing_ends_in_the_same_error() -> None:
    @rule(P.Relu(x))
    def same(m: Match, rw: Rewriter) -> Result:
        return m.root.outputs[0]

    with pytest.raises(EdgecError, match="EC0302"):
        RuleSet([same]).apply(text("out = Relu (x)", "float[N] out"))


def test_the_same_input_gives_the_same_bytes() -> None:
    def make() -> bytes:
        g = text("s = Sub (x, y)  r = Relu (s)  i = Identity (r)  out = Abs (i)", "float[N] out")
        RuleSet([sub_to_add, relu_to_max, drop_identity]).apply(g)
        return g.to_bytes()

    assert make() == make()


def test_new_values_have_types_and_shapes() -> None:
    g = text("out = Sub (x, y)  z = Abs (out)", "float[2,3] z", inputs="float[2,3] x, float[3] y")
    RuleSet([sub_to_add]).apply(g)
    for n in g.nodes():
        assert n.outputs[0].dtype == ir.DataType.FLOAT
        assert n.outputs[0].shape is not None
    assert [list(n.outputs[0].shape or ()) for n in g.nodes() if n.op_type == "Neg"] == [[3]]


def test_ten_thousand_rewrites() -> None:
    """The budget grows with the graph: long chains are no endless loop."""
    body = "v0 = Neg (x) " + " ".join(f"v{i} = Neg (v{i - 1})" for i in range(1, 20_000)) + " out = Abs (v19999)"
    g = text(body, "float[N] out")
    stats = RuleSet([double_negation]).apply(g)
    assert stats.applied == {"double-negation": 10_000}
    assert g.op_counts() == {"Abs": 1}
