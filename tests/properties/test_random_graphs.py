"""On random graphs every pass, alone and in the default pipeline, keeps the interface and the numbers.

`-m slow` runs 2,000 graphs; a failing seed reproduces with `random_graphs.model(seed)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.pipeline import Pass, PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.specs.schema import builtin_pipeline

FEW, MANY, GROUP = 200, 2000, 50

APART = {"freeze-shapes", "onnxsim"}
"""Passes that need options or another package: they have tests of their own."""

STEPS: dict[str, dict[str, Any]] = {"lower-opset": {"to": 21}, "graphsurgeon": {"script": "no-file.py"}}
"""Options of passes that mean nothing without."""

PREPARE = ["constants-to-initializers", "upgrade-opset", "infer-shapes"]


@pytest.fixture(scope="module")
def passes() -> list[Pass]:
    """Every registered pass that promises to keep the numbers, with its default options."""
    known = Registry().passes()
    mine = [n for n in known if known.plugin(n) == "builtin-passes" and n not in APART]
    built = build_passes([{n: STEPS.get(n, {})} for n in mine], known)
    return [p for p in built if p.contract != "lossy"]


@pytest.fixture(scope="module")
def pipeline() -> list[Pass]:
    return build_passes(builtin_pipeline("float").steps, Registry().passes())


class Reference:
    """A source model, its answers, and how far rounding alone may move them."""

    def __init__(self, proto: onnx.ModelProto, feeds: dict[str, Any]) -> None:
        self.proto, self.feeds = proto, feeds
        self.half = proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
        self.want = run(proto, feeds)
        step = 2e-3 if self.half else 1e-6
        signs = np.random.default_rng(1)
        moved = {k: (a * (1 + step * signs.choice([-1, 1], a.shape))).astype(a.dtype) for k, a in feeds.items()}
        self.moved = run(proto, moved)

    def check(self, graph: Graph, told: str) -> None:
        """Fail unless the graph has the same interface and the same answers up to rounding."""
        proto = graph.to_proto()
        onnx.checker.check_model(proto, full_check=True)
        assert interface(proto) == interface(self.proto), told
        got = run(proto, self.feeds)
        for v, a, b, moved in zip(self.proto.graph.output, self.want, got, self.moved, strict=True):
            assert a.shape == b.shape, f"{told}: output {v.name} is {b.shape} instead of {a.shape}"
            if not (np.isfinite(a).all() and np.isfinite(moved).all()):
                continue  # the source model itself overflows here: nothing to compare with
            a, b = a.astype(np.float64), b.astype(np.float64)
            scale = max(float(np.abs(a).max(initial=0.0)), 1e-3)
            allowed = scale * (2e-2 if self.half else 1e-4) + 50 * float(np.abs(a - moved).max(initial=0.0))
            assert np.isfinite(b).all(), f"{told}: output {v.name} is not finite"
            worst = float(np.abs(a - b).max(initial=0.0))
            assert worst <= allowed, f"{told}: output {v.name} is off by {worst:.3g}, {allowed:.3g} allowed"


def run(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def interface(proto: onnx.ModelProto) -> list[tuple[str, int]]:
    return [(v.name, v.type.tensor_type.elem_type) for v in (*proto.graph.input, *proto.graph.output)]


def sources(random_graphs: Any, seeds: range) -> Iterator[tuple[int, Reference]]:
    for seed in seeds:
        proto = random_graphs.model(seed)
        yield seed, Reference(proto, random_graphs.feeds(proto, seed))


def groups(count: int) -> Any:
    starts = range(0, count, GROUP)
    return pytest.mark.parametrize("seeds", [range(i, i + GROUP) for i in starts], ids=[str(i) for i in starts])


def check_pipeline(random_graphs: Any, seeds: range, pipeline: list[Pass]) -> int:
    changed = 0
    for seed, reference in sources(random_graphs, seeds):
        graph = Graph.from_proto(reference.proto)
        changed += any(r.changed for r in PassManager(pipeline).run(graph))
        reference.check(graph, f"seed {seed}, float pipeline")
        again = PassManager(pipeline).run(graph)
        reference.check(graph, f"seed {seed}, float pipeline twice")
        assert sum(r.nodes_after for r in again[-1:]) <= again[0].nodes_before, f"seed {seed}: nodes came back"
    return changed


def check_alone(random_graphs: Any, seeds: range, passes: list[Pass]) -> set[str]:
    """Each pass on the prepared graph. Returns the passes that changed something."""
    prepare = build_passes(PREPARE, Registry().passes())
    used: set[str] = set()
    for seed, reference in sources(random_graphs, seeds):
        prepared = Graph.from_proto(reference.proto)
        PassManager(prepare).run(prepared)
        for p in passes:
            graph = prepared.clone()
            (record,) = PassManager([p]).run(graph, PassContext())
            if record.changed:
                used.add(p.name)
                reference.check(graph, f"seed {seed}, pass {p.spec()}")
    return used


@groups(FEW)
def test_pipeline(seeds: range, random_graphs: Any, pipeline: list[Pass]) -> None:
    assert check_pipeline(random_graphs, seeds, pipeline) == len(seeds)


@pytest.mark.parametrize("name", ["onnxruntime", "rknn-fp16"])
def test_pipeline_of_a_target(name: str, random_graphs: Any) -> None:
    """With composites expanded and the opset lowered again."""
    steps = build_passes(builtin_pipeline(name).steps, Registry().passes())
    for seed, reference in sources(random_graphs, range(FEW // 2)):
        graph = Graph.from_proto(reference.proto)
        PassManager(steps).run(graph)
        reference.check(graph, f"seed {seed}, pipeline {name}")


@pytest.mark.parametrize(("target", "precision"), [("rk3588", "fp16"), ("x86-64", "fp32")])
def test_pipelines_of_targets(target: str, precision: str, random_graphs: Any) -> None:
    """Beyond the float pipeline: what a chip lacks is expressed in what it has, and the opset goes down."""
    registry = Registry()
    steps = build_passes(registry.target(target).pipeline(precision), registry.passes())
    refused = 0
    for seed, reference in sources(random_graphs, range(5000, 5100)):
        graph = Graph.from_proto(reference.proto)
        try:
            PassManager(steps).run(graph)
        except EdgecError as e:
            if not all(d.code.startswith("EC037") for d in e.diagnostics):  # those: the older opset cannot say it
                raise
            refused += 1
            continue
        reference.check(graph, f"seed {seed}, pipeline of {target}")
    assert refused <= 10


@groups(FEW)
def test_each_pass(seeds: range, random_graphs: Any, passes: list[Pass]) -> None:
    assert len(check_alone(random_graphs, seeds, passes)) >= 10


@pytest.mark.slow
def test_many_graphs(random_graphs: Any, pipeline: list[Pass], passes: list[Pass]) -> None:
    """Two thousand graphs; between them they wake most passes."""
    seeds = range(FEW, FEW + MANY)
    check_pipeline(random_graphs, seeds, pipeline)
    used = check_alone(random_graphs, seeds[::10], passes)
    print(f"{len(seeds)} graphs; passes that changed something: {', '.join(sorted(used))}")
    assert len(used) >= 25


def test_a_seed_is_one_model(random_graphs: Any) -> None:
    assert random_graphs.model(7).SerializeToString(deterministic=True) == random_graphs.model(7).SerializeToString(
        deterministic=True
    )


def test_a_wrong_pass_is_noticed(random_graphs: Any) -> None:
    """The check itself: one weight times 1.5 fails."""
    for _, reference in sources(random_graphs, range(20)):
        graph = Graph.from_proto(reference.proto)
        for node in graph.nodes():
            if node.op_type == "Conv" and node.inputs[1] is not None and node.inputs[1].const_value is not None:
                value = node.inputs[1]
                value.const_value = _scaled(value)
                break
        else:
            continue
        if all(np.isfinite(a).all() for a in reference.want):
            with pytest.raises(AssertionError, match="off by"):
                reference.check(graph, "wrong on purpose")
            return
    pytest.fail("no graph with a convolution")


def _scaled(value: Any) -> Any:
    from edgec.graph import ir

    return ir.tensor((value.const_value.numpy() * 1.5).astype(value.const_value.numpy().dtype), name=value.name)
