"""Where Q/DQ go: decided from the target's scheme before anything runs, changed by nobody afterwards.

Nodes are visited in execution order. An op that computes (Conv, MatMul) asks for its inputs in integers; an op that
follows (pooling, data movement, additions) is quantised only where something it reads is quantised already: otherwise it
would gain nothing. Nor is it where no op that computes comes after it: the tail stays in float. Units are one kernel: the rule of the main node applies to what enters and leaves.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgec.graph import Graph, constant, ir, is_constant, static_shape
from edgec.quantization.marks import is_float, known_range
from edgec.quantization.params import limits
from edgec.quantization.wide import wide_scheme
from edgec.specs.conditions import Setting, applies
from edgec.specs.scheme import Fixed, OpRule, QuantKind, Scheme
from edgec.units import Units, find_units

Use = tuple[ir.Node, int]
"""A node, and which of its inputs."""

Bounds = tuple[float, float]


@dataclass
class ActivationSite:
    """One value stored in integers. `uses`: who reads it stored; None: everybody does.

    `fixed` and `range` say the same of all values of a group: what a target prescribes, what is known without data.
    """

    kind: QuantKind
    group: int
    fixed: Fixed | None = None
    range: tuple[float, float] | None = None
    uses: set[Use] | None = field(default_factory=set)


@dataclass(frozen=True)
class WeightSite:
    """One constant input stored in integers; `axis` as the kind's `per` wants it, counted from the front.

    `like`: the activation whose parameters it takes; None: it has its own.
    """

    node: ir.Node
    input: int
    kind: QuantKind
    axis: int | None
    block_axis: int | None = None
    like: str | None = None


@dataclass(frozen=True)
class BiasSite:
    """A bias in int32, whose scale is that of the input times that of the weight."""

    node: ir.Node
    input: int
    activation: int
    weight: int


@dataclass(frozen=True)
class RescaleSite:
    """An input that is stored again, with the parameters of the activation `like`: those of `value` itself are
    prescribed, and the op that reads it takes one scale for all. In the graph: Q -> DQ -> Q -> DQ, the second pair for
    these readers only; a target has one op for the DQ and Q in the middle (TFLite: QUANTIZE).
    """

    node: ir.Node
    input: int
    value: str
    like: str


@dataclass
class Conversion:
    """A stored value as some nodes read it: in other bits than it has. `like`: the value whose parameters it gets."""

    value: str
    kind: QuantKind
    uses: set[Use]
    like: str | None = None


@dataclass
class Plan:
    """Activations by value name, in the order values are computed. `groups`: values that must have equal parameters."""

    activations: dict[str, ActivationSite] = field(default_factory=dict)
    conversions: list[Conversion] = field(default_factory=list)
    weights: list[WeightSite] = field(default_factory=list)
    biases: list[BiasSite] = field(default_factory=list)
    rescaled: list[RescaleSite] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    quantized: list[str] = field(default_factory=list)
    """Names of the nodes that compute on integers."""
    wide: dict[str, str] = field(default_factory=dict)
    """Of these those with activations in more bits than the scheme's, and the element type."""

    @property
    def groups(self) -> list[list[str]]:
        """Value names by group, in order."""
        out: dict[int, list[str]] = {}
        for name, site in self.activations.items():
            out.setdefault(site.group, []).append(name)
        return list(out.values())

    def merge(self, names: Collection[str]) -> None:
        """Give these values one group."""
        members = [self.activations[n] for n in names]
        if not members:
            return
        target = min(s.group for s in members)
        old = {s.group for s in members}
        for site in self.activations.values():
            if site.group in old:
                site.group = target

    def share(self, out: str, inputs: Collection[str], constants: Bounds | None = None) -> list[str]:
        """One group for an op's inputs and output. Returns the inputs that are left out: their scale is prescribed, and
        others, or constants outside of it (`constants`: their extremes), must not be squeezed into it.
        """
        sites = {n: self.activations[n] for n in inputs}
        fixed = {s.fixed for s in sites.values()}
        first = next(iter(fixed), None)
        if len(fixed) == 1 and first is not None and self._holds(out, first, constants):
            self.merge([out, *sites])
            self.activations[out].fixed = first
            return []
        free = [n for n, s in sites.items() if s.fixed is None]
        known = [r for n in free if (r := sites[n].range) is not None]
        self.merge([out, *free])
        hull = None
        if known and len(known) == len(sites):  # known without calibration, and nothing else comes in
            known += [constants] if constants is not None else []
            hull = min(r[0] for r in known), max(r[1] for r in known)
        if hull is not None and not all(map(math.isfinite, hull)):
            hull = None
        for site in self.activations.values():
            if site.group == self.activations[out].group:
                site.range = hull
        return [n for n, s in sites.items() if s.fixed is not None]

    def _holds(self, name: str, fixed: Fixed, bounds: Bounds | None) -> bool:
        """Whether a prescribed scale reaches as far as `bounds`, to a step."""
        if bounds is None:
            return True
        low, high = (q - fixed.zero_point for q in limits(self.activations[name].kind))
        return (low - 1) * fixed.scale <= bounds[0] and bounds[1] <= (high + 1) * fixed.scale


