"""A model that arrives quantised, made fit for the target: kept where its scheme takes it, in float where it does not.

1. Integer ops become Q/DQ, unless the target reads them.
2. Q/DQ are spelt one way; eight-bit types become those the scheme wants (number for number the same).
3. The linter compares the graph with the scheme. Constants it objects to become float: they are rounded already.
4. If errors are left the whole model becomes float, with a warning (EC0793) that says why.

Nothing is quantised twice: `quantize` leaves alone what is stored already, and only adds what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgec.diagnostics import Location, Severity
from edgec.graph import Graph, ir, is_constant
from edgec.passes.quantize.canonical_qdq import CanonicalQdq
from edgec.passes.quantize.dequantize import Dequantize, real_name, real_weight
from edgec.passes.quantize.qdq_nodes import initializer
from edgec.passes.quantize.qoperator_to_qdq import QoperatorToQdq
from edgec.passes.quantize.retype import Retype
from edgec.pipeline import Pass, PassContext, PassResult
from edgec.quantization.form import DEQUANTIZE, quantization_form
from edgec.specs.conditions import Setting

if TYPE_CHECKING:
    from edgec.passes.quantize.retype import Eight
    from edgec.pipeline import Contract
    from edgec.quantization.findings import Finding
    from edgec.specs.scheme import QuantKind, Scheme

_LISTED = 3


@dataclass(frozen=True)
class AdoptQuantized(Pass):
    """`scheme`: a name of specs/quantization; by default that of the target's precision.

    `otherwise`: where it has none, "keep" goes by the scheme of another precision of the target: its Q/DQ are computed as
    they stand, whatever the rest is computed in. A target without any scheme, or one that reads integer ops, takes the model
    as it is. "float" dequantises it. Without target and scheme nothing is done.
    """

    scheme: str = ""
    otherwise: Literal["keep", "float"] = "keep"

    name: ClassVar[str] = "adopt-quantized"
    contract: ClassVar[Contract] = "lossy"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        form = quantization_form(graph)
        if form.form == "none" or (ctx.target is None and not self.scheme):
            return PassResult(False)
        scheme, place = self._scheme(ctx), Location(graph.source)
        if scheme is None and self.otherwise == "float":
            who = f"{ctx.target.name if ctx.target is not None else '?'} at {ctx.precision}"
            return self._to_float(graph, ctx, f"the model arrives quantised: {form}; {who} computes in float")
        scheme = scheme or _of_another_precision(ctx)
        if scheme is None:
            ctx.diagnostics.note("EC0792", f"the model arrives quantised: {form}; kept as it is", place)
            return PassResult(False)
        who = scheme.name
        stats = _fit(graph, ctx, scheme)
        errors = _errors(graph, ctx, scheme)
        if errors:
            kept = _constants_to_float(graph, errors)
            if kept:
                stats["constants in float"] = kept
                errors = _errors(graph, ctx, scheme)
        if errors:
            why = _summary(errors)
            what = f"the model arrives quantised ({form.form}) otherwise than {who} takes it, and becomes float: {why}"
            return self._to_float(graph, ctx, what)
        ctx.diagnostics.note("EC0792", f"the model arrives quantised: {form}; kept, as {who} takes it", place)
        return PassResult(bool(stats), stats)

    def _scheme(self, ctx: PassContext) -> Scheme | None:
        if self.scheme:
            from edgec.specs.schema import builtin_scheme

            return builtin_scheme(self.scheme)
        precision = ctx.target.precisions.get(ctx.precision or "") if ctx.target is not None else None
        return precision.quantization if precision is not None else None

    def _to_float(self, graph: Graph, ctx: PassContext, what: str) -> PassResult:
        hint = "give calibration data and edgec quantises it anew, or quantise it for this target where it comes from"
        ctx.diagnostics.warn("EC0793", what, Location(graph.source), hint)
        return Dequantize().run(graph, ctx)


def _of_another_precision(ctx: PassContext) -> Scheme | None:
    """What the target's compiler reads, even where the rest is in float; None where it reads anything."""
    spec = ctx.target
    schemes = (
        [p.quantization for p in spec.precisions.values() if p.quantization is not None] if spec is not None else []
    )
    first = next((s for s in schemes if s.mode == "static"), None)
    return None if first is None or first.integer_ops else first


def _summary(errors: list[Finding]) -> str:
    """The first finding of each rule, and how many more."""
    by_rule: dict[str, list[str]] = {}
    for f in errors:
        by_rule.setdefault(f.rule, []).append(f.message)
    told = [m[0] + (f" (and {len(m) - 1} more)" if len(m) > 1 else "") for m in by_rule.values()]
    return "; ".join(told[:_LISTED])


def _fit(graph: Graph, ctx: PassContext, scheme: Scheme) -> dict[str, int]:
    """Steps 1 and 2."""
    steps: list[Pass] = [] if scheme.integer_ops else [QoperatorToQdq()]
    wanted = _eight(scheme.activations, scheme.activation_dtypes), _eight(scheme.weights, scheme.weight_dtypes)
    steps += [CanonicalQdq(), Retype(*wanted)]
    stats: dict[str, int] = {}
    for step in steps:
        stats |= step.run(graph, ctx).stats
    return stats


def _eight(kind: QuantKind | None, others: tuple[str, ...]) -> Eight:
    """The eight-bit type to go over to: the scheme's own, even where it takes the other, for that is the one with kernels;
    "keep" where both will do and a zero point could become 0 that may not."""
    if kind is None or kind.dtype not in ("int8", "uint8") or (others and kind.nonzero):
        return "keep"
    return "int8" if kind.dtype == "int8" else "uint8"


def _errors(graph: Graph, ctx: PassContext, scheme: Scheme) -> list[Finding]:
    from edgec.quantization.lint import lint

    setting = Setting(ctx.precision or "", ctx.target.platform if ctx.target is not None else "", graph.opset)
    return [f for f in lint(graph, scheme, setting) if f.severity >= Severity.ERROR]


def _constants_to_float(graph: Graph, errors: list[Finding]) -> int:
    """The stored constants of the nodes in `errors`, and those that are such nodes themselves, as float. How many."""
    named = {f.node for f in errors}
    chosen: dict[ir.Node, None] = {}
    for node in graph.nodes():
        if not named & {node.name, *(v.name for v in node.outputs)}:
            continue
        for made in (node, *(v.producer() for v in node.inputs if v is not None)):
            if made is not None and made.op_type == DEQUANTIZE and is_constant(made.inputs[0]):
                chosen[made] = None
    done = 0
    for dq in chosen:
        stored, out = dq.inputs[0], dq.outputs[0]
        real = real_weight(dq, stored) if stored is not None else None
        if real is None or stored is None or out.is_graph_output():
            continue
        out.replace_all_uses_with(initializer(graph, real_name(stored), real))
        done += 1
    graph.remove_dead()
    return done
