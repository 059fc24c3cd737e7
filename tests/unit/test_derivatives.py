"""Derivatives of ops: each rule against finite differences of the op itself, as ONNX Runtime computes it."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.quantization.adjoint import add_adjoint
from edgec.quantization.builder import Builder
from edgec.runtime import Session

X4 = "float[1,4,6,6] x"

CASES = {
    "relu": (X4, "y = Relu(x)"),
    "clip": (X4, "y = Clip(x, lo, hi)"),
    "sigmoid": (X4, "y = Sigmoid(x)"),
    "tanh": (X4, "y = Tanh(x)"),
    "hard-swish": (X4, "y = HardSwish(x)"),
    "gelu": (X4, "y = Gelu(x)"),
    "leaky": (X4, "y = LeakyRelu<alpha=0.1>(x)"),
    "prelu": (X4, "y = PRelu(x, perchannel)"),
    "exp": (X4, "y = Exp(x)"),
    "log": (X4, "p = Exp(x) y = Log(p)"),
    "sqrt": (X4, "p = Exp(x) y = Sqrt(p)"),
    "pow": (X4, "y = Pow(x, two)"),
    "reciprocal": (X4, "p = Exp(x) y = Reciprocal(p)"),
    "abs": (X4, "y = Abs(x)"),
    "neg": (X4, "y = Neg(x)"),
    "mul-broadcast": (X4, "m = GlobalAveragePool(x) y = Mul(x, m)"),
    "div": (X4, "p = Exp(x) y = Div(x, p)"),
    "sub-broadcast": ("float[2,3,4] x", "m = ReduceMean<keepdims=0>(x, axis0) y = Sub(m, x)"),
    "min": (X4, "p = Neg(x) y = Min(x, p)"),
    "sum": (X4, "p = Exp(x) y = Sum(x, p, x)"),
    "where": (X4, "c = Greater(x, zero) p = Exp(x) y = Where(c, x, p)"),
    "softmax": (X4, "y = Softmax<axis=1>(x)"),
    "log-softmax": (X4, "y = LogSoftmax<axis=1>(x)"),
    "reduce-sum": (X4, "y = ReduceSum<keepdims=0>(x, axis23)"),
    "reduce-mean": (X4, "y = ReduceMean<keepdims=1>(x, axis23)"),
    "reduce-max": (X4, "y = ReduceMax<keepdims=0>(x, axis2)"),
    "layer-norm": (X4, "y = LayerNormalization<axis=-1>(x, six)"),
    "rms-norm": (X4, "y = RMSNormalization<axis=-1>(x, six)"),
    "instance-norm": (X4, "y = InstanceNormalization(x, four, four)"),
    "batch-norm": (X4, "y = BatchNormalization(x, four, four, four, fourpos)"),
    "matmul": ("float[2,3,4] x", "t = Transpose<perm=[0,2,1]>(x) y = MatMul(x, t)"),
    "matmul-broadcast": ("float[2,3,4] x", "m = ReduceMean<keepdims=1>(x, axis0) t = Transpose<perm=[0,2,1]>(x) y = MatMul(m, t)"),
    "matmul-weight": ("float[2,3,4] x", "y = MatMul(x, w45)"),
    "gemm": ("float[3,4] x", "y = Gemm<alpha=0.5>(x, w45, b5)"),
    "gemm-trans-a": ("float[4,3] x", "y = Gemm<transA=1>(x, w45, b5)"),
    "gemm-two": ("float[4,3] x", "y = Gemm<transA=1, beta=0.5>(x, x, x3)", "x3 = Identity(row)"),
    "gemm-trans-b": ("float[3,4] x", "p = Exp(x) y = Gemm<transB=1>(x, p)"),
    "conv": (X4, "y = Conv<pads=[1,1,1,1]>(x, w8433)"),
    "conv-even-pads": (X4, "y = Conv<pads=[0,1,2,0]>(x, w8433)"),
    "conv-stride": (X4, "y = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w8433)"),
    "conv-stride-left": (X4, "y = Conv<strides=[2,2]>(x, w8433)"),
    "conv-dilated": (X4, "y = Conv<dilations=[2,2], pads=[2,2,2,2]>(x, w8433)"),
    "conv-same": (X4, 'y = Conv<strides=[2,2], auto_pad="SAME_UPPER">(x, w8433)'),
    "conv-group": (X4, "y = Conv<group=2, pads=[1,1,1,1]>(x, w6233)"),
    "conv-depthwise-stride": (X4, "y = Conv<group=4, strides=[2,2], pads=[1,1,1,1]>(x, w4133)"),
    "conv-1d": ("float[1,4,6] x", "y = Conv<pads=[1,1]>(x, w543)"),
    "conv-transpose": (X4, "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(x, w4233)"),
    "average-pool": (X4, "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)"),
    "average-pool-included": (X4, "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)"),
    "max-pool": (X4, "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)"),
    "global-max": (X4, "y = GlobalMaxPool(x)"),
    "resize-nearest": (X4, 'y = Resize<mode="nearest">(x, , scales)'),
    "resize-linear": (X4, 'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , scales)'),
    "resize-sizes": (X4, 'y = Resize<mode="linear">(x, , , sizes)'),
    "reshape": (X4, "y = Reshape(x, flat)"),
    "flatten": (X4, "y = Flatten(x)"),
    "transpose": (X4, "y = Transpose<perm=[0,2,3,1]>(x)"),
    "concat": (X4, "p = Exp(x) y = Concat<axis=1>(x, p, x)"),
    "split": (X4, "a, b = Split<axis=1, num_outputs=2>(x) y = Exp(b)"),
    "slice": (X4, "y = Slice(x, starts, ends, axis23, steps)"),
    "gather": (X4, "y = Gather<axis=1>(x, picks)"),
    "expand": ("float[1,4,1,6] x", "y = Expand(x, wide)"),
    "tile": (X4, "y = Tile(x, twice)"),
    "pad": (X4, "y = Pad(x, pads)"),
    "pad-reflect": (X4, 'y = Pad<mode="reflect">(x, pads)'),
    "depth-to-space": (X4, "y = DepthToSpace<blocksize=2>(x)"),
    "depth-to-space-crd": (X4, 'y = DepthToSpace<blocksize=2, mode="CRD">(x)'),
    "space-to-depth": (X4, "y = SpaceToDepth<blocksize=2>(x)"),
}  # fmt: skip


def weights() -> str:
    rng = np.random.default_rng(3)

    def floats(name: str, *shape: int, positive: bool = False) -> str:
        a = rng.standard_normal(shape)
        a = np.abs(a) + 0.5 if positive else a
        return f"float[{','.join(map(str, shape))}] {name} = {{{','.join(f'{v:.5f}' for v in a.reshape(-1))}}}"

    def ints(name: str, *values: int) -> str:
        return f"int64[{len(values)}] {name} = {{{','.join(map(str, values))}}}"

    return ", ".join([
        "float lo = {-0.5}", "float hi = {0.7}", "float two = {2.0}", "float zero = {0.0}",
        floats("perchannel", 4, 1, 1), floats("six", 6), floats("four", 4), floats("fourpos", 4, positive=True),
        floats("w45", 4, 5), floats("b5", 5), floats("row", 3), floats("w8433", 8, 4, 3, 3), floats("w6233", 6, 2, 3, 3),
        floats("w4133", 4, 1, 3, 3), floats("w4233", 4, 2, 3, 3), floats("w543", 5, 4, 3),
        ints("axis0", 0), ints("axis2", 2), ints("axis23", 2, 3), ints("flat", 1, 4, 36), ints("starts", 1, 0),
        ints("ends", 6, 5), ints("steps", 2, 1), ints("picks", 3, 1, 1), ints("wide", 2, 4, 5, 6), ints("twice", 1, 2, 1, 2),
        ints("pads", 0, 0, 1, 2, 0, 0, 2, 1), ints("sizes", 1, 4, 9, 12),
        "float[4] scales = {1.0,1.0,2.0,2.0}",
    ])  # fmt: skip


def model(x: str, body: str, first: str = "") -> Graph:
    lines = f"{first} {body}".replace(") ", ")\n")
    graph = Graph.from_text(
        f'<ir_version: 10, opset_import: ["" : 24]>\ng ({x}) => (float y) <{weights()}> {{\n{lines}\n}}'
    )
    graph.outputs[0].shape = None
    infer_shapes(graph)
    return graph


@pytest.mark.parametrize("name", CASES)
def test_the_adjoint_agrees_with_finite_differences(name: str) -> None:
    graph = model(*CASES[name])
    rng = np.random.default_rng(0)
    x = graph.inputs[0]
    feed = (rng.permutation(np.prod(list(x.shape))).reshape(list(x.shape)) / 37 - 1.987).astype(np.float32)  # no ties
    forward = Session(graph)
    y = forward.run({"x": feed})["y"]
    u, d = (rng.standard_normal(s).astype(np.float32) for s in (y.shape, feed.shape))

    extended = graph.clone()
    b = Builder(extended)
    x = extended.inputs[0]
    adjoint = add_adjoint(b, list(extended.model.graph), [x])
    assert adjoint.ends == []
    extended.model.graph.outputs.append(adjoint.of_values[x])
    gradient = Session(extended).run({"x": feed, adjoint.seeds["y"]: u})[adjoint.of_values[x].name]

    h = np.float32(1e-3)
    up, down = (forward.run({"x": feed + s * h * d})["y"].astype(np.float64) for s in (1, -1))
    expected = float(((up - down) / (2 * h) * u).sum())
    assert gradient.shape == feed.shape
    assert float((gradient.astype(np.float64) * d).sum()) == pytest.approx(expected, rel=2e-2, abs=2e-2)
    assert abs(expected) > 0.05


def test_an_op_without_a_derivative_ends_it() -> None:
    graph = model(X4, "p = Exp(x) v, i = TopK<axis=1>(p, k) y = Exp(v)".replace("k)", "one)"), "one = Identity(axis2)")
    b = Builder(graph)
    adjoint = add_adjoint(b, list(graph.model.graph), [graph.inputs[0]])
    assert adjoint.ends == ["p"]
    assert set(adjoint.seeds) == {"p", "y"}
    assert graph.inputs[0] in adjoint.of_values
