"""The linter on scores and boxes in one step, as quantisers of whole graphs store them, for every scheme."""

from __future__ import annotations

import pytest

from edgec.graph import Graph
from edgec.quantization.findings import Finding
from edgec.quantization.lint import lint
from edgec.specs.conditions import Setting
from edgec.specs.schema import builtin_scheme


def head(score_step: float, out_step: float, *, join: str = "Concat", score: str = "Sigmoid") -> Graph:
    """Boxes and scores, each stored, joined, and stored again."""
    return Graph.from_text(
        f"""<ir_version: 10, opset_import: ["" : 21]> g (float[1,4,8] boxes, float[1,4,8] logits) => (float[1,8,8] y)
        <float bs = {{2.5}}, float ss = {{{score_step}}}, float os = {{{out_step}}}, int8 z = {{-128}}>
        {{ s = {score}(logits) sq = QuantizeLinear(s, ss, z) sd = DequantizeLinear(sq, ss, z)
           bq = QuantizeLinear(boxes, bs, z) bd = DequantizeLinear(bq, bs, z)
           j = {join}<axis=1>(bd, sd) [stored] jq = QuantizeLinear(j, os, z) y = DequantizeLinear(jq, os, z) }}"""
    )


def coarse(graph: Graph, scheme: str) -> list[Finding]:
    found = lint(graph, builtin_scheme(scheme), Setting("int8", "", graph.opset))
    return [f for f in found if f.rule == "range"]


@pytest.mark.parametrize("scheme", ["tflite-int8", "onnxruntime-int8", "qnn-int8", "rknn-int8", "tensorrt-int8"])
def test_scores_that_share_a_step_with_boxes(scheme: str) -> None:
    (f,) = coarse(head(1 / 256, 2.5), scheme)
    assert f.code == "EC0850"
    assert f.node == "stored"
    assert "less than 1 level" in f.message


def test_one_step_for_all_is_told_where_it_begins() -> None:
    (f,) = coarse(head(2.5, 2.5), "tflite-int8")
    assert f.node != "stored"


def test_a_fine_step_is_no_matter() -> None:
    assert coarse(head(1 / 256, 1 / 256), "tflite-int8") == []


def test_a_range_that_is_not_known_is_not_judged() -> None:
    assert coarse(head(1 / 256, 2.5, score="Relu"), "tflite-int8") == []


def test_16_levels_are_enough() -> None:
    assert coarse(head(1 / 256, 1 / 16), "tflite-int8") == []
    assert "15 levels" in coarse(head(1 / 256, 1 / 15), "tflite-int8")[0].message


def test_softmax_reads_through_copies() -> None:
    graph = Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[1,4,8] x) => (float[1,8,4] y)
        <float s = {0.5}, uint8 z = {0}> { p = Softmax(x) t = Transpose<perm=[0,2,1]>(p)
           q = QuantizeLinear(t, s, z) y = DequantizeLinear(q, s, z) }"""
    )
    assert "2 levels" in coarse(graph, "onnxruntime-int8")[0].message
