"""Passes that say what the DLA does not take in terms of what it takes: same numbers, other ops."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.graph import Graph
from edgec.passes.legalize.channels_by_conv import ChannelsByConv
from edgec.passes.legalize.crop_deconv import CropDeconv
from edgec.passes.legalize.gemm_to_conv import GemmToConv
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.pipeline import Pass, PassContext
from edgec.runtime import Session
from edgec.samples import generated_samples


def numbers(count: int, seed: int = 0) -> str:
    return ",".join(f"{x:.4f}" for x in np.random.default_rng(seed).normal(0, 0.3, count))


def model(text: str, opset: int = 19) -> Graph:
    graph = Graph.from_text(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')
    InferShapes().run(graph, PassContext())
    return graph


def rewritten(graph: Graph, p: Pass) -> Graph:
    """After the pass, and equal to the graph before."""
    after = graph.clone()
    ctx = PassContext()
    p.run(after, ctx)
    InferShapes().run(after, ctx)
    sample = next(iter(generated_samples(graph)))
    want, got = Session(graph).run(sample), Session(after).run(sample)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)
    return after


def ops(graph: Graph) -> dict[str, int]:
    return dict(graph.op_counts())


# --- products ----------------------------------------------------------------------------------------------------------


def test_a_gemm_behind_flatten_is_a_convolution_over_the_image() -> None:
    graph = model(
        f"""g (float[2,3,4,5] x) => (float[2,7] y) <float[7,60] w = {{{numbers(420)}}}, float[7] b = {{{numbers(7, 1)}}}>
        {{ f = Flatten(x)  y = Gemm<transB = 1>(f, w, b) }}"""
    )
    after = rewritten(graph, GemmToConv())
    assert ops(after) == {"Conv": 1, "Flatten": 1}
    conv = next(n for n in after.nodes() if n.op_type == "Conv")
    assert conv.inputs[0] is after.inputs[0]
    assert list(conv.inputs[1].shape or ()) == [7, 3, 4, 5]


@pytest.mark.parametrize("bias", ["float[6] b", "float[1,6] b", None])
def test_a_chain_of_products_stays_images(bias: str | None) -> None:
    given, use = (f", {bias} = {{{numbers(6, 1)}}}", ", b") if bias else ("", "")
    graph = model(
        f"""g (float[1,8,1,1] x) => (float[1,5] y) <float[8,6] w = {{{numbers(48)}}}, float[6,5] v = {{{numbers(30, 2)}}}{given}>
        {{ f = Flatten(x)  h = Gemm(f, w{use})  r = Relu(h)  y = MatMul(r, v) }}"""
    )
    after = rewritten(graph, GemmToConv())
    assert ops(after) == {"Conv": 2, "Relu": 1, "Flatten": 1}


def test_a_product_of_a_vector_gets_an_image_of_one_by_one() -> None:
    graph = model(f"g (float[3,8] x) => (float[3,5] y) <float[8,5] w = {{{numbers(40)}}}> {{ y = MatMul(x, w) }}")
    assert ops(rewritten(graph, GemmToConv())) == {"Reshape": 1, "Conv": 1, "Flatten": 1}


@pytest.mark.parametrize(
    "line",
    ["y = Gemm<alpha = 0.5>(x, w)", "y = Gemm<transA = 1>(x, w)", "y = Gemm(x, x2)", "y = MatMul(x, x2)"],
)
def test_products_that_are_no_convolution_stay(line: str) -> None:
    graph = model(f"g (float[5,5] x, float[5,5] x2) => (float[5,5] y) <float[5,5] w = {{{numbers(25)}}}> {{ {line} }}")
    assert "Conv" not in ops(rewritten(graph, GemmToConv()))


def test_an_image_above_32_is_no_kernel() -> None:
    graph = model(
        f"g (float[1,1,33,1] x) => (float[1,2] y) <float[33,2] w = {{{numbers(66)}}}> {{ f = Flatten(x) y = MatMul(f, w) }}"
    )
    after = rewritten(graph, GemmToConv())
    conv = next(n for n in after.nodes() if n.op_type == "Conv")
    assert list(conv.inputs[1].shape or ()) == [2, 33, 1, 1]


# --- deconvolutions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    ["pads = [1, 1, 1, 1], strides = [2, 2]", "pads = [0, 1, 1, 0]", "pads = [2, 0, 0, 2], strides = [3, 2]"],
)
def test_a_padded_deconvolution_is_cropped(attributes: str) -> None:
    graph = model(
        f"""g (float[1,2,5,6] x) => (float[n,m,k,l] y) <float[2,3,3,3] w = {{{numbers(54)}}}, float[3] b = {{1, 2, 3}}>
        {{ y = ConvTranspose<{attributes}>(x, w, b) }}"""
    )
    after = rewritten(graph, CropDeconv())
    assert ops(after) == {"ConvTranspose": 1, "Slice": 1}
    assert "pads" not in next(n for n in after.nodes() if n.op_type == "ConvTranspose").attributes


@pytest.mark.parametrize(
    "attributes",
    ["strides = [2, 2]", "pads = [1, 1, 1, 1], strides = [2, 2], output_padding = [1, 1]", 'auto_pad = "SAME_UPPER"'],
)
def test_deconvolutions_that_stay(attributes: str) -> None:
    graph = model(
        f"g (float[1,2,5,6] x) => (float[n,m,k,l] y) <float[2,3,3,3] w = {{{numbers(54)}}}> {{ y = ConvTranspose<{attributes}>(x, w) }}"
    )
    assert ops(rewritten(graph, CropDeconv())) == {"ConvTranspose": 1}


# --- channels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "constants"),
    [
        ("y = Gather<axis = 1>(x, i)", "int64[3] i = {5, 0, -1}"),
        ("y = Pad(x, p)", "int64[8] p = {0, 2, 0, 0, 0, 1, 0, 0}"),
        ("r = Reshape(x, s) t = Transpose<perm = [0, 2, 1, 3, 4]>(r) y = Reshape(t, j)", "int64[5] s = {1, 2, 3, 4, 4}, int64[4] j = {1, 6, 4, 4}"),
        ("r = Reshape(x, s) y = Gather<axis = 2>(r, k)", "int64[5] s = {1, 3, 2, 4, 4}, int64 k = {1}"),
        ("r = Reshape(x, s) y = Gather<axis = 1>(r, k)", "int64[5] s = {1, 3, 2, 4, 4}, int64 k = {2}"),
    ],
)  # fmt: skip
def test_channels_move_by_a_convolution(line: str, constants: str) -> None:
    after = rewritten(model(f"g (float[1,6,4,4] x) => (float[n,m,k,l] y) <{constants}> {{ {line} }}"), ChannelsByConv())
    assert ops(after).pop("Conv") == 1
    conv = next(n for n in after.nodes() if n.op_type == "Conv")
    weight = conv.inputs[1].const_value
    assert weight is not None
    assert set(np.unique(weight.numpy())) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("line", "constants"),
    [
        ("y = Gather<axis = 2>(x, i)", "int64[2] i = {1, 0}"),
        ("y = Pad(x, p)", "int64[8] p = {0, 1, 1, 0, 0, 0, 0, 0}"),
        ("y = Pad(x, p, v)", "int64[8] p = {0, 1, 0, 0, 0, 0, 0, 0}, float v = {1}"),
        ('y = Pad<mode = "reflect">(x, p)', "int64[8] p = {0, 1, 0, 0, 0, 0, 0, 0}"),
        ("y = Pad(x, p)", "int64[8] p = {0, -1, 0, 0, 0, 0, 0, 0}"),
        ("r = Reshape(x, s) t = Transpose<perm = [0, 1, 2, 4, 3]>(r) y = Reshape(t, j)", "int64[5] s = {1, 2, 3, 4, 4}, int64[4] j = {1, 6, 4, 4}"),
        ("r = Reshape(x, s) y = Gather<axis = 3>(r, k)", "int64[5] s = {1, 3, 2, 4, 4}, int64 k = {1}"),
    ],
)  # fmt: skip
def test_what_is_no_matter_of_channels_stays(line: str, constants: str) -> None:
    after = rewritten(model(f"g (float[1,6,4,4] x) => (float[n,m,k,l] y) <{constants}> {{ {line} }}"), ChannelsByConv())
    assert "Conv" not in ops(after)
