"""Trained models in torch: every one of EDGEC_EVAL_DIR gives what ONNX Runtime gives, and gradients reach its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgec.graph import Graph
from edgec.runtime import Session
from edgec.training import TorchGraph

SIZES: dict[str, dict[str, list[int]]] = {
    "silero_vad_16k_op15": {"input": [1, 576], "state": [2, 1, 128], "sr": []},
    "sr_rdn_x2_upscalerjs": {"LR_i": [1, 16, 16, 3]},
    "ppocr_cls_mbv3": {"x": [1, 3, 48, 192]},
}
"""Shapes of inputs that models leave open; else 1 for the batch, 64 for the rest."""

MODELS = (
    "cifar10_resnet20", "efficientnet_lite0", "fastestdet", "mlperf_kws_dscnn", "mnist_cnn_digitrec", "mobilenet_v2",
    "nudenet_320n", "ppocr_cls_mbv3", "ppocrv4_det", "ppocrv4_rec", "selfie_segmentation", "silero_vad_16k_op15",
    "sr_rdn_x2_upscalerjs",
)  # fmt: skip


def feeds_of(graph: Graph, name: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    given = SIZES.get(name, {})
    feeds: dict[str, Any] = {}
    for v in graph.inputs:
        assert v.name is not None
        assert v.dtype is not None
        dims = [d if isinstance(d, int) else 64 if i else 1 for i, d in enumerate(v.shape or ())]
        shape = given.get(v.name, dims)
        floating = v.dtype.is_floating_point()
        feeds[v.name] = (
            rng.random(shape).astype(v.dtype.numpy()) if floating else np.full(shape, 16000, v.dtype.numpy())
        )
    return feeds


@pytest.mark.parametrize("name", MODELS)
def test_model(eval_dir: Path, name: str) -> None:
    graph = Graph.load(eval_dir / "models" / f"{name}.onnx")
    net = TorchGraph(graph)
    feeds = feeds_of(graph, name)
    want, got = Session(graph).run(feeds), net.run(feeds)
    for key, value in got.items():
        scale = float(np.abs(want[key]).max())
        np.testing.assert_allclose(
            value.detach().numpy(), want[key], rtol=1e-3, atol=1e-4 * max(scale, 1e-2), err_msg=key
        )
    torch.stack([v.square().sum() for v in got.values() if v.requires_grad]).sum().backward()
    reached = [p for p in net.parameters.values() if p.grad is not None and p.grad.abs().sum() > 0]
    assert len(reached) >= 0.8 * len(net.parameters)
