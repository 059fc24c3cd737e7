"""ONNX -> TFLite: the whole graph. Rules lower the nodes; here is what holds them together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from edgec.diagnostics import Diagnostic, Diagnostics, EdgecError, Location, Severity
from edgec.graph import Graph, ir, is_constant, static_shape
from edgec.targets.reading.node import Refused
from edgec.targets.reading.windows import Contradiction
from edgec.targets.tflite import plain_quantization
from edgec.targets.tflite.absorb import DQ, Forms, Q, absorb, params, stored_value
from edgec.targets.tflite.builder import Builder, dtype_name
from edgec.targets.tflite.layout import Layouts, Side, Sides, assign
from edgec.targets.tflite.model import DTYPES, Operator, Quant, SubGraph, Tensor, TfliteModel
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import RULES, LoweringRule, raw
from edgec.targets.tflite.scales import check_scales
from edgec.targets.tflite.storage import Perm, channels_last, stored

IoLayout = Literal["keep", "nhwc"]
IoDtype = Literal["float", "integer"]

_QDQ = frozenset({Q, DQ})
_LISTED = 4
_NOT_AT_THE_INTERFACE = frozenset({"int4", "uint64"})
"""Types LiteRT stores, but neither takes nor gives (int4) or computes in (uint64)."""


@dataclass(frozen=True)
class LowerOptions:
    """`io_layout`: "keep" leaves the model's interface as it is; "nhwc" stores images channels last there.

    `io_dtype`: "integer" leaves out QUANTIZE and DEQUANTIZE at the interface. `hybrid`: see `Builder`.
    `xnnpack`: what XNNPACK takes is preferred where one operator is not in it and several are.
    """

    io_layout: IoLayout = "keep"
    io_dtype: IoDtype = "float"
    hybrid: bool = False
    xnnpack: bool = False


@dataclass(frozen=True)
class Port:
    """An input or output of the file against the ONNX model's: `perm`: how its axes are stored; `quant`: its scale."""

    name: str
    tensor: Tensor
    perm: Perm | None
    quant: Quant | None


@dataclass(eq=False)
class LoweredModel:
    """The model, its interface, and what a report says of it."""

    model: TfliteModel
    inputs: list[Port]
    outputs: list[Port]
    forms: Forms
    transposes: int = 0
    notes: list[str] = field(default_factory=list)


def lower(graph: Graph, options: LowerOptions | None = None, diagnostics: Diagnostics | None = None) -> LoweredModel:
    """Write every node of the main graph in TFLite operators.

    Raises:
        EdgecError: EC0640 no rule for an op; EC0641 a rule refused a node; EC0644 an element type TFLite does not compute
            in; EC0645 a shape that is not fixed. All nodes at once.
    """
    import edgec.targets.tflite.ops as _ops

    _ops.load()
    options = options or LowerOptions()
    return _Lowering(graph, options, diagnostics or Diagnostics()).run()


def _check(graph: Graph, forms: Forms) -> None:
    """What no rule can mend, said once for each op and each cause."""
    from edgec.targets.tflite.ops.refused import REASONS

    unknown: dict[str, list[str]] = {}
    shapeless: list[str] = []
    types: dict[str, list[str]] = {}
    for node in graph.model.graph:
        if node.op_type not in _QDQ and node not in forms.inside and (node.domain or node.op_type not in RULES):
            op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            unknown.setdefault(op, []).append(node.name or node.outputs[0].name or op)
        for v in (*node.inputs, *node.outputs):
            if v is None or not (v.uses() or v.is_graph_output()):
                continue
            if static_shape(v) is None or v.dtype is None:
                shapeless.append(f"{v.name!r} ({v.shape if v.dtype is not None else 'no type'})")
            elif dtype_name(v.dtype) not in DTYPES:
                types.setdefault(v.dtype.name.lower(), []).append(v.name or "")
    for v in (*graph.inputs, *graph.outputs):
        if v.dtype is not None and dtype_name(v.dtype) in _NOT_AT_THE_INTERFACE:
            types.setdefault(v.dtype.name.lower(), []).append(v.name or "")
        if v.is_graph_output() and 0 in (static_shape(v) or ()):
            shapeless.append(f"output {v.name!r}, which has no elements,")
    errors = [
        Diagnostic(
            "EC0641", Severity.ERROR, f"{n.op_type}: {why}", Location(graph.source, node=n.name or n.op_type), hint
        )
        for n in graph.model.graph
        if not n.domain and n.op_type in REASONS
        for why, hint in [REASONS[n.op_type]]
    ]
    if errors:
        raise EdgecError(*errors)  # shapes unknown behind them are no news
    for op, names in unknown.items():
        hint = "docs/tflite.md lists the ops there are; a pass of your own may say it with those"
        where = Location(graph.source, node=names[0])
        errors.append(Diagnostic("EC0640", Severity.ERROR, f"no TFLite operator says {op}{_times(names)}", where, hint))
    for dtype, names in types.items():
        what = f"{names[0]!r} is {dtype}, a type TFLite has not{_times(names)}"
        errors.append(Diagnostic("EC0644", Severity.ERROR, what, Location(graph.source)))
    if shapeless:
        what = f"{shapeless[0]} has no fixed shape{_times(shapeless)}"
        hint = "fix the inputs: --input-shape NAME=1x3x224x224"
        errors.append(Diagnostic("EC0645", Severity.ERROR, what, Location(graph.source), hint))
    if errors:
        raise EdgecError(*errors)