def make_plan(
    graph: Graph,
    scheme: Scheme,
    setting: Setting,
    *,
    keep: Mapping[str, str] | Collection[str] = (),
    wide: Collection[str] = (),
    taken: Collection[str] = (),
) -> Plan:
    """Decide what of `graph` is stored in integers.

    `keep`: nodes (by name, or by the name of their first output) that stay in float, with the reason where it is a
    mapping. `wide`: nodes that read and write what `scheme.wide` says, where it has a rule for them; what follows only
    them does so too, and other bits are converted where they meet. `taken`: values that are quantised already.
    """
    reasons = dict(keep) if isinstance(keep, Mapping) else dict.fromkeys(keep, "kept in float as asked")
    return _Planner(graph, scheme, setting, reasons, frozenset(wide), frozenset(taken)).plan()


def node_name(node: ir.Node) -> str:
    """What a node is called in plans, tables and options: its name, or its first output's."""
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


class _Planner:
    def __init__(
        self,
        graph: Graph,
        scheme: Scheme,
        setting: Setting,
        keep: dict[str, str],
        wide: frozenset[str],
        taken: frozenset[str],
    ) -> None:
        self.graph, self.scheme, self.setting = graph, scheme, setting
        self.keep, self.wide, self.taken = keep, wide, taken
        self.wide_scheme = wide_scheme(scheme) if wide else None
        self.units: Units = find_units(graph, scheme.units, setting)
        self.made = Plan()
        self.position = {n: i for i, n in enumerate(graph.model.graph)}
        self._reads: dict[ir.Value, bool] = {}
        self.stored: set[str] = set()  # values whose every reader gets them stored

    def plan(self) -> Plan:
        static = self.scheme.mode == "static"
        for kernel in self._kernels():
            rule = self._rule(kernel)
            if rule is None:
                continue
            if static:
                self._activations(kernel, rule)
            elif rule.weight is not None and self._constant(kernel.main, rule.weight):
                self._weight(kernel.main, rule)
        if self.scheme.one_pair:
            self._join()
        for site in self.made.activations.values():
            if site.uses is not None and not site.uses:
                raise AssertionError("a site nobody reads")  # every call of _ask names a reader
        order = {v.name: i for i, v in enumerate(self._values())}
        self.made.activations = dict(sorted(self.made.activations.items(), key=lambda item: order[item[0]]))
        return self.made

    def _values(self) -> Iterator[ir.Value]:
        """Values of the main graph in execution order."""
        yield from self.graph.inputs
        for node in self.graph.model.graph:
            yield from node.outputs

    def _kernels(self) -> Iterator[_Kernel]:
        """Units and single nodes of the main graph; a unit stands where its last node does."""
        for node in self.graph.model.graph:
            unit = self.units.of.get(node)
            if unit is None:
                yield _Kernel(node, (node,))
            elif unit.nodes[-1] is node:
                yield _Kernel(unit.main, unit.nodes)

    def _rule(self, kernel: _Kernel) -> OpRule | None:
        rule = self.scheme.rule(kernel.main, self.setting)
        if rule is None or any(is_float(n) for n in kernel.nodes):
            return None
        for node in kernel.nodes:
            for name in _names(node):
                if name in self.keep:
                    self.made.kept[node_name(kernel.main)] = self.keep[name]
                    return None
        exempt = self.scheme.why_exempt(kernel.main, self.setting)
        if exempt is not None:
            self.made.kept[node_name(kernel.main)] = exempt
            return None
        return rule

    def _wide_rule(self, kernel: _Kernel, rule: OpRule, inputs: list[Use]) -> OpRule | None:
        """The other rule of a kernel that gets more bits: it is named, or follows and reads nothing else."""
        if self.wide_scheme is None:
            return None
        named = any(name in self.wide for node in kernel.nodes for name in _names(node))
        if not named and not (rule.follow and all(self._is_wide(_read(u)) for u in inputs)):
            return None
        found = self.wide_scheme.rule(kernel.main, self.setting)
        kind = (found.activations or self.wide_scheme.activations) if found is not None else None
        if found is None or kind is None:
            return None
        self.made.wide[node_name(kernel.main)] = kind.dtype
        return found.model_copy(update={"activations": kind})

    def _is_wide(self, v: ir.Value) -> bool:
        assert self.wide_scheme is not None  # callers look
        kind, site = self.wide_scheme.activations, self.made.activations.get(v.name or "")
        return v.name in self.stored and site is not None and kind is not None and site.kind.dtype == kind.dtype

    def _activations(self, kernel: _Kernel, rule: OpRule) -> None:
        node = kernel.main
        uses = list(self._inputs(kernel, rule))
        inputs = [u for u in uses if not is_constant(_read(u))]
        if any(_read(u).name in self.taken for u in inputs) or not inputs:
            return
        follows = rule.follow and not self.scheme.whole
        if follows and not any(_read(u).name in self.stored for u in inputs):
            return
        if follows and not any(self._read_stored(v) for v in kernel.nodes[-1].outputs):
            return  # nobody goes on in integers: the tail of a network keeps its precision
        if any(not _float(_read(u)) for u in inputs):
            return
        if rule.weight is not None and not self._constant(node, rule.weight):
            inputs.append((node, rule.weight))  # a product of two activations
        if rule.skip_only and len(inputs) == 2:
            inputs = self._skip(inputs)
        refused = next((p for u in inputs if (p := self._keeps_float(_read(u))) is not None), None)
        if refused is not None:
            reason = f"reads {node_name(refused)}, and {refused.op_type} must not be stored on both sides"
            self.made.kept[node_name(node)] = reason
            return
        if not inputs:
            return
        rule = self._wide_rule(kernel, rule, inputs) or rule
        kind = rule.activations or self.scheme.activations
        assert kind is not None  # static schemes have activations
        like = kernel.nodes[-1].outputs[0].name if rule.share and rule.outputs != "never" else None
        for use in inputs:
            self._ask(use, kind, like)
        self.made.quantized.append(node_name(node))
        if rule.weight is not None and self._constant(node, rule.weight):
            self._weight(node, rule)
        if rule.bias is not None and self._constant(node, rule.bias) and self.scheme.bias == "int32":
            first = rule.inputs[0] if isinstance(rule.inputs, tuple) and rule.inputs else 0
            if rule.weight is not None and self._constant(node, rule.weight) and _is_bias(node.inputs[rule.bias]):
                self.made.biases.append(BiasSite(node, rule.bias, first, rule.weight))
        constants = [u for u in uses if is_constant(_read(u)) and u[1] not in (rule.weight, rule.bias)]
        self._outputs(kernel, rule, kind, inputs, constants)
        out = kernel.nodes[-1].outputs[0].name
        like = out if rule.share and out in self.made.activations else None
        self.made.weights += [WeightSite(*u, replace_kind(kind), None, like=like) for u in constants]

    def _outputs(self, kernel: _Kernel, rule: OpRule, kind: QuantKind, inputs: list[Use], constants: list[Use]) -> None:
        if rule.outputs == "never":
            return
        for v in kernel.nodes[-1].outputs:
            if not v.name or not (v.uses() or v.is_graph_output()) or not _float(v):
                continue
            if rule.outputs == "if_read" and not self._read_stored(v):
                continue
            site = self._site(v, kind)
            site.uses = None
            site.fixed = rule.fixed or site.fixed
            site.range = rule.range or site.range
            self.stored.add(v.name)
            if rule.share:
                self._share(v.name, inputs, _extremes(kernel.main, constants))

    def _share(self, out: str, inputs: list[Use], constants: Bounds | None) -> None:
        sites = self.made.activations
        names = [n for u in inputs if (n := _read(u).name) in sites]
        if self.wide_scheme is not None:  # in other bits, it is converted
            names = [n for n in names if n is not None and sites[n].kind.dtype == sites[out].kind.dtype]
        for name in self.made.share(out, [n for n in names if n is not None], constants):
            for node, i in inputs:
                done = any(r.node is node and r.input == i for r in self.made.rescaled)  # ops with several outputs
                if _read((node, i)).name == name and not done:
                    self.made.rescaled.append(RescaleSite(node, i, name, out))

    def _join(self) -> None:
        """Let ops that follow read the pair that stands before another reader: the value is then written once. Not in the
        tail: what no kernel in integers comes after keeps its precision. What they put out shares the scale where rules say so.
        """
        goes_on: set[ir.Node] = set()
        quantized = set(self.made.quantized)
        for node in reversed(self.graph.model.graph):
            readers = [n for v in node.outputs for n, _ in v.uses()]
            if any(n in goes_on or node_name(n) in quantized for n in readers):
                goes_on.add(node)
        for kernel in self._kernels():
            rule = self.scheme.rule(kernel.main, self.setting)
            if rule is None or not rule.follow or kernel.main not in goes_on or self._rule(kernel) is None:
                continue
            joined, others = [], []
            for use in self._inputs(kernel, rule):
                site = self.made.activations.get(_read(use).name or "")
                if site is not None and site.uses is not None:
                    site.uses.add(use)
                    joined.append(use)
                else:
                    others.append(use)
            out = kernel.nodes[-1].outputs[0].name or ""
            if rule.share and out in self.made.activations:
                self._share(out, joined, _extremes(kernel.main, others))

    def _skip(self, uses: list[Use]) -> list[Use]:
        """The skip input of a residual addition: the one that the convolution which runs last before it does not put out.
        Both where an activation is between: the addition is a kernel of its own then.
        """
        if not any(self._computed(_read(u)) for u in uses):
            return []  # nothing is in integers around here
        direct = [u for u in uses if self._computed(_read(u), directly=True)]
        last = max(direct, key=lambda u: self.position[_producer(_read(u))], default=None)
        return [u for u in uses if u is not last]

    def _keeps_float(self, v: ir.Value) -> ir.Node | None:
        """The node that computes the value, where it reads stored values and must then not write any."""
        producer = v.producer()
        if producer is None or producer in self.units.of:
            return None
        key = f"{producer.domain}::{producer.op_type}" if producer.domain else producer.op_type
        for entry in self.scheme.float_ops.get(key, ()):
            if entry.when is None or applies(entry.when, producer, self.setting) is True:
                return producer if any(x is not None and x.name in self.stored for x in producer.inputs) else None
        return None

    def _read_stored(self, v: ir.Value) -> bool:
        """Whether a kernel that asks for integers by itself reads the value, directly or through ops that follow."""
        if v not in self._reads:
            self._reads[v] = False  # until known; graphs have no cycles
            self._reads[v] = self._looks_stored(v)
        return self._reads[v]

    def _looks_stored(self, v: ir.Value) -> bool:
        for user, _ in v.uses():
            unit = self.units.of.get(user)
            main = unit.main if unit is not None else user
            rule = self.scheme.rule(main, self.setting)
            if rule is None or node_name(main) in self.keep or self.scheme.why_exempt(main, self.setting):
                continue
            if not rule.follow or self.scheme.whole:
                return True
            last = unit.nodes[-1] if unit is not None else user
            if any(self._read_stored(out) for out in last.outputs):
                return True
        return False

    def _computed(self, v: ir.Value, directly: bool = False) -> bool:
        """Whether a quantised kernel with a weight computes the value; `directly`: without an activation after it."""
        producer = v.producer()
        if producer is not None and producer.op_type == "BatchNormalization":
            producer = _read((producer, 0)).producer()  # becomes part of the kernel
        if producer is None:
            return False
        unit = self.units.of.get(producer)
        main = unit.main if unit is not None else producer
        if directly and main is not producer:
            return False
        rule = self.scheme.rule(main, self.setting)
        return rule is not None and rule.weight is not None and node_name(main) in self.made.quantized

    def _inputs(self, kernel: _Kernel, rule: OpRule) -> Iterator[Use]:
        """The activations that enter: those the rule lists at the main node, and what other nodes of the unit read."""
        inner = {v for n in kernel.nodes for v in n.outputs}
        for node in kernel.nodes:
            for i, v in enumerate(node.inputs):
                if v is None or v in inner:
                    continue
                if node is kernel.main:
                    if rule.inputs == "all" or i in rule.inputs:
                        yield node, i
                elif _float(v) and not is_constant(v):
                    yield node, i

    def _ask(self, use: Use, kind: QuantKind, like: str | None = None) -> None:
        name, site = _read(use).name or "", self._site(_read(use), kind)
        if site.kind.dtype != kind.dtype and self.wide_scheme is not None:
            if site.uses is None or not self._wider(kind, site.kind):
                self._convert(name, kind, {use}, like)
                return
            self._convert(name, site.kind, site.uses, None)  # nobody stores it before: the wider kind is the value's
            site.kind, site.uses = kind, set()
        if site.uses is not None:
            site.uses.add(use)

    def _wider(self, a: QuantKind, b: QuantKind) -> bool:
        from edgec.quantization.params import LIMITS

        (low, high), (lower, higher) = LIMITS[a.dtype], LIMITS[b.dtype]
        return high - low > higher - lower

    def _convert(self, name: str, kind: QuantKind, uses: set[Use], like: str | None) -> None:
        for c in self.made.conversions:
            if (c.value, c.kind.dtype, c.like) == (name, kind.dtype, like):
                c.uses |= uses
                return
        self.made.conversions.append(Conversion(name, kind, set(uses), like))

    def _site(self, v: ir.Value, kind: QuantKind) -> ActivationSite:
        name = v.name or ""
        if name not in self.made.activations:
            self.made.activations[name] = ActivationSite(kind, len(self.made.activations), range=known_range(v))
        return self.made.activations[name]

    def _weight(self, node: ir.Node, rule: OpRule) -> None:
        assert rule.weight is not None  # callers ask
        kind = rule.weights or self.scheme.weights
        shape = static_shape(node.inputs[rule.weight])
        rank = len(shape) if shape is not None else 0
        axis = rule.axis % rank if rule.axis is not None and rank and kind.per != "tensor" else None
        block = rule.block_axis % rank if rule.block_axis is not None and rank and kind.per == "block" else None
        self.made.weights.append(WeightSite(node, rule.weight, kind, axis, block))

    def _constant(self, node: ir.Node, i: int) -> bool:
        return i < len(node.inputs) and is_constant(node.inputs[i])


