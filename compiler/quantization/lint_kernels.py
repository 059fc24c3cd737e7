"""The linter's rules about kernels: a node or a fused unit, what it reads and what it puts out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgec.diagnostics import Severity
from edgec.graph import Graph, ir, is_constant
from edgec.quantization.findings import Report
from edgec.quantization.pairs import Linear, is_linear, read_through, written_to
from edgec.specs.conditions import Setting, applies
from edgec.specs.scheme import OpRule, Scheme
from edgec.units import Unit, find_units


@dataclass(frozen=True)
class Kernel:
    """A unit, or a node of its own: nodes of the float view."""

    main: ir.Node
    nodes: tuple[ir.Node, ...]
    unit: Unit | None = None


class KernelRules:
    """Rules about kernels. `view` is the graph without its pairs, `of` what its nodes are in `stored`, with them."""

    def __init__(
        self, stored: Graph, view: Graph, of: dict[ir.Node, ir.Node], scheme: Scheme, setting: Setting, report: Report
    ) -> None:
        self.stored, self.view, self.of = stored, view, of
        self.scheme, self.setting = scheme, setting
        self.units = find_units(view, scheme.units, setting)
        self.add = report.add

    def kernels(self) -> Iterator[Kernel]:
        for node in self.view.nodes():
            unit = self.units.of.get(node)
            if is_linear(node):
                continue
            if unit is None:
                yield Kernel(node, (node,))
            elif unit.nodes[-1] is node:
                yield Kernel(unit.main, unit.nodes, unit)

    def check(self, kernel: Kernel, rule: OpRule | None) -> None:
        """Everything about one kernel and the rule of its main node."""
        if kernel.unit is not None:
            self._inside(kernel)
        if rule is None:
            self._without_rule(kernel)
        elif self.scheme.mode == "static":
            self._kernel(kernel, rule)
        else:
            self._weight_only(kernel, rule)

    def _inside(self, kernel: Kernel) -> None:
        made = {v: n for n in kernel.nodes for v in n.outputs}
        assert kernel.unit is not None  # callers ask
        for node in kernel.nodes:
            for i, v in enumerate(node.inputs):
                lin = read_through(self.of[node].inputs[i], self.stored.opset)
                if v is not None and v in made and lin is not None:
                    message = f"a pair inside {kernel.unit.spec.name}, between {made[v].op_type} and {node.op_type}"
                    hint = "put it after the whole unit: one kernel computes it, if nothing stands between"
                    self.add(lin.node, "unit", message, hint)

    def _without_rule(self, kernel: Kernel) -> None:
        for node in kernel.nodes:
            stored = self.of[node]
            reads = any(
                (lin := read_through(v, self.stored.opset)) is not None and not is_constant(lin.stored)
                for v in stored.inputs
            )
            if not reads or not any(written_to(v, self.stored.opset) for v in stored.outputs):
                continue
            key = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            for entry in self.scheme.float_ops.get(key, ()):
                if entry.when is None or applies(entry.when, node, self.setting) is True:
                    grave = Severity.ERROR if entry.fatal else Severity.WARNING
                    message = f"{key} is stored on both sides: {entry.reason}"
                    self.add(stored, "float-op", message, entry.hint or "leave one side in float", grave)
                    break
            else:
                if self.scheme.mode == "static":
                    message = f"{key} has no integer kernel: it computes in float between its pairs"
                    self.add(stored, "float-op", message, None, Severity.NOTE)

    def _reads(self, kernel: Kernel, rule: OpRule) -> list[tuple[ir.Node, int, Linear | None]]:
        """The computed inputs that the rule wants stored: node of the view, index, and the DQ where it is."""
        inner = {v for n in kernel.nodes for v in n.outputs}
        out = []
        for node in kernel.nodes:
            for i, v in enumerate(node.inputs):
                if (
                    v is None
                    or v in inner
                    or is_constant(v)
                    or (v.dtype is not None and not v.dtype.is_floating_point())
                ):
                    continue
                if node is not kernel.main or rule.inputs == "all" or i in rule.inputs:
                    out.append((node, i, read_through(self.of[node].inputs[i], self.stored.opset)))
        return out

    def _kernel(self, kernel: Kernel, rule: OpRule) -> None:
        main = self.of[kernel.main]
        reads = self._reads(kernel, rule)
        if rule.skip_only and len(reads) == 2:
            self._residual(kernel, reads)
            return
        have = [lin for _, _, lin in reads if lin is not None]
        if rule.weight is not None and is_constant(_at(kernel.main, rule.weight)):
            weight = read_through(main.inputs[rule.weight], self.stored.opset)
            exempt = self.scheme.why_exempt(kernel.main, self.setting)
            if exempt is not None:
                if have:
                    message = f"{main.op_type} is stored, and {self.scheme.name} leaves it in float: {exempt}"
                    self.add(main, "float-op", message, None, Severity.NOTE)
            elif not have and weight is None:
                self.add(
                    main, "missing", f"{main.op_type} is left in float; {self.scheme.name} computes it in integers"
                )
            elif not have or weight is None:
                what = "input" if not have else "weight"
                message = f"the {what} of {main.op_type} is not stored: it computes in float"
                self.add(main, "missing", message, f"quantise its {what} too", Severity.WARNING)
                return
        elif len(have) < len(reads) and have and not (rule.follow and self.scheme.one_pair):
            message = f"{main.op_type} reads some inputs stored, some in float: it computes in float"
            self.add(main, "missing", message, None, Severity.NOTE)
        if not reads or len(have) < len(reads):
            return
        self._out(kernel, rule, have)

    def _out(self, kernel: Kernel, rule: OpRule, have: list[Linear]) -> None:
        """What a kernel with stored inputs puts out."""
        main = self.of[kernel.main]
        written: list[Linear] = []
        for v in kernel.nodes[-1].outputs:
            stored = self.of[kernel.nodes[-1]].outputs[v.index() or 0]
            qs = written_to(stored, self.stored.opset)
            written += qs
            used = stored.uses() or stored.is_graph_output()
            if rule.outputs == "always" and not rule.follow and used and not qs and _is_float(stored):
                message = f"what {main.op_type} puts out is not stored: an integer kernel needs its scale"
                self.add(main, "missing", message, "put a pair after it", Severity.WARNING)
        if rule.share and written:
            for other in [*have[1:], *written]:
                if not other.same(have[0]):
                    message = f"{main.op_type} has {have[0].says()} and {other.says()}; all must be the same"
                    hint = "give inputs and output one scale and zero point"
                    forced = any(self._prescribed(lin) for lin in have)  # rescaled before the op, there is no other way
                    self.add(main, "shared", message, hint, Severity.NOTE if forced else None)
                    break
        if rule.fixed is not None:
            for q in written:
                self._fixed(q, rule)

    def _prescribed(self, lin: Linear) -> bool:
        """Whether some op prescribes this very scale for what it puts out."""
        scales = [r.fixed.scale for rules in self.scheme.ops.values() for r in rules if r.fixed is not None]
        return lin.scale is not None and any(np.allclose(lin.scale, s, rtol=1e-4, atol=0) for s in scales)

    def _fixed(self, q: Linear, rule: OpRule) -> None:
        assert rule.fixed is not None  # callers ask
        kind = rule.activations or self.scheme.activations
        assert kind is not None  # static schemes have activations
        zero = rule.fixed.zero_point
        if q.dtype == "uint8" and kind.dtype == "int8":
            zero += 128
        if q.scale is None or q.zero is None:
            return
        if not np.allclose(q.scale, rule.fixed.scale, rtol=1e-4, atol=0) or (q.zero != zero).any():
            message = (
                f"stored as {q.says()}; {self.scheme.name} prescribes scale {rule.fixed.scale:.6g}, zero point {zero}"
            )
            self.add(q.node, "fixed", message, "kernels compute with that scale whatever the model says")

    def _residual(self, kernel: Kernel, reads: list[tuple[ir.Node, int, Linear | None]]) -> None:
        computed = [self._computed(_value(node, i), directly=True) for node, i, _ in reads]
        stored = [lin is not None for _, _, lin in reads]
        main = self.of[kernel.main]
        if not any(computed):
            if any(self._computed(_value(node, i)) for node, i, _ in reads) and not all(stored):
                message = f"the {main.op_type} reads what an activation after an integer kernel puts out, and not both in integers"
                self.add(main, "residual", message, "quantise both inputs: it is a kernel of its own", Severity.NOTE)
            return
        if all(stored):
            which = main.inputs[reads[computed.index(True)][1]]
            message = f"both inputs of the {main.op_type} are stored; {which.name if which else ''!r} comes from an integer kernel"
            hint = "quantise the skip input only: the addition then runs inside the kernel before it"
            self.add(main, "residual", message, hint)
        elif not any(stored):
            message = f"no input of the {main.op_type} after an integer kernel is stored"
            self.add(main, "residual", message, "quantise its skip input", Severity.NOTE)
        elif all(computed):
            return  # either may be the skip input
        elif stored[computed.index(True)]:
            message = f"the {main.op_type} reads the kernel's result stored and its skip input in float"
            self.add(main, "residual", message, "quantise the skip input instead")

    def _computed(self, value: ir.Value, directly: bool = False) -> bool:
        """Whether a kernel with a weight, its inputs stored, computes a value of the view, for one reader alone.
        `directly`: without an activation after it.
        """
        producer = value.producer()
        if producer is not None and producer.op_type == "BatchNormalization":
            producer = _value(producer, 0).producer()  # becomes part of the kernel
        if producer is None or len(value.uses()) > 1:
            return False
        unit = self.units.of.get(producer)
        main = unit.main if unit is not None else producer
        if directly and main is not producer:
            return False
        rule = self.scheme.rule(main, self.setting)
        if rule is None or rule.weight is None:
            return False
        reads = self._reads(Kernel(main, unit.nodes if unit is not None else (main,)), rule)
        return bool(reads) and all(lin is not None for _, _, lin in reads)

    def _weight_only(self, kernel: Kernel, rule: OpRule) -> None:
        main = self.of[kernel.main]
        if rule.weight is None or not is_constant(_at(kernel.main, rule.weight)):
            return
        if read_through(main.inputs[rule.weight], self.stored.opset) is None:
            self.add(main, "missing", f"the weight of {main.op_type} is left in float")


def _at(node: ir.Node, i: int) -> ir.Value | None:
    return node.inputs[i] if i < len(node.inputs) else None


def _value(node: ir.Node, i: int) -> ir.Value:
    value = node.inputs[i]
    assert value is not None  # reads are of inputs that are given
    return value


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()
