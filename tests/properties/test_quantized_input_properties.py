"""Random graphs that arrive quantised: the float passes keep their contracts on them, and no Q/DQ gets lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.contracts import check_contract
from edgec.graph import Graph
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import Pass, PassContext, PassManager
from edgec.plugins import Registry
from edgec.quantization.form import quantization_form
from edgec.recipe import build_passes
from edgec.runtime import Session
from edgec.samples import Samples
from edgec.specs.schema import builtin_pipeline

FEW, MANY, GROUP = 24, 240, 8
PREPARE = ["constants-to-initializers", "upgrade-opset", "infer-shapes", "fold-constants", "eliminate-noops"]


def arrived(random_graphs: Any, seed: int, scheme: str) -> tuple[Graph, Samples]:
    """A random graph quantised as it stands: BatchNormalizations unfolded, composites in pieces."""
    proto = random_graphs.model(seed)
    feeds = random_graphs.feeds(proto, seed)
    graph = Graph.from_proto(proto)
    PassManager(build_passes(PREPARE, Registry().passes())).run(graph)
    samples = Samples(lambda: iter([feeds]), describe=f"seed {seed}")
    Quantize(scheme=scheme, method="minmax", hazards=False).run(graph, PassContext(calibration=samples))
    return graph, samples


def float_passes() -> list[Pass]:
    """The passes of the float pipeline that promise to keep the numbers."""
    built = build_passes(builtin_pipeline("float").steps, Registry().passes())
    return [p for p in built if p.contract != "lossy"]


def check(random_graphs: Any, seeds: range, scheme: str) -> int:
    """Every pass in turn, its contract checked. Returns how many graphs held anything quantised."""
    found = 0
    for seed in seeds:
        graph, samples = arrived(random_graphs, seed, scheme)
        before = quantization_form(graph)
        if not before.counts or not all(np.isfinite(a).all() for a in _answers(graph, samples)):
            continue
        found += 1
        ctx = PassContext(samples=samples)
        for p in float_passes():
            was = graph.clone()
            if PassManager([p]).run(graph, ctx)[0].changed:
                check_contract(p, was, graph, ctx)
        after = quantization_form(graph)
        assert before.form == after.form, f"seed {seed}: {before} became {after}"
    return found


def _answers(graph: Graph, samples: Samples) -> list[Any]:
    return list(Session(graph).run(next(iter(samples))).values())


@pytest.mark.parametrize("scheme", ["onnxruntime-int8", "tensorrt-int8"])
@pytest.mark.parametrize("start", range(0, FEW, GROUP))
def test_float_passes_on_quantised_graphs(start: int, scheme: str, random_graphs: Any) -> None:
    assert check(random_graphs, range(start, start + GROUP), scheme) >= GROUP // 4


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["onnxruntime-int8", "tensorrt-int8", "tflite-int16x8", "weight-only-int8"])
def test_many(scheme: str, random_graphs: Any) -> None:
    assert check(random_graphs, range(FEW, MANY), scheme) >= MANY // 4
