"""Mixed precision end to end: a detector's head that plain int8 destroys, brought back within its budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import Pass, PassContext, PassManager
from edgec.plugins import Registry
from edgec.quantization.metric import Drop, load_metric
from edgec.quantization.mixed_runs import Trials, search_mixed
from edgec.quantization.terms import layer_name
from edgec.recipe import build_passes, parse_pipeline
from edgec.samples.sample_set import Samples

HEAD = """<ir_version: 10, opset_import: ["" : 24]>
yolo (float[1,3,64,64] x) => (float[1,64,4] boxes, float[1,64,7] scores) {
    s1 = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w0, b0)
    a1 = Relu(s1)
    s2 = Conv<strides=[2,2], pads=[1,1,1,1]>(a1, w1, b1)
    a2 = Relu(s2)
    s3 = Conv<strides=[2,2], pads=[1,1,1,1]>(a2, w2, b2)
    a3 = Relu(s3)
    n1 = Conv<pads=[1,1,1,1]>(a3, w3, b3)
    n = Relu(n1)
    bc = Conv<pads=[1,1,1,1]>(n, w4, b4)
    ba = Relu(bc)
    br = Conv(ba, w5, b5)
    bs = Sigmoid(br)
    box = Mul(bs, size)
    cc = Conv<pads=[1,1,1,1]>(n, w6, b6)
    ca = Relu(cc)
    cr = Conv(ca, w7, b7)
    score = Sigmoid(cr)
    bf = Reshape(box, four)
    cf = Reshape(score, eight)
    joint = Concat<axis=1>(bf, cf)
    rows = Transpose<perm=[0,2,1]>(joint)
    xywh = Slice(rows, i0, i4, last)
    boxes = MatMul(xywh, corners)
    object = Slice(rows, i4, i5, last)
    classes = Slice(rows, i5, i12, last)
    scores = Mul(object, classes)
}"""
SHAPES = [(16, 3, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (32, 64, 3, 3), (4, 32, 1, 1), (32, 64, 3, 3),
          (8, 32, 1, 1)]  # fmt: skip
INTS = {"four": [1, 4, 64], "eight": [1, 8, 64], "i0": [0], "i4": [4], "i5": [5], "i12": [12], "last": [2]}
HEAD_FIRST = 8
"""The head begins after this many nodes: what follows the neck."""


def yolo() -> Graph:
    rng = np.random.default_rng(11)
    arrays: dict[str, np.ndarray] = {k: np.array(v, np.int64) for k, v in INTS.items()}
    for i, shape in enumerate(SHAPES):
        arrays[f"w{i}"] = (rng.standard_normal(shape) * np.sqrt(2 / math.prod(shape[1:]))).astype(np.float32)
        arrays[f"b{i}"] = (rng.standard_normal(shape[0]) * 0.1).astype(np.float32)
    arrays["b7"] -= 3.0  # most scores are small, as a trained detector's
    arrays["size"] = np.full((1, 1, 1, 1), 640, np.float32)
    arrays["corners"] = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]], np.float32)
    types = {"int64": "int64", "float32": "float"}
    extra = ", ".join(f"{types[a.dtype.name]}[{','.join(map(str, a.shape))}] {k}" for k, a in arrays.items())
    graph = Graph.from_text(HEAD.replace("(float[1,3,64,64] x)", f"(float[1,3,64,64] x, {extra})"))
    g = graph.model.graph
    for v in list(g.inputs)[1:]:
        g.inputs.remove(v)
        v.const_value = ir.tensor(arrays[v.name], name=v.name)
        g.register_initializer(v)
    infer_shapes(graph)
    return graph


def images(n: int = 12) -> Samples:
    rng = np.random.default_rng(2)
    xs = []
    for _ in range(n):
        coarse = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
        xs.append({"x": np.kron(coarse, np.ones((1, 1, 8, 8), np.float32))})
    return Samples(lambda: iter(xs), describe="blobs", count=n)


def passes(keep: frozenset[str], wide: frozenset[str], ranges: str) -> Sequence[Pass]:
    kept = tuple(sorted(keep))
    return [Quantize(scheme="onnxruntime-int8", method="minmax", hazards=False, keep=kept, ranges=ranges)]


METRIC = """
import numpy as np

def correlation(outputs, reference):
    a, b = (np.concatenate([o["scores"].ravel() for o in side]) for side in (outputs, reference))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 else 0.0
