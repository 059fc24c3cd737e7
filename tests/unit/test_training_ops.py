"""Ops of training that the onnx package has no usable node tests for, and gradients of those that have derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.testing import random_inputs, run
from edgec.training import TorchGraph

VALUES = {
    "Celu": "g (float[2,3] x) => (float[2,3] y) { y = Celu<alpha = 0.7>(x) }",
    "CumSum": "g (float[2,5] x) => (float[2,5] y) <int64 a = {1}> { y = CumSum<reverse = 1, exclusive = 1>(x, a) }",
    "DepthToSpace DCR": "g (float[1,8,2,3] x) => (float[1,2,4,6] y) { y = DepthToSpace<blocksize = 2>(x) }",
    "DepthToSpace CRD": 'g (float[1,8,2,3] x) => (float[1,2,4,6] y) { y = DepthToSpace<blocksize = 2, mode = "CRD">(x) }',
    "SpaceToDepth": "g (float[1,2,4,6] x) => (float[1,8,2,3] y) { y = SpaceToDepth<blocksize = 2>(x) }",
    "Einsum": 'g (float[2,3,4] x, float[2,4,5] z) => (float[2,3,5] y) { y = Einsum<equation = "bij,bjk->bik">(x, z) }',
    "OneHot": "g (int64[4] x) => (float[4,3] y) <int64 d = {3}, float[2] v = {-1, 2}> { i = Mod(x, d) y = OneHot(i, d, v) }",
    "ReduceLogSumExp": "g (float[2,3,4] x) => (float[2,4] y) <int64[1] a = {1}> { y = ReduceLogSumExp<keepdims = 0>(x, a) }",
    "ReduceLogSum": "g (float[2,3] x) => (float[2,1] y) <int64[1] a = {1}> { p = Exp(x) y = ReduceLogSum(p, a) }",
    "ReduceProd": "g (float[2,3,2] x) => (float[3] y) <int64[2] a = {0, -1}> { y = ReduceProd<keepdims = 0>(x, a) }",
    "QuantizeLinear": (
        "g (float[2,3] x) => (float[2,3] y) <float[3] s = {0.1, 0.02, 0.5}, uint8[3] z = {128, 3, 0}>"
        " { q = QuantizeLinear<axis = 1>(x, s, z) y = DequantizeLinear<axis = 1>(q, s, z) }"
    ),
    "QuantizeLinear int4": (
        "g (float[2,3] x) => (float[2,3] y) <float s = {0.3}, int4 z = {1}>"
        " { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    ),
    "DequantizeLinear of blocks": (
        "g (float[1,4] x) => (float[1,2] y) <float[2,2] s = {0.5, 0.25, 2, 1}, int8[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}>"
        " { f = DequantizeLinear<axis = 0, block_size = 2>(w, s) y = MatMul(x, f) }"
    ),
    "Conv with uneven pads": (
        "g (float[1,4,5,6] x, float[6,2,3,3] w) => (float[1,6,3,5] y)"
        " { y = Conv<group = 2, strides = [2, 1], pads = [0, 1, 2, 0], dilations = [1, 1]>(x, w) }"
    ),
    "Conv SAME_LOWER": (
        'g (float[1,2,5,5] x, float[2,1,2,2] w) => (float[1,2,3,3] y) { y = Conv<group = 2, strides = [2, 2], auto_pad = "SAME_LOWER">(x, w) }'
    ),
    "Slice backwards": (
        "g (float[5,4] x) => (float[3,4] y) <int64[1] s = {-1}, int64[1] e = {-9}, int64[1] a = {0}, int64[1] t = {-2}>"
        " { y = Slice(x, s, e, a, t) }"
    ),
    "Split into uneven parts": "g (float[5,2] x) => (float[3,2] y, float[2,2] z) { y, z = Split<num_outputs = 2>(x) }",
    "GRU": (
        "g (float[3,2,4] x, float[2,9,4] w, float[2,9,3] r, float[2,18] b) => (float[3,2,2,3] y, float[2,2,3] h)"
        ' { y, h = GRU<hidden_size = 3, direction = "bidirectional", linear_before_reset = 1>(x, w, r, b) }'
    ),
    "LSTM": (
        "g (float[3,2,4] x, float[1,12,4] w, float[1,12,3] r, float[1,24] b) => (float[3,1,2,3] y, float[1,2,3] h, float[1,2,3] c)"
        ' { y, h, c = LSTM<hidden_size = 3, direction = "reverse">(x, w, r, b) }'
    ),
    "If": (
        "g (float[2] x) => (float[2] y) <float c = {0.0}> { m = ReduceMax<keepdims = 0>(x) p = Greater(m, c)"
        " y = If(p)<then_branch = t () => (float[2] a) { k = Constant<value = float {3.0}>() a = Mul(x, k) },"
        " else_branch = e () => (float[2] a) { a = Neg(x) }> }"
    ),
}  # fmt: skip


def graph(text: str) -> Graph:
    return Graph.from_text(f'<ir_version: 10, opset_import: ["" : 21]> {text}')


@pytest.mark.parametrize("text", VALUES.values(), ids=VALUES)
def test_values(text: str) -> None:
    g = graph(text)
    net = TorchGraph(g)
    for seed in range(3):
        feeds = random_inputs(g, seed=seed)
        with torch.no_grad():
            got = net.run(feeds)
        for want, (name, have) in zip(run(g, feeds), got.items(), strict=True):
            assert want.shape == tuple(have.shape), name
            np.testing.assert_allclose(have.numpy(), want, rtol=1e-4, atol=1e-5, err_msg=name)


GRADIENTS = {
    "Conv": "g (float[1,2,4,4] x, float[2,1,3,3] w, float[2] b) => (float[1,2,2,4] y) { y = Conv<group = 2, pads = [0,1,0,1]>(x, w, b) }",
    "ConvTranspose": (
        "g (float[1,2,3,3] x, float[2,1,2,2] w) => (float[1,1,5,6] y) { y = ConvTranspose<strides = [2,2], pads = [1,0,0,0]>(x, w) }"
    ),
    "Gemm": "g (float[2,3] x, float[4,3] w, float[4] b) => (float[2,4] y) { y = Gemm<transB = 1, alpha = 0.5>(x, w, b) }",
    "LayerNormalization": "g (float[2,4] x, float[4] s, float[4] b) => (float[2,4] y) { y = LayerNormalization(x, s, b) }",
    "InstanceNormalization": "g (float[1,2,3,3] x, float[2] s, float[2] b) => (float[1,2,3,3] y) { y = InstanceNormalization(x, s, b) }",
    "RMSNormalization": "g (float[2,4] x, float[4] s) => (float[2,4] y) { y = RMSNormalization(x, s) }",
    "LpNormalization": "g (float[2,4] x) => (float[2,4] y) { y = LpNormalization<axis = 1>(x) }",
    "LRN": "g (float[1,5,2,2] x) => (float[1,5,2,2] y) { y = LRN<size = 3, alpha = 0.5>(x) }",
    "Pow": "g (float[2,3] x) => (float[2,3] y) <float k = {2.0}> { y = Pow(x, k) }",
    "PRelu": "g (float[2,3] x, float[3] s) => (float[2,3] y) { y = PRelu(x, s) }",
    "Gelu": "g (float[2,3] x) => (float[2,3] y) { y = Gelu(x) }",
    "HardSwish": "g (float[2,3] x) => (float[2,3] y) { y = HardSwish(x) }",
    "Selu": "g (float[2,3] x) => (float[2,3] y) { y = Selu(x) }",
    "Softmax": "g (float[2,3] x) => (float[2,3] y) { y = Softmax<axis = 0>(x) }",
    "AveragePool": "g (float[1,1,5,5] x) => (float[1,1,3,3] y) { y = AveragePool<kernel_shape = [2,2], strides = [2,2], ceil_mode = 1>(x) }",
    "MaxPool": "g (float[1,1,5,5] x) => (float[1,1,3,3] y) { y = MaxPool<kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]>(x) }",
    "Resize": (
        "g (float[1,1,3,3] x) => (float[1,1,6,5] y) <float[0] r = {}, float[0] s = {}, int64[4] n = {1, 1, 6, 5}>"
        ' { y = Resize<mode = "cubic">(x, r, s, n) }'
    ),
    "Pad": (
        "g (float[1,1,3,3] x) => (float[1,1,5,4] y) <int64[8] p = {0, 0, 1, 0, 0, 0, 1, 1}>"
        ' { y = Pad<mode = "reflect">(x, p) }'
    ),
    "Gather": "g (float[4,3] x) => (float[2,2,3] y) <int64[2,2] i = {0, -1, 2, 2}> { y = Gather(x, i) }",
    "ScatterND": "g (float[4] x, float[2] u) => (float[4] y) <int64[2,1] i = {3, 0}> { y = ScatterND(x, i, u) }",
    "DepthToSpace": "g (float[1,4,2,2] x) => (float[1,1,4,4] y) { y = DepthToSpace<blocksize = 2>(x) }",
    "Clip": "g (float[2,3] x) => (float[2,3] y) <float a = {-0.5}, float b = {0.7}> { y = Clip(x, a, b) }",
    "ReduceL2": "g (float[2,3] x) => (float[2,1] y) <int64[1] a = {1}> { y = ReduceL2(x, a) }",
    "GRU": VALUES["GRU"],
    "LSTM": VALUES["LSTM"],
    "If": VALUES["If"],
}  # fmt: skip


@pytest.mark.parametrize("text", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_are_the_numerical_ones(text: str) -> None:
    """Of every input, in double precision, by finite differences."""
    g = graph(text)
    net = TorchGraph(g, dtype=torch.float64)
    feeds = {n: torch.from_numpy(a).double().requires_grad_() for n, a in random_inputs(g, seed=3).items()}

    def outputs(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(net.run(dict(zip(feeds, values, strict=True))).values())

    assert torch.autograd.gradcheck(outputs, tuple(feeds.values()), atol=1e-5)


def test_rounding_passes_gradients_inside_the_range_only() -> None:
    g = graph(
        "g (float[4] x) => (float[4] y) <float s = {0.1}, int8 z = {0}>"
        " { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )
    net = TorchGraph(g, train_scales="all")
    x = torch.tensor([0.13, -0.38, 20.0, -20.0], requires_grad=True)
    net.run({"x": x})["y"].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 0.0, 0.0]
    scale = net.parameters["s"].grad
    assert scale is not None
    inside = (1 - 1.3) + (-4 + 3.8)  # LSQ, equation 3: round(x / s) - x / s inside, the bound outside
    assert float(scale) == pytest.approx(inside + 127 - 128, abs=1e-4)


UNKNOWN: dict[str, tuple[str, Any]] = {
    "an op": ("g (float[2] x) => (int64[1,?] y) { y = NonZero(x) z = Bernoulli(x) q = Det(x) }", "Bernoulli"),
    "indices of a pool": ("g (float[1,1,4] x) => (float[1,1,2] y, int64[1,1,2] i) { y, i = MaxPool<kernel_shape = [2], strides = [2]>(x) }", "indices"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_differentiated_is_refused(text: str, said: str) -> None:
    g = graph(text)
    with pytest.raises(EdgecError, match=said) as e:
        TorchGraph(g).run(random_inputs(g))
    assert {d.code for d in e.value.diagnostics} == {"EC0321"}
