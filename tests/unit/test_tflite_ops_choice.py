"""Which operators a node becomes: the short form where TFLite has it exactly, another where it has not. Numbers are compared
with ONNX in tests/conformance/test_tflite_node_tests.py."""

from __future__ import annotations

import pytest

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.targets.tflite.lower import lower

HEAD = '<ir_version: 10, opset_import: ["" : 24]>'


def graph_of(text: str) -> Graph:
    graph = Graph.from_text(f"{HEAD} {text}")
    infer_shapes(graph)
    return graph


def ops(text: str) -> list[str]:
    return [o.op for o in lower(graph_of(text)).model.main.operators]


@pytest.mark.parametrize(
    ("attributes", "sizes", "expected"),
    [
        ('mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"', "1,2,8,8", "RESIZE_NEAREST_NEIGHBOR"),
        ('mode="linear"', "1,2,8,8", "RESIZE_BILINEAR"),
        ('mode="linear", coordinate_transformation_mode="align_corners"', "1,2,8,8", "RESIZE_BILINEAR"),
        ('mode="cubic"', "1,2,8,8", "BATCH_MATMUL"),
        ('mode="linear", antialias=1', "1,2,2,2", "BATCH_MATMUL"),
        ('mode="nearest", nearest_mode="ceil"', "1,2,6,6", "GATHER"),
    ],
)  # fmt: skip
def test_resize(attributes: str, sizes: str, expected: str) -> None:
    out = "x".join(sizes.split(","))
    text = f"g (float[1,2,4,4] x) => (float[{sizes}] y) <int64[4] s = {{{sizes}}}> {{ y = Resize<{attributes}>(x, , , s) }}"
    made = ops(text)
    assert expected in made, out
    assert sum(o.startswith("RESIZE_") for o in made) == int(expected.startswith("RESIZE_"))


def test_pools_over_three_axes_are_two_pools_over_images() -> None:
    made = ops(
        "g (float[1,2,4,6,6] x) => (float[1,2,2,3,3] y) { y = MaxPool<kernel_shape=[2,2,2], strides=[2,2,2]>(x) }"
    )
    assert made.count("MAX_POOL_2D") == 2
    assert made.count("TRANSPOSE") == 2


def test_a_pool_with_dilations_joins_what_each_tap_sees() -> None:
    made = ops("g (float[1,2,6,6] x) => (float[1,2,4,4] y) { y = MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x) }")
    assert made.count("STRIDED_SLICE") == 4
    assert made.count("MAXIMUM") == 2


def test_dilations_of_a_transposed_convolution_are_zeros_between_its_weights() -> None:
    lowered = lower(
        graph_of(
            "g (float[1,1,3,3] x) => (float[1,1,5,5] y) <float[1,1,2,2] w = {1,2,3,4}>"
            "{ y = ConvTranspose<dilations=[2,2]>(x, w) }"
        )
    )
    conv = next(o for o in lowered.model.main.operators if o.op == "TRANSPOSE_CONV")
    filters = conv.inputs[1]
    assert filters is not None
    assert filters.data is not None
    assert filters.data.reshape(3, 3).tolist() == [[1, 0, 2], [0, 0, 0], [3, 0, 4]]


def test_scattering_to_known_places_is_one_gather() -> None:
    made = ops(
        "g (float[4,2] x, float[1,2] u) => (float[4,2] y) <int64[1,1] i = {-1}> { y = ScatterND(x, i, u) }",
    )
    assert made == ["CONCATENATION", "GATHER"]


def test_scattering_to_computed_places_chooses_by_what_was_placed() -> None:
    made = ops("g (float[4,2] x, int64[1,1] i, float[1,2] u) => (float[4,2] y) { y = ScatterND(x, i, u) }")
    assert made.count("SCATTER_ND") == 2
    assert made[-1] == "SELECT_V2"


def test_l2_normalization_along_the_last_stored_axis() -> None:
    assert ops("g (float[2,3] x) => (float[2,3] y) { y = LpNormalization(x) }") == ["L2_NORMALIZATION"]
    assert "L2_NORMALIZATION" not in ops("g (float[2,3] x) => (float[2,3] y) { y = LpNormalization<p=1>(x) }")


def test_variadic_extremes_go_two_at_a_time() -> None:
    text = "g (float[2] a, float[2] b, float[2] c) => (float[2] y) { y = Max(a, b, c) }"
    assert ops(text) == ["MAXIMUM", "MAXIMUM"]


