"""Whole networks as float .tflite files in LiteRT: the answers of ONNX Runtime, and no needless TRANSPOSE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tflite_cases
import transformers

from edgec.graph import Graph
from edgec.lowering import freeze
from edgec.plugins import Registry
from edgec.targets.tflite.model_runs import ModelRun, run_litert
from edgec.targets.tflite.writer import write
from edgec.testing import Arrays, run
from edgec.toolchain import Toolchain

pytestmark = pytest.mark.toolchain


REAL = {
    "cifar10_resnet20": (["1x3x32x32"], 38, 1),
    "efficientnet_lite0": (["1x3x224x224"], 62, 1),
    "fastestdet": ([], 184, 15),
    "mlperf_kws_dscnn": (["1x49x10x1"], 19, 0),
    "mnist_cnn_digitrec": (["1x1x28x28"], 11, 1),
    "mobilenet_v2": (["1x3x224x224"], 71, 1),
    "nudenet_320n": (["1x3x320x320"], 241, 3),
    "ppocr_cls_mbv3": (["1x3x48x192"], 133, 1),
    "ppocrv4_det": (["1x3x320x320"], 194, 1),
    "ppocrv4_rec": (["1x3x48x320"], 222, 5),
    "selfie_segmentation": ([], 116, 0),
    "silero_vad_16k_op15": (["input=1x512", "state=2x1x128"], 48, 0),
    "sr_rdn_x2_upscalerjs": (["1x3x64x64"], 21, 2),
}
"""Shapes of the inputs; operators and TRANSPOSEs at most, as measured: a change may lower a number, never raise one."""

RTOL, ATOL = 1e-5, 1e-6
"""Of the largest element of an output; and absolutely, for probabilities near zero (ONNX Runtime's own Sigmoid is off by
as much)."""


@pytest.fixture(scope="module")
def litert(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("litert")


def inputs(graph: Graph) -> Arrays:
    """Floats from 0 to 1, as images are; whole numbers from 0 to 3."""
    rng = np.random.default_rng(0)
    feeds: Arrays = {}
    for v in graph.inputs:
        assert v.name is not None
        assert v.shape is not None
        assert v.dtype is not None
        shape, dtype = tuple(int(d) for d in v.shape), v.dtype.numpy()  # type: ignore[arg-type]  # they are frozen
        feeds[v.name] = (rng.random(shape) if dtype.kind == "f" else rng.integers(0, 4, shape)).astype(dtype)
    return feeds


def check(graph: Graph, litert: Toolchain, folder: Path) -> Counter[str]:
    """Compare LiteRT with ONNX Runtime on the model as it was; returns the operators of the file."""
    feeds = inputs(graph)
    names, want = [v.name for v in graph.outputs], run(graph, feeds)
    lowered = tflite_cases.lowered(graph.clone())
    taken = {p.name for p in lowered.inputs}
    sample = {k: a for k, a in feeds.items() if k in taken}
    outcome = run_litert(litert, [ModelRun(write(lowered.model), [sample])], folder=folder, seconds=120)[0]
    assert outcome.status == "ok", f"{outcome.step}: {outcome.message}"
    for name, a in zip(names, want, strict=True):
        b = outcome.outputs[0][name]
        assert (b.shape, b.dtype) == (a.shape, a.dtype), name
        off = float(np.abs(b.astype(np.float64) - a.astype(np.float64)).max())
        assert off <= RTOL * float(np.abs(a).max()) + ATOL, f"{name}: off by {off:.2g} of {np.abs(a).max():.2g}"
    return Counter(o.op for o in lowered.model.main.operators)


@pytest.mark.parametrize("name", REAL)
def test_real_model(name: str, eval_dir: Path, litert: Toolchain, tmp_path: Path) -> None:
    shapes, operators, transposes = REAL[name]
    graph = Graph.load(eval_dir / "models" / f"{name}.onnx")
    if shapes:
        freeze(graph, shapes, Registry())
    ops = check(graph, litert, tmp_path)
    print(name, dict(ops.most_common()))
    assert ops.total() <= operators
    assert ops["TRANSPOSE"] <= transposes


@pytest.mark.parametrize("model", [transformers.image_encoder(), transformers.decoder()], ids=["vit", "decoder"])
def test_transformer(model: onnx.ModelProto, litert: Toolchain, tmp_path: Path) -> None:
    """Two blocks: products by FULLY_CONNECTED and BATCH_MATMUL, GELU whole, heads turned once each."""
    ops = check(Graph.from_proto(model), litert, tmp_path)
    assert ops["FULLY_CONNECTED"] == 13
    assert ops["BATCH_MATMUL"] == 4
    assert ops["GELU"] == 2
    assert ops["TRANSPOSE"] <= 9
