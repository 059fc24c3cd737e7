"""Reductions over axes, and running sums. Without `axes`: over all."""

from __future__ import annotations

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates, is_float

_SAME = {"reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
_OF_NUMBERS = {"reduce_sum": "ReduceSum", "reduce_prod": "ReduceProd"}
_OF_FLOATS = {"reduce_log_sum_exp": "ReduceLogSumExp"}


@evaluates(*_SAME)
def extreme(o: OpReader) -> None:
    o.move(_reduced(o, _SAME[o.operation.op], o.x()))


@evaluates(*_OF_NUMBERS)
def plain(o: OpReader) -> None:
    o.give(_reduced(o, _OF_NUMBERS[o.operation.op], o.x()))


@evaluates(*_OF_FLOATS)
def of_floats(o: OpReader) -> None:
    _only_floats(o)
    o.give(_reduced(o, _OF_FLOATS[o.operation.op], o.x()))


@evaluates("reduce_mean")
def mean(o: OpReader) -> None:
    _only_floats(o)
    o.give(_reduced(o, "ReduceMean", o.x()))


@evaluates("reduce_l1_norm")
def l1_norm(o: OpReader) -> None:
    """Sum of |x|."""
    o.give(_reduced(o, "ReduceSum", o.emit("Abs", [o.x()])))


@evaluates("reduce_sum_square")
def sum_square(o: OpReader) -> None:
    o.give(_reduced(o, "ReduceSum", o.emit("Mul", [o.x(), o.x()])))


@evaluates("reduce_l2_norm")
def l2_norm(o: OpReader) -> None:
    """Root of the sum of squares."""
    _only_floats(o)
    o.give(o.emit("Sqrt", [_reduced(o, "ReduceSum", o.emit("Mul", [o.x(), o.x()]))]))


@evaluates("reduce_log_sum")
def log_sum(o: OpReader) -> None:
    """Logarithm of the sum."""
    _only_floats(o)
    o.give(o.emit("Log", [_reduced(o, "ReduceSum", o.x())]))


@evaluates("reduce_argmax", "reduce_argmin")
def arg(o: OpReader) -> None:
    """The first of equal ones; the definition leaves open which."""
    op = "ArgMax" if o.operation.op == "reduce_argmax" else "ArgMin"
    x = o.x() if is_float(o.mil()) else o.emit("Cast", [o.x()], to=int(ir.DataType.INT32))
    o.move(o.emit(op, [x], axis=o.integer("axis", -1), keepdims=int(o.flag("keep_dims"))))


@evaluates("cumsum")
def cumsum(o: OpReader) -> None:
    """Running sums along `axis`; `exclusive`: without the element itself; `reverse`: from the end."""
    axis = o.const(o.integer("axis", 0))
    o.give(
        o.emit("CumSum", [o.x(), axis], exclusive=int(o.flag("exclusive")), reverse=int(o.flag("reverse"))),
    )


def _reduced(o: OpReader, op: str, v: ir.Value) -> ir.Value:
    if o.mil().rank == 0:
        return v
    axes = [o.const(list(o.ints("axes")))] if o.has("axes") else []
    return o.emit(op, [v, *axes], keepdims=int(o.flag("keep_dims")))


def _only_floats(o: OpReader) -> None:
    if not is_float(o.mil()):
        o.unknown("of integers: the definition does not say how the result is rounded")
