"""The op tables of the RKNN family against what the compiler did with 200 one-node models (tests/data/rknn_sweep.csv)."""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from edgec.graph import Graph
from edgec.placement import place
from edgec.specs.schema import TargetSpec, builtin_target

DATA = Path(__file__).resolve().parent.parent / "data"
X = "float[1,16,32,32]"
WEIGHTS: dict[str, tuple[int, ...]] = {
    "w1d": (16, 16, 3), "w3d": (8, 4, 3, 3, 3), "w22": (16, 16, 2, 2), "w22dw": (16, 1, 2, 2), "w33": (16, 16, 3, 3),
    "w33g4": (16, 4, 3, 3), "w15": (16, 16, 15, 15), "wk33": (16, 16, 33, 33), "wk33dw": (16, 1, 33, 33),
    "gru_w": (1, 24, 16), "gru_r": (1, 24, 8), "lstm_w": (1, 32, 16), "lstm_r": (1, 32, 8), "lstm_b": (1, 64),
    "lstm_w2": (2, 32, 16), "lstm_r2": (2, 32, 8), "rnn_w": (1, 8, 16), "rnn_r": (1, 8, 8), "table": (100, 32),
    "w64_32": (64, 32), "slope": (16, 1, 1), "qw33": (16, 16, 3, 3),
}  # fmt: skip
SHAPES = {"16": (16,), "4": (4,), "64": (64,), "163232": (16, 32, 32)}


def sweep_models() -> dict[str, str]:
    """Case -> its line of rknn_sweep_models.txt."""
    lines = (DATA / "rknn_sweep_models.txt").read_text().splitlines()
    return {line.split()[0]: line for line in lines if line and not line.startswith("#")}


def build(line: str) -> onnx.ModelProto:
    """The model a line of rknn_sweep_models.txt describes; weights are random, always the same."""
    head, text = line.split(" = ", 1)
    opset = int(head.split("@")[1]) if "@" in head else 17
    header, body = text.split(" | ", 1)
    inputs, output = header.split(" -> ")
    body, _, more = body.partition(" -> y, ")
    initializers = m[1] if (m := re.match(r"<(.*?)> ", body)) else ""
    body = body[m.end() :] if m else body
    expand = lambda s: re.sub(r"\bX\b", X, s)  # noqa: E731
    outputs = f"{output} y" + (f", {more}" if more else "")
    domains = ", ".join(f'"{d}" : 1' for d in ("acme", "com.microsoft") if d in body)
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}{", " + domains if domains else ""}]> '
        f"g ({expand(inputs)}) => ({expand(outputs)}) <{initializers}> {{ {expand(body)} }}"
    )
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
        for name in node.input:
            _add_weight(model.graph, name, rng)
    return model


def _add_weight(graph: onnx.GraphProto, name: str, rng: np.random.Generator) -> None:
    if any(t.name == name for t in graph.initializer):
        return
    data: Any = None
    if m := re.fullmatch(r"(ones|zeros)(\d+)", name):
        data = np.full(SHAPES[m[2]], 1.0 if m[1] == "ones" else 0.0, np.float32)
    elif name in WEIGHTS:
        data = (rng.standard_normal(WEIGHTS[name]) * 0.1).astype(np.float32)
        if name == "qw33":
            data = (data * 100).astype(np.uint8)
    if data is not None:
        graph.initializer.append(numpy_helper.from_array(data, name))


# A layer's type where it is not the op's: what the compiler calls the layer -> the op it stands for.
STANDS_FOR = {
    "exSoftmax13": {"Softmax"},
    "Div": {"Reciprocal"},
    "Pow": {"ReduceL2"},
    "exNorm": {"LayerNormalization", "InstanceNormalization", "LpNormalization"},
}


def measured() -> list[Any]:
    with open(DATA / "rknn_sweep.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    return [
        pytest.param(row["case"], column, row[column], id=f"{column}-{row['case']}")
        for row in rows
        for column in row
        if column != "case"
    ]


@cache
def spec_of(name: str) -> TargetSpec:
    return builtin_target(name)


@pytest.mark.parametrize(("case", "column", "result"), measured())
def test_the_table_says_what_the_compiler_did(case: str, column: str, result: str) -> None:
    """Column `rk3588-fp16` holds `NPU`, `CPU Op Op` (types of the layers on the CPU, Reshape left out) or `fail`."""
    graph = Graph.from_proto(build(sweep_models()[case]))
    name, precision = column.rsplit("-", 1)
    placement = place(graph, spec_of(name), precision)
    if result == "fail":
        assert placement.counts["impossible"] or not all(n.certain for n in placement.nodes), placement.to_json()
        return
    nodes = [
        n for n in placement.nodes if n.node in {m.name for m in graph.model.graph}
    ]  # not those of If and Scan bodies
    ops = {n.op.split("::")[-1] for n in nodes}
    known = {n.op.split("::")[-1] for n in nodes if n.certain}
    layers = {op for layer in result.split()[1:] for op in ({layer} if layer in ops else STANDS_FOR.get(layer, set()))}
    on_cpu = {n.op.split("::")[-1] for n in nodes if n.where != "accelerator"}
    # Layers of types the model does not have were added by the compiler (Transpose around a MatMul, say).
    assert on_cpu & known == layers & known, placement.to_json()
    assert not placement.counts["impossible"] or on_cpu & layers, placement.to_json()
