"""LSTM, GRU and RNN get a name for every output, used or not.

Measured: rknn-toolkit2 2.5.0 fails while folding constants when such a node has an output without a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import Graph
from edgec.pipeline import Contract, Pass, PassContext, PassResult

_OUTPUTS = {"LSTM": 3, "GRU": 2, "RNN": 2}


@dataclass(frozen=True)
class NameRnnOutputs(Pass):
    """No output of a recurrent node is missing, unless only the first is there."""

    name: ClassVar[str] = "name-rnn-outputs"
    contract: ClassVar[Contract] = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        named = 0
        for node in graph.nodes():
            count = _OUTPUTS.get(node.op_type, 0) if node.domain == "" else 0
            if count == 0 or (len(node.outputs) == 1 and node.outputs[0].name):
                continue
            for i, v in enumerate(node.outputs[:count]):
                if not v.name:
                    v.name = graph.fresh(f"{node.name or node.op_type}.output{i}")
                    named += 1
        return PassResult(bool(named), {"name-rnn-outputs": named} if named else {})
