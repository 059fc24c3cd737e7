"""A quarter of the channels out of whole networks: onnx's nine `light_*` nets and the real models of EDGEC_EVAL_DIR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgec.graph import Graph
from edgec.lowering import freeze
from edgec.passes.prune.groups import find_groups
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes, parse_pipeline
from edgec.runtime import Session
from edgec.specs.schema import builtin_pipeline
from edgec.testing import random_inputs

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


def free_channels(graph: Graph) -> int:
    return sum(g.channels for g in find_groups(graph) if g.fixed is None)


def check(before: Graph, goal: str, feeds: dict[str, np.ndarray], part: float) -> None:
    """The pruned graph has the same interface, runs, and has lost about that part of its channels."""
    after = before.clone()
    PassManager(build_passes(builtin_pipeline("float").steps, Registry().passes())).run(after)
    channels = free_channels(after)
    assert channels > 0
    want = {n: a.shape for n, a in Session(after).run(feeds).items()}
    PassManager(build_passes(parse_pipeline(goal), Registry().passes())).run(after, PassContext())
    after.verify()
    assert [v.name for v in after.inputs] == [v.name for v in before.inputs]
    assert [v.name for v in after.outputs] == [v.name for v in before.outputs]
    for v, w in zip(after.outputs, before.outputs, strict=True):
        assert v.dtype == w.dtype
    got = {n: a.shape for n, a in Session(after).run(feeds).items()}
    assert got == want
    assert 1 - free_channels(after) / channels == pytest.approx(part, abs=0.08)


@pytest.mark.parametrize("path", LIGHT, ids=lambda p: p.stem)
def test_light_net(path: Path) -> None:
    graph = Graph.load(path)
    check(graph, "prune{ratio=0.25}", random_inputs(graph), 0.25)


@pytest.mark.parametrize("name", REAL)
def test_real_model(name: str, eval_dir: Path) -> None:
    graph = Graph.load(eval_dir / "models" / f"{name}.onnx")
    if REAL[name]:
        freeze(graph, REAL[name], Registry())
    feeds = random_inputs(graph)
    if name.startswith("silero"):
        feeds["sr"] = np.asarray(16000, np.int64)
    check(graph, "prune{ratio=0.25}", feeds, 0.25)