"""


@pytest.fixture
def metric(tmp_path: Path):
    (tmp_path / "metric.py").write_text(METRIC)
    return load_metric(f"{tmp_path}/metric.py:correlation")


def test_a_head_that_int8_destroys_is_brought_back(metric, tmp_path: Path) -> None:
    graph, ctx = yolo(), PassContext(calibration=images())
    before = graph.fingerprint()
    mixed = search_mixed(graph, ctx, passes, max_drop=Drop.parse("1%"), metric=metric)
    assert graph.fingerprint() == before
    plain = next(p for p in mixed.points if not p.keep)
    assert plain.score.metric is not None
    assert plain.score.metric < 0.5  # the scores are gone
    assert plain.share == 1.0
    chosen = mixed.chosen
    assert chosen.score.metric is not None
    assert chosen.score.metric >= 0.99

    head = frozenset(layer_name(n) for n in list(graph.nodes())[HEAD_FIRST:])
    trials = Trials(graph, ctx, passes, images(), metric, tmp_path)
    whole = trials.evaluate(head)
    macs = {la.node: la.macs for la in mixed.sensitivity.layers}
    share_of_head = 1 - sum(macs.get(n, 0) for n in head) / sum(macs.values())
    assert whole.metric is not None
    assert share_of_head < 0.75
    assert chosen.share > 0.95  # nothing of the head's convolutions had to go
    print(f"int8 MACs {chosen.share:.1%}, metric {chosen.score.metric:.4f}; "
          f"head in float: {share_of_head:.1%}, {whole.metric:.4f}; kept {mixed.keep}, {len(mixed.points)} runs")  # fmt: skip
    assert "<svg" in mixed.svg()
    assert any(row[0].endswith("*") for row in mixed.table())
    assert mixed.to_json()["keep"] == list(mixed.keep)


def test_the_sqnr_of_the_worst_output_can_be_asked_for() -> None:
    graph, ctx = yolo(), PassContext(calibration=images())
    said: list[str] = []
    mixed = search_mixed(graph, ctx, passes, min_sqnr=15.0, progress=said.append)
    assert mixed.chosen.score.sqnr_db >= 15.0
    assert mixed.chosen.share > 0.5
    assert len(said) == len(mixed.points)
    assert said[0].startswith("0 layers kept, 100.0%")


def test_a_budget_out_of_reach_fails_with_figures() -> None:
    with pytest.raises(EdgecError, match="EC0755") as e:
        search_mixed(yolo(), PassContext(calibration=images(4)), passes, min_sqnr=90.0, max_kept=0.3, probes=8)
    assert "dB where 90.0 dB is asked for" in str(e.value)
    assert "of the error left" in str(e.value)


def test_no_samples() -> None:
    with pytest.raises(EdgecError, match="EC0750"):
        search_mixed(yolo(), PassContext(), passes, min_sqnr=20.0)


def test_agreement_of_outputs_that_have_no_classes_is_an_error_that_says_so() -> None:
    with pytest.raises(EdgecError, match="EC0754"):
        search_mixed(yolo(), PassContext(calibration=images(2)), passes, min_agreement=0.9, probes=4)


def test_a_real_classifier_reaches_what_is_asked_for(eval_dir: Path, tmp_path: Path) -> None:
    """ResNet-20 on CIFAR-10: predictions are near, and a budget 4 dB above plain int8 leaves most in integers."""
    graph = Graph.load(eval_dir / "models" / "cifar10_resnet20.onnx")
    steps = "freeze-shapes{batch=1},constants-to-initializers,upgrade-opset,infer-shapes,fold-bn,fold-constants,infer-shapes,eliminate-noops,fuse-pad,remove-dead"
    PassManager(build_passes(parse_pipeline(steps), Registry().passes())).run(graph, PassContext())
    data = np.load(eval_dir / "data" / "cifar10_5k.npz")["x"]
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    name = graph.inputs[0].name or ""
    xs = [{name: ((x / np.float32(255) - mean) / std).transpose(2, 0, 1)[None]} for x in data[:64]]
    calibration = Samples(lambda: iter(xs[::2]), describe="even", count=32)
    judged = Samples(lambda: iter(xs[1::2]), describe="odd", count=32)
    plain = Trials(graph, PassContext(calibration=calibration), passes, judged, None, tmp_path).evaluate
    wanted = plain(frozenset()).sqnr_db + 4
    mixed = search_mixed(graph, PassContext(calibration=calibration), passes, min_sqnr=wanted, samples=judged)
    assert mixed.chosen.score.sqnr_db >= wanted
    assert mixed.chosen.share > 0.7
    for point in mixed.points:
        assert mixed.sensitivity.sqnr_db(point.keep) == pytest.approx(point.score.sqnr_db, abs=2.5)
