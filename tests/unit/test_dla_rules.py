"""Each limit of the DLA's op tables, from both sides: the last value inside, the first outside."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.graph import Graph, ir
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.pipeline import PassContext
from edgec.placement import place
from edgec.specs.conditions import Setting, When, applies
from edgec.specs.measures import MEASURES, Unmeasured, convolution_buffer
from edgec.specs.op_table import OpTable
from edgec.specs.schema import builtin_target

ORIN, XAVIER = "jetson-agx-orin", "jetson-xavier-nx"


def node(op: str, shape: str, weights: dict[str, list[int]], attributes: str = "", constants: str = "") -> Graph:
    """One node that reads x, and weights, which are zeros of these shapes; `constants` are written out."""
    names = ["x", *weights, *(c.split()[1] for c in constants.split(";") if c)]
    text = f"<{attributes}>" if attributes else ""
    inputs = f", <{', '.join(c.strip() for c in constants.split(';'))}>" if constants else ""
    body = f"y = {op}{text}({', '.join(names)})"
    graph = Graph.from_text(
        f'<ir_version: 10, opset_import: ["" : 17]> g (float[{shape}] x) => (float[] y) {inputs[2:]} {{ {body} }}'
    )
    made = next(graph.nodes())
    for i, (name, dims) in enumerate(weights.items(), 1):
        value = ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(ir.DataType.FLOAT))
        value.const_value = ir.tensor(np.zeros(dims, np.float32), name=name)
        graph.model.graph.register_initializer(value)
        made.replace_input_with(i, value)
    graph.outputs[0].shape = None
    InferShapes().run(graph, PassContext())
    return graph


def where(graph: Graph, board: str = ORIN, precision: str = "int8-dla") -> str:
    placed = place(graph, builtin_target(board), precision).nodes[0]
    return placed.where if placed.certain else "either"


def conv(
    channels: int = 16,
    side: int = 56,
    out: int = 16,
    kernel: tuple[int, int] = (3, 3),
    attributes: str = "",
    *,
    batch: int = 1,
) -> Graph:
    return node("Conv", f"{batch},{channels},{side},{side}", {"w": [out, channels, *kernel]}, attributes)


def deconv(kernel: tuple[int, int] = (3, 3), attributes: str = "", channels: int = 4, out: int = 4) -> Graph:
    return node("ConvTranspose", f"1,{channels},8,8", {"w": [channels, out, *kernel]}, attributes)


def pool(op: str = "MaxPool", attributes: str = "kernel_shape = [2, 2]") -> Graph:
    return node(op, "1,4,64,64", {}, attributes)


def clip(low: float, high: float) -> Graph:
    return node("Clip", "1,4,8,8", {}, constants=f"float lo = {{{low}}};float hi = {{{high}}}")


def resize(mode: str, factors: str, more: str = "") -> Graph:
    graph = Graph.from_text(
        f"""<ir_version: 10, opset_import: ["" : 17]> g (float[1,4,8,8] x) => (float[] y) <float[4] s = {{{factors}}}>
        {{ y = Resize<mode = "{mode}"{more}>(x, , s) }}"""
    )
    InferShapes().run(graph, PassContext())
    return graph


def slice_(start: str, end: str, axes: str, steps: str, shape: str = "2,8,8,8") -> Graph:
    n = len(start.split(","))
    return node(
        "Slice", shape, {}, constants=f"int64[{n}] a = {{{start}}};int64[{n}] b = {{{end}}};int64[{n}] c = {{{axes}}};int64[{n}] d = {{{steps}}}"
    )  # fmt: skip


def softmax(shape: str, axis: int) -> Graph:
    return node("Softmax", shape, {}, f"axis = {axis}")


def computed_weights() -> Graph:
    graph = Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 17]>
        g (float[1,4,8,8] x, float[4,4,3,3] w) => (float[1,4,6,6] y) { y = Conv(x, w) }"""
    )
    InferShapes().run(graph, PassContext())
    return graph


FLOOR = ', coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
HALF = ', coordinate_transformation_mode = "half_pixel"'

