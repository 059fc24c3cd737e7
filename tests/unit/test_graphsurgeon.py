"""GraphSurgeon at the door: graphs both ways, and passes written on gs.Graph."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.graphsurgeon import graphsurgeon_pass
from edgec.hookspecs import hookimpl
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes, parse_pipeline
from edgec.testing import assert_equivalent

MODEL = """<ir_version: 10, opset_import: ["" : 24]>
g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {1,2,3,4}, float[1] one = {1}>
{ [conv] c = Conv (x, w)  [mul] m = Mul (c, one)  [relu] y = Relu (m) }"""


def test_there_and_back() -> None:
    g = Graph.from_text(MODEL)
    back = Graph.from_graphsurgeon(g.to_graphsurgeon(), source="s")
    assert back.op_counts() == g.op_counts()
    assert back.opset == 24
    assert_equivalent(g, back)


def test_large_weights_are_the_same_memory() -> None:
    g = Graph.from_text(MODEL)
    w = g.model.graph.initializers["w"]
    from edgec.graph import ir

    array = np.random.default_rng(0).standard_normal((300, 2, 1, 1)).astype(np.float32)
    w.const_value, w.shape = ir.Tensor(array, name="w"), ir.Shape(array.shape)
    surgeon = g.to_graphsurgeon()
    assert np.shares_memory(surgeon.tensors()["w"].values, array)
    back = Graph.from_graphsurgeon(surgeon)
    value = back.model.graph.initializers["w"].const_value
    assert value is not None
    assert np.shares_memory(value.numpy(), array)
    assert w.const_value.numpy() is array  # ours is as it was


def test_subgraphs_survive() -> None:
    g = Graph.from_text("""<ir_version: 10, opset_import: ["" : 24]>
    g (bool c, float[2] x) => (float[2] y) {
      y = If (c) <then_branch = t () => (float[2] a) { a = Relu (x) }, else_branch = e () => (float[2] b) { b = Neg (x) }>
    }""")
    assert_equivalent(g, Graph.from_graphsurgeon(g.to_graphsurgeon()))


@graphsurgeon_pass("acme-drop-mul-by-one")
def drop_mul_by_one(graph: gs.Graph) -> None:
    for node in [n for n in graph.nodes if n.op == "Mul"]:
        if isinstance(node.inputs[1], gs.Constant) and (node.inputs[1].values == 1).all():
            user = node.outputs[0].outputs[0]
            user.inputs[0] = node.inputs[0]


class Plugin:
    @hookimpl
    def edgec_passes(self) -> dict[str, type]:
        return {"acme-drop-mul-by-one": drop_mul_by_one}


def test_a_script_is_a_pass() -> None:
    registry = Registry()
    registry.register(Plugin())
    g = Graph.from_text(MODEL)
    next(iter(g.nodes())).metadata_props["edgec.from"] = "torch.conv"
    before = g.clone()
    (record,) = PassManager(
        build_passes(parse_pipeline("acme-drop-mul-by-one"), registry.passes()), verify="structure"
    ).run(g)
    assert record.changed
    assert g.op_counts() == {"Conv": 1, "Relu": 1}
    assert next(iter(g.nodes())).metadata_props["edgec.from"] == "torch.conv"
    assert_equivalent(before, g)
    assert not drop_mul_by_one().run(g, PassContext()).changed


def test_a_script_may_not_change_the_interface() -> None:
    @graphsurgeon_pass("acme-rename")
    def rename(graph: gs.Graph) -> None:
        graph.outputs[0].name = "z"

    with pytest.raises(EdgecError, match=r"EC0309.*outputs.*y .*became z"):
        rename().run(Graph.from_text(MODEL), PassContext())
