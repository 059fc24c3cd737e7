"""Regrouping and reordering: the same elements, another shape."""

from __future__ import annotations

from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import ANY, SAME_SCALE, follow_first, lowers
from edgec.targets.tflite.storage import through_transpose


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze", sides=follow_first, dtypes=ANY, quantised=SAME_SCALE)
def regroup(n: NodeLowering) -> None:
    """The layout has made sure that batch, channels and the rest regroup apart, or that all is raw."""
    n.reshape(n.x(), n.y().shape, n.y())


@lowers("Identity", "Dropout", sides=follow_first, dtypes=ANY, quantised=SAME_SCALE)
def identity(n: NodeLowering) -> None:
    if n.has_output(1):
        n.refuse("the mask of a Dropout")
    if n.has(2) and (not n.is_const(2) or bool(n.const(2))):
        n.refuse("a Dropout in training mode draws random numbers", "export the model for inference")
    n.reshape(n.x(), n.y().shape, n.y())


@lowers("Transpose", sides=follow_first, dtypes=ANY, quantised=SAME_SCALE)
def transpose(n: NodeLowering) -> None:
    left = through_transpose(n.attr("perm") or range(len(n.shape()))[::-1], n.in_perm(), n.perm)
    x = n.x()
    if left == tuple(range(len(left))) and n.builder.is_written(x) and not n.node.outputs[0].is_graph_output():
        n.alias(x)
    else:
        n.transpose(x, left, n.y())


@lowers("Cast", sides=follow_first, dtypes=(*ANY, "float16", "float64", "uint16", "uint32"))
def cast(n: NodeLowering) -> None:
    """CAST truncates towards zero, as ONNX does; to bool everything but zero is true in both."""
    n.cast(n.x(), n.y().dtype, n.y())