LIMITS: dict[str, tuple[Graph, Graph]] = {
    "batch": (conv(batch=4096, side=3), conv(batch=4097, side=3)),
    "side": (node("Relu", "1,1,1,8192", {}), node("Relu", "1,1,1,8193", {})),
    "channels": (node("Relu", "1,8192,1,1", {}), node("Relu", "1,8193,1,1", {})),
    "kernel": (conv(1, 40, 1, (32, 1)), conv(1, 40, 1, (33, 1))),
    "axes": (conv(), node("Conv", "1,4,8,8,8", {"w": [4, 4, 3, 3, 3]})),
    "one axis": (conv(), node("Conv", "1,4,8", {"w": [4, 4, 3]})),
    "pad of conv": (conv(1, 8, 1, (32, 32), "pads = [31, 31, 31, 31]"), conv(1, 8, 1, (32, 32), "pads = [32, 32, 32, 32]")),
    "pad below the kernel": (conv(1, 8, 1, (3, 3), "pads = [2, 2, 2, 2]"), conv(1, 8, 1, (3, 3), "pads = [3, 2, 2, 2]")),
    "stride of conv": (conv(attributes="strides = [8, 8]"), conv(attributes="strides = [8, 9]")),
    "dilation of conv": (conv(1, 80, 1, attributes="dilations = [32, 32]"), conv(1, 80, 1, attributes="dilations = [32, 33]")),
    "output maps": (conv(1, 3, 8192), conv(1, 3, 8193)),
    "computed weights": (conv(), computed_weights()),
    "group of deconv": (deconv(), deconv(attributes="group = 2")),
    "pad of deconv": (deconv(), deconv(attributes="pads = [0, 1, 0, 0]")),
    "dilation of deconv": (deconv(), deconv(attributes="dilations = [2, 1]")),
    "output padding": (deconv(attributes="strides = [2, 2]"), deconv(attributes="strides = [2, 2], output_padding = [1, 1]")),
    "kernel of deconv": (deconv((32, 32)), deconv((33, 32))),
    "long kernel of deconv": (deconv((1, 64)), deconv((2, 64))),
    "longer kernel of deconv": (deconv((96, 1)), deconv((97, 1))),
    "longest kernel of deconv": (deconv((1, 128)), deconv((1, 129))),
    "square kernel of deconv": (deconv((22, 22), "strides = [22, 22]"), deconv((23, 23), "strides = [23, 23]")),
    "window": (pool(attributes="kernel_shape = [8, 8]"), pool(attributes="kernel_shape = [9, 8]")),
    "pad of pool": (
        pool(attributes="kernel_shape = [8, 8], pads = [7, 7, 7, 7]"), node("MaxPool", "1,4,64,64", {}, "kernel_shape = [9, 9], pads = [8, 8, 8, 8]")
    ),
    "stride of pool": (pool(attributes="kernel_shape = [2, 2], strides = [16, 16]"), pool(attributes="kernel_shape = [2, 2], strides = [17, 16]")),
    "average window": (pool("AveragePool", "kernel_shape = [8, 8]"), pool("AveragePool", "kernel_shape = [8, 9]")),
    "upper limit of clip": (clip(0, 127), clip(0, 128)),
    "least upper limit of clip": (clip(0, 1), clip(0, 0.5)),
    "lower limit of clip": (clip(0, 6), clip(-1, 6)),
    "positive lower limit of clip": (clip(0, 6), clip(1, 6)),
    "factor of nearest": (resize("nearest", "1,1,32,1", FLOOR), resize("nearest", "1,1,33,1", FLOOR)),
    "factor of linear": (resize("linear", "1,1,4,4", HALF), resize("linear", "1,1,4,5", HALF)),
    "whole factor": (resize("nearest", "1,1,2,2", FLOOR), resize("nearest", "1,1,2,1.5", FLOOR)),
    "coordinates of linear": (resize("linear", "1,1,2,2", HALF), resize("linear", "1,1,2,2", ', coordinate_transformation_mode = "align_corners"')),
    "rounding of nearest": (
        resize("nearest", "1,1,2,2", HALF + ', nearest_mode = "round_prefer_floor"'), resize("nearest", "1,1,2,2", HALF + ', nearest_mode = "floor"')
    ),
    "axis of concat": (
        node("Concat", "1,4,8,8", {"w": [1, 4, 8, 8]}, "axis = 1"), node("Concat", "1,4,8,8", {"w": [1, 4, 8, 8]}, "axis = 2")
    ),
    "inputs of concat": (node("Concat", "1,4,8,8", {"w": [1, 4, 8, 8]}, "axis = 1"), node("Concat", "1,4,8,8", {}, "axis = 1")),
    "step of slice": (slice_("1", "5", "2", "1"), slice_("1", "5", "2", "2")),
    "batch of slice": (slice_("0", "4", "1", "1"), slice_("0", "1", "0", "1")),
    "rank of slice": (slice_("0", "4", "1", "1"), slice_("0", "4", "1", "1", "2,8,8")),
    "accurate softmax": (softmax("1,8192,1,1", 1), softmax("1,8193,1,1", 1)),
    "softmax among others": (softmax("1,1024,2,1", 1), softmax("1,1025,2,1", 1)),
    "softmax along the width": (softmax("1,2,1,1024", 3), softmax("1,2,1,1025", 3)),
    "rank of softmax": (softmax("1,8,1,1", 1), softmax("1,8", 1)),
    "batch of softmax": (softmax("2,8,1,1", 1), softmax("2,8,1,1", 0)),
    "size of lrn": (node("LRN", "1,16,8,8", {}, "size = 9"), node("LRN", "1,16,8,8", {}, "size = 11")),
    "even size of lrn": (node("LRN", "1,16,8,8", {}, "size = 5"), node("LRN", "1,16,8,8", {}, "size = 4")),
    "batch of transpose": (node("Transpose", "1,2,3,4", {}, "perm = [0, 2, 3, 1]"), node("Transpose", "1,2,3,4", {}, "perm = [1, 0, 2, 3]")),
    "batch of reshape": (
        node("Reshape", "2,8,4,4", {}, constants="int64[4] s = {2, 4, 8, 4}"), node("Reshape", "2,8,4,4", {}, constants="int64[4] s = {1, 16, 4, 4}")
    ),
    "rank of reshape": (
        node("Reshape", "2,8,4,4", {}, constants="int64[4] s = {2, 4, 8, 4}"), node("Reshape", "2,8,4,4", {}, constants="int64[2] s = {2, 128}")
    ),
    "rank of addition": (node("Add", "1,4,8,8", {"w": [1, 4, 1, 1]}), node("Add", "1,1,4,8,8", {"w": [1, 1, 4, 1, 1]})),
}  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS)
def test_limits(limit: str) -> None:
    inside, outside = LIMITS[limit]
    assert where(inside) == "accelerator"
    assert where(outside) == "fallback"


