"""Pass, PassManager and what hooks into them.

A pass is a frozen dataclass: its fields are its options, `spec()` prints what `recipe.parse_pipeline` reads. Facts
(`requires`, `establishes`, `invalidates`) are checked over the whole pipeline before anything runs.
"""

from __future__ import annotations

import dataclasses
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from edgec.diagnostics import Diagnostic, Diagnostics, EdgecError, Severity, error
from edgec.graph import Graph
from edgec.rewrite import RewriteStats, RuleSet

if TYPE_CHECKING:
    from edgec.pruning import PruningRecord
    from edgec.quantization.record import QuantRecord
    from edgec.samples import Samples
    from edgec.specs.schema import TargetSpec
    from edgec.trial import Weight

Contract = Literal["exact", "close", "lossy"]
"""What a pass promises of the numbers: bit-equal; equal up to float rounding; changed on purpose."""


@dataclass
class PassContext:
    """What a pass may look at besides the graph. No globals: an embedder makes as many as it likes."""

    target: TargetSpec | None = None
    precision: str | None = None
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    samples: Samples | None = None
    calibration: Samples | None = None
    """Unlabelled inputs to choose ranges by and to correct with."""
    quantization: QuantRecord | None = None
    """What the quantising pass leaves for the passes after it."""
    pruning: PruningRecord | None = None
    """What the pruning passes leave for the passes after them."""
    rejections: dict[str, dict[str, str]] = field(default_factory=dict)
    """Rule -> {node: reason}: the matches rules declined, for `--why-not`."""
    rules: set[str] = field(default_factory=set)
    """Names of all rules that were tried, so that a misspelt one is told from one that never matched."""
    seed: int = 0
    progress: Callable[[str], None] = lambda text: None
    """Told by passes that take minutes what they are at."""
    weigh: Callable[[Graph], Weight] | None = None
    """Builds a graph for the target and says what it takes there, for goals in time and flash."""


@dataclass(frozen=True)
class PassResult:
    """Whether the graph changed, and counts worth telling (`rule name -> times`)."""

    changed: bool
    stats: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass(ABC):
    """One named step. Subclass as a frozen dataclass; the fields are its options."""

    name: ClassVar[str]
    contract: ClassVar[Contract] = "close"
    requires: ClassVar[frozenset[str]] = frozenset()  # facts that must hold before
    establishes: ClassVar[frozenset[str]] = frozenset()  # facts that hold after
    invalidates: ClassVar[frozenset[str]] = frozenset()  # facts it may break
    needs_calibration: ClassVar[bool] = False  # whether it runs the model on `ctx.calibration`

    @property
    def changes_interface(self) -> bool:
        """Whether the model may have other outputs afterwards. What it is compared with is then taken through this pass too."""
        return False

    @abstractmethod
    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        """Change the graph in place; leave it valid. Inputs keep names and types; outputs too, unless `changes_interface`."""

    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != _default(f)}

    def spec(self) -> str:
        """The text that makes this pass: `fold-constants{max-bytes=65536}`."""
        opts = " ".join(f"{k.replace('_', '-')}={option_text(v)}" for k, v in self.options().items())
        return f"{self.name}{{{opts}}}" if opts else self.name

    def flat(self) -> Iterator[Pass]:
        """This pass, or the passes it groups."""
        yield self


def _default(f: dataclasses.Field[Any]) -> Any:
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    return f.default


