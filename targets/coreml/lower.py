"""ONNX -> MIL: the whole graph. Rules lower the nodes; here is what holds them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import edgec.targets.coreml.ops as _families
from edgec.diagnostics import Diagnostic, Diagnostics, EdgecError, Location, Severity
from edgec.graph import Graph, ir, is_constant
from edgec.targets.coreml.builder import Builder
from edgec.targets.coreml.interface import Interface, Port
from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.program import Dim, Operation, Program, Value
from edgec.targets.coreml.rules import RULES, SYSTEMS, LoweringRule
from edgec.targets.reading.node import Refused
from edgec.targets.reading.windows import Contradiction

_BRANCHES = frozenset({"If", "Loop", "Scan"})


def no_rule_hint(op: str) -> str:
    """What to do about an op without a rule."""
    if op in _BRANCHES:
        return "where shapes decide it, --input-shape settles it before; Core ML gets no control flow"
    return "docs/coreml.md lists the ops there are; a pass of your own may say it with those"


_MAX_RANK = 5
"""coremltools refuses tensors of more axes."""


@dataclass(eq=False)
class LoweredProgram:
    """The program, and how its features hold the ONNX model's inputs and outputs."""

    program: Program
    interface: Interface


def lower(graph: Graph, target: str = "iOS17", diagnostics: Diagnostics | None = None) -> LoweredProgram:
    """Write every node of the main graph in MIL operations that `target` (of SYSTEMS) runs.

    Raises:
        EdgecError: EC0677 no rule for an op; EC0678 a rule refused a node. All nodes at once.
    """
    _families.load()
    return _Lowering(graph, target, diagnostics or Diagnostics()).run()


@dataclass(eq=False)
class Attempt:
    """What `lower` would make of a graph: `written` for each node it reaches, and `refused`, each with reason and hint.

    Nodes behind a refused one are in neither.
    """

    written: Mapping[ir.Node, Sequence[Operation]]
    refused: Mapping[ir.Node, tuple[str, str | None]]


def attempt(graph: Graph, target: str = SYSTEMS[-1]) -> Attempt:
    """Lower as far as it goes, for placement; nothing is raised."""
    _families.load()
    return _Lowering(graph, target, Diagnostics()).attempt()


class _Lowering:
    def __init__(self, graph: Graph, target: str, diagnostics: Diagnostics) -> None:
        self.graph, self.diagnostics = graph, diagnostics
        self.builder = Builder(target)
        self.errors: list[Diagnostic] = []

    def run(self) -> LoweredProgram:
        b, main = self.builder, self.graph.model.graph
        self._all_have_rules()
        inputs = self._inputs()
        broken = {v for v in self.graph.inputs if not b.known(v)}
        for node in main:
            if any(v in broken for v in node.inputs if v is not None) or not self._lower(node):
                broken.update(node.outputs)
        if self.errors:
            raise EdgecError(*self.errors)
        outputs = [p for v in self.graph.outputs if (p := self._guarded(_output, v)) is not None]
        if self.errors:
            raise EdgecError(*self.errors)
        b.program.operations[:] = _needed(b.program.operations, b.program.outputs)
        return LoweredProgram(b.program, Interface(inputs, outputs))

    def attempt(self) -> Attempt:
        self._inputs()
        broken = {v for v in self.graph.inputs if not self.builder.known(v)}
        written: dict[ir.Node, Sequence[Operation]] = {}
        refused: dict[ir.Node, tuple[str, str | None]] = {}
        for node in self.graph.model.graph:
            start = len(self.builder.operations)
            if any(v in broken for v in node.inputs if v is not None):
                broken.update(node.outputs)
            elif node.domain or node.op_type not in RULES:
                refused[node] = ("no MIL operation says it", no_rule_hint(node.op_type))
                broken.update(node.outputs)
            elif self._lower(node):
                written[node] = self.builder.operations[start:]
            else:
                said = self.errors[-1]
                refused[node] = (said.message.removeprefix(f"{node.op_type}: "), said.hint)
                broken.update(node.outputs)
        return Attempt(written, refused)

    def _inputs(self) -> list[Port]:
        """The placeholders; those that cannot be are among the errors."""
        self.builder.reserve(self.graph.inputs)
        self.builder.reserve(v for node in self.graph.model.graph for v in node.outputs)
        return [p for v in self.graph.inputs if (p := self._guarded(_input, v)) is not None]

    def _all_have_rules(self) -> None:
        unknown: dict[str, list[str]] = {}
        for node in self.graph.model.graph:
            if node.domain or node.op_type not in RULES:
                op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
                unknown.setdefault(op, []).append(node.name or node.outputs[0].name or op)
        for op, names in unknown.items():
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            where = Location(self.graph.source, node=names[0])
            said = f"no MIL operation says {op}{more}"
            self.errors.append(Diagnostic("EC0677", Severity.ERROR, said, where, no_rule_hint(op)))
        if self.errors:
            raise EdgecError(*self.errors)

    def _lower(self, node: ir.Node) -> bool:
        """Whether the node could be said."""
        rule = RULES[node.op_type]
        n = NodeLowering(self.builder, node, rule)
        try:
            if not self.builder.at_least(rule.since):
                n.since(rule.since, node.op_type)
            _check(n, rule)
            rule.emit(n)
            n.finish()
        except (Refused, Contradiction) as e:
            hint = e.hint if isinstance(e, Refused) else "the model is not valid: export it again"
            self._refuse(f"{node.op_type}: {e}", node.name or node.op_type, hint)
            return False
        return True

    def _guarded(self, port: Callable[[Builder, ir.Value], Port], v: ir.Value) -> Port | None:
        try:
            return port(self.builder, v)
        except Refused as e:
            self._refuse(e.why, v.name or "", e.hint)
            return None

    def _refuse(self, what: str, node: str, hint: str | None) -> None:
        self.errors.append(Diagnostic("EC0678", Severity.ERROR, what, Location(self.graph.source, node=node), hint))


