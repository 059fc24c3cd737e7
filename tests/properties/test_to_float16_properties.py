"""On random graphs `to-float16` keeps the interface, gives valid models, the numbers up to float16 rounding, and is done
after one run. `-m slow` runs 1,000 graphs; `random_graphs.model(seed)` reproduces a failing seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.compare import compare
from edgec.graph import Graph
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.runtime import Session
from edgec.samples import Samples

FEW, MANY, GROUP = 60, 1000, 50

PREPARE = ["constants-to-initializers", "upgrade-opset", "infer-shapes"]


def holds(random_graphs: Any, seed: int) -> None:
    proto = random_graphs.model(seed)
    feeds = random_graphs.feeds(proto, seed)
    graph = Graph.from_proto(proto)
    samples = Samples(lambda: iter([feeds]), describe="the graph's inputs")
    ctx = PassContext(calibration=samples)
    known = Registry().passes()
    PassManager(build_passes(PREPARE, known)).run(graph, ctx)
    source = graph.clone()
    half = build_passes(["to-float16"], known)
    PassManager(half, verify="structure").run(graph, ctx)
    told = f"seed {seed}\n{graph.to_text()}"
    assert [(v.name, v.dtype) for v in (*graph.inputs, *graph.outputs)] == [
        (v.name, v.dtype) for v in (*source.inputs, *source.outputs)
    ], told
    again = graph.clone()
    assert not PassManager(half).run(again, PassContext(calibration=samples))[0].changed, told
    assert again.fingerprint() == graph.fingerprint(), told
    _no_idle_casts(graph, told)
    want, got = Session(source).run(feeds), Session(graph).run(feeds)
    for name, a in list(want.items()):
        b = got[name]
        assert (a.shape, a.dtype) == (b.shape, b.dtype), told
        if a.dtype.kind == "f" and a.size:
            assert (np.isfinite(a) == np.isfinite(b)).all(), f"{name}: {told}"
            if not a.any():  # x - x: what is left is rounding
                assert np.abs(b).max() < 0.01, f"{name}: {told}"
                want = {k: v for k, v in want.items() if k != name}
    moved = {k: _rounded(a) for k, a in feeds.items()}
    noise = {o.name: o for o in compare([want], [_only(Session(source).run(moved), want)]).outputs}
    for o in compare([want], [_only(got, want)]).outputs:
        if o.dtype.startswith("float"):  # inputs rounded once already move an output: twenty times that, at least 40 dB
            assert o.sqnr_db > min(40.0, noise[o.name].sqnr_db - 26), f"{o.name} {o.sqnr_db:.1f} dB: {told}"


def _only(arrays: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    return {name: arrays[name] for name in wanted}


def _rounded(a: Any) -> Any:
    return a.astype(np.float16).astype(a.dtype) if a.dtype.kind == "f" else a


def _no_idle_casts(graph: Graph, told: str) -> None:
    for node in graph.nodes():
        if node.op_type == "Cast" and "edgec.rule" in node.metadata_props and node.inputs[0] is not None:
            assert node.inputs[0].dtype is not node.outputs[0].dtype, told
            before = node.inputs[0].producer()
            assert before is None or before.op_type != "Cast" or "edgec.rule" not in before.metadata_props, told


@pytest.mark.parametrize("first", range(0, FEW, 20))
def test_few(random_graphs: Any, first: int) -> None:
    for seed in range(first, first + 20):
        holds(random_graphs, seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FEW, MANY, GROUP))
def test_many(random_graphs: Any, first: int) -> None:
    for seed in range(first, min(first + GROUP, MANY)):
        holds(random_graphs, seed)
