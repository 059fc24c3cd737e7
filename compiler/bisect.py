"""Which pass of a pipeline breaks a model: binary search over its prefixes, then over the rules of the culprit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgec.compare import OutputComparison, compare
from edgec.contracts import Bounds, Difference, bounds, figures_text, first_difference, holds
from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.pipeline import Pass, PassContext, Repeat, RewritePass, run_pass
from edgec.rewrite import RuleSet

if TYPE_CHECKING:
    from edgec.samples import Samples


@dataclass(frozen=True)
class Step:
    """One execution of one pass; `round` counts from 1 inside a repeated group and is 0 outside."""

    p: Pass
    round: int = 0

    def __str__(self) -> str:
        return f"{self.p.spec()} (round {self.round})" if self.round else self.p.spec()


@dataclass(frozen=True)
class BisectResult:
    """`culprit` None: the whole pipeline is good. `index`: its place in `steps`, from 0. `problem`: what is wrong after
    it, in words; `figures` in numbers where the model still runs. `first`: the first tensor that differs from the graph
    just before the culprit. `rule`: the one rule of the culprit that is enough to break the model, else the one that made the tensor's node."""

    steps: Sequence[Step]
    culprit: Step | None
    index: int | None = None
    problem: str | None = None
    figures: OutputComparison | None = None
    first: Difference | None = None
    rule: str | None = None
    tried: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": [str(s) for s in self.steps],
            "culprit": str(self.culprit) if self.culprit else None,
            "index": self.index,
            "problem": self.problem,
            "figures": self.figures.to_json() if self.figures else None,
            "first_tensor": self.first.tensor if self.first else None,
            "node": self.first.node if self.first else None,
            "rule": self.rule,
            "tried": self.tried,
        }


@dataclass(frozen=True)
class Problem:
    """What is wrong with a graph."""

    text: str
    figures: OutputComparison | None = None


Judge = Callable[[Graph], Problem | None]
"""Says what is wrong with the graph a prefix makes, None if nothing."""


def bisect(
    graph: Graph,
    passes: Sequence[Pass],
    samples: Samples,
    ctx: PassContext | None = None,
    *,
    min_sqnr_db: float | None = None,
    judge: Judge | None = None,
) -> BisectResult:
    """Find the first step after which the model is wrong, and stays wrong: steps before the result are good.

    Wrong: it cannot be run, its outputs have other names or shapes, or they differ from `graph`'s by more than rounding
    (contracts.py) or, if given, are below `min_sqnr_db` (what a lossy pipeline may cost). A pass that raises is wrong
    by itself. `judge` replaces all this. `graph` is not changed. Cost: the pipeline about 2 + log2(steps) times.
    """
    ctx = ctx or PassContext()
    judge = judge or numerical_judge(graph, samples, min_sqnr_db)
    steps, crash = _record(graph, passes, ctx)
    done = len(steps) - (crash is not None)  # steps that can be replayed
    tried = 1
    problem = judge(_prefix(graph, steps[:done], ctx))
    if problem is None:
        if crash is None:
            return BisectResult(steps, None, tried=tried)
        return BisectResult(steps, steps[-1], done, crash, tried=tried)
    good, bad = 0, done  # the empty prefix is the reference itself; `bad` has always been tried
    while bad - good > 1:
        middle = (good + bad) // 2
        tried += 1
        found = judge(_prefix(graph, steps[:middle], ctx))
        if found is None:
            good = middle
        else:
            bad, problem = middle, found
    last_good, broken = _prefix(graph, steps[:good], ctx), _prefix(graph, steps[:bad], ctx)
    rule = _single_rule(last_good, steps[good].p, judge)
    first = _first(last_good, broken, samples, min_sqnr_db)
    if rule is None and first is not None:
        rule = first.rule
    return BisectResult(steps, steps[good], good, problem.text, problem.figures, first, rule, tried)


def numerical_judge(reference: Graph, samples: Samples, min_sqnr_db: float | None = None) -> Judge:
    """Compares a graph's outputs with the reference's. The reference must run (EC0810 if not)."""
    from edgec.runtime import Session

    session = Session(reference)

    def judge(graph: Graph) -> Problem | None:
        limit = Bounds(min_sqnr_db, float("inf")) if min_sqnr_db is not None else bounds(reference, graph)
        try:
            found = compare(session.run_all(samples), Session(graph).run_all(samples))
        except EdgecError as e:
            return Problem(e.diagnostics[0].message)
        bad = next((o for o in found.outputs if not holds("close", o, limit)), None)
        return Problem(f"output {bad.name!r}: {figures_text(bad)}", bad) if bad is not None else None

    return judge


def _record(graph: Graph, passes: Sequence[Pass], ctx: PassContext) -> tuple[list[Step], str | None]:
    """Every execution of a pass, groups unrolled into the rounds they took; and how the last one failed, if it did."""
    work = graph.clone()
    steps: list[Step] = []

    def run(p: Pass, number: int) -> bool:
        if not isinstance(p, Repeat):
            steps.append(Step(p, number))
            return run_pass(p, work, ctx).changed
        changed = False
        for i in range(1, p.max_rounds + 1):
            results = [run(q, i) for q in p.passes]
            again = any(results)
            changed |= again
            if not again:
                break
        return changed

    try:
        for p in passes:
            run(p, 0)
    except Exception as e:  # noqa: BLE001  whatever a pass raises is what is looked for; the result tells it
        text = e.diagnostics[0].message if isinstance(e, EdgecError) else f"{type(e).__name__}: {e}"
        return steps, f"the pass failed: {text}"
    return steps, None


def _prefix(graph: Graph, steps: Sequence[Step], ctx: PassContext) -> Graph:
    work = graph.clone()
    for s in steps:
        run_pass(s.p, work, ctx)
    return work


def _single_rule(graph: Graph, p: Pass, judge: Judge) -> str | None:
    """The first rule that alone breaks the graph; None if the pass is more than rules, or it takes several of them."""
    if not isinstance(p, RewritePass) or type(p).run is not RewritePass.run:
        return None
    for r in p.rules.rules:
        work = graph.clone()
        try:
            changed = RuleSet([r]).apply(work).applied
        except EdgecError:
            return r.name  # it cannot end, or fails: that is the fault
        if changed and judge(work) is not None:
            return r.name
    return None


def _first(before: Graph, after: Graph, samples: Samples, min_sqnr_db: float | None) -> Difference | None:
    limit = Bounds(min_sqnr_db, float("inf")) if min_sqnr_db is not None else None
    try:
        return first_difference(before, after, samples.take(2), "close", limit) or first_difference(
            before, after, samples, "close", limit
        )
    except EdgecError:
        return None  # the broken graph does not run at all: `problem` says how