@dataclass(frozen=True)
class _Kernel:
    """A unit, or a node of its own."""

    main: ir.Node
    nodes: tuple[ir.Node, ...]


def _names(node: ir.Node) -> set[str | None]:
    return {node.name, *(v.name for v in node.outputs)} - {None, ""}


def replace_kind(kind: QuantKind) -> QuantKind:
    """The kind for a constant read where an activation is expected: stored the same way, for the tensor as a whole."""
    return kind.model_copy(update={"per": "tensor", "block": None})


def _extremes(node: ir.Node, constants: list[Use]) -> Bounds | None:
    """The smallest and largest number that constants bring in: those read beside activations, and what Pad fills with."""
    found = [_read(u) for u in constants]
    if node.op_type == "Pad" and len(node.inputs) > 2 and node.inputs[2] is not None:
        found.append(node.inputs[2])
    if any(not is_constant(v) for v in found):
        return -math.inf, math.inf
    data = [np.asarray(constant(v)) for v in found]
    data = [d for d in data if d.size]
    return (min(float(d.min()) for d in data), max(float(d.max()) for d in data)) if data else None


def _read(use: Use) -> ir.Value:
    value = use[0].inputs[use[1]]
    assert value is not None  # uses are made of inputs that are given
    return value


def _is_bias(v: ir.Value | None) -> bool:
    """Whether a constant is one number for each output channel (or for all), in float32: half precision has no scales
    as small as those of sums.
    """
    shape = static_shape(v)
    if v is None or v.dtype is not ir.DataType.FLOAT or shape is None:
        return False
    return math.prod(shape) == (shape[-1] if shape else 1)


def _producer(v: ir.Value) -> ir.Node:
    producer = v.producer()
    assert producer is not None  # of what a kernel computes
    return producer


def _float(v: ir.Value) -> bool:
    return v.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
