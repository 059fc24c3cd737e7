"""The linter's rules about single tensors: each Q and DQ by itself, and in its role as activation, weight or bias."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgec.diagnostics import Severity
from edgec.graph import Graph, constant, ir, is_constant
from edgec.quantization.findings import Report
from edgec.quantization.pairs import DQ, Linear, is_integer_op, is_linear, limits_of, read_through, written_to
from edgec.quantization.params import SMALLEST_SCALE
from edgec.specs.conditions import Setting
from edgec.specs.scheme import OpRule, QuantKind, Scheme

NEEDS_OPSET = {"int4": 21, "uint4": 21, "int16": 21, "uint16": 21, "float8e4m3fn": 19, "float8e5m2": 19}
"""The opset whose Q and DQ know an element type; float4 came with 23."""

BIAS_TOLERANCE = 1e-3
"""How far a bias's scale may be from s_x * s_w, relatively: tools multiply in float32."""


class TensorRules:
    """Rules about Q, DQ and what they store. `stored` is the graph with its pairs, shapes inferred."""

    def __init__(
        self, stored: Graph, scheme: Scheme, setting: Setting, report: Report, newest_opset: int | None
    ) -> None:
        self.stored, self.scheme, self.setting = stored, scheme, setting
        self.newest = newest_opset
        self.report = report
        self.add = report.add
        self.checked: set[ir.Node] = set()  # DQ of weights, biases and constants: no activations

    def alone(self, lin: Linear) -> None:
        """What can be said of one Q or DQ without its role."""
        self._form(lin)
        self._scale(lin)
        self._pairing(lin)

    def _form(self, lin: Linear) -> None:
        node = lin.node
        if node.domain and not self.scheme.integer_ops:
            hint = "convert the model to opset 21, whose own Q/DQ know 16 and 4 bits"
            self.add(node, "form", f"{node.domain}::{node.op_type} is ONNX Runtime's own op", hint)
            return
        needed = max(NEEDS_OPSET.get(lin.dtype, 23 if lin.dtype.startswith("float4") else 10), 21 if lin.block else 0)
        if not node.domain and self.stored.opset < needed:
            what = "blocks" if lin.block else lin.dtype
            self.add(node, "form", f"Q/DQ know {what} from opset {needed} on; the model has {self.stored.opset}")
        if self.newest is not None and needed > self.newest:
            self.add(node, "form", f"{lin.dtype} needs opset {needed}; the target reads {self.newest} and older")
        if node.op_type != DQ and not lin.zero_given:
            message = f"the zero point is left out: the type is then {lin.dtype}, wherever the reader assumes so"
            hint = "give the zero point: it carries the element type (TensorRT takes int8 and clips at 127); `edgec check --fix` does"
            self.add(node, "implicit-zero-point", message, hint)

    def _scale(self, lin: Linear) -> None:
        if lin.scale is None or lin.zero is None:
            what = "scale" if lin.scale is None else "zero point"
            self.add(lin.node, "scale", f"the {what} is computed at run time", "targets need it at compile time")
            return
        scale = lin.scale
        if not np.isfinite(scale).all():
            self.add(lin.node, "scale", "a scale is NaN or infinite")
        elif (scale <= 0).any():
            self.add(lin.node, "scale", f"a scale is {float(scale.min()):g}; scales must be positive")
        elif (scale < SMALLEST_SCALE).any():
            message = f"a scale is {float(scale.min()):g}, a denormal number: runtimes take it for 0 and divide by it"
            self.add(lin.node, "scale", message, "nothing that small is worth storing: use a larger scale")
        wrong = lin.misfit()
        if wrong is not None:
            rule = "granularity" if lin.block else "scale"
            self.add(
                lin.node, rule, wrong, "only the quantised axis may be blocked" if lin.block else None, Severity.ERROR
            )
        if lin.dtype == "int32" and (lin.zero != 0).any():
            self.add(lin.node, "zero-point", "an int32 tensor has a zero point other than 0")

    def _pairing(self, lin: Linear) -> None:
        node, opset = lin.node, self.stored.opset
        producer = lin.node.inputs[0].producer() if lin.node.inputs[0] is not None else None
        if node.op_type == DQ:
            if producer is not None and is_linear(producer) and producer.op_type != DQ:
                q = Linear(producer, opset)
                if not q.same(lin):
                    message = f"DQ reads {lin.says()}; its Q wrote {q.says()}"
                    self.add(node, "pair", message, "both must have the same parameters")
            return
        for user, _ in lin.stored.uses():
            if not is_linear(user, DQ) and not is_integer_op(user):
                message = f"{user.op_type} {user.name!r} reads stored values without a DQ"
                self.add(node, "pair", message, "put Q/DQ around ops; compilers move them", Severity.WARNING)
        if producer is not None and is_linear(producer, DQ):
            if self._rescales(Linear(producer, opset), lin):
                return
            before = Linear(producer, opset)
            if before.same(lin):
                self.add(node, "double", "stored twice in the same way", "drop one pair", Severity.NOTE)
            elif before.dtype != lin.dtype:
                message = f"stored as {before.dtype}, then as {lin.dtype}"
                self.add(node, "double", message, "quantise once, with the type the readers need", Severity.NOTE)
            else:
                message = f"rounded twice: {before.says()}, then {lin.says()}"
                self.add(node, "double", message, "quantise once, with the parameters of the readers")
        siblings = [q for q in written_to(lin.real, opset) if q.node is not node and q.dtype == lin.dtype]
        if siblings and self.report.order[siblings[0].node] < self.report.order[node]:
            message = f"{lin.real.name!r} is stored twice" + ("" if siblings[0].same(lin) else ", in different ways")
            grave = Severity.NOTE if siblings[0].same(lin) else Severity.WARNING
            self.add(node, "double", message, "one Q a value is enough", grave)

    def _rescales(self, before: Linear, after: Linear) -> bool:
        """Whether the second pair is what the scheme asks for: the first has the scale some op prescribes for what it puts
        out, and all that read the second take one scale for all their inputs.
        """
        fixed = [r.fixed.scale for rules in self.scheme.ops.values() for r in rules if r.fixed is not None]
        if before.scale is None or not any(np.allclose(before.scale, f, rtol=1e-4, atol=0) for f in fixed):
            return False
        readers = [n for dq, _ in after.stored.uses() for o in dq.outputs for n, _ in o.uses()]
        found = [self.scheme.rule(n, self.setting) for n in readers]
        return before.dtype == after.dtype and bool(found) and all(r is not None and r.share for r in found)

    def roles(self, node: ir.Node, stored: ir.Node, rule: OpRule | None) -> None:
        """Each stored input of a node, in the role its rule gives it. `node` is of the float view, `stored` the same in the
        graph with its pairs.
        """
        for i, v in enumerate(stored.inputs):
            lin = read_through(v, self.stored.opset)
            if lin is None:
                continue
            if rule is not None and i == rule.weight and is_constant(node.inputs[i]):
                self.checked.add(lin.node)
                self._weight(lin, rule)
            elif lin.dtype == "int32" or (rule is not None and i == rule.bias):
                self.checked.add(lin.node)
                self._bias(stored, i, lin, rule)
            elif is_constant(lin.stored):
                self.checked.add(lin.node)
                self._constant(lin, node)

    def _weight(self, lin: Linear, rule: OpRule) -> None:
        kind = rule.weights or self.scheme.weights
        if lin.dtype != kind.dtype and lin.dtype not in self.scheme.weight_dtypes:
            self.add(lin.node, "dtype", f"the weight is {lin.dtype}; {self.scheme.name} wants {kind.dtype}")
        elif lin.dtype == kind.dtype:
            self._zero_point(lin, kind)
        rank = _rank(lin)
        if kind.per == "block":
            self._blocks(lin, rule, kind, rank)
        elif lin.block:
            self.add(lin.node, "granularity", f"blocks of {lin.block}; {self.scheme.name} wants scales per {kind.per}")
        elif kind.per == "tensor" and lin.axis is not None:
            self.add(lin.node, "granularity", "one scale a channel; the target wants one for the whole weight")
        elif kind.per == "channel" and rule.axis is not None:
            axis = rule.axis % rank if rank else rule.axis
            if lin.axis is None:
                message = f"one scale for the whole weight; the target takes one for each channel (axis {axis})"
                self.add(lin.node, "granularity", message, "scales per channel keep more accuracy", Severity.NOTE)
            elif lin.axis != axis:
                message = f"scales along axis {lin.axis}; output channels are axis {axis}"
                self.add(lin.node, "granularity", message, "quantise along the output channels")
        data = constant(lin.stored)
        low = limits_of(lin.dtype)[0]
        if kind.narrow and low < 0 and data is not None and data.size and float(np.min(data)) <= low:
            message = f"the weight holds {low}; {self.scheme.name} stores {low + 1}..{-low - 1}"
            self.add(lin.node, "narrow", message, "products of two lowest values overflow 16-bit sums on some devices")

    def _blocks(self, lin: Linear, rule: OpRule, kind: QuantKind, rank: int) -> None:
        if not lin.block:
            self.add(
                lin.node,
                "granularity",
                f"not in blocks; the target wants blocks of {kind.block}",
                None,
                Severity.WARNING,
            )
            return
        wanted = {
            r.weights.block if r.weights is not None else self.scheme.weights.block
            for rules in self.scheme.ops.values()
            for r in rules
        }
        if lin.block not in wanted:
            names = " or ".join(str(b) for b in sorted(b for b in wanted if b))
            self.add(
                lin.node, "granularity", f"blocks of {lin.block}; the target documents {names}", None, Severity.WARNING
            )
        axis = rule.block_axis % rank if rule.block_axis is not None and rank else rule.block_axis
        if lin.axis != axis:
            message = f"blocks along axis {lin.axis}; products are summed along axis {axis}"
            self.add(lin.node, "granularity", message, "cut the weight along the axis that is summed", Severity.ERROR)

    def _bias(self, node: ir.Node, i: int, lin: Linear, rule: OpRule | None) -> None:
        if self.scheme.bias == "float":
            hint = "leave biases in float: they are added to 32-bit sums anyway; `edgec check --fix` makes them float"
            self.add(
                lin.node, "bias", f"the bias of {node.name!r} is stored in {lin.dtype}; it must stay in float", hint
            )
            return
        if lin.dtype != "int32":
            self.add(lin.node, "bias", f"the bias of {node.name!r} is {lin.dtype}, not int32")
            return
        if rule is None:
            message = (
                f"input {i} of {node.op_type} {node.name!r} is int32; {self.scheme.name} has no integer {node.op_type}"
            )
            self.add(lin.node, "bias", message, "it is dequantised: nothing is gained", Severity.NOTE)
            return
        if rule.weight is None or rule.bias != i:
            message = f"input {i} of {node.op_type} {node.name!r} is int32, and it is no bias to {self.scheme.name}"
            self.add(lin.node, "bias", message, "leave it in float")
            return
        x_index = rule.inputs[0] if isinstance(rule.inputs, tuple) and rule.inputs else 0
        x, w = (read_through(node.inputs[k], self.stored.opset) for k in (x_index, rule.weight))
        if x is None or w is None:
            what = "input" if x is None else "weight"
            self.add(lin.node, "bias", f"the bias of {node.name!r} is int32, but its {what} is not stored")
            return
        if x.scale is None or w.scale is None or lin.scale is None or w.block or x.scale.ndim:
            return  # said already
        wanted, have = (x.scale * w.scale).reshape(-1), lin.scale.reshape(-1)
        if wanted.size and have.size % wanted.size == 0:  # each group of a ConvTranspose has the weight's scales
            wanted = np.tile(wanted, have.size // wanted.size)
        message = f"the scale of the bias of {node.name!r} is not that of input times weight"
        hint = "integer kernels add it to sums of that scale, whatever the DQ says"
        if wanted.shape != have.shape and have.size != 1:
            self.add(lin.node, "bias", f"{message} ({have.size} scales, {wanted.size} expected)", hint)
        elif not np.allclose(have, wanted, rtol=BIAS_TOLERANCE, atol=0):
            with np.errstate(invalid="ignore"):  # an infinite scale was told already
                worst = float(np.max(np.abs(have - wanted) / np.maximum(np.abs(wanted), SMALLEST_SCALE)))
            self.add(lin.node, "bias", f"{message} (up to {worst:.2g} off)", hint)

    def _constant(self, lin: Linear, node: ir.Node) -> None:
        """A constant that is neither weight nor bias of a rule: stored as activations or weights are."""
        known = (
            {self.scheme.weights.dtype, *self.scheme.weight_dtypes}
            if self.scheme.rule(node, self.setting) is None
            else set()
        )
        if self.scheme.mode != "static":
            known.add(self.scheme.weights.dtype)
        if self.scheme.activations is not None:
            known |= {self.scheme.activations.dtype, *self.scheme.activation_dtypes}
        if lin.dtype not in known:
            message = f"a constant of {node.op_type} {node.name!r} is {lin.dtype}; {self.scheme.name} wants {' or '.join(sorted(known))}"
            self.add(lin.node, "dtype", message, "or leave it in float")
            return
        kinds = [k for k in (self.scheme.weights, self.scheme.activations) if k is not None and k.dtype == lin.dtype]
        if kinds and (all(k.symmetric for k in kinds) or all(k.nonzero for k in kinds)):
            self._zero_point(lin, kinds[0])

    def activation(self, lin: Linear) -> None:
        node = lin.node
        if node in self.checked or is_constant(lin.real) or is_constant(lin.stored) or lin.dtype == "int32":
            return
        if node.op_type == DQ and lin.stored.producer() is not None:
            return  # its Q was looked at
        if any(u in self.checked for u, _ in lin.stored.uses()):
            return  # a weight stored by a Q of its own
        kind = self.scheme.activations
        if kind is None:
            message = f"an activation is stored in {lin.dtype}; {self.scheme.name} stores weights only"
            self.add(node, "float-op", message)
            return
        kinds = {k.dtype: k for k in [kind, *self._own_kinds(lin)]}
        if lin.dtype not in kinds and lin.dtype not in self.scheme.activation_dtypes:
            wanted = " or ".join(kinds)
            trap = (
                "TensorRT takes uint8 for int8 and clips at 127, silently; `edgec check --fix FILE` retypes what it can"
            )
            hint = trap if lin.dtype == "uint8" else None
            self.add(node, "dtype", f"activations are {lin.dtype}; {self.scheme.name} wants {wanted}", hint)
        else:
            self._zero_point(lin, kinds.get(lin.dtype, kind))
        if lin.axis is not None or lin.block:
            self.add(
                node, "granularity", "an activation has more than one scale", "one scale a tensor is what kernels take"
            )

    def _own_kinds(self, lin: Linear) -> Iterator[QuantKind]:
        """Kinds that rules of ops around a value allow besides the scheme's."""
        for rules in self.scheme.ops.values():
            for rule in rules:
                if rule.activations is not None:
                    yield rule.activations

    def _zero_point(self, lin: Linear, kind: QuantKind) -> None:
        if lin.zero is None:
            return  # said already
        low, high = limits_of(lin.dtype)
        from_zero = kind.unsigned and low == 0 and not lin.zero.any()
        if kind.symmetric and not from_zero:
            middle = 0 if low < 0 else (high + 1) // 2
            if (lin.zero != middle).any():
                worst = int(lin.zero.reshape(-1)[np.argmax(np.abs(lin.zero.reshape(-1) - middle))])
                message = f"zero point {worst}; {self.scheme.name} is symmetric: {middle} for {lin.dtype}"
                self.add(lin.node, "zero-point", message, "quantise symmetrically")
        if kind.nonzero:
            nought = 128 if lin.dtype == "uint8" and kind.dtype == "int8" else 0
            if (lin.zero == nought).any():
                message = f"zero point {nought} means symmetric to the target's compiler, which then changes the scale by 128/127"
                self.add(lin.node, "zero-point", message, "use another zero point: 1 or -1 will do")
        if kind.power_of_two and lin.scale is not None and (np.exp2(np.rint(np.log2(lin.scale))) != lin.scale).any():
            self.add(lin.node, "scale", "a scale is not a power of two")


def _rank(lin: Linear) -> int:
    shape = lin.stored.shape if lin.stored.shape is not None else lin.real.shape
    return shape.rank() if shape is not None else 0
