"""TorchGraph: which weights are trained, that the model given stays as it is, and how results are written back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph, ir
from edgec.testing import random_inputs, run
from edgec.training import TorchGraph, write_back
from edgec.training.checkpoint import Checkpoint, State, run_key


def graph(text: str) -> Graph:
    return Graph.from_text(f'<ir_version: 10, opset_import: ["" : 21]> {text}')


NET = (
    "g (float[1,2,4,4] x) => (float[1,3] y)"
    " <float[3,2,1,1] w = {1, -2, 3, -4, 5, -6}, float[3] b = {0.5, 0, -0.5}, float[3,1,1] v = {1, 2, 3}, float half = {0.5}>"
    " { c = Conv(x, w, b) s = Mul(c, v) h = Mul(s, half) r = Relu(h) p = GlobalAveragePool(r) y = Flatten(p) }"
)

STORED = (
    "g (float[2,4] x) => (float[2,2] y)"
    " <int8[4,2] w = {1, -2, 3, -4, 5, -6, 7, 0}, float[2] s = {0.5, 0.25}, float a = {0.05}, int8 z = {3}>"
    " { q = QuantizeLinear(x, a, z) d = DequantizeLinear(q, a, z) f = DequantizeLinear<axis = 1>(w, s) y = MatMul(d, f) }"
)


def train(net: TorchGraph, feeds: dict[str, Any], steps: int = 3, lr: float = 0.05) -> None:
    optimizer = torch.optim.SGD(list(net.parameters.values()), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack([v.square().mean() for v in net.run(feeds).values()]).sum().backward()
        optimizer.step()


def test_weights_and_vectors_are_trained_lone_numbers_are_not() -> None:
    g = graph(NET)
    before = g.fingerprint()
    net = TorchGraph(g)
    assert sorted(net.parameters) == ["b", "v", "w"]
    feeds = random_inputs(g)
    train(net, feeds)
    assert g.fingerprint() == before
    trained = g.clone()
    write_back(trained, net.arrays())
    with torch.no_grad():
        want = net.run(feeds)["y"].numpy()
    np.testing.assert_allclose(run(trained, feeds)[0], want, rtol=1e-5, atol=1e-6)
    assert np.abs(run(g, feeds)[0] - want).max() > 1e-3


def test_several_samples_at_once_where_the_nodes_allow_it() -> None:
    g = graph(NET)
    net = TorchGraph(g)
    x = np.random.default_rng(0).standard_normal((5, 2, 4, 4)).astype(np.float32)
    with torch.no_grad():
        together = net.run({"x": x})["y"].numpy()
    alone = np.concatenate([run(g, {"x": x[i : i + 1]})[0] for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_inner_values_on_demand() -> None:
    g = graph(NET)
    net = TorchGraph(g)
    with torch.no_grad():
        got = net.run(random_inputs(g), ["c", "y"])
    assert tuple(got["c"].shape) == (1, 3, 4, 4)
    with pytest.raises(EdgecError) as e:
        net.run(random_inputs(g), ["nothing"])
    assert e.value.diagnostics[0].code == "EC0322"
    with pytest.raises(EdgecError) as e:
        net.run({})
    assert e.value.diagnostics[0].code == "EC0811"


@pytest.mark.parametrize("dtype", ["INT8", "INT4"])
def test_weights_stored_as_integers_are_trained_behind_the_rounding(dtype: str) -> None:
    g = graph(STORED)
    w = g.model.graph.initializers["w"]
    assert w.const_value is not None
    w.const_value = ir.Tensor(
        w.const_value.numpy().astype(ir.DataType[dtype].numpy()), dtype=ir.DataType[dtype], name="w"
    )
    w.dtype = ir.DataType[dtype]
    net = TorchGraph(g, train_scales="all")
    assert sorted(net.parameters) == ["a", "s", "w"]
    feeds = random_inputs(g)
    with torch.no_grad():
        np.testing.assert_allclose(net.run(feeds)["y"].numpy(), run(g, feeds)[0], rtol=1e-5, atol=1e-6)
    train(net, feeds, 5, 0.1)
    trained = g.clone()
    write_back(trained, net.arrays())
    trained.verify()
    held = trained.model.graph.initializers["w"].const_value
    before = g.model.graph.initializers["w"].const_value
    assert held is not None
    assert before is not None
    assert held.dtype == before.dtype
    assert (held.numpy() != before.numpy()).any()
    with torch.no_grad():
        np.testing.assert_allclose(net.run(feeds)["y"].numpy(), run(trained, feeds)[0], rtol=1e-5, atol=1e-6)


def test_types_of_the_model_stay() -> None:
    g = graph("g (float16[2,2] x) => (float16[2,2] y) <float16[2,2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }")
    net = TorchGraph(g)
    train(net, random_inputs(g), 1)
    write_back(g, net.arrays())
    held = g.model.graph.initializers["w"].const_value
    assert held is not None
    assert held.dtype.name == "FLOAT16"
    g.verify()


def test_weights_in_constant_nodes_are_written_back() -> None:
    g = graph("g (float[1,2] x) => (float[1,2] y) { w = Constant<value = float[2,2] {1, 2, 3, 4}>() y = MatMul(x, w) }")
    net = TorchGraph(g)
    assert list(net.parameters) == ["w"]
    write_back(g, {"w": np.eye(2, dtype=np.float32)})
    x = random_inputs(g)
    np.testing.assert_array_equal(run(g, x)[0], x["x"])


@pytest.mark.parametrize("arrays", [{"nothing": np.ones(2)}, {"w": np.ones((2, 2))}])
def test_what_does_not_fit_is_not_written(arrays: dict[str, Any]) -> None:
    with pytest.raises(EdgecError) as e:
        write_back(graph(NET), arrays)
    assert e.value.diagnostics[0].code == "EC0326"


def state() -> State:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    return State(
        7, {"w|x/y": a}, {"w|x/y|exp_avg": a * 2, "w|step": np.array(7.0)}, {"w|x/y": a + 1}, [[0, 1.5, 2.5]], [0.25]
    )


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Any) -> None:
    checkpoint = Checkpoint(tmp_path, run_key("a", "b"))
    assert checkpoint.load(Diagnostics()) is None
    checkpoint.save(state())
    got = checkpoint.load(Diagnostics())
    want = state()
    assert got is not None
    assert (got.step, got.history, got.running) == (want.step, want.history, want.running)
    for mine, theirs in ((got.parameters, want.parameters), (got.optimizer, want.optimizer), (got.best, want.best)):
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])
    checkpoint.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut short", "text", "empty", "another archive"])
def test_a_damaged_checkpoint_is_told_and_ignored(tmp_path: Any, damage: str) -> None:
    checkpoint = Checkpoint(tmp_path, run_key("a"))
    checkpoint.save(state())
    data = checkpoint.path.read_bytes()
    if damage == "another archive":
        np.savez(checkpoint.path, other=np.ones(3))
    else:
        checkpoint.path.write_bytes({"cut short": data[: len(data) // 2], "text": b"hello", "empty": b""}[damage])
    found = Diagnostics()
    assert checkpoint.load(found) is None
    assert [d.code for d in found] == ["EC0325"]


def test_keys_depend_on_every_part() -> None:
    assert len({run_key("a", "b"), run_key("ab"), run_key("a", "c"), run_key("b", "a")}) == 4