def _check(n: NodeLowering, rule: LoweringRule) -> None:
    """Element type of input 0, and axes of everything."""
    node = n.node
    if node.inputs and node.inputs[0] is not None and (dtype := n.dtype()) not in rule.dtypes and dtype not in rule.via:
        n.refuse(f"MIL has no {dtype} operation for it", f"it computes in {', '.join((*rule.dtypes, *rule.via))}")
    for v in (*node.inputs, *node.outputs):
        if v is not None and v.shape is not None and not is_constant(v) and 0 in v.shape:
            n.refuse(f"{v.name!r} has no elements, which Core ML has no tensors for")
        if v is not None and v.shape is not None and v.shape.rank() > _MAX_RANK:
            n.refuse(f"{v.name!r} has {v.shape.rank()} axes, and Core ML computes with up to {_MAX_RANK}")


# --- interface --------------------------------------------------------------------------------------------------------


def _input(b: Builder, v: ir.Value) -> Port:
    """A placeholder; scalars and bools, which Core ML does not take, come as [1] and int32."""
    shape, dtype = b.dims(v), b.dtype(v)
    outside = "int32" if dtype == "bool" else dtype
    value = Value(b.feature(v), shape or (1,), outside)
    b.program.inputs.append(value)
    inner = b.cast(value, dtype)
    if not shape:
        (inner,) = b.emit("squeeze", [((), dtype)], {"x": inner}, f"{value.name}_scalar")
    b.keep(v, inner)
    return _port(v, value, shape)


def _output(b: Builder, v: ir.Value) -> Port:
    """The value under its own name, written by an operation, in a type an app can read."""
    shape, inner = b.dims(v), b.value(v)
    outside = inner
    if not shape and inner.const is not None:
        outside = b.constant(inner.const.reshape(1), f"{inner.name}_one")
    elif not shape:
        one = np.ones(1, np.int32)
        (outside,) = b.emit("reshape", [((1,), inner.dtype)], {"x": outside, "shape": one}, f"{inner.name}_one")
    if outside.dtype not in ("fp16", "fp32", "int32"):
        outside = b.cast(outside, "int32")
    name = b.feature(v) if v in b.named else b.name(v.name or "output")
    written = outside.const is None and outside not in b.program.inputs and outside not in b.program.outputs
    if not written:
        (outside,) = b.emit("identity", [(outside.shape, outside.dtype)], {"x": outside}, f"{inner.name}_out")
    if outside.name != name:
        if inner.name == name:
            inner.name = b.name(f"{name}_inner")
        outside.name = name
    b.program.outputs.append(outside)
    return _port(v, outside, shape)


def _port(v: ir.Value, value: Value, shape: tuple[Dim, ...]) -> Port:
    assert v.dtype is not None  # `Builder.dtype` looked
    return Port(v.name or "", value.name, value.shape or (1,), value.dtype, shape, v.dtype.numpy().name)


def _needed(operations: Sequence[Operation], outputs: Sequence[Value]) -> list[Operation]:
    """Without operations whose results nobody reads."""
    live = set(outputs)
    kept = []
    for o in reversed(operations):
        if any(v in live for v in o.outputs):
            kept.append(o)
            live.update(o.reads())
    return kept[::-1]
