"""Hand a value on in place of a node's output."""

from __future__ import annotations

from edgec.graph import ir
from edgec.pattern import Match
from edgec.rewrite import Reject, Result


def bypass(m: Match, value: ir.Value, output: int = 0) -> Result:
    """`value` takes the place of the root's output.

    Where both are public names an Identity must stay between them; a root that is this Identity is left alone.
    """
    old = m.root.outputs[output]
    producer = value.producer()
    stays = (
        old.is_graph_output()
        and m.root.op_type == "Identity"
        and (
            value.is_graph_output() or value.is_graph_input() or producer is None or producer.graph is not m.root.graph
        )
    )
    if stays:
        return Reject("it joins two public names")
    return {old: value}