@pytest.mark.parametrize(
    ("precision", "inside", "outside"),
    # one kernel row of 56 x 1 takes ceil(ceil(C * item / 32) * 56 / 4 / 256) banks, the weights ceil(C * item / 32768)
    [
        # int8: C = 8192: 1 bank of weights; 256 slices x W / 4 / 256 banks of data: W = 60 makes 15, W = 61 makes 16
        ("int8-dla", (8192, 60), (8192, 61)),
        # fp16: twice the bytes: W = 30 makes 15, W = 31 makes 15.5, rounded up
        ("fp16-dla", (8192, 30), (8192, 31)),
    ],
)
def test_the_convolution_buffer(precision: str, inside: tuple[int, int], outside: tuple[int, int]) -> None:
    good, bad = (node("Conv", f"1,{c},8,{w}", {"w": [16, c, 1, 1]}) for c, w in (inside, outside))
    assert where(good, precision=precision) == "accelerator"
    assert where(bad, precision=precision) == "fallback"
    assert "16 banks" in str(place(bad, builtin_target(ORIN), precision).nodes[0].reason)


@pytest.mark.parametrize(
    ("channels", "width", "kernel", "dilation", "item", "banks"),
    [
        # weights: roundUp(64 * 9, 128) / 32768 -> 1; data: ceil(64 / 32) * 56 / 4 = 28 entries * 3 rows / 256 -> 1
        (64, 56, 3, 1, 1, 2),
        # weights: 512 * 49 * 2 = 50176 -> 2; data: 32 * 112 / 4 = 896 entries * 7 / 256 = 24.5 -> 25
        (512, 112, 7, 1, 2, 27),
        # dilated: (3 - 1) * 8 + 1 = 17 rows of 28 entries -> 476 / 256 -> 2
        (64, 56, 3, 8, 1, 3),
        # 3 channels: the slice is one atom of 32 bytes, 224 / 4 = 56 entries
        (3, 224, 3, 1, 1, 2),
    ],
)
def test_banks_by_hand(channels: int, width: int, kernel: int, dilation: int, item: int, banks: int) -> None:
    graph = node(
        "Conv", f"1,{channels},{kernel * dilation + 1},{width}", {"w": [8, channels, kernel, kernel]}, f"dilations = [{dilation}, {dilation}]"
    )  # fmt: skip
    assert convolution_buffer(next(graph.nodes()), item) == banks


