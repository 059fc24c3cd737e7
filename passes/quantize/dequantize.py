"""Back to float: stored weights become float weights, activations are no longer rounded.

For targets that quantise themselves, that compute in float, or whose rules the model's Q/DQ do not keep.

**Saturation.** QuantizeLinear also limits: tools leave out the Relu or Clip in front of it (ONNX Runtime does), and taking
Q/DQ away must not take these away. `clip`:
* auto: where the range begins (or ends) at 0 and the value is not known to keep to that side, a Relu, or a Clip(0, 6)
  where the range ends at 6; two-sided ranges limit nothing but outliers that calibration did not see, and go;
* all: a Clip wherever a value may leave the range: what the quantised model computes, without the rounding;
* none: nothing.

Integer inputs and outputs of the model stay what they are. `what=activations` keeps stored weights, `what=weights` keeps
everything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Location
from edgec.graph import Graph, attribute, constant, ir, is_constant
from edgec.passes.optimize.clip_limits import clip_limits, nonnegative
from edgec.passes.quantize.qoperator_to_qdq import QoperatorToQdq
from edgec.passes.quantize.quantized_input import params_of
from edgec.pattern import Match, P, const, opt, rest, var
from edgec.pipeline import Contract, Pass, PassContext, PassResult, rewrite_result
from edgec.quantization.form import stored_kind
from edgec.rewrite import Reject, Result, Rewriter, Rule, RuleSet, rule

Clipping = Literal["auto", "all", "none"]

_NEAR = 0.01
"""How near the end of a range must be to 6 to be that of Relu6: a step of 8 bits is 0.4 %."""

_stored = P.op("QuantizeLinear", "DynamicQuantizeLinear")(var("x"), rest("q"), as_="q", shared_=True)


def _unstore(clip: Clipping) -> Rule:
    """DequantizeLinear(QuantizeLinear(x)) = x, within the range."""

    @rule(P.DequantizeLinear(_stored, var("scale"), opt(var("zero"))), name="drop-rounding")
    def drop(m: Match, rw: Rewriter) -> Result:
        q, x, out = m.node("q"), m.value("x"), m.root.outputs[0]
        if not _same_parameters(q, m.root):
            return Reject("it is read with another scale")
        value: ir.Value = x
        if q.op_type == "QuantizeLinear" and clip != "none" and not is_constant(x):
            limits = _range(q)
            if isinstance(limits, Reject):
                return limits
            value = _limited(rw, x, limits, clip)
        if out.dtype is not None and x.dtype is not None and out.dtype != x.dtype:
            value = rw.op("Cast", value, attrs={"to": int(out.dtype)})
        return value

    return drop


def _same_parameters(q: ir.Node, dq: ir.Node) -> bool:
    if q.op_type == "DynamicQuantizeLinear":
        return dq.inputs[1] is q.outputs[1] and (len(dq.inputs) > 2 and dq.inputs[2] is q.outputs[2])
    ours, theirs = (tuple(n.inputs[1:3]) for n in (q, dq))
    if ours == theirs and attribute(q, "axis") == attribute(dq, "axis"):
        return True
    a, b = params_of(q), params_of(dq)
    return (
        a is not None
        and b is not None
        and a.axis == b.axis
        and np.array_equal(a.scale, b.scale)
        and np.array_equal(a.zero_point, b.zero_point)
    )


def _range(q: ir.Node) -> tuple[float, float] | Reject:
    """What a stored value can stand for; for several scales, the widest (limits of 0 are then those of all)."""
    params = params_of(q)
    if params is None:
        return Reject("its parameters are computed at run time, or of an unknown type")
    low, high = params.range()
    return float(np.min(low)), float(np.max(high))


def _limited(rw: Rewriter, x: ir.Value, limits: tuple[float, float], clip: Clipping) -> ir.Value:
    low, high = limits
    known = _known_limits(x)
    if clip == "all":
        if known[0] >= low and known[1] <= high:
            return x
        return _clip(rw, x, low, high)
    if low == 0.0 and known[0] < 0:
        return _clip(rw, x, 0.0, 6.0) if abs(high - 6) <= 6 * _NEAR else rw.op("Relu", x)
    if high == 0.0 and known[1] > 0:
        return _clip(rw, x, -math.inf, 0.0)
    return x


def _clip(rw: Rewriter, x: ir.Value, low: float, high: float) -> ir.Value:
    return rw.op(
        "Clip",
        x,
        rw.scalar(low, x, "clip.min") if low > -math.inf else None,
        rw.scalar(high, x, "clip.max") if high < math.inf else None,
    )


_CARRY = frozenset(
    {
        "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "DequantizeLinear",
        "AveragePool", "GlobalAveragePool",
    }
)  # fmt: skip


def _known_limits(x: ir.Value) -> tuple[float, float]:
    """Between what its producers show a value to lie; a stored value in front of them counts with its range."""
    node: ir.Node | None = x.producer()
    for _ in range(8):
        if node is None:
            break
        if node.op_type in ("Clip", "Relu"):
            return clip_limits(node) or (-math.inf, math.inf)
        if node.op_type in ("Sigmoid", "Softmax", "HardSigmoid"):
            return 0.0, 1.0
        if node.op_type == "QuantizeLinear":
            found = _range(node)
            return (-math.inf, math.inf) if isinstance(found, Reject) else found
        if node.op_type not in _CARRY or node.inputs[0] is None:
            break
        node = node.inputs[0].producer()
    return (0.0 if nonnegative(x) else -math.inf), math.inf


_weight = const("stored")


@rule(P.DequantizeLinear(_weight, const("scale"), rest("zero")))
def float_weight(m: Match, rw: Rewriter) -> Result:
    data = _real(m)
    return data if isinstance(data, Reject) else rw.const(data, real_name(m.value("stored")))


@rule(P.DequantizeLinear(P.op("Gather", "Slice")(_weight, rest("how"), as_="move"), const("scale"), rest("zero")))
def float_table(m: Match, rw: Rewriter) -> Result:
    """Rows looked up in a stored table: the table in float, then the rows."""
    if m.array("scale").size != 1:
        return Reject("its rows have scales of their own")
    data = _real(m)
    if isinstance(data, Reject):
        return data
    move = m.node("move")
    return rw.op(move.op_type, rw.const(data, real_name(m.value("stored"))), *m.rest("how"), attrs=move.attributes)


def _real(m: Match) -> npt.NDArray[Any] | Reject:
    real = real_weight(m.root, m.value("stored"))
    return Reject("its zero point is computed at run time, or it is of an unknown type") if real is None else real


def real_weight(dq: ir.Node, stored: ir.Value) -> npt.NDArray[Any] | None:
    """What `dq` makes of the constant `stored`, in its output's type; None where its parameters are not known."""
    params = params_of(dq)
    if params is None:
        return None
    real: npt.NDArray[Any] = params.dequantize(np.asarray(constant(stored))).astype(
        np.asarray(constant(dq.inputs[1])).dtype
    )
    out = dq.outputs[0].dtype
    return real if out is None else real.astype(out.numpy())


