"""weight-pairs: int8 weights as float32 ones behind a pair, number for number."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.passes.legalize.weight_pairs import WeightPairs
from edgec.pipeline import PassContext
from edgec.testing import run


def model(scales: npt.NDArray[np.float32], axis: int, uses: int = 1) -> Graph:
    """Every int8 number in every row; one dequantisation for each use of the stored weight."""
    q = np.stack([np.roll(np.arange(-128, 128), k) for k in range(4)]).astype(np.int8)
    nodes = [helper.make_node("DequantizeLinear", ["q", "s", "z"], [f"w{i}"], axis=axis) for i in range(uses)]
    nodes += [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(uses)]
    weights: dict[str, npt.NDArray[Any]] = {"q": q, "s": scales, "z": np.zeros(scales.shape, np.int8)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info(f"y{i}", onnx.TensorProto.FLOAT, [2, 256]) for i in range(uses)],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    return Graph.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_every_stored_number_comes_back(axis: int) -> None:
    rng = np.random.default_rng(0)
    scales = (10 ** rng.uniform(-6, 3, 4 if axis == 0 else 256)).astype(np.float32)
    graph = model(scales, axis)
    x = {"x": rng.standard_normal((2, 4)).astype(np.float32)}
    before = run(graph.clone(), x)
    assert WeightPairs().run(graph, PassContext()).stats == {"weights": 1}
    graph.verify()
    assert np.array_equal(run(graph, x)[0], before[0])
    kinds = {v.dtype.name for v in graph.model.graph.initializers.values() if v.dtype is not None and v.name != "z"}
    assert kinds == {"FLOAT"}, "no int8 weight is left"


def test_one_scale_for_all() -> None:
    graph = model(np.array(0.02, np.float32), 1)
    x = {"x": np.ones((2, 4), np.float32)}
    before = run(graph.clone(), x)
    assert WeightPairs().run(graph, PassContext()).changed
    assert np.array_equal(run(graph, x)[0], before[0])


def test_a_shared_weight_is_written_once() -> None:
    graph = model(np.full(256, 0.01, np.float32), 1, uses=2)
    assert WeightPairs().run(graph, PassContext()).stats == {"weights": 2}
    assert graph.op_counts()["QuantizeLinear"] == 1


def test_twice_is_once() -> None:
    graph = model(np.full(4, 0.01, np.float32), 0)
    assert WeightPairs().run(graph, PassContext()).changed
    assert not WeightPairs().run(graph, PassContext()).changed


def test_a_scale_out_of_reach_is_refused() -> None:
    graph = model(np.full(4, 1e38, np.float32), 0)
    with pytest.raises(EdgecError) as e:
        WeightPairs().run(graph, PassContext())
    assert e.value.diagnostics[0].code == "EC0245"
