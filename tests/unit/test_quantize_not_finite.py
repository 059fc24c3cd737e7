"""Calibration samples that are not finite, or that leave float32 within the model, shape nothing."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from edgec.accuracy import Accuracy
from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph, ir
from edgec.quantization.observe import observe
from edgec.quantization.statistics import Statistics
from edgec.quantizing import quantize
from edgec.samples import Samples

HEAD = '<ir_version: 10, opset_import: ["" : 24]>\n'
Arrays = dict[str, np.ndarray]


def net() -> Graph:
    import onnx

    proto = onnx.parser.parse_model(
        HEAD
        + """g (float[1,3,8,8] x) => (float[1,4,8,8] y)
        { c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) y = Conv<pads=[1,1,1,1]>(r, v) }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 4, 3, 3))):
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    return Graph.from_proto(proto)


def inputs(n: int = 20) -> list[Arrays]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(n)]


def spoil(sample: Arrays, how: str) -> Arrays:
    x = sample["x"].copy()
    if how == "overflow":
        x *= np.float32(1e38) / np.abs(x).max()  # finite, and no longer after the first Conv
    else:
        x[0, 0, 0, 0] = float(how)
    return {"x": x}


@pytest.mark.parametrize("how", ["inf", "-inf", "nan", "overflow"])
@pytest.mark.parametrize("at", [0, 3, 19])
def test_a_spoilt_sample_is_left_out_of_everything(how: str, at: int) -> None:
    graph, good = net(), inputs()
    mixed = [spoil(s, how) if i == at else s for i, s in enumerate(good)]
    values = ["x", "c", "r", "y"]
    stats = observe(graph, values, mixed, per_channel=values)
    assert list(stats.left_out) == [at]
    assert stats.left_out[at][0] == ("c" if how == "overflow" else "x")
    clean = observe(graph, values, good[:at] + good[at + 1 :], per_channel=values)
    for name in values:
        a, b = stats.tensors[name], clean.tensors[name]
        assert (a.low, a.high, a.samples, a.not_finite) == (b.low, b.high, 19, 0)
        np.testing.assert_array_equal(stats.per_channel[name].low, clean.per_channel[name].low)
        np.testing.assert_array_equal(stats.per_channel[name].high, clean.per_channel[name].high)


@pytest.mark.parametrize("how", ["inf", "nan", "overflow"])
@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_the_result_is_that_of_the_other_samples(how: str, effort: str) -> None:
    good = inputs()
    mixed = [spoil(s, how) if i == 3 else s for i, s in enumerate(good)]
    notes = Diagnostics()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        made = quantize(
            net(),
            calibration=Samples(lambda: iter(mixed), describe="d"),
            effort=effort,
            diagnostics=notes,  # type: ignore[arg-type]
        )
    told = [d.message for d in notes if d.code == "EC0722"]
    assert len(told) == 1
    assert told[0].startswith("sample 3 is left out: NaN or infinity in ")
    assert made.comparison is not None
    assert made.comparison.worst_sqnr_db > 25
    assert made.comparison["y"].finite


def test_no_sample_is_sound() -> None:
    bad = [{"x": np.full((1, 3, 8, 8), v, np.float32)} for v in (np.nan, np.inf, -np.inf)] * 4
    with pytest.raises(EdgecError, match="EC0737"):
        quantize(net(), calibration=Samples(lambda: iter(bad), describe="d"))


def test_an_infinity_of_every_sample_is_meant(tmp_path: Path) -> None:
    """A mask before Softmax: its finite values give the range."""
    graph = Graph.from_text(
        HEAD
        + """g (float[1,2,4,4] x) => (float[1,2,4,4] y)
        <float[4,4] seen = {1,0,0,0, 1,1,0,0, 1,1,1,0, 1,1,1,1}>
        { mask = Log(seen) s = Add(x, mask) y = Softmax(s) }"""
    )
    rng = np.random.default_rng(2)
    samples = [{"x": rng.standard_normal((1, 2, 4, 4)).astype(np.float32)} for _ in range(12)]
    stats = observe(graph, ["x", "s", "y"], samples, per_channel=["s"])
    assert stats.left_out == {}
    s = stats.tensors["s"]
    s.fold()
    assert s.not_finite == 12 * 2 * 6
    assert -5 < s.low < s.high < 5
    assert np.isfinite(stats.per_channel["s"].low).all()
    stats.save(tmp_path / "c.json")
    assert Statistics.load(tmp_path / "c.json").tensors["s"].low == s.low
    only = observe(graph, ["s"], samples, per_channel=["s"], histogram=False)
    assert only.tensors["s"].empty
    assert np.isfinite(only.per_channel["s"].low).all()


def test_weights_are_looked_at_before_anything_runs() -> None:
    graph = net()
    w = graph.model.graph.initializers["v"]
    data = w.const_value.numpy().copy()
    data[0] = np.nan
    w.const_value = ir.tensor(data, name="v")
    with pytest.raises(EdgecError, match=r"EC0736.*'v'"):
        quantize(graph, calibration=Samples(lambda: iter(inputs()), describe="d"))


@pytest.mark.parametrize("how", ["inf", "overflow"])
def test_a_spoilt_sample_does_not_judge_mixed_precision(how: str) -> None:
    mixed = [spoil(s, how) if i == 3 else s for i, s in enumerate(inputs())]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        made = quantize(
            net(), calibration=Samples(lambda: iter(mixed), describe="d"), accuracy=Accuracy(min_sqnr=25), effort="low"
        )
    assert made.comparison is not None
    assert made.comparison.worst_sqnr_db >= 25