def test_same_padding_is_worked_out() -> None:
    graph = conv(1, 8, 1, (4, 4), 'auto_pad = "SAME_UPPER"')
    found = {
        name: MEASURES[name](next(graph.nodes())) for name in ("largest-pad", "pad-difference", "pad-beyond-kernel")
    }
    assert found == {"largest-pad": 2, "pad-difference": 1, "pad-beyond-kernel": -2}


def test_a_number_of_unknown_shapes_is_unknown() -> None:
    graph = Graph.from_text(
        '<ir_version: 10, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'
    )
    with pytest.raises(Unmeasured):
        MEASURES["batch"](next(graph.nodes()))
    answer = applies(When(measure={"batch": {"min": 4097}}), next(graph.nodes()), Setting("", "", 17))  # type: ignore[dict-item]
    assert not isinstance(answer, bool)


def test_a_condition_on_a_number_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no number is called 'largest-kernal'"):
        When(measure={"largest-kernal": {"min": 1}})  # type: ignore[dict-item]


# --- Xavier ------------------------------------------------------------------------------------------------------------


def test_xavier_lacks_what_orin_has() -> None:
    assert where(softmax("1,8,1,1", 1), XAVIER) == "fallback"
    assert where(slice_("1", "5", "2", "1"), XAVIER) == "either"
    padded = pool("AveragePool", "kernel_shape = [3, 3], pads = [1, 1, 1, 1]")
    counted = pool("AveragePool", "kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1")
    assert where(padded) == where(counted) == where(counted, XAVIER) == "accelerator"
    assert where(padded, XAVIER) == "fallback"


# --- tables and specs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("board", [ORIN, "jetson-orin-nx", XAVIER, "jetson-agx-xavier"])
def test_every_row_of_the_tables_says_who_says_so(board: str) -> None:
    spec = builtin_target(board)
    for precision in ("int8-dla", "fp16-dla"):
        how = spec.precisions[precision]
        assert how.device == "the DLA"
        assert how.fallback == "the GPU"
        assert how.static_shapes
        table = how.op_table
        assert table is not None
        assert "not validated on hardware" in table.description
        assert all(case.evidence for case in table.general)
        assert all(row.evidence or table.evidence for row in table.ops.values())


@pytest.mark.parametrize("board", ["jetson-orin-nano", "jetson-thor"])
def test_boards_without_a_dla_have_no_such_precision(board: str) -> None:
    assert not [p for p in builtin_target(board).precisions if "dla" in p]


def test_what_neither_the_dla_nor_the_gpu_takes_is_impossible() -> None:
    graph = Graph.from_text(
        '<ir_version: 10, opset_import: ["" : 17, "x" : 1]> g (float[1,4] x) => (float[1,4] y) { y = x.Strange(x) }'
    )
    assert where(graph) == "impossible"
    assert where(pool(attributes="kernel_shape = [2, 2], dilations = [2, 2]")) == "impossible"


def test_general_cases_are_for_rows_that_run_here() -> None:
    table = OpTable.model_validate_json(
        """{"schema_version": 1, "name": "t", "description": "d", "evidence": "e", "unlisted": {"run": "impossible"},
        "general": [{"when": {"measure": {"largest-side": {"min": 5}}}, "run": "fallback", "reason": "too long"}],
        "ops": {"Relu": {"run": "accelerator"}, "Sqrt": {"run": "fallback", "reason": "not here"}}}"""
    )
    for op, reason in (("Relu", "too long"), ("Sqrt", "not here")):
        graph = node(op, "1,9", {})
        assert table.decide(next(graph.nodes()), Setting("", "", 17)).reason == reason
