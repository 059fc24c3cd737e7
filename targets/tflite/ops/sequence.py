"""Sequences of different length in one batch."""

from __future__ import annotations

from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import lowers, raw


@lowers("ReverseSequence", sides=raw, dtypes=("float32", "int32", "int64", "uint8"))
def reverse_sequence(n: NodeLowering) -> None:
    """The first elements of each sequence turned around, as many as its length says."""
    lengths = n.builder.tensor(n.value(1), None)
    n.emit(
        "REVERSE_SEQUENCE",
        [n.x(), lengths],
        n.y(),
        seq_dim=int(n.attr("time_axis")),
        batch_dim=int(n.attr("batch_axis")),
    )
