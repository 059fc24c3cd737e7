"""Reductions and sums of several inputs in simpler ops, each after its ONNX operator definition."""

from __future__ import annotations

import numpy as np

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.legalize.builders import first_input as _x
from edgec.passes.legalize.builders import optional_input, reduce, reduce_over, reshape
from edgec.rewrite import Reject, Result, Rewriter


def _is_float(v: ir.Value | None) -> bool:
    return v is not None and v.dtype is not None and v.dtype.is_floating_point()


def _chain(op: str, node: ir.Node, rw: Rewriter) -> Result:
    """The inputs two at a time, from the left; one alone passes through."""
    inputs = [v for v in node.inputs if v is not None]
    if len(inputs) == 2 and node.op_type == op:
        return Reject("it has two inputs already")
    if len(inputs) == 1:
        return rw.op("Identity", inputs[0])
    total = inputs[0]
    for v in inputs[1:]:
        total = rw.op(op, total, v)
    return total


def minimum(node: ir.Node, rw: Rewriter) -> Result:
    """-max(-a, -b, ...)."""
    if any(not _is_float(v) for v in node.inputs):
        return Reject("negation of integers may overflow")
    return rw.op("Neg", rw.op("Max", *(rw.op("Neg", v) for v in node.inputs)))


def variadic_min(node: ir.Node, rw: Rewriter) -> Result:
    """min(min(a, b), c) ..."""
    return _chain("Min", node, rw)


def variadic_max(node: ir.Node, rw: Rewriter) -> Result:
    """max(max(a, b), c) ..."""
    return _chain("Max", node, rw)


def variadic_sum(node: ir.Node, rw: Rewriter) -> Result:
    """a + b + c ..., from the left."""
    return _chain("Add", node, rw)


def mean(node: ir.Node, rw: Rewriter) -> Result:
    """sum / n."""
    total = rw.op("Sum", *node.inputs) if len(node.inputs) > 1 else _x(node)
    return rw.op("Mul", total, rw.scalar(1 / len(node.inputs), _x(node), "share"))


def reduce_min(node: ir.Node, rw: Rewriter) -> Result:
    """-ReduceMax(-x)."""
    x = _x(node)
    if not _is_float(x):
        return Reject("negation of integers may overflow")
    return rw.op("Neg", rw.op("ReduceMax", rw.op("Neg", x), *node.inputs[1:], attrs=node.attributes))


def _nothing_reduced(node: ir.Node) -> bool:
    """No axes, and that means none: the op still does what it does to each element."""
    axes = optional_input(node, 1)
    none = axes is None or static_shape(axes) == (0,)
    return bool(attribute(node, "noop_with_empty_axes")) and none and node.attributes.get("axes") is None


def _total(rw: Rewriter, x: ir.Value, node: ir.Node) -> ir.Value:
    return x if _nothing_reduced(node) else reduce(rw, "ReduceSum", x, node)


def reduce_l1(node: ir.Node, rw: Rewriter) -> Result:
    """sum of |x|."""
    return _total(rw, rw.op("Abs", _x(node)), node)


def reduce_l2(node: ir.Node, rw: Rewriter) -> Result:
    """square root of the sum of x * x."""
    x = _x(node)
    if not _is_float(x):
        return Reject("the root of integers")
    return rw.op("Sqrt", _total(rw, rw.op("Mul", x, x), node))


def reduce_sum_square(node: ir.Node, rw: Rewriter) -> Result:
    """sum of x * x."""
    x = _x(node)
    return _total(rw, rw.op("Mul", x, x), node)


def reduce_log_sum(node: ir.Node, rw: Rewriter) -> Result:
    """log of the sum."""
    if not _is_float(_x(node)):
        return Reject("the logarithm of integers")
    return rw.op("Log", _total(rw, _x(node), node))


def reduce_log_sum_exp(node: ir.Node, rw: Rewriter) -> Result:
    """max + log(sum(exp(x - max))), with the maximum kept within the finite numbers: all -inf gives -inf, not NaN."""
    x = _x(node)
    if not _is_float(x):
        return Reject("the logarithm of integers")
    assert x.dtype is not None  # _is_float looked
    if _nothing_reduced(node):
        return rw.op("Identity", x)
    axes_input = optional_input(node, 1)
    axes = attribute(node, "axes") if node.attributes.get("axes") is not None else constant(axes_input)
    if axes is None and axes_input is not None:
        return Reject("the axes are not known at compile time")
    if x.shape is None or (shape := static_shape(x)) is None:
        return Reject("the shape is not known at compile time")
    if 0 in shape:
        return Reject("there is nothing to take the maximum of")
    over = [int(a) % len(shape) for a in np.asarray(axes).reshape(-1)] if axes is not None and len(axes) else []
    over = sorted(over) or list(range(len(shape)))
    largest = reduce_over(rw, "ReduceMax", x, over)
    end = float(np.finfo(x.dtype.numpy()).max) if x.dtype != ir.DataType.BFLOAT16 else 3.38e38
    finite = rw.op("Min", rw.op("Max", largest, rw.scalar(-end, x, "lowest")), rw.scalar(end, x, "highest"))
    total = reduce_over(rw, "ReduceSum", rw.op("Exp", rw.op("Sub", x, finite)), over)
    y = rw.op("Add", rw.op("Log", total), finite)
    if attribute(node, "keepdims"):
        return y
    return reshape(rw, y, tuple(d for i, d in enumerate(shape) if i not in over))


def lp_pool(node: ir.Node, rw: Rewriter) -> Result:
    """p-th root of the window's sum of |x|^p: an AveragePool that counts padding, times the window size."""
    x, p = _x(node), attribute(node, "p")
    kernel = tuple(attribute(node, "kernel_shape"))
    powers = _power(rw, x, p)
    kept = {k: v for k, v in node.attributes.items() if k != "p"}
    pool = rw.op("AveragePool", powers, attrs={**kept, "count_include_pad": 1})
    if attribute(node, "ceil_mode"):
        return Reject("ceil_mode: windows may leave the padded image, where sum and average differ")
    return _root(rw, rw.op("Mul", pool, rw.scalar(float(np.prod(kernel)), x, "window")), p)


def global_lp_pool(node: ir.Node, rw: Rewriter) -> Result:
    """p-th root of the image's sum of |x|^p."""
    x, p = _x(node), attribute(node, "p")
    if x.shape is None:
        return Reject("the rank is not known")
    return _root(rw, reduce_over(rw, "ReduceSum", _power(rw, x, p), list(range(2, x.shape.rank()))), p)


def _power(rw: Rewriter, x: ir.Value, p: int) -> ir.Value:
    if p == 2:
        return rw.op("Mul", x, x)
    size = rw.op("Abs", x)
    return size if p == 1 else rw.op("Pow", size, rw.scalar(p, x, "p"))


def _root(rw: Rewriter, x: ir.Value, p: int) -> ir.Value:
    if p == 2:
        return rw.op("Sqrt", x)
    return x if p == 1 else rw.op("Pow", x, rw.scalar(1 / p, x, "root"))