def option_text(value: Any) -> str:
    """An option's value as the pipeline text spells it: JSON, and without quotes what cannot be mistaken for it."""
    if not isinstance(value, str):
        return json.dumps(value, separators=(",", ":"))
    if not value or not all(c.isascii() and (c.isalnum() or c in "-_.:/") for c in value):
        return json.dumps(value)
    try:
        json.loads(value)
    except json.JSONDecodeError:
        return value
    return json.dumps(value)


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass that is only rules: nine passes in ten need no `run`."""

    rules: ClassVar[RuleSet]

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        return rewrite_result(self.rules.apply(graph), ctx)


def rewrite_result(stats: RewriteStats, ctx: PassContext) -> PassResult:
    """Record declined matches in the context and turn the counts into a result."""
    for name, why in stats.rejected.items():
        ctx.rejections.setdefault(name, {}).update(why)
    ctx.rules |= stats.tried
    return PassResult(bool(stats.applied), dict(stats.applied))


@dataclass(frozen=True)
class Repeat(Pass):
    """`[a,b]*` in text, `repeat: [a, b]` in YAML: the passes in turn, until a round changes nothing."""

    passes: tuple[Pass, ...] = ()
    max_rounds: int = 8

    name: ClassVar[str] = "repeat"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        total: dict[str, int] = {}
        changed = False
        for _ in range(self.max_rounds):
            again = False
            for p in self.passes:
                result = run_pass(p, graph, ctx)
                again |= result.changed
                for k, n in result.stats.items():
                    total[k] = total.get(k, 0) + n
            changed |= again
            if not again:
                break
        return PassResult(changed, total)

    def spec(self) -> str:
        return f"[{','.join(p.spec() for p in self.passes)}]*"

    def flat(self) -> Iterator[Pass]:
        for p in self.passes:
            yield from p.flat()


class Instrument(Protocol):
    """What an embedding tool hooks in: timing, dumping, verifying, progress."""

    def before(self, p: Pass, graph: Graph) -> None: ...
    def after(self, p: Pass, graph: Graph, result: PassResult, seconds: float) -> None: ...


@dataclass(frozen=True)
class PassRecord:
    """One line of the report: what ran, what it did, how long it took, how many nodes are left."""

    spec: str
    changed: bool
    stats: Mapping[str, int]
    seconds: float
    nodes_before: int
    nodes_after: int
    contract: Contract


def run_pass(p: Pass, graph: Graph, ctx: PassContext) -> PassResult:
    """Run one pass and keep the graph's facts. A crash is noted with the pass's name."""
    missing = p.requires - graph.facts
    if missing and p.name != "repeat":
        raise error("EC0210", f"pass {p.name} requires {sorted(missing)}, which does not hold")
    try:
        result = p.run(graph, ctx)
    except EdgecError:
        raise
    except Exception as e:
        e.add_note(f"while running pass {p.spec()!r}")
        raise
    for q in p.flat():
        graph.facts = (graph.facts - q.invalidates) | q.establishes
    return result


def _who_establishes(facts: frozenset[str], before: Pass) -> str:
    """Known passes, in the order facts need them."""
    from edgec.plugins import Registry

    found: list[str] = []
    left = set(facts)
    for name, known in sorted(Registry().passes().items()):
        if known.establishes & left and not known.requires - facts:
            found.append(name)
            left -= known.establishes
    if left:
        return f"add a pass that establishes {sorted(left)}"
    return f"put {','.join(found)} before {before.name}"


@dataclass
class PassManager:
    """Runs passes in the order given.

    `verify`: "none"; "structure": onnx's checker after every pass that changed something; "each": besides, the pass's
    contract on `ctx.samples` (both graphs are run; EC0801 names the pass and the first tensor that differs).
    """

    passes: Sequence[Pass]
    instruments: Sequence[Instrument] = ()
    verify: Literal["none", "structure", "each"] = "none"

    def check(self, facts: frozenset[str] = frozenset()) -> None:
        """Raise EC0210 for every pass whose required facts no earlier pass establishes."""
        flat = [q for p in self.passes for q in p.flat()]
        bad: list[Diagnostic] = []
        for i, p in enumerate(flat):
            missing = p.requires - facts
            if missing:
                later = [q.name for q in flat[i + 1 :] if q.establishes & missing]
                hint = f"move {later[0]} before {p.name}" if later else _who_establishes(missing, p)
                message = f"pass {p.name} requires {sorted(missing)}, which no earlier pass establishes"
                bad.append(Diagnostic("EC0210", Severity.ERROR, message, hint=hint))
            facts = (facts - p.invalidates) | p.establishes
        if bad:
            raise EdgecError(*bad)

    def run(self, graph: Graph, ctx: PassContext | None = None) -> list[PassRecord]:
        """Run all passes on `graph`, in place. Returns one record a pass."""
        ctx = ctx or PassContext()
        self.check(graph.facts)
        records: list[PassRecord] = []
        nodes = sum(1 for _ in graph.nodes())
        for p in self.passes:
            for i in self.instruments:
                i.before(p, graph)
            before = graph.clone() if self.verify == "each" else None
            start = time.perf_counter()
            result = run_pass(p, graph, ctx)
            seconds = time.perf_counter() - start
            if self.verify != "none" and result.changed:
                graph.verify()
            if before is not None and result.changed:
                from edgec.contracts import check_contract

                check_contract(p, before, graph, ctx)
            for i in self.instruments:
                i.after(p, graph, result, seconds)
            left = sum(1 for _ in graph.nodes()) if result.changed else nodes
            records.append(PassRecord(p.spec(), result.changed, result.stats, seconds, nodes, left, p.contract))
            nodes = left
        return records
