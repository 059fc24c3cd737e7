"""Pass prune: what each importance takes out first, how allocations reach a goal, heads and hidden units, refusals."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph, constant, ir
from edgec.infer import infer_shapes
from edgec.passes.prune.allocation import Room, reach, uniform
from edgec.passes.prune.groups import Atom, find_groups, remove
from edgec.passes.prune.prune import Prune
from edgec.passes.prune.ranking import Data, rank
from edgec.passes.prune.recover import Recover
from edgec.passes.prune.sensitivity import Harm, by_harm
from edgec.pipeline import PassContext
from edgec.pruning import PruningRecord
from edgec.runtime import Session
from edgec.samples import Samples

Array = npt.NDArray[Any]


def with_weights(text: str, weights: dict[str, Array]) -> Graph:
    """The graph of a text that names weights it does not define."""
    graph = Graph.from_text(text)
    made = {}
    for name, data in weights.items():
        made[name] = ir.Value(
            name=name, shape=ir.Shape(data.shape), type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(data.astype(np.float32), name=name),
        )  # fmt: skip
        graph.model.graph.register_initializer(made[name])
    for node in graph.model.graph:
        for i, v in enumerate(node.inputs):
            if v is not None and v.name in made:
                node.replace_input_with(i, made[v.name])
    infer_shapes(graph)
    return graph


def net(hidden: int = 16, second: int = 16, seed: int = 0, **given: Array) -> Graph:
    """Two 1x1 convolutions with hidden channels between them, twice; `given` replaces random weights."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.normal(size=(hidden, 4, 1, 1)), "b1": rng.normal(size=hidden), "w2": rng.normal(size=(8, hidden, 1, 1)),
        "b2": rng.normal(size=8), "w3": rng.normal(size=(second, 8, 1, 1)), "w4": rng.normal(size=(5, second, 1, 1)),
        "b4": rng.normal(size=5),
    }  # fmt: skip
    return with_weights(
        """<ir_version: 10, opset_import: ["" : 20]> g (float[1,4,6,6] x) => (float[1,5,6,6] y) {
            c1 = Conv(x, w1, b1)
            h = Relu(c1)
            m = Conv(h, w2, b2)
            c3 = Conv(m, w3)
            k = Relu(c3)
            y = Conv(k, w4, b4)
        }""",
        weights | given,
    )


def samples(count: int = 24, seed: int = 1, shape: tuple[int, ...] = (1, 4, 6, 6)) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def context(feeds: list[dict[str, Array]] | None = None) -> PassContext:
    data = samples() if feeds is None else feeds
    return PassContext(calibration=Samples(lambda: iter(data), describe="made", count=len(data)))


def pruned(graph: Graph, step: Prune, ctx: PassContext) -> Graph:
    graph.facts |= step.requires
    step.run(graph, ctx)
    graph.verify()
    return graph


def kept(ctx: PassContext, name: str) -> list[int]:
    assert ctx.pruning is not None
    return ctx.pruning.kept[name][1].tolist() if name in ctx.pruning.kept else []


def doubled() -> Array:
    """Filters of which number n and n + 8 are the same but for their size: one of two can do the work of both."""
    w = np.random.default_rng(5).normal(size=(8, 4, 1, 1))
    return np.concatenate([w, w * 2])


def test_reconstruction_takes_what_others_make_good_for() -> None:
    graph = net(w1=doubled(), b1=np.zeros(16))
    data = Data.read(graph, context().calibration, 24, 4096, 100, 0, Diagnostics())  # type: ignore[arg-type]
    groups = find_groups(graph)
    free = [g for g in groups if g.fixed is None]
    ranking = rank(graph, free, "reconstruction", data, observe=False)
    first = next(i for i, g in enumerate(free) if g.name == "c1")
    order, costs = ranking.orders[first], ranking.costs[first]
    assert len({int(n) % 8 for n in order[:8]}) == 8, "one of each pair goes first"
    assert costs[:8].sum() < costs[8:].sum() / 50


def test_activation_takes_channels_that_are_always_zero() -> None:
    bias = np.zeros(16)
    bias[[3, 9]] = -1e3
    ctx = context()
    pruned(
        net(b1=bias), Prune(ratio=0.12, align=1, importance="activation", allocation="uniform", keep=("c3", "m")), ctx
    )
    gone = set(range(16)) - set(kept(ctx, "c1"))
    assert gone == {3, 9}


def test_taylor_needs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EdgecError, match="EC0320"):
        Prune(ratio=0.12, align=1, importance="taylor", allocation="uniform").run(net(), context(samples(2)))


