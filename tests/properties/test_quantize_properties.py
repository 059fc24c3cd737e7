"""Random graphs, quantised for every scheme: what the linter would refuse is never made, it runs, and little is lost."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgec.diagnostics import Severity
from edgec.graph import Graph, constant, ir
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.quantization.lint import lint
from edgec.quantization.pairs import is_linear, is_quantized
from edgec.recipe import build_passes
from edgec.samples import Samples
from edgec.specs.conditions import Setting
from edgec.specs.schema import builtin_pipeline, builtin_scheme, builtin_schemes

FEW, MANY = 40, 200

WORST = {"int4": 8.0, "float8e4m3fn": 15.0}
"""Decibels every output must keep, by the element type of the weights; the graphs have a dozen layers at most."""
WORST_8_BITS = 18.0

NEVER = {"tensorrt-int4"}
"""Blocks of 64 and more: no random graph has a weight as large."""

SELDOM = {"coreml-int4-weights", "coreml-int8-weights"}
"""They leave weights of less than 2,048 numbers in float, and few random graphs have larger ones."""


@dataclass
class Case:
    """A float graph through the float pipeline, inputs, its answers, and inputs to calibrate with."""

    seed: int
    graph: Graph
    feeds: dict[str, Any]
    want: list[Any]

    def calibration(self) -> Samples:
        """The inputs, and the same numbers in other places."""
        rng = np.random.default_rng(self.seed)
        moved = [{k: rng.permutation(a.reshape(-1)).reshape(a.shape) for k, a in self.feeds.items()} for _ in range(3)]
        return Samples(lambda: iter([self.feeds, *moved]), describe="random")


@pytest.fixture(scope="module")
def cases() -> Iterator[list[Case]]:
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    try:
        random_graphs = importlib.import_module("random_graphs")
        yield [make_case(random_graphs, seed) for seed in range(FEW)]
    finally:
        sys.path.remove(folder)


def make_case(random_graphs: Any, seed: int) -> Case:
    proto = random_graphs.model(seed)
    feeds = random_graphs.feeds(proto, seed)
    graph = Graph.from_proto(proto)
    PassManager(build_passes(builtin_pipeline("float").steps, Registry().passes())).run(graph)
    return Case(seed, graph, feeds, run(graph.to_proto(), feeds))


def run(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def sqnr(want: Any, got: Any) -> float:
    """Decibels; infinite where nothing is lost."""
    a, b = want.astype(np.float64), got.astype(np.float64)
    noise = float(((a - b) ** 2).sum())
    signal = float((a**2).sum())
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(max(signal, 1e-12) / noise))


def check_case(case: Case, name: str) -> bool:
    """Quantise one graph. Returns whether there was anything to quantise."""
    scheme = builtin_scheme(name)
    told = f"seed {case.seed}, {name}"
    graph = case.graph.clone()
    changed = Quantize(scheme=name).run(graph, PassContext(calibration=case.calibration())).changed
    assert changed == is_quantized(graph), told
    if not changed:
        return False
    found = [f for f in lint(graph, scheme, Setting("int8", "", graph.opset)) if f.severity >= Severity.WARNING]
    assert found == [], told
    proto = graph.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    for after, before in zip((*graph.inputs, *graph.outputs), (*case.graph.inputs, *case.graph.outputs), strict=True):
        assert (after.name, after.dtype) == (before.name, before.dtype), told
    least = WORST.get(scheme.weights.dtype, WORST_8_BITS)
    for v, a, b in zip(graph.outputs, case.want, run(proto, case.feeds), strict=True):
        assert a.shape == b.shape, told
        if np.isfinite(a).all():  # else the source model itself overflows
            assert np.isfinite(b).all(), f"{told}: output {v.name} is not finite"
            assert sqnr(a, b) >= least, f"{told}: output {v.name} keeps {sqnr(a, b):.1f} dB"
    return True


@pytest.mark.parametrize("scheme", builtin_schemes())
def test_quantised_for_every_scheme(scheme: str, cases: list[Case]) -> None:
    quantised = sum(check_case(case, scheme) for case in cases)
    assert (quantised == 0) if scheme in NEVER else (quantised >= (0 if scheme in SELDOM else len(cases) // 8))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(FEW, FEW + MANY, 50))
def test_many_graphs_for_every_scheme(first: int, cases: list[Case]) -> None:
    random_graphs = importlib.import_module("random_graphs")  # where `cases` found it
    for seed in range(first, first + 50):
        case = make_case(random_graphs, seed)
        for scheme in builtin_schemes():
            check_case(case, scheme)


@pytest.mark.parametrize("scheme", ["tflite-int8", "tensorrt-int8"])
def test_a_second_quantisation_does_nothing(scheme: str, cases: list[Case]) -> None:
    again = 0
    for case in cases[:15]:
        graph = case.graph.clone()
        if not Quantize(scheme=scheme).run(graph, PassContext(calibration=case.calibration())).changed:
            continue
        before = graph.op_counts()
        Quantize(scheme=scheme).run(graph, PassContext(calibration=case.calibration()))
        found = lint(graph, builtin_scheme(scheme), Setting("int8", "", graph.opset))
        assert [f for f in found if f.rule == "double"] == [], f"seed {case.seed}"
        assert graph.op_counts() == before, f"seed {case.seed}"
        again += 1
    assert again >= 5


def test_a_wrong_scale_is_noticed(cases: list[Case]) -> None:
    """The check itself: a weight scale times 1.5 is a bias at odds with it, or an output far off."""
    noticed = 0
    for case in cases:
        graph = case.graph.clone()
        Quantize(scheme="tflite-int8").run(graph, PassContext(calibration=case.calibration()))
        dq = next((n for n in graph.nodes() if _scales_a_biased_weight(n)), None)
        if dq is None:
            continue
        scale = dq.inputs[1]
        assert scale is not None  # of a DQ
        data = np.asarray(constant(scale)) * np.float32(1.5)
        scale.const_value = ir.tensor(data, name=scale.name)
        found = lint(graph, builtin_scheme("tflite-int8"), Setting("int8", "", graph.opset))
        assert "bias" in {f.rule for f in found}, f"seed {case.seed}"
        noticed += 1
    assert noticed >= 3


def test_broken_pairs_are_reported_not_raised(cases: list[Case]) -> None:
    """Whatever is wrong with a Q or DQ: the linter answers, and mostly with an error."""
    answered = 0
    told = 0
    for case in cases[:20]:
        graph = case.graph.clone()
        Quantize(scheme="tflite-int8").run(graph, PassContext(calibration=case.calibration()))
        for i in range(10):
            broken = graph.clone()
            if not _break(broken, random.Random(case.seed * 100 + i)):
                break
            for name in ("tflite-int8", "tensorrt-int4"):
                found = lint(broken, builtin_scheme(name), Setting("int8", "", graph.opset))
                answered += 1
                told += any(f.severity is Severity.ERROR for f in found)
    assert answered >= 100
    assert told >= answered // 2


def _break(graph: Graph, rng: random.Random) -> bool:
    """Spoil one pair. False where there is none."""
    nodes = [n for n in graph.nodes() if is_linear(n)]
    if not nodes:
        return False
    node = rng.choice(nodes)

    def weight(data: Any) -> ir.Value:
        tensor = ir.tensor(data, name=graph.fresh("spoilt"))
        value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.model.graph.register_initializer(value)
        return value

    match rng.randrange(8):
        case 0:
            node.replace_input_with(2, None)
        case 1:
            node.replace_input_with(1, weight(np.ones(rng.choice([0, 2, 3, 7]), np.float32)))
        case 2:
            node.attributes["axis"] = ir.AttrInt64("axis", rng.choice([-9, -1, 0, 1, 7]))
        case 3:
            node.replace_input_with(1, graph.inputs[0])
        case 4:
            node.replace_input_with(2, weight(np.zeros(rng.choice([1, 3]), rng.choice([np.uint8, np.int16, np.int32]))))
        case 5:
            node.attributes["block_size"] = ir.AttrInt64("block_size", rng.choice([-1, 2, 100]))
        case 6:
            node.outputs[0].shape = node.outputs[0].type = None
        case 7:
            node.replace_input_with(1, weight(np.float32(rng.choice([0, np.nan, -1, np.inf, 1e-42]))))
    return True


def _scales_a_biased_weight(node: ir.Node) -> bool:
    if node.op_type != "DequantizeLinear":
        return False
    stored = node.inputs[0]
    if stored is None or stored.dtype is not ir.DataType.INT8 or constant(stored) is None:
        return False
    for user, i in node.outputs[0].uses():
        bias = user.inputs[2] if user.op_type in ("Conv", "Gemm") and len(user.inputs) > 2 else None
        producer = bias.producer() if bias is not None else None
        if i == 1 and producer is not None and producer.op_type == "DequantizeLinear":
            return True
    return False
