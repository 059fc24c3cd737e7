"""Passes, facts, groups, records, instruments, and what happens when a pass fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, ir
from edgec.pattern import Match, P, var
from edgec.pipeline import Contract, Pass, PassContext, PassManager, PassResult, Repeat, RewritePass
from edgec.plugins import Registry
from edgec.recipe import build_passes, parse_pipeline
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

TEXT = (
    '<ir_version: 10, opset_import: ["" : 24]> g (float[4] x) => (float[4] y) { a = Neg (x) b = Neg (a) y = Abs (b) }'
)


@pytest.fixture
def graph() -> Graph:
    return Graph.from_text(TEXT)


@rule(P.Neg(P.Neg(var("x"))))
def double_negation(m: Match, rw: Rewriter) -> Result:
    return m.value("x")


@rule(P.Abs(var("x")))
def no_abs(m: Match, rw: Rewriter) -> Result:
    return Reject("because")


@dataclass(frozen=True)
class Negations(RewritePass):
    name: ClassVar[str] = "negations"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = RuleSet([double_negation, no_abs])


def make(
    pass_name: str,
    run: Callable[[Graph, PassContext], PassResult] = lambda g, ctx: PassResult(False),
    requires: str = "",
    establishes: str = "",
    invalidates: str = "",
) -> Pass:
    """A pass with these facts."""

    @dataclass(frozen=True)
    class Made(Pass):
        name: ClassVar[str] = pass_name

        def run(self, graph: Graph, ctx: PassContext) -> PassResult:
            return run(graph, ctx)

    Made.requires = frozenset(requires.split())
    Made.establishes = frozenset(establishes.split())
    Made.invalidates = frozenset(invalidates.split())
    return Made()


# --- records -----------------------------------------------------------------------------------------------------------


def test_records_say_what_each_pass_did(graph: Graph) -> None:
    ctx = PassContext()
    first, second = PassManager([Negations(), Negations()]).run(graph, ctx)
    assert (first.spec, first.changed, first.nodes_before, first.nodes_after) == ("negations", True, 3, 1)
    assert first.stats == {"double-negation": 1}
    assert first.contract == "exact"
    assert first.seconds >= 0
    assert (second.changed, second.nodes_before, second.nodes_after) == (False, 1, 1)
    assert list(ctx.rejections) == ["no-abs"]
    assert list(ctx.rejections["no-abs"].values()) == ["because"]


def test_passes_are_values() -> None:
    assert Negations() == Negations()
    assert len({Negations(), Negations()}) == 1


# --- facts ---------------------------------------------------------------------------------------------------------------


def test_facts_are_kept_on_the_graph(graph: Graph) -> None:
    PassManager([make("a", establishes="one two"), make("b", invalidates="two", establishes="three")]).run(graph)
    assert graph.facts == {"one", "three"}


def test_a_fact_the_graph_already_has_is_enough(graph: Graph) -> None:
    graph.facts = frozenset({"one"})
    PassManager([make("b", requires="one")]).run(graph)


def test_missing_facts_are_told_before_anything_runs(graph: Graph) -> None:
    ran: list[str] = []

    def note(g: Graph, ctx: PassContext) -> PassResult:
        ran.append("a")
        return PassResult(False)

    passes = [make("a", note), make("b", requires="one"), make("c", establishes="one"), make("d", requires="two")]
    with pytest.raises(EdgecError) as e:
        PassManager(passes).run(graph)
    assert [d.code for d in e.value.diagnostics] == ["EC0210", "EC0210"]
    assert e.value.diagnostics[0].hint == "move c before b"
    assert "add a pass that establishes" in (e.value.diagnostics[1].hint or "")
    assert ran == []


def test_passes_that_establish_what_is_missing_are_named() -> None:
    passes = build_passes(parse_pipeline("prune{ratio=0.3}"), Registry().passes())
    with pytest.raises(EdgecError) as e:
        PassManager(passes).check()
    assert e.value.diagnostics[0].hint == "put constants-to-initializers,upgrade-opset before prune"


def test_invalidated_facts_are_missing_later() -> None:
    passes = [make("a", establishes="one"), make("b", invalidates="one"), make("c", requires="one")]
    with pytest.raises(EdgecError, match="pass c requires"):
        PassManager(passes).check()


def test_facts_reach_into_and_out_of_groups(graph: Graph) -> None:
    group = Repeat((make("a", establishes="one"), make("b", requires="one")))
    PassManager([group, make("c", requires="one")]).run(graph)
    with pytest.raises(EdgecError, match="EC0210"):
        PassManager([Repeat((make("b", requires="one"), make("a", establishes="one")))]).check()


# --- groups ----------------------------------------------------------------------------------------------------------------


def test_repeat_goes_on_while_something_changes(graph: Graph) -> None:
    rounds: list[int] = []

    def three_times(g: Graph, ctx: PassContext) -> PassResult:
        rounds.append(1)
        return PassResult(len(rounds) < 3, {"done": 1})

    (record,) = PassManager([Repeat((make("a", three_times), make("b")))]).run(graph)
    assert len(rounds) == 3
    assert record.changed
    assert record.stats == {"done": 3}
    assert record.spec == "[a,b]*"


def test_repeat_ends_after_its_rounds(graph: Graph) -> None:
    rounds: list[int] = []

    def always(g: Graph, ctx: PassContext) -> PassResult:
        rounds.append(1)
        return PassResult(True)

    PassManager([Repeat((make("a", always),))]).run(graph)
    assert len(rounds) == Repeat().max_rounds


def test_an_empty_repeat_changes_nothing(graph: Graph) -> None:
    (record,) = PassManager([Repeat()]).run(graph)
    assert not record.changed


# --- instruments, errors, verification ---------------------------------------------------------------------------------------


@dataclass
class Recorder:
    seen: list[str] = field(default_factory=list)

    def before(self, p: Pass, graph: Graph) -> None:
        self.seen.append(f"before {p.name}")

    def after(self, p: Pass, graph: Graph, result: PassResult, seconds: float) -> None:
        self.seen.append(f"after {p.name} {result.changed}")


def test_instruments_see_every_pass(graph: Graph) -> None:
    one, two = Recorder(), Recorder()
    PassManager([make("a"), Negations()], instruments=[one, two]).run(graph)
    assert one.seen == ["before a", "after a False", "before negations", "after negations True"]
    assert two.seen == one.seen


def test_a_crash_names_the_pass(graph: Graph) -> None:
    def crash(g: Graph, ctx: PassContext) -> PassResult:
        raise ZeroDivisionError("boom")

    with pytest.raises(ZeroDivisionError) as e:
        PassManager([Repeat((make("bad", crash),))]).run(graph)
    assert any("'bad'" in note for note in e.value.__notes__)


def break_graph(g: Graph, ctx: PassContext) -> PassResult:
    next(n for n in g.nodes() if n.op_type == "Abs").op_type = "NoSuchOp"
    return PassResult(True)


def test_structure_is_checked_after_each_change(graph: Graph) -> None:
    with pytest.raises(EdgecError, match="EC0305"):
        PassManager([make("breaks", break_graph)], verify="structure").run(graph)
    PassManager([make("breaks", break_graph)]).run(Graph.from_text(TEXT))  # nobody asked


def lie(g: Graph, ctx: PassContext) -> PassResult:
    next(n for n in g.nodes() if n.op_type == "Abs").op_type = "Relu"
    return PassResult(True)


def test_contracts_are_checked_with_real_numbers(graph: Graph) -> None:
    with pytest.raises(EdgecError, match=r"EC0801.*lies"):
        PassManager([Negations(), make("lies", lie)], verify="each").run(graph)


def test_a_pass_that_says_nothing_changed_is_believed(graph: Graph) -> None:
    """Verification costs two runs of the model: only passes that report a change pay."""
    calls = Recorder()
    PassManager([make("a")], instruments=[calls], verify="each").run(graph)
    assert calls.seen == ["before a", "after a False"]


def test_contexts_do_not_share_state() -> None:
    one, two = PassContext(), PassContext()
    one.diagnostics.note("EC0302", "hello")
    one.rejections["r"] = {}
    assert list(two.diagnostics) == []
    assert two.rejections == {}


def test_the_interface_of_a_model_stays(graph: Graph) -> None:
    before = [(v.name, v.dtype, v.shape) for v in (*graph.inputs, *graph.outputs)]
    PassManager([Negations()]).run(graph)
    assert [(v.name, v.dtype, v.shape) for v in (*graph.inputs, *graph.outputs)] == before
    assert graph.outputs[0].dtype == ir.DataType.FLOAT
