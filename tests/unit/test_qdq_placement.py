"""benchmarks/peers/qdq_placement.py: which inputs two files quantise, node by node, and why they differ."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import onnx
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "peers" / "qdq_placement.py"

FLOAT = """<ir_version: 10, opset_import: ["" : 19]>
g (float[1,16,4,4] x) => (float[1,4] y)
<float[16,16,3,3] w, float[16,4] v, float s = {0.1}, int8 z = {0}>
{
    c = Conv <pads = [1,1,1,1]> (x, w)
    a = Add (c, x)
    m = MaxPool <kernel_shape = [4,4]> (a)
    f = Flatten (m)
    y = Gemm (f, v)
}"""

OURS = """<ir_version: 10, opset_import: ["" : 19]>
g (float[1,16,4,4] x) => (float[1,4] y)
<int8[16,16,3,3] w, int8[16,4] v, float s = {0.1}, int8 z = {0}>
{
    xq = QuantizeLinear (x, s, z)
    xd = DequantizeLinear (xq, s, z)
    wd = DequantizeLinear (w, s, z)
    c = Conv <pads = [1,1,1,1]> (xd, wd)
    a = Add (c, xd)
    m = MaxPool <kernel_shape = [4,4]> (a)
    f = Flatten (m)
    fq = QuantizeLinear (f, s, z)
    fd = DequantizeLinear (fq, s, z)
    vd = DequantizeLinear (v, s, z)
    y = Gemm (fd, vd)
}"""

THEIRS = """<ir_version: 10, opset_import: ["" : 19]>
g (float[1,16,4,4] x) => (float[1,4] y)
<float[16,16,3,3] w, float[16,4] v, float s = {0.1}, int8 z = {0}>
{
    xq = QuantizeLinear (x, s, z)
    xd = DequantizeLinear (xq, s, z)
    wq = QuantizeLinear (w, s, z)
    wd = DequantizeLinear (wq, s, z)
    c = Conv <pads = [1,1,1,1]> (xd, wd)
    a = Add (c, xd)
    aq = QuantizeLinear (a, s, z)
    ad = DequantizeLinear (aq, s, z)
    m = MaxPool <kernel_shape = [4,4]> (ad)
    f = Flatten (m)
    y = Gemm (f, v)
}"""


@pytest.fixture(scope="module")
def qdq() -> ModuleType:
    spec = importlib.util.spec_from_file_location("qdq_placement", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def _model(text: str, renamed: dict[str, str] | None = None) -> onnx.ModelProto:
    """Nodes named by what they make; `renamed`: node -> the source nodes it stands for."""
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = node.output[0]
        if names := (renamed or {}).get(node.name):
            node.name = f"{node.name}.new"
            node.metadata_props.add(key="edgec.from", value=names)
    return model


def test_a_float_file_quantises_nothing(qdq: ModuleType) -> None:
    placed = qdq.placement(_model(FLOAT))
    assert placed.pairs == 0
    assert placed.integer == {"conv": (0, 1), "matmul": (0, 1)}
    assert qdq.compare(placed, placed) == []


def test_differences_are_told_by_node_input_and_rule(qdq: ModuleType) -> None:
    ours, theirs = qdq.placement(_model(OURS)), qdq.placement(_model(THEIRS))
    assert (ours.pairs, theirs.pairs) == (4, 3)
    assert ours.integer == {"conv": (1, 1), "matmul": (1, 1)}
    assert theirs.integer == {"conv": (1, 1), "matmul": (0, 1)}
    found = {(d.node, d.index): (d.who, d.rule) for d in qdq.compare(ours, theirs)}
    assert {k for k, (who, _) in found.items() if who == "both"} == {("c", 0), ("c", 1), ("a", 1)}
    assert found["y", 1] == ("only ours", "matrix times vector (find_nodes_from_matmul_to_exclude)")
    assert found["y", 0][0] == "moved"
    assert found["m", 0][0] == "moved", "ours stands behind Flatten"


def test_a_pair_behind_something_that_computes_is_another_one(qdq: ModuleType) -> None:
    texts = [text.replace("f = Flatten (m)", "r = Relu (m) f = Flatten (r)") for text in (OURS, THEIRS)]
    found = {(d.node, d.index): d.who for d in qdq.compare(*(qdq.placement(_model(text)) for text in texts))}
    assert found["m", 0] == "only ModelOpt"
    assert found["y", 0] == "only ours"


def test_a_node_that_stands_for_several_is_found_under_each_name(qdq: ModuleType) -> None:
    ours, theirs = qdq.placement(_model(OURS, {"c": "c\nbn"})), qdq.placement(_model(THEIRS))
    assert {"c", "bn", "c.new"} <= set(ours.nodes)
    assert ("c", 0, "both") in {(d.node, d.index, d.who) for d in qdq.compare(ours, theirs)}
    assert not qdq.unaligned(ours, theirs)


def test_quantised_nodes_without_a_counterpart_are_counted(qdq: ModuleType) -> None:
    ours, theirs = qdq.placement(_model(OURS, {"m": "pool", "c": "conv"})), qdq.placement(_model(THEIRS))
    assert qdq.unaligned(ours, theirs) == {"Conv": 1, "MaxPool": 1}


@pytest.mark.parametrize("cast", ["xd", "wd"])
def test_a_cast_between_pair_and_node_changes_nothing(qdq: ModuleType, cast: str) -> None:
    text = OURS.replace(
        "c = Conv <pads = [1,1,1,1]> (xd, wd)", f"k = Cast <to = 1> ({cast}) c = Conv <pads = [1,1,1,1]> (xd, wd)"
    )
    text = text.replace("Conv <pads = [1,1,1,1]> (xd, wd)", "Conv <pads = [1,1,1,1]> (xd, wd)".replace(cast, "k"))
    assert qdq.placement(_model(text)).nodes["c"].quantised == {0, 1}


@pytest.mark.parametrize(
    ("weight", "group", "kernel", "first", "left"),
    [
        ((32, 32, 3, 3), 1, (3, 3), False, False),
        ((32, 3, 3, 3), 1, (3, 3), True, False),
        ((8, 8, 3, 3), 1, (3, 3), False, True),  # no side has 16
        ((8, 16, 3, 3), 1, (3, 3), False, False),
        ((12, 20, 1, 1), 1, (1, 1), False, True),  # no multiple of 8
        ((8, 16, 1, 5), 1, (1, 5), False, True),  # not square
        ((32, 1, 3, 3), 32, (3, 3), False, False),
        ((12, 1, 3, 3), 12, (3, 3), False, True),
        ((32, 1, 1, 1), 32, (1, 1), False, True),
    ],
)
def test_small_convolutions_by_modelopts_rule(
    qdq: ModuleType, weight: tuple[int, ...], group: int, kernel: tuple[int, ...], first: bool, left: bool
) -> None:
    none: frozenset[int] = frozenset()
    node = qdq.Node(
        "c", "Conv", none, none, none, ("",), frozenset(), weight, None, group, kernel, reads_graph_input=first
    )
    assert qdq.small_conv(node) is left
