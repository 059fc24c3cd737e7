"""Whole networks through the TensorRT pipelines: taken by NVIDIA's parser, built ahead of time for Ampere and Ada, and as accurate as
symmetric int8 allows in ONNX Runtime. TensorRT-RTX says what a file is worth, not what a board does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgec.graph import Graph
from edgec.lowering import frozen, lower
from edgec.pipeline import PassContext
from edgec.placement import place
from edgec.plugins import Registry
from edgec.runtime import Session
from edgec.samples import Samples
from edgec.targets.tensorrt.oracle import judge_all
from edgec.testing import Arrays
from edgec.toolchain import Toolchain, ToolchainManager

pytestmark = pytest.mark.toolchain

MODELS: Mapping[str, Sequence[str]] = {
    "cifar10_resnet20": ["1x3x32x32"],
    "efficientnet_lite0": ["1x3x224x224"],
    "fastestdet": [],
    "mlperf_kws_dscnn": ["1x49x10x1"],
    "mnist_cnn_digitrec": ["1x1x28x28"],
    "mobilenet_v2": ["1x3x224x224"],
    "nudenet_320n": ["1x3x320x320"],
    "ppocr_cls_mbv3": ["1x3x48x192"],
    "ppocrv4_det": ["1x3x320x320"],
    "ppocrv4_rec": ["1x3x48x320"],
    "selfie_segmentation": [],
    "silero_vad_16k_op15": ["input=1x512", "state=2x1x128"],
    "sr_rdn_x2_upscalerjs": ["1x3x64x64"],
}
FORMS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "strong fp16": ("tensorrt-rtx", "fp16", {}),
    "strong int8": ("tensorrt-rtx", "int8", {}),
    "weak fp16": ("jetson-orin-nano", "fp16", {}),
    "weak int8": ("jetson-orin-nano", "int8", {}),
    "TensorRT 8.5 int8": ("jetson-orin-nano", "int8", {"jetpack": "5"}),
}
"""Target, precision, and the options that lead to its variant."""


@pytest.fixture(scope="module")
def toolchains(installed: Callable[[str], Toolchain]) -> ToolchainManager:
    manager = ToolchainManager()
    installed("tensorrt-rtx")
    return manager


def noise(graph: Graph) -> Arrays:
    """Floats from 0 to 1, as images are; whole numbers from 0 to 3."""
    rng = np.random.default_rng(0)
    feeds: Arrays = {}
    for v in graph.inputs:
        assert v.name is not None
        assert v.shape is not None
        assert v.dtype is not None
        shape, dtype = [int(d) for d in v.shape], v.dtype.numpy()  # type: ignore[arg-type]  # they are frozen
        feeds[v.name] = (rng.random(shape) if dtype.kind == "f" else rng.integers(0, 4, shape)).astype(dtype)
    return feeds


def lowered(graph: Graph, form: str, feeds: Sequence[Arrays], effort: Any = "low") -> tuple[Graph, str]:
    """The graph as the target emits it, and the precision that was settled on."""
    target, precision, options = FORMS[form]

    def again() -> Iterator[Arrays]:
        return iter(feeds)

    ctx = PassContext(calibration=Samples(again, describe="samples of the test", count=len(feeds)))
    registry = Registry()
    done = lower(graph, registry.target(target), precision, effort=effort, options=options, registry=registry, ctx=ctx)
    return done.graph, done.precision


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_parsed_and_built(name: str, eval_dir: Path, toolchains: ToolchainManager, tmp_path: Path) -> None:
    graph = frozen(Graph.load(eval_dir / "models" / f"{name}.onnx"), MODELS[name], Registry())
    feeds, files = [noise(graph)], []
    for form, (target, _, _) in FORMS.items():
        out, precision = lowered(graph, form, feeds)
        spec = Registry().target(target).spec()
        assert [n for n in place(out, spec, precision).nodes if n.where != "accelerator"] == [], form
        files.append(tmp_path / f"{form}.onnx")
        out.save(files[-1])
    for form, verdict in zip(FORMS, judge_all(files, toolchains, workdir=tmp_path / "rtx"), strict=True):
        assert verdict.refusals == (), form
        assert verdict.accepted, f"{form}: {verdict.built}"
        assert set(verdict.built) == {"sm86", "sm89"}
        assert not any("INT8 instead" in w for w in verdict.warnings), "uint8 would be clipped at 127"


FLOOR = {
    "cifar10_resnet20": ("input", 1.0, 97.0),
    "mlperf_kws_dscnn": ("input_1", 1.5, 97.0),
}
"""Name of the input; how many points of evaluate.py's percentage int8 may cost, and how often the class must stay."""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["weak int8", "strong int8"])
@pytest.mark.parametrize("name", FLOOR)
def test_int8_keeps_the_accuracy(name: str, form: str, eval_dir: Path, judge: ModuleType) -> None:
    key, points, same = FLOOR[name]
    graph = frozen(Graph.load(eval_dir / "models" / f"{name}.onnx"), MODELS[name], Registry())
    out, _ = lowered(graph, form, [{key: x} for x in islice(judge.calibration(name), 100)], "medium")
    classes: list[list[int]] = [[], []]
    scores = []
    for i, session in enumerate((Session(graph, optimise=True), Session(out, optimise=True))):

        def predict(x: Any, i: int = i, session: Session = session) -> list[Any]:
            answer = session.run({key: x})
            classes[i].append(int(next(iter(answer.values())).reshape(-1).argmax()))
            return list(answer.values())

        scores.append(judge.evaluate(name, predict))
    agreed = 100 * float(np.mean(np.equal(classes[0], classes[1])))
    print(name, form, scores, agreed)
    assert scores[1] >= scores[0] - points
    assert agreed >= same
