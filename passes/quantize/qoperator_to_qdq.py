"""Ops on integers become float ops between DequantizeLinear and QuantizeLinear: the form every pass and target reads.

* ONNX: QLinearConv, QLinearMatMul; ConvInteger and MatMulInteger with the Cast and Mul that scale them;
* ONNX Runtime's (`com.microsoft`): QLinearAdd, Mul, Concat, Where, Sigmoid, LeakyRelu, Softmax, AveragePool,
  GlobalAveragePool, ReduceMean; QGemm, MatMulIntegerToFloat, DynamicQuantizeMatMul, DynamicQuantizeLSTM; MatMulNBits;
* data movement on integers (MaxPool, Reshape, Transpose ...) between them.

**Numbers.** Stored values stay the stored values, weights are not rounded again. Sums that were computed in integers are
computed in float, so a result that falls on the middle between two steps may come out one step apart; so may what Resize
interpolates, which ONNX Runtime cuts off on integers.

**Ranges taken at run time** (DynamicQuantizeLinear): float activations, by default; the weights stay as they are stored.
`dynamic=ranges` keeps DynamicQuantizeLinear, followed by DequantizeLinear (and DynamicQuantizeLSTM, which hides them).

What is left of the integer ops is told in a note (EC0790) with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgec.diagnostics import Location
from edgec.graph import Graph, ir
from edgec.pipeline import Pass, PassContext, PassResult, rewrite_result
from edgec.quantization.form import CONTRIB, DEQUANTIZE, DYNAMIC_OPS, PACKED_OPS, QUANTIZE, STATIC_OPS

if TYPE_CHECKING:
    from edgec.pipeline import Contract

_LISTED = 4


@dataclass(frozen=True)
class QoperatorToQdq(Pass):
    """`dynamic`: what becomes of ranges taken at run time: "weights" drops them, "ranges" keeps them."""

    dynamic: Literal["weights", "ranges"] = "weights"

    name: ClassVar[str] = "qoperator-to-qdq"
    contract: ClassVar[Contract] = "lossy"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        from edgec.passes.quantize.contrib_rules import CONTRIB_RULES
        from edgec.passes.quantize.dynamic_rules import DROP_RANGES, DYNAMIC_RULES
        from edgec.passes.quantize.integer_rules import INTEGER_RULES, moves_stored

        rules = INTEGER_RULES + CONTRIB_RULES + DYNAMIC_RULES
        if not any(_converted(n) or _spelt_otherwise(n) or moves_stored(n) for n in graph.nodes()):
            return PassResult(False)
        result = rewrite_result(rules.apply(graph), ctx)
        stats, changed = dict(result.stats), result.changed
        if self.dynamic == "weights":
            dropped = rewrite_result(DROP_RANGES.apply(graph), ctx)
            stats |= dropped.stats
            changed |= dropped.changed
        _tell_left(graph, ctx, [r.name for r in (rules + DROP_RANGES).rules])
        if changed and CONTRIB in graph.model.opset_imports and all(n.domain != CONTRIB for n in graph.nodes()):
            del graph.model.opset_imports[CONTRIB]
        return PassResult(changed, stats)


def _converted(node: ir.Node) -> bool:
    """Whether it is one of the ops this pass is about."""
    op = node.op_type
    return node.domain in ("", "ai.onnx", CONTRIB) and (op in STATIC_OPS or op in DYNAMIC_OPS or op in PACKED_OPS)


def _spelt_otherwise(node: ir.Node) -> bool:
    """Q/DQ in ONNX Runtime's own domain: ONNX had fewer types once."""
    return node.domain == CONTRIB and node.op_type in (QUANTIZE, DEQUANTIZE)


def _tell_left(graph: Graph, ctx: PassContext, rules: Sequence[str]) -> None:
    left = [n for n in graph.nodes() if _converted(n) and n.op_type != "DynamicQuantizeLinear"]
    if not left:
        return
    reasons = {node: why for name in rules for node, why in ctx.rejections.get(name, {}).items()}
    told = [f"{n.op_type} {n.name or n.outputs[0].name} ({_why(n.name or n.outputs[0].name, reasons)})" for n in left]
    what = ", ".join(told[:_LISTED]) + (f" and {len(told) - _LISTED} more" if len(told) > _LISTED else "")
    ctx.diagnostics.note(
        "EC0790", f"{len(left)} ops on integers stay as they are: {what}", Location(graph.source, node=left[0].name)
    )


def _why(node: str | None, reasons: dict[str, str]) -> str:
    return reasons.get(node or "", "no rule knows this form")
