"""Resize as matrices gives what ONNX Runtime's Resize gives, over its modes."""

from __future__ import annotations

import pytest

from edgec.graph import Graph
from edgec.passes.legalize.resize_as_matmul import ResizeAsMatMul
from edgec.pipeline import PassContext
from edgec.testing import assert_equivalent

COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


def resize(attributes: str, sizes: tuple[int, int], kind: str = "float") -> Graph:
    h, w = sizes
    return Graph.from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> g ({kind}[2,3,7,10] x) => ({kind}[2,3,{h},{w}] y)'
        f" <int64[4] s = {{2,3,{h},{w}}}> {{ y = Resize <{attributes}> (x, , , s) }}"
    )


def check(before: Graph) -> None:
    after = before.clone()
    assert ResizeAsMatMul().run(after, PassContext()).changed
    after.verify()
    assert_equivalent(before, after, seeds=1)


@pytest.mark.parametrize("sizes", [(14, 20), (3, 17), (1, 1), (9, 4)])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation(mode: str, coordinates: str, sizes: tuple[int, int]) -> None:
    check(resize(f'mode = "{mode}", coordinate_transformation_mode = "{coordinates}"', sizes))


@pytest.mark.parametrize("sizes", [(14, 20), (3, 17), (1, 1), (9, 4)])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("nearest", NEAREST)
@pytest.mark.parametrize("kind", ["float", "uint8"])
def test_nearest(nearest: str, coordinates: str, sizes: tuple[int, int], kind: str) -> None:
    attributes = f'mode = "nearest", coordinate_transformation_mode = "{coordinates}", nearest_mode = "{nearest}"'
    check(resize(attributes, sizes, kind))


@pytest.mark.parametrize("sizes", [(3, 4), (14, 20), (5, 25)])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("outside", [0, 1])
def test_antialias(mode: str, outside: int, sizes: tuple[int, int]) -> None:
    check(resize(f'mode = "{mode}", antialias = 1, exclude_outside = {outside if mode == "cubic" else 0}', sizes))


@pytest.mark.parametrize("value", [0.0, 7.0])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_a_region_that_leaves_the_image(mode: str, value: float) -> None:
    check(
        Graph.from_text(
            '<ir_version: 10, opset_import: ["" : 21]> g (float[1,2,6,6] x) => (float[1,2,5,4] y)'
            " <int64[4] s = {1,2,5,4}, float[8] r = {0,0,0.2,-0.3,1,1,0.9,1.2}>"
            f' {{ y = Resize <mode = "{mode}", coordinate_transformation_mode = "tf_crop_and_resize",'
            f" extrapolation_value = {value}> (x, r, , s) }}"
        )
    )
