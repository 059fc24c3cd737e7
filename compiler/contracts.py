"""Checking that a pass kept its promise: both graphs are run, and the first tensor that differs is named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgec.compare import Arrays, OutputComparison, compare, compare_layers
from edgec.diagnostics import EdgecError, Location, error
from edgec.graph import Graph, ir
from edgec.pipeline import Contract, Pass, PassContext, PassResult
from edgec.rewrite import FROM_KEY, RULE_KEY

if TYPE_CHECKING:
    from edgec.samples import Samples

GENERATED = 2
"""Samples made up where the context has none."""


@dataclass(frozen=True)
class Bounds:
    """What counts as equal up to rounding: SQNR in dB at least, `max_rel` (compare.py) at most."""

    sqnr_db: float
    max_rel: float


CLOSE = {
    "float32": Bounds(80.0, 0.05),  # 80 dB is an error of 1e-4 of the signal: a hundred times float32 rounding
    "float16": Bounds(40.0, 1.0),  # 11 bits: 66 dB an operation, and errors add up over layers
    "bfloat16": Bounds(25.0, 1.0),  # 8 bits: 48 dB an operation
}
"""Bounds of contract "close", by the least precise floating-point type in either graph."""

INTEGER_EQUAL = 0.99
"""Part of the elements of an integer output that must be equal under "close"; the others may be off by one: rounding
before a Cast, Round or QuantizeLinear moves a value across a step."""


@dataclass(frozen=True)
class Difference:
    """The first tensor, in execution order, at which two graphs differ, and who made it."""

    tensor: str
    figures: OutputComparison
    node: str
    op: str
    rule: str | None
    source_nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        by = f", made by rule {self.rule}" if self.rule else ""
        return f"{self.tensor!r} ({self.op}{by}): {figures_text(self.figures)}"


def bounds(*graphs: Graph) -> Bounds:
    """The bounds for what these graphs compute in."""
    types = {v.dtype for g in graphs for n in g.nodes() for v in n.outputs}
    if ir.DataType.BFLOAT16 in types:
        return CLOSE["bfloat16"]
    return CLOSE["float16"] if ir.DataType.FLOAT16 in types else CLOSE["float32"]


def checkable(contract: Contract, limit: Bounds) -> Contract:
    """What of a contract can be seen by running: in 16-bit floats "exact" only as "close". ONNX Runtime computes those in
    float32 and leaves out conversions between neighbours, so that other neighbours give another rounding (measured).
    """
    return "close" if contract == "exact" and limit is not CLOSE["float32"] else contract


def holds(contract: Contract, figures: OutputComparison, limit: Bounds) -> bool:
    """Whether one tensor is as `contract` promises. "lossy" promises nothing."""
    if contract == "lossy" or figures.exact:
        return True
    if contract == "exact":
        return False
    if not figures.dtype.startswith(("float", "bfloat")):
        return figures.max_abs <= 1 and figures.equal >= INTEGER_EQUAL
    return figures.sqnr_db >= limit.sqnr_db and figures.max_rel <= limit.max_rel


def figures_text(f: OutputComparison) -> str:
    return f"SQNR {f.sqnr_db:.1f} dB, max abs {f.max_abs:.3g}, max rel {f.max_rel:.3g}, {f.equal:.1%} of elements equal"


def check_contract(p: Pass, before: Graph, after: Graph, ctx: PassContext) -> None:
    """Run both graphs on `ctx.samples` (without: 2 generated ones) and compare their outputs.

    exact: every element equal, NaN equal to NaN (see `checkable`). close: within `bounds`; quantised graphs may be so without their Q/DQ.
    lossy: noted (EC0802), never refused.
    Warns (EC0803) where it cannot tell: the graph before the pass does not run here, or is not deterministic.

    Raises:
        EdgecError: EC0801 naming the pass, the first output and the first inner tensor that differ, and the rule that
            made the tensor's node.
    """
    from edgec.runtime import Session

    if any(q.changes_interface for q in p.flat()):
        why = "it gives the model other outputs"
        ctx.diagnostics.warn("EC0803", f"the contract of {p.spec()} is not checked: {why}")
        return
    samples = _samples(before, ctx)
    try:
        source = Session(before)
        probe = source.run(next(iter(samples)))
    except EdgecError as e:
        why = f"the graph before it does not run here: {e.diagnostics[0].message}"
        ctx.diagnostics.warn("EC0803", f"the contract of {p.spec()} is not checked: {why}", e.diagnostics[0].location)
        return
    try:
        found = compare(source.run_all(samples), Session(after).run_all(samples))
    except EdgecError as e:
        why = f"the graph it made cannot be compared: {e.diagnostics[0].message}"
        raise _broken(p, why, e.diagnostics[0].location.node) from None
    if p.contract == "lossy":
        worst = min(found.outputs, key=lambda o: o.sqnr_db, default=None)
        if worst is not None:
            ctx.diagnostics.note("EC0802", f"{p.spec()} changes output {worst.name!r}: {figures_text(worst)}")
        return
    limit = bounds(before, after)
    contract = checkable(p.contract, limit)
    bad = [o for o in found.outputs if not holds(contract, o, limit)]
    if not bad or (contract == "close" and _equal_unrounded(before, after, samples, limit)):
        return
    if not compare([probe], [source.run(next(iter(samples)))]).exact:
        message = f"the contract of {p.spec()} is not checked: the graph gives other outputs on each run"
        ctx.diagnostics.warn("EC0803", message, Location(before.source))
        return
    first = first_difference(before, after, samples, contract, limit)
    message = f"it promises {_PROMISE[p.contract]}, but output {bad[0].name!r} has {figures_text(bad[0])}"
    if first is None:
        raise _broken(p, message)
    if first.tensor != bad[0].name:
        message += f"; the first tensor that differs is {first}"
    elif first.rule:
        message += f"; its node was made by rule {first.rule}"
    raise _broken(p, message, first.node)


def _equal_unrounded(before: Graph, after: Graph, samples: Samples, limit: Bounds) -> bool:
    """Whether two quantised graphs are equal up to rounding once their Q/DQ are taken out: a last bit in front of a Q can
    move a value by a whole step, and no bound on the outputs would tell that from a mistake."""
    from edgec.quantization.pairs import float_view, is_quantized
    from edgec.runtime import Session

    if not (is_quantized(before) and is_quantized(after)):
        return False
    views = []
    for graph in (before, after):
        view = float_view(graph)[0]
        for public, value in zip(graph.outputs, view.outputs, strict=True):
            value.name = public.name
        views.append(Session(view))
    found = compare(views[0].run_all(samples), views[1].run_all(samples))
    return all(holds("close", o, limit) for o in found.outputs)


_PROMISE = {"exact": "equal results", "close": "results equal up to rounding"}


def _samples(graph: Graph, ctx: PassContext) -> Samples:
    from edgec.samples import generated_samples

    return ctx.samples if ctx.samples is not None else generated_samples(graph, GENERATED, ctx.seed)


def first_difference(
    before: Graph, after: Graph, samples: Iterable[Arrays], contract: Contract = "close", limit: Bounds | None = None
) -> Difference | None:
    """The first tensor, in the execution order of `after`, that both graphs have by name and that breaks `contract`."""
    limit = limit or bounds(before, after)
    found = compare_layers(before, after, samples)
    bad = next((o for o in found.outputs if not holds(contract, o, limit)), None)
    if bad is None:
        return None
    node = next(n for n in after.model.graph if any(v.name == bad.name for v in n.outputs))
    source = tuple(node.metadata_props.get(FROM_KEY, "").splitlines()) or (node.name or bad.name,)
    return Difference(bad.name, bad, node.name or bad.name, node.op_type, _rule(node, before), source)


def _rule(node: ir.Node, before: Graph) -> str | None:
    """The rule that made the node since `before`, or else one of those it reads from: they carry no common name."""
    makers = [node, *(p for v in node.inputs if v is not None and (p := v.producer()) is not None)]
    old = {_identity(n) for n in before.model.graph}
    return next((rule for n in makers if (rule := n.metadata_props.get(RULE_KEY)) and _identity(n) not in old), None)


def _identity(n: ir.Node) -> tuple[str, ...]:
    names = [v.name or "" if v is not None else "" for v in (*n.inputs, *n.outputs)]
    return (n.op_type, n.metadata_props.get(RULE_KEY, ""), *names)


class Verify:
    """An instrument that checks every pass's contract: `PassManager(passes, instruments=[Verify(ctx)])`."""

    def __init__(self, ctx: PassContext) -> None:
        self.ctx = ctx
        self._before: Graph | None = None

    def before(self, p: Pass, graph: Graph) -> None:
        self._before = graph.clone()

    def after(self, p: Pass, graph: Graph, result: PassResult, seconds: float) -> None:
        if result.changed and self._before is not None:
            check_contract(p, self._before, graph, self.ctx)
        self._before = None


def _broken(p: Pass, message: str, node: str | None = None) -> EdgecError:
    hint = "`edgec bisect` finds the rule; tell the authors of the pass"
    return error("EC0801", f"pass {p.spec()} broke the model: {message}", Location(node=node), hint)
