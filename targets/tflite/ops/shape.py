"""What only moves or regroups data."""

from __future__ import annotations

from edgec.targets.tflite.layout import through_transpose
from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import SAME_SCALE, follow_first, lowers

ANY = ("float32", "int8", "int16", "int32", "int64", "uint8", "bool")


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze", sides=follow_first, dtypes=ANY, quantised=SAME_SCALE)
def regroup(n: NodeLowering) -> None:
    """The layout has made sure that batch, channels and the rest regroup apart, or that all is raw."""
    n.reshape(n.x(), n.y().shape, n.y())


@lowers("Transpose", sides=follow_first, dtypes=ANY, quantised=SAME_SCALE)
def transpose(n: NodeLowering) -> None:
    left = through_transpose(n.attr("perm"), n.in_perm(), n.perm)
    x = n.x()
    if left == tuple(range(len(left))) and x.data is None and not n.node.outputs[0].is_graph_output():
        n.alias(x)
    else:
        n.transpose(x, left, n.y())
