"""`edgec quantize` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgec.cli import main
from edgec.graph import Graph


def numbers(count: int, seed: int) -> str:
    return ", ".join(f"{v:.4f}" for v in np.random.default_rng(seed).normal(size=count))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    g (float[1,4,8,8] x) => (float[1,5] y)
    <float[4,4,3,3] w = {{{numbers(144, 0)}}}, float[4] b = {{{numbers(4, 1)}}},
     float[5,4] fc = {{{numbers(20, 2)}}}, float[5] fb = {{{numbers(5, 3)}}}>
    {{ c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, w, b)
       p = GlobalAveragePool(d) f = Flatten(p) y = Gemm<transB=1>(f, fc, fb) }}"""
    path = tmp_path / "model.onnx"
    Graph.from_text(text).save(path)
    return path


@pytest.fixture
def calib(tmp_path: Path) -> Path:
    path = tmp_path / "calib.npy"
    np.save(path, np.random.default_rng(4).normal(size=(16, 4, 8, 8)).astype(np.float32))
    return path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_file_with_pairs_and_a_comparison(
    model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "quantize", model, "-o", tmp_path / "q.onnx", "--calib", calib)
    assert code == 0, err
    assert "stored in integers by onnxruntime-int8" in out
    assert "SQNR dB" in out
    ops = {n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops


def test_json(model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "quantize", model, "-o", tmp_path / "q.onnx", "--calib", calib, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert data["weights"] == 2 + 1 - 1  # both convolutions share one weight
    assert data["comparison"]["worst_sqnr_db"] > 20
    assert data["mixed"] is None


def test_ranges_once_and_again(model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, ranges = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "calibration.json"
    assert run(capsys, "quantize", model, "-o", a, "--calib", calib, "--effort", "low", "--save-ranges", ranges)[0] == 0
    assert run(capsys, "quantize", model, "-o", b, "--effort", "low", "--ranges", ranges)[0] == 0
    assert a.read_bytes() == b.read_bytes()


def test_kept_nodes_are_said(model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "quantize", model, "-o", tmp_path / "q.onnx", "--calib", calib, "--keep", "y")
    assert code == 0
    assert "y: kept in float as asked" in out


def test_layers_stay_in_float_until_the_accuracy_is_reached(
    model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plain result is measured first, then a little more is asked for than it reaches."""
    _, out, _ = run(capsys, "quantize", model, "-o", tmp_path / "q.onnx", "--calib", calib, "--json", "--effort", "low")
    plain = json.loads(out)["comparison"]["worst_sqnr_db"]
    wanted, plot = plain + 2, tmp_path / "plot.svg"
    code, out, err = run(
        capsys, "quantize", model, "-o", tmp_path / "q.onnx", "--calib", calib, "--json", "--effort", "low",
        "--min-sqnr", f"{wanted:.2f}", "--plot", plot,
    )  # fmt: skip
    assert code == 0, err
    mixed = json.loads(out)["mixed"]
    assert mixed["keep"]
    chosen = next(p for p in mixed["points"] if p["keep"] == mixed["keep"])
    assert chosen["met"]
    assert chosen["sqnr_db"] >= wanted
    assert plot.read_text().startswith("<svg")


def test_what_cannot_be_reached_says_how_close_it_came(
    model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "quantize", model, "-o", tmp_path / "q.onnx", "--calib", calib, "--min-sqnr", "190")
    assert code == 3
    assert "EC0755" in err
    assert "dB" in err
    assert not (tmp_path / "q.onnx").exists()


def test_a_metric_of_the_users(model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric = tmp_path / "metric.py"
    metric.write_text(
        "import numpy as np\n"
        "def agreement(outputs, reference):\n"
        "    return float(np.mean([a['y'].argmax() == b['y'].argmax() for a, b in zip(outputs, reference)]))\n"
    )
    code, out, err = run(
        capsys, "quantize", model, "-o", tmp_path / "q.onnx", "--calib", calib, "--json",
        "--metric", f"{metric}:agreement", "--max-drop", "50%",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["mixed"]["points"][0]["metric"] > 0.5


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 1, "EC0220"),
        (["--calib", "nowhere/"], 1, "EC07"),
        (["--calib", "CALIB", "--scheme", "tensorrt-int9"], 1, "tensorrt-int8"),
        (["--calib", "CALIB", "--keep", "nothing"], 1, "EC0222"),
        (["--calib", "CALIB", "--target", "rk2118"], 1, "EC0224"),
        (["--calib", "CALIB", "--metric", "m.py:f"], 2, "--max-drop"),
        (["--calib", "CALIB", "--min-agreement", "many"], 2, "99%"),
        (["--calib", "CALIB", "--method", "magic"], 2, "'moving-average'"),
    ],
)
def test_mistakes(
    args: list[str], code: int, says: str, model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(calib) if a == "CALIB" else a for a in args]
    got, _, err = run(capsys, "quantize", model, "-o", tmp_path / "q.onnx", *given)
    assert (got, says in err) == (code, True), err
    assert not (tmp_path / "q.onnx").exists()


def test_the_model_itself_is_not_replaced(model: Path, calib: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = model.read_bytes()
    code, _, err = run(capsys, "quantize", model, "-o", model, "--calib", calib)
    assert code == 1
    assert "EC0932" in err
    assert model.read_bytes() == before


def test_every_scheme_by_name(model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgec.specs.schema import builtin_schemes

    for name in builtin_schemes():
        code, _, err = run(
            capsys, "quantize", model, "-o", tmp_path / f"{name}.onnx", "--calib", calib, "--scheme", name, "-q"
        )
        assert code == 0, (name, err)


def test_compile_for_int8(model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "compile", model, "--precision", "int8", "--calib", calib, "-o", tmp_path / "out", "--json"
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["precision"] == "int8"
    assert report["verification"]["comparison"]["worst_sqnr_db"] > 20


def test_how_much_may_leave_integers_is_an_option(
    model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["quantize", model, "-o", tmp_path / "q.onnx", "--calib", calib, "--min-sqnr", "60"]
    code, _, err = run(capsys, *given, "--max-kept", "1%")
    assert code == 3
    assert "EC0755" in err
    assert "--max-kept, now 1%" in err
    code, out, err = run(capsys, *given, "--max-kept", "100%", "--json")
    assert code == 0, err
    chosen = json.loads(out)["mixed"]
    assert chosen["integer_share"] < 0.5


@pytest.mark.parametrize(
    "given", [["--max-kept", "50%"], ["--min-sqnr", "20", "--max-kept", "0"], ["--min-sqnr", "20", "--max-kept", "a"]]
)
def test_a_limit_that_is_none(
    given: list[str], model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "quantize", model, "-o", tmp_path / "q.onnx", "--calib", calib, *given)
    assert code == 2
    assert "--max-kept" in err


def test_a_model_in_float16_is_told_apart_from_one_without_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float16[1,4] x) => (float16[1,4] y)
    <float16[4,4] w = {{{", ".join("15360" for _ in range(16))}}}> {{ y = MatMul(x, w) }}"""
    Graph.from_text(text).save(tmp_path / "half.onnx")
    np.save(tmp_path / "x.npy", np.ones((4, 1, 4), np.float16))
    code, out, err = run(
        capsys, "quantize", tmp_path / "half.onnx", "-o", tmp_path / "q.onnx", "--calib", tmp_path / "x.npy"
    )
    assert code == 0, err
    assert "quantise the float32 model" in out


def test_opt_quantises_with_calibration_data(
    model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.onnx"
    passes = "infer-shapes,quantize{scheme=onnxruntime-int8}"
    code, _, err = run(capsys, "opt", model, "-p", passes, "-o", tmp_path / "no.onnx")
    assert code == 1
    assert "EC0220" in err
    code, text, err = run(capsys, "opt", model, "-p", passes, "--calib", calib, "-o", out)
    assert code == 0, err
    assert "3 of 3 convolutions and products in integers" in text
    assert "QuantizeLinear" in {n.op_type for n in onnx.load(out).graph.node}
    code, text, _ = run(capsys, "opt", out, "-p", "remove-dead", "--json")
    assert json.loads(text)["coverage"]["integer"] == 3


def test_what_computes_in_integers_is_said(
    model: Path, calib: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "quantize", model, "-o", tmp_path / "q.onnx", "--calib", calib, "--keep", "d")
    assert code == 0
    assert "2 of 3 convolutions and products in integers, says ONNX Runtime" in out


@pytest.mark.parametrize("option", ["-o", "--save-ranges", "--plot"])
def test_a_path_that_cannot_be_written_is_found_before_calibration(
    option: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The calibration data are not even opened, and nothing is left behind."""
    (tmp_path / "file").touch()
    bad, good = tmp_path / "file" / "x.onnx", tmp_path / "q.onnx"
    paths = ["-o", bad] if option == "-o" else ["-o", good, option, bad]
    code, _, err = run(capsys, "quantize", model, *paths, "--calib", tmp_path / "not_there.npy")
    assert code == 1
    assert "EC0902" in err
    assert "not_there" not in err
    assert not good.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "model.onnx"]
