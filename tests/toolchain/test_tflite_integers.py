"""Quantised CNNs: no float operator inside, and every operator as an independent integer reference has it.

Each operator is cut out into a file of its own and fed with the stored numbers that it gets in the whole model on a real sample,
so errors do not add up. Measured largest differences are in docs/tflite.md.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tflite_reference as reference

from edgec.graph import Graph
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.samples import Samples
from edgec.targets.tflite.endpoints import Interface
from edgec.targets.tflite.lower import LoweredModel, LowerOptions, lower
from edgec.targets.tflite.model import Operator, SubGraph, Tensor, TfliteModel
from edgec.targets.tflite.model_runs import ModelRun, run_litert
from edgec.targets.tflite.writer import write
from edgec.toolchain import Toolchain

pytestmark = pytest.mark.toolchain

MODELS = (
    "mlperf_kws_dscnn",
    "mnist_cnn_digitrec",
    "cifar10_resnet20",
    "fastestdet",
    "mobilenet_v2",
    "efficientnet_lite0",
)
STEPS = 1.0
"""A kernel may round the other way, and XNNPACK and LiteRT scale in fixed or single precision."""


@pytest.fixture(scope="module")
def litert(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("litert")


def quantised(name: str, folder: Path, judge: ModuleType) -> tuple[Graph, LoweredModel, dict[str, Any]]:
    """The int8 graph, lowered, and a judged sample."""
    graph = Graph.load(folder / "models" / f"{name}.onnx")
    key = str(graph.inputs[0].name)
    inputs = [{key: x} for x in islice(judge.calibration(name), 8)]
    shape = "x".join(map(str, inputs[0][key].shape))
    freeze = build_passes([{"freeze-shapes": {"shapes": [f"{key}={shape}"]}}], Registry().passes())
    PassManager(freeze).run(graph)
    samples = Samples(lambda: iter(inputs), describe="evaluate.py")
    target = Registry().target("android")
    ctx = PassContext(samples=samples, calibration=samples, target=target.spec(), precision="int8")
    PassManager(build_passes(target.pipeline("int8", "low"), Registry().passes())).run(graph, ctx)
    x, _ = next(iter(judge._samples(name, judged=True)))
    return graph, lower(graph, LowerOptions(io_layout="nhwc", xnnpack=True)), {key: x}


@pytest.mark.parametrize("name", MODELS)
def test_integers(name: str, eval_dir: Path, judge: ModuleType, litert: Toolchain, tmp_path: Path) -> None:
    graph, lowered, sample = quantised(name, eval_dir, judge)
    main = lowered.model.main
    floats = [o.op for o in main.operators if any(t.dtype == "float32" for t in o.outputs) and o.op != "DEQUANTIZE"]
    assert not floats, "computes in float"
    ends = {id(t) for t in (*main.inputs, *main.outputs)}
    between = [o for o in main.operators if o.op == "DEQUANTIZE" and not any(id(t) in ends for t in o.outputs)]
    assert not between, "leaves the integers inside"

    fed = Interface.of(lowered, graph).store(sample)
    run = ModelRun(write(lowered.model), [fed], all_tensors=True)
    (outcome,) = run_litert(litert, [run], folder=tmp_path, kernels="reference")
    assert outcome.status == "ok", outcome.message
    values = {id(t): fed[n] for t, n in zip(main.inputs, lowered.model.input_names, strict=True)}
    for i, t in enumerate(main.tensors()):
        if t.data is not None:
            values[id(t)] = t.data
        elif i in outcome.tensors[0]:
            values[id(t)] = outcome.tensors[0][i]
    off = differences(main.operators, values, litert, tmp_path)
    print(name, {op: round(steps, 2) for op, steps in sorted(off.items())})
    assert max(off.values()) <= STEPS, off


def differences(operators: list[Operator], values: dict[int, Any], litert: Toolchain, folder: Path) -> dict[str, float]:
    """By "OPERATOR, kernels": the largest distance of a stored number from the rounded reference, in steps of the output."""
    wanted = {}
    for i, o in enumerate(operators):
        inputs = [values[id(t)] if t is not None else None for t in o.inputs]
        made = reference.expected(o, inputs)
        assert made is not None, f"the reference does not know {o.op}"
        wanted[i] = made
    runs = [_alone(o, values) for o in operators]
    off: dict[str, float] = {}
    for kernels in ("xnnpack", "builtin", "reference"):
        outcomes = run_litert(litert, runs, folder=folder, kernels=kernels)  # type: ignore[arg-type]
        for i, (o, outcome) in enumerate(zip(operators, outcomes, strict=True)):
            assert outcome.status == "ok", (o.op, kernels, outcome.message)
            for k, t in enumerate(o.outputs):
                got, want = np.asarray(outcome.outputs[0][f"out{k}"], np.float64), wanted[i][k]
                assert got.shape == want.shape, o.op
                one = _step(t, want)
                steps = float(np.abs(got - (np.rint(want) if t.quant is not None else want)).max()) / one
                off[f"{o.op}, {kernels}"] = max(off.get(f"{o.op}, {kernels}", 0.0), steps)
    return off


def _step(t: Tensor, want: Any) -> float:
    """A float output (DEQUANTIZE) is judged by float32's precision."""
    return 1.0 if t.quant is not None else 1e-6 * max(float(np.abs(want).max()), 1e-6)


def _alone(o: Operator, values: dict[int, Any]) -> ModelRun:
    inputs = list({id(t): t for t in o.inputs if t is not None and t.data is None}.values())
    names = [f"in{i}" for i in range(len(inputs))]
    cut = TfliteModel(
        [SubGraph(inputs=inputs, outputs=list(o.outputs), operators=[o])],
        names,
        [f"out{i}" for i in range(len(o.outputs))],
    )
    return ModelRun(write(cut), [{n: values[id(t)] for n, t in zip(names, inputs, strict=True)}])
