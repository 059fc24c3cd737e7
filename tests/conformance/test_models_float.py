"""Whole networks after the default float pipeline: onnx's nine `light_*` nets and the real models of EDGEC_EVAL_DIR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgec.graph import Graph
from edgec.lowering import freeze
from edgec.pipeline import PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.specs.schema import builtin_pipeline
from edgec.testing import Arrays, assert_equivalent, random_inputs, run

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))

REAL = {
    "cifar10_resnet20": ["1x3x32x32"],
    "efficientnet_lite0": ["1x3x224x224"],
    "fastestdet": [],
    "mlperf_kws_dscnn": ["1x49x10x1"],
    "mnist_cnn_digitrec": ["1x1x28x28"],
    "mobilenet_v2": ["1x3x224x224"],
    "nudenet_320n": ["1x3x320x320"],
    "ppocr_cls_mbv3": ["1x3x48x192"],
    "ppocrv4_det": ["1x3x480x480"],
    "ppocrv4_rec": ["1x3x48x320"],
    "selfie_segmentation": [],
    "silero_vad_16k_op15": ["input=1x576", "state=2x1x128"],
    "sr_rdn_x2_upscalerjs": ["1x3x64x64"],
}
"""The shapes of the README beside the models; those without any are static as they are."""

AFTER = {
    "cifar10_resnet20": 54,
    "efficientnet_lite0": 94,
    "fastestdet": 182,
    "mlperf_kws_dscnn": 28,
    "mnist_cnn_digitrec": 13,
    "mobilenet_v2": 100,
    "nudenet_320n": 232,
    "ppocr_cls_mbv3": 125,
    "ppocrv4_det": 178,
    "ppocrv4_rec": 188,
    "selfie_segmentation": 138,
    "silero_vad_16k_op15": 34,
    "sr_rdn_x2_upscalerjs": 23,
}
"""Nodes at most, as measured: a change may lower a number, never raise one (peers beside it: benchmarks/optimize.py)."""


def optimise(graph: Graph) -> None:
    PassManager(build_passes(builtin_pipeline("float").steps, Registry().passes())).run(graph)
    graph.verify()


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_light_net(path: Path) -> None:
    before = Graph.load(path)
    after = before.clone()
    optimise(after)
    assert sum(1 for _ in after.nodes()) <= sum(1 for _ in before.nodes())
    assert_equivalent(before, after, rtol=1e-3, atol=1e-5, seeds=1)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("static", [True, False], ids=["static", "as-is"])
def test_real_model(name: str, static: bool, eval_dir: Path) -> None:
    """With fixed shapes and as the file is: unknown dimensions then get the same sizes when running."""
    path = eval_dir / "models" / f"{name}.onnx"
    before, shapes = Graph.load(path), Graph.load(path)
    if REAL[name]:
        freeze(shapes, REAL[name], Registry())
    after = (shapes if static else before).clone()
    optimise(after)
    feeds = random_inputs(shapes)
    if name.startswith("silero"):
        feeds["sr"] = np.asarray(16000, np.int64)
    same_numbers(before, after, feeds)
    if static and name in AFTER:
        assert sum(1 for _ in after.nodes()) <= AFTER[name]


def same_numbers(before: Graph, after: Graph, feeds: Arrays) -> None:
    assert [v.name for v in after.inputs] == [v.name for v in before.inputs]
    assert [v.name for v in after.outputs] == [v.name for v in before.outputs]
    for v, a, b in zip(before.outputs, run(before, feeds), run(after, feeds), strict=True):
        assert a.shape == b.shape, v.name
        scale = max(1.0, float(np.abs(a).max()))
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=2e-5 * scale, err_msg=str(v.name))
