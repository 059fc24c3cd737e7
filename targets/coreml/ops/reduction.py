"""Reductions over axes."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.rules import BOOL_AS_INT, NUMBERS, lowers

_SAME = {
    "ReduceL1": "reduce_l1_norm", "ReduceL2": "reduce_l2_norm", "ReduceLogSum": "reduce_log_sum",
    "ReduceLogSumExp": "reduce_log_sum_exp", "ReduceMax": "reduce_max", "ReduceMean": "reduce_mean",
    "ReduceMin": "reduce_min", "ReduceProd": "reduce_prod", "ReduceSum": "reduce_sum",
    "ReduceSumSquare": "reduce_sum_square",
}  # fmt: skip
_EXTREMES = ("ReduceMax", "ReduceMin")
_UNCHANGED = (*_EXTREMES, "ReduceMean", "ReduceProd", "ReduceSum")
"""Of one element each: that element."""
_INTEGERS = ("ReduceProd", "ReduceSum", "ReduceL1", "ReduceSumSquare")


@lowers(*(op for op in _SAME if op not in (*_INTEGERS, *_EXTREMES)))
def of_floats(n: NodeLowering) -> None:
    _reduce(n)


@lowers(*_INTEGERS, dtypes=NUMBERS, wraps=True)
def of_numbers(n: NodeLowering) -> None:
    _reduce(n)


@lowers(*_EXTREMES, dtypes=NUMBERS, via=BOOL_AS_INT)
def extremes(n: NodeLowering) -> None:
    _reduce(n)


def _reduce(n: NodeLowering) -> None:
    x = n.x()
    axes = [int(a) % max(len(n.dims()), 1) for a in np.ravel(n.const(1, default=()))]
    if not axes and int(n.attr("noop_with_empty_axes", 0)):
        if n.node.op_type not in _UNCHANGED:
            n.refuse("no axes and noop_with_empty_axes", "say in ONNX what it does then: Abs, Mul, Log ...")
        n.result(x)
        return
    axes = sorted(axes) or list(range(len(n.dims())))
    n.result(
        n.emit(
            _SAME[n.node.op_type], x=x, axes=np.asarray(axes, np.int32), keep_dims=bool(n.attr("keepdims", 1)),
            out_shape=n.out_dims(),
        )
    )  # fmt: skip


_GLOBAL = {"GlobalAveragePool": "reduce_mean", "GlobalMaxPool": "reduce_max"}


@lowers(*_GLOBAL)
def global_pool(n: NodeLowering) -> None:
    axes = np.arange(2, len(n.dims()), dtype=np.int32)
    n.result(n.emit(_GLOBAL[n.node.op_type], x=n.x(), axes=axes, keep_dims=True, out_shape=n.out_dims()))


_ARG = {"ArgMax": "reduce_argmax", "ArgMin": "reduce_argmin"}


@lowers(*_ARG, dtypes=NUMBERS)
def arg(n: NodeLowering) -> None:
    """The first of several equals; the last one is asked for by a reversed tensor."""
    x, axis, keep = n.x(), int(n.attr("axis")) % len(n.dims()), bool(n.attr("keepdims", 1))
    last = bool(n.attr("select_last_index", 0))
    if last:
        x = n.emit("reverse", x=x, axes=np.asarray([axis], np.int32), out_shape=x.shape)
    found = n.emit(_ARG[n.node.op_type], x=x, axis=axis, keep_dims=keep, out_dtype="int32", out_shape=n.out_dims())
    if last:
        found = n.emit("sub", x=np.asarray(n.shape()[axis] - 1, np.int32), y=found, out_dtype="int32")
    n.result(found)


@lowers("CumSum", dtypes=NUMBERS, wraps=True)
def cumulative_sum(n: NodeLowering) -> None:
    axis = int(n.const(1).reshape(())) % len(n.dims())
    n.result(
        n.emit(
            "cumsum", x=n.x(), axis=axis, exclusive=bool(n.attr("exclusive", 0)), reverse=bool(n.attr("reverse", 0)),
            out_shape=n.out_dims(),
        )
    )  # fmt: skip
