"""NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss with LogSoftmax and GatherElements."""

from __future__ import annotations

import numpy as np

from edgec.graph import attribute, ir
from edgec.passes.legalize.builders import cast, first_input, optional_input
from edgec.rewrite import Reject, Result, Rewriter


def _loss(node: ir.Node, rw: Rewriter, logs: ir.Value) -> ir.Value | Reject:
    """-w[t] * log[t]; ignored targets count nothing. The mean is over the weights that count."""
    target, weight, ignored = node.inputs[1], optional_input(node, 2), attribute(node, "ignore_index")
    if target is None or logs.dtype is None:
        return Reject("the type is not known")
    target = cast(rw, target, ir.DataType.INT64)
    counts: ir.Value | None = None
    if ignored is not None:
        drop = rw.op("Equal", target, rw.scalar(ignored, target, "ignored"))
        target = rw.op("Where", drop, rw.scalar(0, target, "any"), target)
        counts = rw.op("Where", drop, rw.scalar(0.0, logs, "zero"), rw.scalar(1.0, logs, "one"))
    axis = rw.const(np.array([1], np.int64), "axis")
    picked = rw.op("Squeeze", rw.op("GatherElements", logs, rw.op("Unsqueeze", target, axis), attrs={"axis": 1}), axis)
    each = rw.op("Neg", picked)
    if ignored is not None:  # what is ignored may be infinite
        each = rw.op("Where", drop, rw.scalar(0.0, logs, "zero"), each)
    if weight is not None:
        own = rw.op("Gather", weight, target)
        each = rw.op("Mul", each, own)
        counts = own if counts is None else rw.op("Mul", counts, own)
    reduction = attribute(node, "reduction")
    reduction = reduction.decode() if isinstance(reduction, bytes) else reduction
    if reduction == "none":
        return each
    if reduction == "mean" and counts is None:
        return rw.op("ReduceMean", each, attrs={"keepdims": 0})
    total = rw.op("ReduceSum", each, attrs={"keepdims": 0})
    return total if reduction == "sum" else rw.op("Div", total, rw.op("ReduceSum", counts, attrs={"keepdims": 0}))


def negative_log_likelihood(node: ir.Node, rw: Rewriter) -> Result:
    """The loss of given log probabilities."""
    return _loss(node, rw, first_input(node))


def softmax_cross_entropy(node: ir.Node, rw: Rewriter) -> Result:
    """The loss of the LogSoftmax over the classes, which is the second output."""
    logs = rw.op("LogSoftmax", first_input(node), attrs={"axis": 1})
    loss = _loss(node, rw, logs)
    return loss if isinstance(loss, Reject) else [loss, logs][: len(node.outputs)]
