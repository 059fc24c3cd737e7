"""Compiling with `compress`: what each step cost and brought is in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec
from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph, ir
from edgec.quantization.metric import load_metric
from edgec.report import Report
from edgec.runtime import Session
from edgec.stages import Made, Result, measure_stages
from edgec.summary import summary_text
from edgec.target import Artifact

TEXT = """
<ir_version: 10, opset_import: ["" : 24]>
net (float[1,3,8,8] x) => (float[1,10] y)
{
  a = Conv <pads = [1,1,1,1]> (x, w0, b0)
  b = Relu (a)
  c = Conv <pads = [1,1,1,1]> (b, w1, b1)
  d = Relu (c)
  e = GlobalAveragePool (d)
  f = Flatten (e)
  y = Gemm (f, w2, b2)
}
"""


def net() -> Graph:
    """Conv 3-16, Conv 16-32, classes: 10."""
    import onnx
    import onnx.numpy_helper

    rng = np.random.default_rng(5)
    model = onnx.parser.parse_model(TEXT)
    shapes = {"w0": (16, 3, 3, 3), "b0": (16,), "w1": (32, 16, 3, 3), "b1": (32,), "w2": (32, 10), "b2": (10,)}
    for name, shape in shapes.items():
        weight = rng.normal(0, 0.3, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return Graph.from_proto(model)


def inputs(folder: Path, count: int = 32) -> Path:
    path = folder / "inputs"
    path.mkdir()
    rng = np.random.default_rng(1)
    for i in range(count):
        np.save(path / f"{i:02}.npy", rng.normal(0, 1, (1, 3, 8, 8)).astype(np.float32))
    return path


METRIC = """
import numpy as np

def predicting(predict):
    x = np.ones((1, 3, 8, 8), np.float32)
    return float(np.mean([predict(x * i)[0].mean() for i in range(3)]))

def judging(outputs, reference):
    return -float(np.mean([np.abs(a["y"] - b["y"]).mean() for a, b in zip(outputs, reference, strict=True)]))

calls = [0]

def growing(predict):
    calls[0] += 1
    return float(sum(predict(np.ones((1, 3, 8, 8), np.float32))[0].sum() for _ in range(calls[0])))
"""


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metric.py"
    path.write_text(METRIC)
    return path


def test_each_step_has_a_row(tmp_path: Path, metrics: Path) -> None:
    """Float, prune, recover, artifact; recovery comes nearer to the float model than the cut alone."""
    result = edgec.compile(
        net(), compress="prune{ratio=0.25 align=1},recover", calibration=inputs(tmp_path), metric=f"{metrics}:judging",
    )  # fmt: skip
    verification = result.report.verification
    assert verification is not None
    assert (verification.samples, verification.source or "") == (
        4,
        f"4 of 32 samples in {tmp_path / 'inputs'}, kept out of calibration",
    )
    float_, cut, mended, artifact = result.report.compression
    assert [float_.name, cut.name[:5], mended.name[:7], artifact.name] == ["float", "prune", "recover", "x86-64 fp32"]
    assert float_.bytes > cut.bytes == mended.bytes
    assert float_.macs > cut.macs == mended.macs == artifact.macs
    assert float_.parameters > cut.parameters
    assert artifact.bytes == result.artifact.size(result.artifact.entry)
    assert all(s.latency_ms and s.latency_ms > 0 for s in result.report.compression)
    assert (float_.sqnr_db, float_.metric) == (None, 0)
    assert cut.sqnr_db is not None
    assert mended.sqnr_db is not None
    assert cut.metric is not None
    assert cut.sqnr_db < mended.sqnr_db
    assert mended.metric is not None
    assert cut.metric < mended.metric < 0
    assert artifact.metric == pytest.approx(mended.metric, rel=1e-3)
    again = Report.from_json(result.report.to_json())
    assert [s.name for s in again.compression] == [s.name for s in result.report.compression]
    text = summary_text(result.report)
    assert "Stages" in text
    assert "times smaller" in text


def test_a_metric_alone_is_measured(tmp_path: Path, metrics: Path) -> None:
    result = edgec.compile(net(), metric=f"{metrics}:predicting")
    assert [s.name for s in result.report.compression] == ["float", "x86-64 fp32"]
    before, after = (s.metric for s in result.report.compression)
    assert after == pytest.approx(before, rel=1e-4)


def test_work_is_counted_for_the_shapes_of_the_samples(metrics: Path) -> None:
    """A model may leave them open."""
    open_ = net()
    open_.inputs[0].shape = ir.Shape([1, 3, "H", "W"])
    for node in open_.nodes():
        node.outputs[0].shape = None if not node.outputs[0].is_graph_output() else node.outputs[0].shape
    result = edgec.compile(open_, input_shapes=["x:1x3x8x8"], metric=f"{metrics}:predicting")
    closed = edgec.compile(net(), metric=f"{metrics}:predicting")
    assert [s.macs for s in result.report.compression] == [s.macs for s in closed.report.compression]


def test_nothing_asked_for_nothing_measured() -> None:
    assert edgec.compile(net()).report.compression == ()


class _Runner:
    describe = "a test"

    def __init__(self, graph: Graph) -> None:
        self._session = Session(graph)

    def run(self, samples: Any) -> Any:
        return list(self._session.run_all(samples))


def test_a_metric_that_asks_for_more_when_called_again(metrics: Path) -> None:
    graph = net()
    metric = load_metric(f"{metrics}:growing")
    with pytest.raises(EdgecError) as caught:
        metric.of_runner(_Runner(graph).run, Session(graph), ["x"])
    assert caught.value.diagnostics[0].code == "EC0753"


def test_the_runner_answers_what_was_asked(metrics: Path) -> None:
    graph = net()
    metric = load_metric(f"{metrics}:predicting")
    session = Session(graph)
    assert metric.of_runner(_Runner(graph).run, session, ["x"]) == metric.of_session(session, ["x"])


def test_a_simulator_that_ran_only_the_samples(metrics: Path) -> None:
    """Its outputs are judged; a metric with data of its own is said to be left out."""
    graph = net()
    samples = [{"x": np.full((1, 3, 8, 8), i, np.float32)} for i in range(3)]
    outputs = list(Session(graph).run_all(samples))
    artifact = Artifact({"a.bin": b"123"}, "a.bin", simulated=outputs)
    result = Result(artifact, "board int8", None, None, outputs, "a simulator")
    made = [Made("prune", 1.0, graph.clone())]
    notes = Diagnostics()
    stages = measure_stages(graph, made, result, samples, load_metric(f"{metrics}:judging"), notes)
    assert stages[-1].metric == pytest.approx(0, abs=1e-5)
    assert (stages[-1].bytes, stages[-1].latency_ms) == (3, None)
    assert not notes.items
    stages = measure_stages(graph, made, result, samples, load_metric(f"{metrics}:predicting"), notes)
    assert [d.code for d in notes.items] == ["EC0757"]
    assert stages[-1].metric is None
    assert stages[0].metric is not None


def test_a_metric_that_is_not_there_is_told_before_the_work_begins(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(EdgecError, match="EC0752"):
        edgec.compile(net(), metric=f"{tmp_path / 'none.py'}:judging", progress=told.append)
    assert not told
