"""Default attributes written out, for compilers that look an attribute up without knowing its default.

Measured: rknn-toolkit2 2.5.0 fails with a KeyError on LayerNormalization without `epsilon`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import Graph, ir
from edgec.pipeline import Contract, Pass, PassContext, PassResult


@dataclass(frozen=True)
class ExplicitDefaults(Pass):
    """Every attribute of the ops named that has a default in the ONNX definition is present."""

    ops: tuple[str, ...] = ("LayerNormalization",)
    name: ClassVar[str] = "explicit-defaults"
    contract: ClassVar[Contract] = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        import onnx

        written = 0
        for node in graph.nodes():
            if node.domain != "" or node.op_type not in self.ops:
                continue
            schema = onnx.defs.get_schema(node.op_type, graph.opset, "")
            for name, spec in schema.attributes.items():
                if name not in node.attributes and spec.default_value.name:
                    node.attributes[name] = ir.serde.deserialize_attribute(spec.default_value)
                    written += 1
        return PassResult(bool(written), {"explicit-defaults": written} if written else {})
