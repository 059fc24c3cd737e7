"""Contracts: what holds, what is caught and how it is named, what cannot be checked; bisect over pipelines and rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from edgec.bisect import bisect
from edgec.contracts import Verify, bounds, check_contract, first_difference
from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.pattern import Match, P, var
from edgec.pipeline import Contract, Pass, PassContext, PassManager, PassResult, Repeat, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, Rule, RuleSet, rule
from edgec.samples import generated_samples

HEAD = '<ir_version: 10, opset_import: ["" : 24]>\n'
MODEL = (
    HEAD
    + "g (float[1,8] x) => (float[1,8] y, float[1,8] z) { a = Neg(x) b = Abs(a) c = Exp(b) y = Relu(c) z = Sigmoid(a) }"
)
x = var("x")


def model() -> Graph:
    return Graph.from_text(MODEL)


def scaled(op: str, factor: float, name: str) -> Rule:
    """A rule that multiplies what `op` gives, once a node."""

    @rule(getattr(P, op)(x), name=name)
    def multiply(m: Match, rw: Rewriter) -> Result:
        if "multiplied" in m.root.metadata_props:
            return Reject("it is multiplied already")
        same = rw.op(op, m.value("x"))
        same.producer().metadata_props["multiplied"] = "yes"
        return rw.op("Mul", same, rw.scalar(factor, like=m.value("x"), hint="factor"))

    return multiply


@dataclass(frozen=True)
class Wrong(RewritePass):
    """Two rules: one right, one wrong."""

    name: ClassVar[str] = "wrong"
    rules: ClassVar[RuleSet] = RuleSet([scaled("Neg", 1.0, "right-rule"), scaled("Abs", 1.5, "wrong-rule")])


@dataclass(frozen=True)
class Right(RewritePass):
    name: ClassVar[str] = "right"
    rules: ClassVar[RuleSet] = RuleSet([scaled("Exp", 1.0, "exp-rule")])


@dataclass(frozen=True)
class Nudge(Pass):
    """Multiplies every Neg by a factor, under any contract."""

    factor: float = 1.0
    name: ClassVar[str] = "nudge"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        stats = RuleSet([scaled("Neg", self.factor, "nudge-rule")]).apply(graph)
        return PassResult(bool(stats.applied))


@dataclass(frozen=True)
class ExactNudge(Nudge):
    name: ClassVar[str] = "exact-nudge"
    contract: ClassVar[Contract] = "exact"


@dataclass(frozen=True)
class LossyNudge(Nudge):
    name: ClassVar[str] = "lossy-nudge"
    contract: ClassVar[Contract] = "lossy"


@dataclass(frozen=True)
class Crash(Pass):
    name: ClassVar[str] = "crash"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        raise ZeroDivisionError("no such luck")


@dataclass(frozen=True)
class Invalid(Pass):
    """Leaves a graph no runtime takes."""

    name: ClassVar[str] = "invalid"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        next(n for n in graph.nodes() if n.op_type == "Sigmoid").op_type = "NoSuchOp"
        return PassResult(True)


def run(p: Pass, ctx: PassContext) -> None:
    PassManager([p], verify="each").run(model(), ctx)


def test_what_holds_passes_silently():
    ctx = PassContext()
    for p in (Right(), Nudge(1 + 1e-6), ExactNudge(1.0)):
        run(p, ctx)
    assert not ctx.diagnostics.items


@pytest.mark.parametrize("p", [Nudge(1.001), ExactNudge(1 + 1e-6)])
def test_a_broken_promise_is_an_error(p):
    with pytest.raises(EdgecError) as e:
        run(p, PassContext())
    text = str(e.value)
    assert "EC0801" in text
    assert p.spec() in text
    assert "'a'" in text  # the first tensor, though the outputs differ too
    assert "nudge-rule" in text
    assert "SQNR" in text


def test_the_rule_and_first_tensor_are_named_with_real_samples():
    graph = model()
    ctx = PassContext(samples=generated_samples(graph, 3))
    with pytest.raises(EdgecError, match=r"EC0801.*output 'y'.*first tensor that differs is 'b'.*wrong-rule"):
        run(Wrong(), ctx)


def test_lossy_is_measured_not_refused():
    ctx = PassContext()
    run(LossyNudge(2.0), ctx)
    (note,) = ctx.diagnostics.items
    assert note.code == "EC0802"
    assert "SQNR" in note.message


def test_a_graph_that_no_longer_runs_is_the_passs_fault():
    before, after = model(), model()
    Invalid().run(after, PassContext())
    with pytest.raises(EdgecError, match=r"EC0801.*invalid.*cannot be compared"):
        check_contract(Invalid(), before, after, PassContext())


def test_what_cannot_be_checked_is_a_warning():
    ctx = PassContext()
    custom = Graph.from_text(MODEL.replace('"" : 24', '"" : 24, "com.acme" : 1').replace("Abs(a)", "com.acme.Abs(a)"))
    check_contract(Nudge(), custom, custom, ctx)
    noise = Graph.from_text(HEAD + "g (float[1,8] x) => (float[1,8] y) { r = RandomNormalLike(x) y = Add(x, r) }")
    check_contract(Nudge(), noise, noise.clone(), ctx)
    assert [d.code for d in ctx.diagnostics] == ["EC0803", "EC0803"]


def test_bounds_follow_the_least_precise_type():
    half = Graph.from_text(HEAD + "g (float[1] x) => (float[1] y) { h = Cast<to=10>(x) y = Cast<to=1>(h) }")
    for v in (n.outputs[0] for n in half.nodes()):
        assert v.name
    from edgec.infer import infer_shapes

    infer_shapes(half)
    assert bounds(half).sqnr_db < bounds(model()).sqnr_db == 80


def test_nan_equals_nan():
    graph = Graph.from_text(HEAD + "g (float[1,8] x) => (float[1,8] y) { a = Abs(x) b = Neg(a) y = Log(b) }")
    ctx = PassContext()
    check_contract(ExactNudge(), graph, graph.clone(), ctx)
    assert not ctx.diagnostics.items


def test_verify_instrument():
    ctx = PassContext()
    PassManager([Right()], instruments=[Verify(ctx)]).run(model(), ctx)
    with pytest.raises(EdgecError, match="EC0801"):
        PassManager([Right(), Wrong()], instruments=[Verify(ctx)]).run(model(), ctx)


def test_rules_of_earlier_passes_are_not_blamed():
    before = model()
    PassManager([Wrong()]).run(before)  # makes b with wrong-rule
    after = before.clone()
    next(n for n in after.nodes() if n.op_type == "Exp").op_type = "Sqrt"
    first = first_difference(before, after, generated_samples(before, 1))
    assert first is not None
    assert (first.tensor, first.op, first.rule) == ("c", "Sqrt", None)


# --- bisect ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(5))
def test_bisect_finds_the_pass_and_the_rule(at):
    passes: list[Pass] = [Right(), Nudge(1 + 1e-7), Right(), Right()]
    passes.insert(at, Wrong())
    graph = model()
    text = graph.to_text()
    found = bisect(graph, passes, generated_samples(graph, 2))
    assert found.culprit is not None
    assert found.culprit.p == Wrong()
    assert found.index == at
    assert found.rule == "wrong-rule"
    assert found.first is not None
    assert found.first.tensor == "b"
    assert found.figures is not None
    assert found.figures.sqnr_db < 80
    assert found.tried <= 5
    assert graph.to_text() == text
    assert found.to_json()["culprit"] == "wrong"


def test_bisect_unrolls_groups():
    graph = model()
    found = bisect(graph, [Repeat((Right(), Wrong()))], generated_samples(graph, 1))
    assert [str(s) for s in found.steps] == ["right (round 1)", "wrong (round 1)", "right (round 2)", "wrong (round 2)"]
    assert str(found.culprit) == "wrong (round 1)"


def test_bisect_of_a_good_pipeline():
    graph = model()
    found = bisect(graph, [Right(), Nudge(1 + 1e-7)], generated_samples(graph, 1))
    assert found.culprit is None
    assert bisect(graph, [], generated_samples(graph, 1)).culprit is None


def test_bisect_of_a_crash():
    graph = model()
    found = bisect(graph, [Right(), Crash(), Right()], generated_samples(graph, 1))
    assert found.culprit is not None
    assert found.culprit.p == Crash()
    assert found.problem is not None
    assert "no such luck" in found.problem
    earlier = bisect(graph, [Wrong(), Right(), Crash()], generated_samples(graph, 1))
    assert earlier.culprit is not None
    assert earlier.culprit.p == Wrong()


def test_bisect_of_a_graph_that_no_longer_runs():
    graph = model()
    found = bisect(graph, [Right(), Invalid()], generated_samples(graph, 1))
    assert found.index == 1
    assert found.problem is not None
    assert "NoSuchOp" in found.problem


def test_bisect_with_a_limit_for_lossy_pipelines():
    graph = model()
    passes = [LossyNudge(1.001), Right(), Wrong()]
    samples = generated_samples(graph, 2)
    assert bisect(graph, passes, samples).index == 0
    assert bisect(graph, passes, samples, min_sqnr_db=30).index == 2


def test_bisect_with_a_judge_of_ones_own():
    from edgec.bisect import Problem

    graph = model()
    found = bisect(
        graph,
        [Right(), Nudge(2.0)],
        generated_samples(graph, 1),
        judge=lambda g: Problem("has Mul twice") if g.op_counts()["Mul"] > 1 else None,
    )
    assert found.index == 1
    assert found.problem == "has Mul twice"
    np.testing.assert_equal(found.figures, None)


STEPS = (
    HEAD
    + "g (float[1,8] x) => (float[1,2] y) <float a = {0.1}, float b = {5}, float s = {1}, int8 z = {0}, "
    + "int8[8,2] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}> { c = Mul(x, a) d = Mul(c, b) q = QuantizeLinear(d, s, z) "
    + "e = DequantizeLinear(q, s, z) v = DequantizeLinear(w, s, z) y = MatMul(e, v) }"
)


def test_a_last_bit_in_front_of_quantizelinear_breaks_no_promise():
    """3 * 0.1 * 5 is a bit above 1.5, 3 * 0.5 is 1.5: a whole step apart where the product is rounded."""
    from edgec.passes.optimize.fold_scale_bias import FoldScaleBias
    from edgec.runtime import Session
    from edgec.samples import Samples

    before, after = Graph.from_text(STEPS), Graph.from_text(STEPS)
    assert FoldScaleBias().run(after, PassContext()).changed
    feeds = {"x": np.arange(1, 16, 2, dtype=np.float32)[None]}
    assert (Session(before).run(feeds)["y"] != Session(after).run(feeds)["y"]).any(), "the test needs a tie"
    ctx = PassContext(samples=Samples(lambda: iter([feeds]), describe="ties"))
    check_contract(FoldScaleBias(), before, after, ctx)


def test_a_mistake_in_front_of_quantizelinear_is_still_one():
    after = Graph.from_text(STEPS.replace("b = {5}", "b = {9}"))
    with pytest.raises(EdgecError, match="EC0801"):
        check_contract(Right(), Graph.from_text(STEPS), after, PassContext())