def test_taylor_takes_what_the_outputs_do_not_move_with() -> None:
    pytest.importorskip("torch")
    w2 = np.random.default_rng(2).normal(size=(8, 16, 1, 1))
    w2[:, [1, 2]] = 0  # nothing reads them, large as they are
    w1 = np.random.default_rng(3).normal(size=(16, 4, 1, 1))
    w1[[1, 2]] *= 50
    ctx = context(samples(4))
    pruned(
        net(w1=w1, w2=w2), Prune(ratio=0.12, align=1, importance="taylor", allocation="uniform", keep=("c3", "m")), ctx
    )
    assert set(range(16)) - set(kept(ctx, "c1")) == {1, 2}


def test_sensitivity_cuts_where_it_costs_least() -> None:
    """Half of the first group is redundant, nothing of the second: an even cut hurts, one by harm does not."""
    graph = net(w1=doubled(), b1=np.zeros(16))
    ctx = context()
    pruned(graph, Prune(ratio=0.2, align=1, keep=("m",)), ctx)
    first, second = (16 - len(kept(ctx, n) or range(16)) for n in ("c1", "c3"))
    assert first >= 5
    assert first >= 2 * second


@pytest.mark.parametrize("importance", ["l1", "l2", "activation", "reconstruction"])
@pytest.mark.parametrize("allocation", ["uniform", "global", "sensitivity"])
@pytest.mark.parametrize("goal", ["ratio", "macs", "params"])
def test_goals_are_reached(importance: Any, allocation: Any, goal: str) -> None:
    graph = net(32, 24)
    before = Prune.prunable(graph.clone())
    ctx = context(samples(6))
    step = Prune(**{goal: 0.3}, importance=importance, allocation=allocation, align=4)  # type: ignore[arg-type]
    weights = sum(v.const_value.size for v in graph.model.graph.initializers.values() if v.const_value is not None)
    result = step.run(graph, ctx)
    graph.verify()
    left = sum(v.const_value.size for v in graph.model.graph.initializers.values() if v.const_value is not None)
    assert result.stats["parameters"] == weights - left
    if goal == "params":
        assert left <= 0.7 * weights
    if goal == "ratio":
        channels = sum(r["channels"] for r in before if r["fixed"] is None)
        assert result.stats["channels"] / channels == pytest.approx(0.3, abs=0.1)
    assert all(len(axes[1]) % 4 == 0 for axes in (ctx.pruning.kept if ctx.pruning else {}).values())
    assert Session(graph).run(samples(1)[0])["y"].shape == (1, 5, 6, 6)


@pytest.mark.parametrize(("bad", "told"), [(np.nan, []), (np.inf, ["EC0722"])], ids=["nan", "inf"])
def test_samples_that_spoil_everything_are_left_out(bad: float, told: list[str]) -> None:
    """NaN is told where samples are opened (EC0710)."""
    feeds = samples(24)
    sound, spoilt = net(), net()
    pruned(sound, Prune(macs=0.3), context(feeds))
    hurt = [dict(f) for f in feeds]
    hurt.insert(5, {"x": np.full_like(feeds[0]["x"], bad)})
    ctx = context(hurt)
    pruned(spoilt, Prune(macs=0.3), ctx)
    assert [d.code for d in ctx.diagnostics] == told
    assert spoilt.op_counts() == sound.op_counts()
    with pytest.raises(EdgecError, match="EC0737"):
        pruned(net(), Prune(macs=0.3), context([{"x": np.full_like(feeds[0]["x"], np.nan)}] * 3))


def test_infinities_that_every_sample_has_are_meant() -> None:
    """A mask."""
    from edgec.passes.prune.sound_samples import spoilt

    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[4] x, float[4] mask) => (float[4] y)
        { s = Add(x, mask)  y = Softmax(s) }"""
    graph = Graph.from_text(text)
    masked = np.array([0, 0, -np.inf, -np.inf], np.float32)
    feeds = [{"x": np.ones(4, np.float32) * i, "mask": masked} for i in range(4)]
    assert spoilt(graph, feeds) == []
    feeds[2] = {"x": np.array([1, np.inf, 0, 0], np.float32), "mask": masked}
    assert spoilt(graph, feeds) == [2]


def test_keep_takes_the_names_the_model_came_with() -> None:
    """Nodes that a pass made stand for those of the model."""
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[1,4,6,6] x) => (float[1,4,6,6] y)
        <float[16,4,1,1] w = {1}, float[4,16,1,1] v = {1}> { [first] h = Conv(x, w)  r = Relu(h)  y = Conv(r, v) }"""
    graph = Graph.from_text(text)
    infer_shapes(graph)
    conv = next(n for n in graph.nodes() if n.outputs[0].name == "h")
    conv.metadata_props["edgec.from"], conv.name = "model/conv1\nmodel/bn1", "folded"
    (group,) = (g for g in find_groups(graph) if g.fixed is None)
    assert Prune(ratio=0.5, keep=("*/conv1",))._free([group]) == []
    with pytest.raises(EdgecError, match="EC0336"):
        Prune(ratio=0.5, keep=("*/conv2",))._free([group])


