"""A model whose parts contradict each other is to blame for what goes wrong on it; a valid one never is."""

from __future__ import annotations

import pytest

from edgec.blame import blaming
from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.lowering import lower
from edgec.pipeline import PassContext
from edgec.plugins import Registry

BROKEN = """<ir_version: 10, opset_import: ["" : 18]> g (float[1,4,6,6] x, float[4,4,3,3] w) => (float[1,4,6,6] y) {
    y = Conv<kernel_shape=[3,3], strides=[1,1,1], pads=[1,1,1,1]>(x, w) }"""
SOUND = """<ir_version: 10, opset_import: ["" : 18]> g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"""


def test_an_invalid_model_is_to_blame() -> None:
    with pytest.raises(EdgecError, match="EC0023") as e, blaming(lambda: Graph.from_text(BROKEN)):
        raise IndexError("tuple index out of range")
    assert "strides" in str(e.value)
    assert isinstance(e.value.__cause__, IndexError)


def test_a_valid_model_is_not() -> None:
    with pytest.raises(IndexError), blaming(lambda: Graph.from_text(SOUND)):
        raise IndexError("a slip of ours")


def test_errors_for_people_go_on_as_they_are() -> None:
    graph = Graph.from_text(BROKEN.replace("float[1,4,6,6] x", "float[N,4,6,6] x"))
    registry = Registry()
    target = registry.target("rk3588")
    with pytest.raises(EdgecError, match="EC0053"):
        lower(graph, target, registry=registry, ctx=PassContext())
