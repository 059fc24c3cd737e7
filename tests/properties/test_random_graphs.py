"""Any network keeps its interface and its numbers through every pass and every target's pipeline."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.testing import random_inputs, run

HERE = Path(__file__).parent
REGISTRY = Registry()
PREPARE = ["inline-functions", "constants-to-initializers", "upgrade-opset", "infer-shapes"]
ALONE = sorted(set(REGISTRY.passes()) - {*PREPARE, "freeze-shapes", "onnxsim"})
PIPELINES = {"x86-64": "fp32", "rk3588": "fp16"}


def _builder() -> Any:
    spec = importlib.util.spec_from_file_location("graph_builder", HERE / "graph_builder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["graph_builder"] = module
    spec.loader.exec_module(module)
    return module


random_graph = _builder().random_graph


def check(seed: int, steps: list[Any]) -> None:
    before: Graph = random_graph(seed)
    feeds = random_inputs(before, seed=seed)
    want = run(before, feeds)
    after = before.clone()
    PassManager(build_passes(steps, REGISTRY.passes())).run(after, PassContext())
    after.verify()
    assert [v.name for v in after.inputs] == [v.name for v in before.inputs]
    assert [(v.name, v.dtype) for v in after.outputs] == [(v.name, v.dtype) for v in before.outputs]
    for v, a, b in zip(before.outputs, want, run(after, feeds), strict=True):
        assert a.shape == b.shape, f"seed {seed}, output {v.name}: shape {b.shape} instead of {a.shape}"
        # Deep random networks amplify rounding: the bound is relative to the largest value of the tensor.
        scale = max(1.0, float(np.max(np.abs(a), initial=0.0)))
        assert np.allclose(a, b, rtol=1e-3, atol=1e-4 * scale, equal_nan=True), (
            f"seed {seed}, output {v.name}: off by {np.abs(a - b).max()} of {scale}"
        )


@pytest.mark.parametrize("target", PIPELINES)
@pytest.mark.parametrize("block", range(6))
def test_pipelines_keep_the_numbers(target: str, block: int) -> None:
    steps = list(REGISTRY.target(target).pipeline(PIPELINES[target]))
    for seed in range(25 * block, 25 * (block + 1)):
        check(seed, steps)


@pytest.mark.parametrize("name", ALONE)
def test_each_pass_alone_keeps_the_numbers(name: str) -> None:
    refused = 0
    for seed in range(1000, 1012):
        try:
            check(seed, [*PREPARE, name])
        except EdgecError:
            refused += 1  # lower-opset says what it cannot express; nothing else may
    assert refused == 0 or name == "lower-opset"


@pytest.mark.slow
@pytest.mark.parametrize("block", range(40))
def test_two_thousand_graphs(block: int) -> None:
    targets = list(PIPELINES)
    for seed in range(10_000 + 50 * block, 10_000 + 50 * (block + 1)):
        target = targets[seed % 2]
        check(seed, list(REGISTRY.target(target).pipeline(PIPELINES[target])))