def test_keep_that_holds_everything_is_an_error() -> None:
    with pytest.raises(EdgecError, match=r"EC0334.*keep"):
        pruned(net(), Prune(macs=0.3, keep=("*",)), context())


def test_where_nothing_goes_recover_has_nothing_to_do() -> None:
    graph = net()
    ctx = context()
    before = graph.fingerprint()
    pruned(graph, Prune(ratio=0.01, allocation="uniform"), ctx)
    assert not Recover().run(graph, ctx).changed
    assert [d.code for d in ctx.diagnostics] == ["EC0338"]
    assert graph.fingerprint() == before


@pytest.mark.parametrize(("ratio", "left"), [(0.01, 128), (0.26, 96), (0.5, 64)])
def test_a_ratio_is_rounded_to_the_nearest_multiple_by_any_allocation(ratio: float, left: int) -> None:
    for allocation in ("uniform", "sensitivity"):
        graph = net(64, 64)
        ctx = context()
        graph.facts |= Prune.requires
        Prune(ratio=ratio, allocation=allocation).run(graph, ctx)  # type: ignore[arg-type]
        shapes = {n.outputs[0].name: n.outputs[0].shape for n in graph.nodes()}
        channels = [shape.numpy()[1] for name in ("c1", "c3") if (shape := shapes[name])]
        assert sum(channels) == left, allocation