def real_name(stored: ir.Value) -> str:
    """What a weight is called that is no longer stored."""
    name = stored.name or "w"
    return next((name.removesuffix(s) for s in ("_quantized", "_q") if name.endswith(s)), f"{name}_real")


_ROUNDING = {clip: RuleSet([_unstore(clip)]) for clip in ("auto", "all", "none")}
_WEIGHTS = RuleSet([float_weight, float_table])
_LISTED = 4


@dataclass(frozen=True)
class Dequantize(Pass):
    """`what`: "all", "activations" (weights stay stored) or "weights". `clip`: see above."""

    what: Literal["all", "activations", "weights"] = "all"
    clip: Clipping = "auto"

    name: ClassVar[str] = "dequantize"
    contract: ClassVar[Contract] = "lossy"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        first = QoperatorToQdq("ranges" if self.what == "weights" else "weights").run(graph, ctx)
        stats, changed = dict(first.stats), first.changed
        rules = [_ROUNDING[self.clip]] if self.what != "weights" else []
        rules += [_WEIGHTS] if self.what != "activations" else []
        for some in rules:
            found = rewrite_result(some.apply(graph), ctx)
            stats |= found.stats
            changed |= found.changed
        self._tell_left(graph, ctx)
        return PassResult(changed, stats)

    def _tell_left(self, graph: Graph, ctx: PassContext) -> None:
        left = [n for n in graph.nodes() if n.op_type == "DequantizeLinear" and self._meant(n)]
        if not left:
            return
        names = ", ".join(str(n.name or n.outputs[0].name) for n in left[:_LISTED])
        more = f" and {len(left) - _LISTED} more" if len(left) > _LISTED else ""
        what = (
            f"{len(left)} DequantizeLinear stay, on integer inputs of the model or with ranges this pass cannot read: "
        )
        ctx.diagnostics.note("EC0791", what + names + more, Location(graph.source, node=left[0].name))

    def _meant(self, node: ir.Node) -> bool:
        return self.what == "all" or (self.what == "weights") == (stored_kind(node) is not None)
