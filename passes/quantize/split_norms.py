"""A normalisation that products and something else read (a residual addition) becomes two, one for the products.

`smooth` can then move outliers from it into their weights: of a normalisation that is read elsewhere it may not change the
scale. A transformer with normalisation after the addition (BERT) has only such ones. Costs a normalisation over few values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.graph import Graph, ir, is_constant
from edgec.pipeline import Contract, Pass, PassContext, PassResult
from edgec.rewrite import FROM_KEY, RULE_KEY

NORMS = ("LayerNormalization", "RMSNormalization")


@dataclass(frozen=True)
class SplitNorms(Pass):
    """Whatever products with constants read of a normalisation, only such products read. Before `smooth`."""

    name: ClassVar[str] = "split-norms"
    contract: ClassVar[Contract] = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        made = sum(_split(graph, n) for n in list(graph.model.graph) if n.op_type in NORMS and not n.domain)
        return PassResult(made > 0, {"norms": made} if made else {})


def _split(graph: Graph, norm: ir.Node) -> bool:
    """Move the products of a normalisation to a second one, where it has other readers too."""
    y = norm.outputs[0]
    products = [(n, i) for n, i in y.uses() if _is_product(n, i) and n.graph is norm.graph]
    if not products or (len(products) == len(y.uses()) and not y.is_graph_output()):
        return False
    name = graph.fresh(f"{y.name}.products")
    out = ir.Value(name=name, shape=y.shape, type=y.type)
    own = ir.Node("", norm.op_type, norm.inputs, dict(norm.attributes.items()), outputs=[out], name=name)
    own.metadata_props[RULE_KEY] = SplitNorms.name
    own.metadata_props[FROM_KEY] = norm.metadata_props.get(FROM_KEY) or norm.name or ""
    assert norm.graph is not None  # it was found in one
    norm.graph.insert_after(norm, own)
    for node, i in products:
        node.replace_input_with(i, out)
    return True


def _is_product(node: ir.Node, i: int) -> bool:
    return node.op_type in ("MatMul", "Gemm") and node.domain == "" and i == 0 and is_constant(node.inputs[1])
