"""The YOLOv5 stem in both spellings of its slices: one Conv with stride 2 is left."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.graph import Graph, constant, ir
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes, parse_pipeline
from edgec.testing import assert_equivalent

_STARTS = [(0, 0), (1, 0), (0, 1), (1, 1)]
_END = 9223372036854775807


def _stem(
    chained: bool,
    kernel: int = 3,
    pad: int = 1,
    size: int = 16,
    stride: int = 1,
    starts: list[tuple[int, int]] = _STARTS,
) -> Graph:
    """Slices, Concat and Conv over a (1, 3, size, size) image, with random weights."""
    lines, parts = [], []
    for i, (dy, dx) in enumerate(starts):
        if chained:
            lines += [f"h{i} = Slice(x, s{dy}, e, h, two)", f"p{i} = Slice(h{i}, s{dx}, e, w, two)"]
        else:
            lines.append(f"p{i} = Slice(x, s{dy}{dx}, ee, hw, twos)")
        parts.append(f"p{i}")
    out = ((size // 2) + 2 * pad - kernel) // stride + 1
    text = f"""<ir_version: 10, opset_import: ["" : 24]>
    g (float[1,3,{size},{size}] x) => (float[1,8,{out},{out}] y)
    <int64[1] s0 = {{0}}, int64[1] s1 = {{1}}, int64[1] e = {{{_END}}}, int64[1] h = {{2}}, int64[1] w = {{-1}}, int64[1] two = {{2}},
     int64[2] s00 = {{0,0}}, int64[2] s01 = {{0,1}}, int64[2] s10 = {{1,0}}, int64[2] s11 = {{1,1}}, int64[2] ee = {{{_END},{_END}}},
     int64[2] hw = {{2,3}}, int64[2] twos = {{2,2}}, float[1] weight = {{0}}, float[8] bias = {{1,2,3,4,5,6,7,8}}>
    {{ {chr(10).join(lines)}
       c = Concat<axis = 1>({", ".join(parts)})
       y = Conv<pads = [{pad},{pad},{pad},{pad}], strides = [{stride},{stride}]>(c, weight, bias) }}"""
    graph = Graph.from_text(text)
    weight = graph.model.graph.initializers["weight"]
    data = np.random.default_rng(0).standard_normal((8, 3 * len(starts), kernel, kernel)).astype(np.float32)
    weight.const_value, weight.shape = ir.tensor(data, name="weight"), ir.Shape(data.shape)
    return graph


def _run(graph: Graph) -> Graph:
    after = graph.clone()
    passes = build_passes(parse_pipeline("infer-shapes,fuse-focus"), Registry().passes())
    PassManager(passes, verify="structure").run(after, PassContext())
    return after


@pytest.mark.parametrize("chained", [True, False])
@pytest.mark.parametrize(("kernel", "pad", "stride"), [(3, 1, 1), (1, 0, 1), (3, 0, 2), (5, 2, 1)])
def test_focus_becomes_one_conv(chained: bool, kernel: int, pad: int, stride: int) -> None:
    before = _stem(chained, kernel, pad, stride=stride)
    after = _run(before)
    assert after.op_counts() == {"Conv": 1}
    (conv,) = after.nodes()
    weight = constant(conv.inputs[1])
    assert weight is not None
    assert weight.shape == (8, 3, 2 * kernel, 2 * kernel)
    assert_equivalent(before, after, rtol=1e-4, atol=1e-4)


def test_another_order_of_the_pictures() -> None:
    before = _stem(False, starts=[(1, 1), (0, 1), (1, 0), (0, 0)])
    after = _run(before)
    assert after.op_counts() == {"Conv": 1}
    assert_equivalent(before, after, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("starts", [_STARTS[:3], [(0, 0), (0, 0), (0, 1), (1, 1)]])
def test_a_missing_or_repeated_picture_stays(starts: list[tuple[int, int]]) -> None:
    before = _stem(False, starts=starts)
    after = _run(before)
    assert after.op_counts()["Slice"] == 4 or len(starts) == 3
    assert "Concat" in after.op_counts()
    assert_equivalent(before, after)