def _times(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


class _Lowering:
    def __init__(self, graph: Graph, options: LowerOptions, diagnostics: Diagnostics) -> None:
        self.graph, self.options, self.diagnostics = graph, options, diagnostics
        self.forms = absorb(graph, RULES)
        _check(graph, self.forms)
        self.builder = Builder(self.forms, hybrid=options.hybrid, xnnpack=options.xnnpack)
        self.layouts = self._assign()

    def run(self) -> LoweredModel:
        b, main = self.builder, SubGraph()
        inputs = [self._input(v) for v in self.graph.inputs]
        errors: list[Diagnostic] = []
        broken: set[ir.Value] = set()
        for node in self.graph.model.graph:
            if node in self.forms.inside:
                continue
            if any(v in broken for v in node.inputs):
                broken.update((*node.outputs, self.forms.output(node)))
                continue
            try:
                self._lower(node)
            except (Refused, Contradiction) as e:
                where = Location(self.graph.source, node=node.name or node.op_type)
                hint = e.hint if isinstance(e, Refused) else "the model is not valid: export it again"
                errors.append(Diagnostic("EC0641", Severity.ERROR, f"{node.op_type}: {e}", where, hint))
                broken.update((*node.outputs, self.forms.output(node)))
        if errors:
            raise EdgecError(*errors)
        if b.narrowed:
            names = list(dict.fromkeys(b.narrowed))
            what = f"computed in int32, as LiteRT has no int64 kernel for it: {', '.join(names[:_LISTED])}{_times(names[_LISTED - 1 :])}"
            self.diagnostics.note("EC0639", what, Location(self.graph.source))
        outputs = self._outputs([p.tensor for p in inputs])
        main.inputs, main.outputs = [p.tensor for p in inputs], [p.tensor for p in outputs]
        main.operators = _needed(b.operators, main.outputs)
        check_scales(main.operators, self.graph.source)
        model = TfliteModel([main], [p.name for p in inputs], [p.name for p in outputs])
        transposes = sum(o.op == "TRANSPOSE" for o in main.operators)
        return LoweredModel(model, inputs, outputs, self.forms, transposes)

    # --- layout -------------------------------------------------------------------------------------------------------

    def _assign(self) -> Layouts:
        graph = self.graph
        last: Collection[str] = ()
        if self.options.io_layout == "nhwc":
            last = {v.name for v in (*graph.inputs, *graph.outputs) if v.name}
        inner = {n.outputs[0]: self.forms.output(n) for n in self.forms.fused}

        def same(v: ir.Value) -> ir.Value:
            """One storage for a value before and behind Q/DQ, and for what a fused kernel has inside."""
            v = inner.get(v, v)
            while (p := v.producer()) is not None and p.op_type in _QDQ and p.inputs[0] is not None:
                v = inner.get(p.inputs[0], p.inputs[0])
            return v

        nodes = [n for n in graph.model.graph if n.op_type not in _QDQ and n not in self.forms.inside]
        found = assign(nodes, self._sides, inputs=graph.inputs, outputs=graph.outputs, last=last, same=same)
        for node, at in found.of.items():  # constants are stored as they are wanted
            sides = self._sides(node)
            following = next((p for p, s in zip(at.outputs, sides.outputs, strict=True) if s is Side.FOLLOW), None)
            for i, (v, side) in enumerate(zip(node.inputs, sides.inputs, strict=True)):
                if v is None or not is_constant(v):
                    continue
                if side is Side.LAST:
                    at.inputs[i] = channels_last(len(self.builder.shape(v)))
                elif side is Side.FOLLOW:
                    at.inputs[i] = following
        return found

    def _sides(self, node: ir.Node) -> Sides:
        rule = RULES.get(node.op_type)
        return (rule.sides if rule is not None else raw)(node)

    # --- nodes --------------------------------------------------------------------------------------------------------

    def _lower(self, node: ir.Node) -> None:
        if node.op_type == DQ:
            return  # read where it is needed
        if node.op_type == Q:
            self._quantize(node)
            return
        rule = RULES[node.op_type]
        n = NodeLowering(self.builder, node, rule, self.layouts.of[node])
        self._check_type(node, rule, n)
        rule.emit(n)
        n.finish()

    def _check_type(self, node: ir.Node, rule: LoweringRule, n: NodeLowering) -> None:
        if n.integer or not node.inputs or node.inputs[0] is None:
            return
        dtype = self.builder.dtype(node.inputs[0])
        if dtype not in rule.dtypes and dtype not in rule.via:
            n.refuse(f"LiteRT has no {dtype} kernel", f"it computes in {', '.join((*rule.dtypes, *rule.via))}")

    def _quantize(self, node: ir.Node) -> None:
        b, out = self.builder, node.outputs[0]
        if b.known(out):
            return  # written by an integer kernel, or the integer interface
        v = node.inputs[0]
        found = params(node)
        if found is None or found[1] not in ("int8", "int16", "uint8") or not found[0].per_tensor:
            plain = plain_quantization.quantize(b, node)
            if isinstance(plain, str):
                raise Refused(plain)
            b.keep(out, None, plain)
            return
        assert v is not None  # params looked
        base = stored_value(v)
        if base is not None and not is_constant(base):
            perm = b.storage(base) if b.known(base) else None
            b.keep(out, perm, b.requantise(b.tensor(base, perm), found[0], f"{v.name}_rescaled", found[1]))
            return
        perm = b.storage(v) if b.known(v) else None
        t = b.tensor(v, perm)
        q = Tensor(f"{v.name}_quantized", t.shape, found[1], found[0])
        b.operators.append(Operator("QUANTIZE", [t], [q], {}, node.name or ""))
        b.keep(out, perm, q)

    # --- interface ----------------------------------------------------------------------------------------------------

    def _input(self, v: ir.Value) -> Port:
        b, perm = self.builder, self.layouts.inputs[v]
        shape = stored(b.shape(v), perm)
        quantisers = [u.node for u in v.uses() if u.node.op_type == Q]
        kinds = [params(q) for q in quantisers]
        whole = bool(quantisers) and len(quantisers) == len(list(v.uses())) and not v.is_graph_output()
        first = kinds[0] if kinds else None
        alike = first is not None and all(k is not None and k[1] == first[1] and k[0].same(first[0]) for k in kinds)
        if self.options.io_dtype == "integer" and whole and alike and first is not None and first[0].per_tensor:
            t = Tensor(v.name or "", shape, first[1], first[0])
            for q in quantisers:
                b.keep(q.outputs[0], perm, t)
            return Port(v.name or "", t, perm, first[0])
        t = Tensor(v.name or "", shape, b.dtype(v), self._scale_of_integers(v))
        b.keep(v, perm, t)
        return Port(v.name or "", t, perm, None)

    def _scale_of_integers(self, v: ir.Value) -> Quant | None:
        """The scale of an integer input that all its readers take for the same real numbers."""
        readers = [u.node for u in v.uses()]
        kinds = [params(r) if r.op_type == DQ and r.inputs[0] is v else None for r in readers]
        first = kinds[0] if kinds else None
        if first is None or not first[0].per_tensor or first[1] not in ("int8", "int16", "uint8"):
            return None
        return first[0] if all(k is not None and k[0].same(first[0]) for k in kinds) else None

    def _outputs(self, inputs: list[Tensor]) -> list[Port]:
        """Every output a tensor of its own that an operator writes, with the name it has in the model."""
        b, ports = self.builder, []
        taken = {id(t) for t in inputs}
        for v in self.graph.outputs:
            perm = self.layouts.outputs[v]
            base = stored_value(v)
            integers = b.tensor(base, perm) if self.options.io_dtype == "integer" and base is not None else None
            t = integers if integers is not None and integers.quant is not None else b.tensor(v, perm)
            if id(t) in taken or t.data is not None:
                t = b.reshape(t, t.shape, Tensor(v.name or "", t.shape, t.dtype, t.quant))
            taken.add(id(t))
            real = v.dtype is None or v.dtype.is_floating_point()  # else the model itself speaks integers
            ports.append(Port(v.name or "", t, perm, t.quant if real else None))
        public = {id(p.tensor) for p in ports}
        names = {p.name for p in ports}
        for o in b.operators:
            for t in o.outputs:
                if t.name in names and id(t) not in public:
                    t.name = f"{t.name}_inner"
        for p in ports:
            p.tensor.name = p.name
        return ports


def _needed(operators: list[Operator], outputs: list[Tensor]) -> list[Operator]:
    """Without operators whose results nobody reads."""
    live = {id(t) for t in outputs}
    kept = []
    for o in reversed(operators):
        if any(id(t) in live for t in o.outputs):
            kept.append(o)
            live.update(id(t) for t in o.inputs if t is not None)
    return kept[::-1]