def test_multiply_accumulates_are_not_counted_where_shapes_are_open() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[1,4,H,W] x) => (float[1,4,H,W] y)
        <float[16,4,1,1] w = {1}, float[4,16,1,1] v = {1}> { h = Conv(x, w)  r = Relu(h)  y = Conv(r, v) }"""
    (row,) = (r for r in Prune.prunable(Graph.from_text(text)) if r["fixed"] is None)
    assert row["macs_per_atom"] is None
    assert row["params_per_atom"] == 8
    (row,) = (r for r in Prune.prunable(Graph.from_text(text.replace("H,W", "6,6"))) if r["fixed"] is None)
    assert row["macs_per_atom"] == 8 * 36


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, "EC0333"), ({"ratio": 0.3, "macs": 0.3}, "EC0333"), ({"ratio": 1.5}, "EC0333"),
        ({"macs": 0.999}, "EC0334"), ({"ratio": 0.3, "importance": "bn"}, "EC0335"),
        ({"ratio": 0.3, "keep": ("nothing",)}, "EC0336"), ({"ratio": 0.3, "importance": "activation"}, "EC0731"),
        ({"ratio": 0.3, "allocation": "sensitivity"}, "EC0731"),
    ],
)  # fmt: skip
def test_refusals(options: dict[str, Any], code: str) -> None:
    with pytest.raises(EdgecError) as e:
        Prune(**options).run(net(), PassContext())
    assert e.value.diagnostics[0].code == code


def test_quantised_is_refused() -> None:
    graph = Graph.from_text("""<ir_version: 10, opset_import: ["" : 20]> g (float[1,4] x) => (float[1,4] y)
        <float s = {0.1}, uint8 z = {0}> { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }""")
    with pytest.raises(EdgecError, match="quantised already"):
        Prune(ratio=0.3).run(graph, PassContext())
    with pytest.raises(EdgecError, match="quantised already"):
        Prune.prunable(graph)


def transformer(heads: int = 4, size: int = 3, hidden: int = 16, width: int = 10) -> Graph:
    """One attention and one MLP over 5 tokens."""
    rng, wide = np.random.default_rng(4), heads * size
    weights = {f"w{n}": rng.normal(size=(width, wide)) / 3 for n in "qkv"} | {
        "bq": rng.normal(size=wide), "wo": rng.normal(size=(wide, width)), "wu": rng.normal(size=(width, hidden)),
        "bu": rng.normal(size=hidden), "wd": rng.normal(size=(hidden, 3)),
    }  # fmt: skip
    return with_weights(
        f"""<ir_version: 10, opset_import: ["" : 20]> g (float[1,5,{width}] x) => (float[1,5,3] y)
        <int64[4] apart = {{1, 5, {heads}, {size}}}, int64[3] back = {{1, 5, {wide}}}> {{
            q0 = MatMul(x, wq)
            q1 = Add(q0, bq)
            q2 = Reshape(q1, apart)
            q = Transpose <perm = [0, 2, 1, 3]> (q2)
            k0 = MatMul(x, wk)
            k2 = Reshape(k0, apart)
            k = Transpose <perm = [0, 2, 3, 1]> (k2)
            v0 = MatMul(x, wv)
            v2 = Reshape(v0, apart)
            v = Transpose <perm = [0, 2, 1, 3]> (v2)
            s = MatMul(q, k)
            p = Softmax <axis = -1> (s)
            o1 = MatMul(p, v)
            o2 = Transpose <perm = [0, 2, 1, 3]> (o1)
            o3 = Reshape(o2, back)
            o = MatMul(o3, wo)
            a = Add(x, o)
            u0 = MatMul(a, wu)
            u = Add(u0, bu)
            h = Gelu(u)
            y = MatMul(h, wd)
        }}""",
        weights,
    )


def weight(graph: Graph, name: str) -> Array:
    found = constant(graph.model.graph.initializers[name])
    assert found is not None
    return np.array(found)


@pytest.mark.parametrize("name", ["q0", "u0"])
def test_heads_and_hidden_units(name: str) -> None:
    """Without a head, or a hidden unit, the model computes what it does with zeros where that is read."""
    graph = transformer()
    groups = {g.name: g for g in find_groups(graph) if g.fixed is None}
    group = groups[name]
    assert (len(group.atoms), group.width) == ((4, 3) if name == "q0" else (16, 1))
    reader = "wo" if name == "q0" else "wd"
    gone = [1, 3] if name == "q0" else [0, 7, 8]
    rows = [r for n in gone for r in range(n * group.width, (n + 1) * group.width)]
    zeroed = graph.clone()
    data = weight(zeroed, reader)
    data[rows] = 0
    zeroed.model.graph.initializers[reader].const_value = ir.tensor(data, name=reader)
    remove(graph, [Atom(group, int(group.numbers[n])) for n in gone])
    feed = {"x": np.random.default_rng(0).normal(size=(1, 5, 10)).astype(np.float32)}
    np.testing.assert_allclose(Session(graph).run(feed)["y"], Session(zeroed).run(feed)["y"], rtol=1e-5, atol=1e-5)


def test_transformer_by_reconstruction() -> None:
    data = samples(20, shape=(1, 5, 10))
    ctx = context(data)
    graph = pruned(transformer(hidden=64), Prune(ratio=0.3, align=1), ctx)
    assert ctx.pruning is not None
    assert {"q0", "u0"} & set(ctx.pruning.kept)
    assert Session(graph).run(data[0])["y"].shape == (1, 5, 3)


def test_record_adds_cuts_up() -> None:
    record = PruningRecord(net())
    record.cut({"c1": {1: np.asarray([0, 2, 4, 6])}})
    record.cut({"c1": {1: np.asarray([1, 3])}, "m": {1: np.asarray([5])}})
    assert record.kept["c1"][1].tolist() == [2, 6]
    assert record.kept["m"][1].tolist() == [5]


def test_one_reference_for_several_cuts() -> None:
    ctx = context()
    graph = net()
    for _ in range(2):
        pruned(graph, Prune(ratio=0.25, align=1, allocation="uniform"), ctx)
    assert ctx.pruning is not None
    assert constant(ctx.pruning.reference.model.graph.initializers["w1"]).shape == (16, 4, 1, 1)  # type: ignore[union-attr]
    assert ctx.pruning.kept["c1"][1].max() > 8
    assert len(ctx.pruning.kept["c1"][1]) == 9


def test_uniform_is_the_least_cut_that_reaches_the_goal() -> None:
    rooms = [Room.of(16, 1, 1, 0.0), Room.of(16, 1, 1, 0.0)]
    found = reach(uniform(rooms), lambda cut: float(cut.sum() / 32), 0.3)
    assert found is not None
    assert found.sum() == 10


def test_by_harm_prefers_what_saves_most_for_its_harm() -> None:
    rooms = [Room.of(8, 1, 2, 0.0), Room.of(8, 1, 2, 0.0)]
    cheap, dear = Harm(np.linspace(0, 1, 9)), Harm(np.linspace(0, 3, 9))
    found = by_harm(rooms, [cheap, dear], lambda cut: float((cut * [1, 2]).sum() / 24), 0.3)
    assert found is not None
    assert found.tolist() == [4, 2], "the third step of the first is not needed once the second has made one"
    assert by_harm(rooms, [cheap, dear], lambda cut: float(cut.sum() / 16), 1.0) is None
