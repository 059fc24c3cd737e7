"""Activations quantised at run time: close to float, in the integer kernel, without calibration data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import edgec
from edgec.graph import Graph
from edgec.runtime import Session


def numbers(count: int, seed: int) -> str:
    return ", ".join(f"{v:.4f}" for v in np.random.default_rng(seed).normal(size=count))


MODELS = {
    "matmul": f"<float[16,8] w = {{{numbers(128, 0)}}}> {{ y = MatMul(x, w) }}",
    "gemm": f"<float[16,8] w = {{{numbers(128, 0)}}}, float[8] b = {{{numbers(8, 1)}}}> {{ y = Gemm(x, w, b) }}",
    "gemm, transposed": f"<float[8,16] w = {{{numbers(128, 0)}}}> {{ y = Gemm<transB=1>(x, w) }}",
}


@pytest.mark.parametrize("name", MODELS)
def test_int8_dynamic(name: str, tmp_path: Path) -> None:
    g = Graph.from_text(f'<ir_version: 10, opset_import: ["" : 21]> g (float[4,16] x) => (float[4,8] y) {MODELS[name]}')
    q = edgec.quantize(g, precision="int8-dynamic").graph
    x = {"x": np.random.default_rng(5).normal(size=(4, 16)).astype(np.float32)}
    want, got = Session(g).run(x)["y"], Session(q).run(x)["y"]
    assert 10 * np.log10((want**2).sum() / ((want - got) ** 2).sum()) > 35
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(q.to_bytes(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node)
    assert kinds["DynamicQuantizeMatMul"] == 1, kinds
    assert not kinds["MatMul"] + kinds["Gemm"] + kinds["FusedMatMul"]
