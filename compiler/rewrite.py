"""Rewrite rules and the engine that applies them to a fixed point.

    @rule(P.Relu(P.Conv(x, w, as_="conv")))
    def conv_relu(m: Match, rw: Rewriter) -> Result:
        if ...: return Reject("the weight is per-group")     # shown by `--why-not conv-relu`
        return rw.op("ConvRelu", m.value("x"), m.value("w"), domain="com.acme")

A rule never touches the graph: it builds new nodes through the `Rewriter` and returns what takes the old value's place.
The engine guarantees that the model's inputs and outputs keep their names and types, that no name is reused, that new
nodes say which rule made them from which nodes of the source model, and that it ends.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostic, EdgecError, Severity
from edgec.graph import Graph, bodies, discard, ir
from edgec.infer import infer_node
from edgec.pattern import Match, NodePattern, match

RULE_KEY, FROM_KEY = "edgec.rule", "edgec.from"
"""Keys in a node's `metadata_props`: the rule that made it, and the source nodes it stands for, one name a line."""

_FROM_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a structural match was not rewritten. Shown by `--why-not RULE`."""

    reason: str


Result = ir.Value | Sequence[ir.Value | None] | Mapping[ir.Value, ir.Value] | Reject
"""What a rule returns: the value that replaces the root's (first) output; one for each of the root's outputs (None
keeps an unused one); or a mapping from any old values to new ones."""

RewriteFn = Callable[[Match, "Rewriter"], Result]


class Rewriter:
    """Builds replacement nodes. The only way a rule touches the graph, and only once the rule has accepted."""

    def __init__(self, graph: Graph, root: ir.Node) -> None:
        self.graph = graph
        self.opset = graph.opset
        self.root = root
        self.new: list[ir.Node] = []
        self._weights: list[ir.Value] = []

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        attrs: Mapping[str, Any] | None = None,
        domain: str = "",
        like: ir.Value | None = None,
    ) -> ir.Value:
        """A node with one output. Type and shape are inferred by ONNX's rules, or taken from `like`."""
        return self.ops(op_type, *inputs, attrs=attrs, domain=domain, outputs=1, like=like)[0]

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        attrs: Mapping[str, Any] | None = None,
        domain: str = "",
        outputs: int,
        like: ir.Value | None = None,
    ) -> Sequence[ir.Value]:
        """A node with several outputs."""
        node = ir.node(op_type, list(inputs), attributes=dict(attrs or {}), domain=domain, num_outputs=outputs)
        self.new.append(node)
        if like is not None:
            node.outputs[0].type, node.outputs[0].shape = like.type, like.shape
        elif not all(v.dtype is not None and v.shape is not None for v in node.outputs):
            infer_node(node, self.opset)
        return node.outputs

    def const(self, array: npt.NDArray[Any] | np.generic, hint: str) -> ir.Value:
        """A weight. `hint` begins its name."""
        data = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
        name = self.graph.fresh(hint)
        tensor = ir.tensor(data, name=name)
        value = ir.Value(name=name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._weights.append(value)
        return value

    def scalar(self, number: float, like: ir.Value, hint: str) -> ir.Value:
        """A 0-d weight in the dtype of `like`."""
        dtype = like.dtype.numpy() if like.dtype is not None else np.dtype(np.float32)
        return self.const(np.asarray(number, dtype), hint)

    def commit_weights(self) -> None:
        for w in self._weights:
            if w.uses():
                self.graph.model.graph.register_initializer(w)


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    pattern: NodePattern
    rewrite: RewriteFn
    location: str  # file:line of the declaration

    def __str__(self) -> str:
        return f"{self.name}: {self.pattern}"


def rule(pattern: NodePattern, *, name: str | None = None) -> Callable[[RewriteFn], Rule]:
    """Declare a rule. Its name is the function's, with dashes, unless given."""
    frame = sys._getframe(1)
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"

    def wrap(fn: RewriteFn) -> Rule:
        return Rule(name or fn.__name__.strip("_").replace("_", "-"), pattern, fn, where)

    return wrap


@dataclass
class RewriteStats:
    """What happened: rule name -> times applied; rule name -> {node: reason} for declined matches."""

    applied: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    tried: set[str] = field(default_factory=set)
    """Names of the rules, whether they matched or not."""


class RuleSet:
    """Rules indexed by the op of their root, applied to a fixed point. `a + b` concatenates; earlier rules win."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._by_op: dict[tuple[str, str], list[Rule]] = defaultdict(list)
        for r in self.rules:
            for op in r.pattern.ops:
                self._by_op[r.pattern.domain, op].append(r)

    def __add__(self, other: RuleSet) -> RuleSet:
        return RuleSet((*self.rules, *other.rules))

    def apply(self, graph: Graph) -> RewriteStats:
        """Rewrite until no rule matches.

        Every rewrite costs one unit of a budget that grows with the graph, so rules that undo each other end in an
        error that names them (EC0302), never in an endless loop.
        """
        stats = RewriteStats(tried={r.name for r in self.rules})
        budget: int | None = None
        changed = True
        while changed:
            changed = False
            for g in list(graph.graphs()):
                unordered = False
                for node in g:
                    for r in self._by_op.get((node.domain, node.op_type), ()):
                        outcome = _try(r, node, graph, stats)
                        if outcome is None:
                            continue
                        changed = True
                        unordered |= outcome
                        if budget is None:
                            budget = 1000 + 8 * sum(1 for _ in graph.nodes())
                        budget -= 1
                        if budget < 0:
                            raise _endless(stats)
                        break
                if unordered:
                    g.sort()
        if stats.applied:
            graph.remove_dead()
        return stats


def _endless(stats: RewriteStats) -> EdgecError:
    counts = ", ".join(f"{name} ({n}x)" for name, n in stats.applied.most_common(4))
    return EdgecError(
        Diagnostic(
            "EC0302",
            Severity.ERROR,
            f"rewrite rules undo each other without end: {counts}",
            hint="run these rules in separate passes, or let one of them reject what the other makes",
        )
    )


def _try(r: Rule, node: ir.Node, graph: Graph, stats: RewriteStats) -> bool | None:
    """Apply one rule to one node. None: it did not apply. True: nodes may now be out of order."""
    m = match(r.pattern, node)
    if m is None:
        return None
    rw = Rewriter(graph, node)
    result = r.rewrite(m, rw)
    if isinstance(result, Reject):
        for new in rw.new:  # free the values they use
            for i in range(len(new.inputs)):
                new.replace_input_with(i, None)
        stats.rejected[r.name][node.name or (node.outputs[0].name or "?")] = result.reason
        return None
    mapping = _as_mapping(result, node)
    if _is_alias(node, mapping):
        stats.rejected[r.name][node.name or (node.outputs[0].name or "?")] = (
            "the model's output needs a name of its own"
        )
        return None
    stats.applied[r.name] += 1
    return _replace(graph, r, m, rw, mapping)


def _is_alias(root: ir.Node, mapping: dict[ir.Value, ir.Value]) -> bool:
    """Whether `root` is just the Identity that replacing it would need: two public names of one value."""
    if root.op_type != "Identity" or root.domain != "" or len(mapping) != 1:
        return False
    ((old, new),) = mapping.items()
    return old.is_graph_output() and new is root.inputs[0] and not _heir(old, new)


def _heir(old: ir.Value, new: ir.Value) -> bool:
    """Whether the existing value `new` can take the public name of `old`."""
    return not _public(new) and new.producer() is not None and new.graph is old.graph


def _as_mapping(result: Any, root: ir.Node) -> dict[ir.Value, ir.Value]:
    if isinstance(result, Mapping):
        return dict(result)
    if isinstance(result, ir.Value):
        return {root.outputs[0]: result}
    return {old: new for old, new in zip(root.outputs, result, strict=True) if new is not None}


def provenance(nodes: Iterable[ir.Node]) -> str:
    """Names of the source-model nodes that `nodes` stand for, one a line, at most 64."""
    names: dict[str, None] = {}
    for n in nodes:
        names.update(dict.fromkeys((n.metadata_props.get(FROM_KEY) or n.name or "?").split("\n")))
    return "\n".join([*names][:_FROM_LIMIT])


def _replace(graph: Graph, r: Rule, m: Match, rw: Rewriter, mapping: dict[ir.Value, ir.Value]) -> bool:
    """Put the new values where the old ones were. The model's inputs and outputs keep their names, always.

    Returns whether nodes may now stand before what they read.
    """
    owner = m.root.graph
    assert owner is not None  # the engine visits nodes of graphs only
    source = provenance(m.nodes)
    made = set(rw.new)
    heirs: set[ir.Value] = set()  # new values that take a public name: each can take only one
    for old, new in list(mapping.items()):
        if new is old:
            del mapping[old]
            continue
        inherits = new not in heirs and (new.producer() in made or (old.is_graph_output() and _heir(old, new)))
        if old.is_graph_output() and not inherits:  # two public names must not become one
            rw.new.append(ir.node("Identity", [new]))
            new = mapping[old] = rw.new[-1].outputs[0]
            made.add(rw.new[-1])
            inherits = True
        if new.type is None or (old.is_graph_output() and inherits):
            new.type = old.type or new.type
        if new.shape is None or (old.is_graph_output() and inherits and old.shape is not None):
            new.shape = old.shape
        if old.is_graph_output():
            heirs.add(new)
    for n in rw.new:
        n.metadata_props[RULE_KEY] = r.name
        n.metadata_props[FROM_KEY] = source
    _name(rw.new, mapping, graph)
    anchor, unordered = m.root, False
    if any(old.producer() is not m.root for old in mapping):
        anchor, unordered = _first(owner, {p for v in mapping if (p := v.producer())}), True
    owner.insert_after(anchor, rw.new)
    for old, new in mapping.items():
        public, name = old.is_graph_output(), old.name
        old.replace_all_uses_with(new, replace_graph_outputs=public)
        if public or (new.producer() in made and name and new not in heirs):
            old.name = None
            new.name = name
    rw.commit_weights()
    _remove_unused(m.nodes, [body for n in rw.new for body in bodies(n)])
    return unordered


def _name(nodes: list[ir.Node], mapping: Mapping[ir.Value, ir.Value], graph: Graph) -> None:
    """Name what the rule left unnamed, before onnx-ir does: its names may collide with those of other subgraphs."""
    stem = next((v.name for v in mapping if v.name), "t")
    for n in nodes:
        for i, v in enumerate(n.outputs):
            v.name = v.name or graph.fresh(f"{stem}.{n.op_type}{i or ''}")
        n.name = n.name or graph.fresh(f"{n.outputs[0].name}/{n.op_type}")


def _public(v: ir.Value) -> bool:
    return v.is_graph_output() or v.is_graph_input() or v.is_initializer()


def _first(owner: ir.Graph | ir.Function, nodes: set[ir.Node]) -> ir.Node:
    return next(n for n in owner if n in nodes)


def _remove_unused(nodes: list[ir.Node], keep: list[ir.Graph]) -> None:
    """Remove those nobody uses any more. `keep`: subgraphs that now belong to new nodes."""
    left = nodes
    while left:
        dead = [n for n in left if not any(v.uses() or v.is_graph_output() for v in n.outputs)]
        for n in dead:
            if n.graph is not None:
                discard(n, keep)
        left = [n for n in left if n not in dead] if dead else []