def test_int64_division_is_computed_in_int32_and_says_so() -> None:
    found = Diagnostics()
    lower(graph_of("g (int64[2] a, int64[2] b) => (int64[2] y) { y = Div(a, b) }"), None, found)
    note = next(d for d in found if d.code == "EC0639")
    assert "'y' of Div" in note.message


def test_a_constant_too_large_for_int32_is_refused() -> None:
    with pytest.raises(EdgecError) as e:
        lower(graph_of("g (int64[1] a) => (int64[1] y) <int64[1] b = {3000000000}> { y = Div(a, b) }"))
    assert e.value.diagnostics[0].code == "EC0641"
    assert "32 bits" in e.value.diagnostics[0].message


@pytest.mark.parametrize(
    ("text", "why", "hint"),
    [
        ("g (float[2,3] x) => (int64[2,?] y) { y = NonZero(x) }", "known at run time", "Where"),
        ("g (float[2] x) => (float[2] y) { y = RandomNormalLike(x) }", "random numbers", "input"),
        (
            "g (float[1,2,4,4] x) => (float[1,2,2,2] y, int64[1,2,2,2] i)"
            "{ y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }",
            "indices of the maxima",
            "one output",
        ),
        ("g (float[4] x, int64[1,1] i, float[1] u) => (float[4] y) { y = ScatterND<reduction=\"max\">(x, i, u) }", "reduction max", "add"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_node_and_says_what_to_do(text: str, why: str, hint: str) -> None:
    graph = graph_of(text)
    node = next(iter(graph.nodes()))
    node.name = "the_node"
    with pytest.raises(EdgecError) as e:
        lower(graph)
    d = e.value.diagnostics[0]
    assert d.code == "EC0641"
    assert why in d.message
    assert hint in (d.hint or "")
    assert d.location.node == "the_node"


def test_an_integer_interface_keeps_its_scale() -> None:
    """What all readers take for the same real numbers is a quantised tensor; else the two ops are arithmetic."""
    text = "g (int8[2,3] x) => (float[2,3] y) <float s = {0.5}, int8 z = {3}> { y = DequantizeLinear(x, s, z) }"
    made = lower(graph_of(text)).model.main
    assert [o.op for o in made.operators] == ["DEQUANTIZE"]
    assert made.inputs[0].quant is not None
    assert made.inputs[0].quant.zero_point.tolist() == [3]
    channels = "g (int8[2,3] x) => (float[2,3] y) <float[3] s = {1,2,3}> { y = DequantizeLinear<axis=1>(x, s) }"
    assert ops(channels) == ["CAST", "MUL"]


def test_a_constant_matrix_with_a_scale_for_each_output_is_an_integer_kernel() -> None:
    text = (
        "g (float[2,2] x) => (float[2,2] y)"
        "<float s = {0.5}, int8 z = {0}, int8[2,2] w = {1,2,3,4}, float[2] ws = {0.1,0.2}, int8[2] wz = {0,0}>"
        "{ a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) v = DequantizeLinear<axis=1>(w, ws, wz)"
        "  m = MatMul(b, v) c = QuantizeLinear(m, s, z) y = DequantizeLinear(c, s, z) }"
    )
    product = next(o for o in lower(graph_of(text)).model.main.operators if o.op == "FULLY_CONNECTED")
    weights = product.inputs[1]
    assert weights is not None
    assert product.outputs[0].dtype == weights.dtype == "int8"
    assert weights.quant is not None
    assert (weights.quant.axis, weights.quant.scale.size) == (0, 2)


@pytest.mark.parametrize("quantised", [False, True])
def test_a_product_turns_its_right_matrices_itself(quantised: bool) -> None:
    floats = "t = Transpose<perm=[0,2,1]>(k) y = MatMul(x, t)"
    integers = (
        "a = QuantizeLinear(x,s,z) b = DequantizeLinear(a,s,z) c = QuantizeLinear(k,s,z) d = DequantizeLinear(c,s,z)"
        " t = Transpose<perm=[0,2,1]>(d) e = QuantizeLinear(t,s,z) f = DequantizeLinear(e,s,z)"
        " m = MatMul(b, f) q = QuantizeLinear(m,s,z) y = DequantizeLinear(q,s,z)"
    )
    body = integers if quantised else floats
    made = lower(
        graph_of(
            f"g (float[2,3,4] x, float[2,5,4] k) => (float[2,3,5] y) <float s = {{0.5}}, int8 z = {{0}}> {{ {body} }}"
        )
    ).model.main.operators
    product = next(o for o in made if o.op == "BATCH_MATMUL")
    assert product.options["adj_y"]
    assert all(o.op != "TRANSPOSE" for o in made)
