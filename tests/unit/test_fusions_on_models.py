"""Composite fusions and Transposes on exports of real frameworks (PaddlePaddle, TensorFlow, PyTorch)."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.graph import Graph
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes, parse_pipeline

PIPELINE = (
    "constants-to-initializers,upgrade-opset,infer-shapes,fuse-clip,fuse-hard-sigmoid,fuse-hard-swish,fuse-silu,"
    "fuse-layer-norm,fuse-reduce,cancel-transposes,sink-transposes"
)


@pytest.mark.parametrize(
    ("model", "left"),
    [
        ("ppocrv4_rec", {"HardSwish": 28, "Swish": 7, "LayerNormalization": 5, "ReduceMean": 0}),
        ("selfie_segmentation", {"GlobalAveragePool": 10, "Transpose": 1}),
        ("nudenet_320n", {"Swish": 57}),
    ],
)
def test_composites_are_found(eval_dir: Path, model: str, left: dict[str, int]) -> None:
    graph = Graph.load(eval_dir / "models" / f"{model}.onnx")
    PassManager(build_passes(parse_pipeline(PIPELINE), Registry().passes())).run(graph, PassContext())
    graph.verify()
    counts = graph.op_counts()
    assert {op: counts[op] for op in left} == left
