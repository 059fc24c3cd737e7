"""The bundle of a Jetson: its form by JetPack release, shapes, what it says was checked, and the same bytes each time."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec import api
from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.samples import Samples
from edgec.targets.tensorrt.options import JetsonOptions
from edgec.targets.tensorrt.profiles import parse_shapes, profiles
from edgec.targets.tensorrt.releases import boards, oldest_parser, parser_opset, release, releases
from edgec.toolchain import ToolchainManager


def cnn(batch: str = "N") -> Graph:
    rng = np.random.default_rng(0)
    w, b = (", ".join(f"{v:.4f}" for v in rng.normal(size=n)) for n in (108, 4))
    return Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 24]>
    net (float[{batch}, 3, 8, 8] x) => (float[{batch}, 4] y)
    <float[4, 3, 3, 3] w = {{{w}}}, float[4] b = {{{b}}}> {{
        c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        r = Relu (c)
        p = GlobalAveragePool (r)
        y = Flatten (p)
    }}""")


def images(n: int = 4, batch: int = 2) -> Samples:
    rng = np.random.default_rng(1)
    arrays = [{"x": rng.normal(size=(batch, 3, 8, 8)).astype(np.float32)} for _ in range(n)]
    return Samples(lambda: iter(arrays), describe="noise", count=n)


def compiled(
    graph: Graph | None = None, target: str = "jetson-orin-nano", precision: str = "fp16", **options: Any
) -> api.Compiled:
    """Without TensorRT-RTX, whether it is installed or not."""
    return api.compile(
        graph or cnn(), target=target, precision=precision, calibration=images(),
        options={"oracle": "none", **options}, toolchains=ToolchainManager(offline=True),
    )  # fmt: skip


def about(result: api.Compiled) -> dict[str, Any]:
    data = result.artifact.files["bundle.json"]
    assert isinstance(data, bytes)
    found: dict[str, Any] = json.loads(data)
    return found


def script(result: api.Compiled) -> str:
    data = result.artifact.files["build_engine.sh"]
    assert isinstance(data, bytes)
    return data.decode()


# ---- releases ----------------------------------------------------------------------------------------------------------


def test_every_release_has_evidence_and_a_form_that_takes_its_tensorrt() -> None:
    for board in boards():
        found = releases(board)
        assert release(board) in found
        for r in found:
            assert r.tensorrt in r.versions
            assert r.evidence
            assert r.opset == parser_opset(r.tensorrt)
        assert [r.tensorrt for r in found] == sorted(r.tensorrt for r in found)


def test_releases_by_name() -> None:
    assert release("jetson-orin-nano").jetpack == "6.2"
    assert release("jetson-orin-nano", "6.2.1").jetpack == "6.2"
    assert release("jetson-agx-orin", "5.1.3").tensorrt == (8, 5, 2)
    assert release("jetson-thor").form == "strong"
    assert release("jetson-orin-nano", "5").dla == "none"
    assert release("jetson-orin-nx", "5").dla == "cache"
    assert release("jetson-agx-orin", "7.2.2").dla == "typed"
    assert release("jetson-thor", "7.2.2").dla == "none"
    assert oldest_parser(17) == (8, 5)
    assert oldest_parser(99) is None


@pytest.mark.parametrize(
    ("board", "jetpack", "code", "hint"),
    [
        ("jetson-thor", "5", "EC0691", "7.0, 7.1, 7.2, 7.2.2"),
        ("jetson-xavier-nx", "6.2", "EC0691", "runs 5"),
        ("jetson-orin-nano", "7.2.2", "EC0691", "runs 5, 6.0, 6.1, 6.2, 7.2"),
        ("jetson-orin-nano", "4.6", "EC0690", "runs 5"),
        ("jetson-orin-nano", "new", "EC0690", "runs 5"),
    ],
)
def test_releases_a_board_does_not_run(board: str, jetpack: str, code: str, hint: str) -> None:
    with pytest.raises(EdgecError) as e:
        release(board, jetpack)
    assert e.value.diagnostics[0].code == code
    assert hint in (e.value.diagnostics[0].hint or "")


# ---- shapes ------------------------------------------------------------------------------------------------------------


def made(graph: Graph, sample: Any = None, **shapes: str) -> tuple[Any, Diagnostics]:
    notes = Diagnostics()
    return profiles(graph, JetsonOptions(**shapes), sample, notes), notes


def test_shapes_that_are_not_given() -> None:
    (p,), notes = made(cnn(), {"x": np.zeros((5, 3, 8, 8))})
    assert p.min == p.opt == p.max == (5, 3, 8, 8)
    assert [d.code for d in notes] == ["EC0693"]
    (p,), notes = made(cnn(), {"x": np.zeros((5, 3, 8, 8))}, max_shapes="x:4x3x8x8")
    assert (p.min, p.opt, p.max) == ((4, 3, 8, 8), (4, 3, 8, 8), (4, 3, 8, 8))
    (p,), notes = made(cnn(), {"x": np.zeros((2, 3, 8, 8))}, min_shapes="x:1x3x8x8", max_shapes="x:4x3x8x8")
    assert (p.min[0], p.opt[0], p.max[0]) == (1, 2, 4)
    assert not notes.items
    assert (3, 3, 8, 8) in p
    assert (5, 3, 8, 8) not in p
    assert made(cnn("2"))[0] == ()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"max_shapes": "x:4x3x9x8"}, "does not fit input 'x', which is Nx3x8x8"),
        ({"max_shapes": "x:4x3x8"}, "does not fit"),
        ({"max_shapes": "x:0x3x8x8"}, "empty"),
        ({"max_shapes": "y:4x3x8x8"}, "no input 'y'"),
        ({"max_shapes": "x=4x3x8x8"}, "is not a shape"),
        ({"max_shapes": "x:4x3x8x8,x:5x3x8x8"}, "twice"),
        ({"min_shapes": "x:4x3x8x8", "max_shapes": "x:2x3x8x8"}, "do not grow"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, str], message: str) -> None:
    with pytest.raises(EdgecError, match=message) as e:
        made(cnn(), **shapes)
    assert e.value.diagnostics[0].code == "EC0692"


def test_a_guessed_shape_is_called_one() -> None:
    result = api.compile(
        cnn(),
        target="jetson-orin-nano",
        precision="fp16",
        options={"oracle": "none"},
        toolchains=ToolchainManager(offline=True),
    )
    (told,) = [d for d in result.diagnostics if d.code == "EC0693"]
    assert "a guess" in told.message
    (told,) = [d for d in compiled().diagnostics if d.code == "EC0693"]
    assert "a guess" not in told.message


def test_inputs_that_share_a_symbol() -> None:
    text = '<ir_version: 10, opset_import: ["" : 24]> g (float[N, 4] a, float[N, 4] b) => (float[N, 4] y) { y = Add(a, b) }'
    graph = Graph.from_text(text)
    with pytest.raises(EdgecError, match="'N' is 4 at input 'a' and 8 at 'b'"):
        made(graph, max_shapes="a:4x4,b:8x4")
    assert len(made(graph, max_shapes="a:4x4,b:4x4")[0]) == 2


def test_names_with_colons() -> None:
    assert parse_shapes("in:0:1x3,'b:1':7", "x") == {"in:0": (1, 3), "b:1": (7,)}


# ---- the bundle --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "jetpack", "precision", "form", "flags"),
    [
        ("jetson-orin-nano", None, "int8", "weak", "--fp16 --int8"),
        ("jetson-orin-nano", None, "fp16", "weak", "--fp16"),
        ("jetson-orin-nano", None, "fp32", "weak", ""),
        ("jetson-orin-nano", "5", "int8", "weak", "--fp16 --int8"),
        ("jetson-orin-nano", "6.0", "int8", "weak", "--fp16 --int8"),
        ("jetson-orin-nano", "7.2", "fp16", "strong", ""),
        ("jetson-orin-nano", "7.2", "int8", "strong", ""),
        ("jetson-xavier-nx", None, "int8", "weak", "--fp16 --int8"),
        ("jetson-thor", None, "fp16", "strong", ""),
    ],
)
def test_form_and_types_by_release(target: str, jetpack: str | None, precision: str, form: str, flags: str) -> None:
    result = compiled(target=target, precision=precision, **({"jetpack": jetpack} if jetpack else {}))
    told = about(result)
    variant = {"5": "-trt8.5", "6.0": "-trt8.6", "7.2": "-strong", None: ""}[jetpack]
    assert result.report.precision == precision + variant
    assert told["form"] == form
    assert told["precision"] == precision
    assert told["model"]["opset"] <= told["opset"]
    assert f"bundle_type_flags='{flags}'" in script(result)
    inner = {
        v.dtype.name for n in result.graph.nodes() for v in n.outputs if v.dtype is not None and n.op_type == "Conv"
    }
    assert inner == ({"FLOAT16"} if form == "strong" else {"FLOAT"})
    assert [v.dtype.name for v in (*result.graph.inputs, *result.graph.outputs) if v.dtype] == ["FLOAT", "FLOAT"]
    assert ("QuantizeLinear" in result.graph.op_counts()) == (precision == "int8")


@pytest.mark.parametrize(("precision", "flags"), [("fp32", "--int8"), ("fp16", "--fp16 --int8")])
def test_a_file_with_qdq_is_built_with_int8_whatever_the_precision(precision: str, flags: str) -> None:
    quantised = compiled(precision="int8").graph
    result = compiled(quantised, precision=precision)
    assert "QuantizeLinear" in result.graph.op_counts()
    assert f"bundle_type_flags='{flags}'" in script(result)


def test_what_is_in_it(tmp_path: Path) -> None:
    result = api.compile(
        cnn(), target="jetson-orin-nano", precision="int8", calibration=images(), output=tmp_path / "out",
        options={"oracle": "none", "max-shapes": "x:8x3x8x8"}, toolchains=ToolchainManager(offline=True),
    )  # fmt: skip
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {
        "model.onnx", "build_engine.sh", "verify.py", "profiles.json", "samples.npz", "bundle.json", "README.md",
    }  # fmt: skip
    assert not [p for p in (tmp_path / "out").iterdir() if p.suffix in (".plan", ".engine", ".trt")]
    told = json.loads((tmp_path / "out" / "bundle.json").read_text())
    assert told["compute_capability"] == "8.7"
    assert told["tensorrt_versions"]["until"] == "11.0"
    assert told["profiles"]["x"]["max"] == [8, 3, 8, 8]
    hashes = result.artifact.hashes()
    assert told["files"] == {n: h for n, h in hashes.items() if n != "bundle.json"}
    assert told["model"]["sha256"] in script_of(tmp_path)
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "TensorRT builds it on the board" in readme
    assert "$" not in readme.replace("$(", "")
    verification = result.report.verification
    assert verification is not None
    assert "running model.onnx; TensorRT builds on the board" in (verification.runner or "")
    assert "the engine: TensorRT builds it on the board" in verification.not_verified
    assert any("float16 rounding" in n for n in verification.not_verified)
    assert any("not asked" in n for n in verification.not_verified)


def script_of(tmp_path: Path) -> str:
    return (tmp_path / "out" / "build_engine.sh").read_text()


def test_samples_are_what_was_computed() -> None:
    result = compiled(precision="int8")
    data = result.artifact.files["samples.npz"]
    assert isinstance(data, bytes)
    found = np.load(io.BytesIO(data))
    assert list(found["inputs"]) == ["x"]
    assert list(found["outputs"]) == ["y"]
    from edgec.runtime import Session

    given = {"x": found["in1.0"]}
    np.testing.assert_array_equal(found["float1.0"], Session(cnn()).run(given)["y"])
    np.testing.assert_array_equal(found["model1.0"], Session(result.graph).run(given)["y"])
    assert not np.array_equal(found["float1.0"], found["model1.0"])


def test_the_same_bytes_each_time() -> None:
    assert compiled(precision="int8").artifact.hashes() == compiled(precision="int8").artifact.hashes()


def test_a_newer_opset_than_the_parser_reads_is_told() -> None:
    result = api.compile(
        cnn("2"), target="jetson-orin-nano", precision="fp16", samples=images(), pipeline="fold-constants",
        options={"oracle": "none"}, toolchains=ToolchainManager(offline=True),
    )  # fmt: skip
    found = [d for d in result.diagnostics if d.code == "EC0694"]
    assert found
    assert "opset 24" in found[0].message


def test_without_the_oracle_it_is_said(tmp_path: Path) -> None:
    result = api.compile(
        cnn(), target="jetson-orin-nano", precision="fp16", samples=images(),
        toolchains=ToolchainManager(tmp_path, offline=True),
    )  # fmt: skip
    assert any("toolchain tensorrt-rtx is not installed" in n for n in about(result)["not_checked"])


def test_options_that_make_no_sense() -> None:
    with pytest.raises(EdgecError, match="JetPack 5 does not run on jetson-thor"):
        compiled(target="jetson-thor", jetpack="5")
    with pytest.raises(EdgecError, match="no DLA"):
        compiled(target="jetson-orin-nano", dla="true")
    with pytest.raises(EdgecError, match="no input 'images'"):
        compiled(**{"max-shapes": "images:1x3x8x8"})


# ---- on the board ------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that calls itself an Orin Nano, with a trtexec of TensorRT 10.3 that builds nothing, and no TensorRT for Python."""
    from edgec.targets.tensorrt.jetson import on_board
    from edgec.targets.tensorrt.local import discovery

    model = tmp_path / "model"
    model.write_bytes(b"NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0")
    trtexec = tmp_path / "trtexec"
    trtexec.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{Path(__file__).with_name('fake_trtexec.py')}' \"$@\"\n")
    trtexec.chmod(0o755)
    monkeypatch.setattr(on_board, "BOARD_MODEL", model)
    monkeypatch.setattr(discovery, "find", lambda toolchains: discovery.NotHere(("nothing",)))
    monkeypatch.setenv("TRTEXEC", str(trtexec))
    monkeypatch.setenv("FAKE_VERSION", "10.3.0")
    return


@pytest.mark.usefixtures("on_a_board")
def test_on_the_board_the_engine_is_built() -> None:
    result = compiled()
    assert result.artifact.entry == "model.plan"
    assert result.artifact.files["model.plan"] == b"half whole 10.3.0"
    assert {"model.layers.json", "model.build.txt", "timing-10.3.0.cache", "model.onnx"} <= set(result.artifact.files)
    assert not result.artifact.reproducible
    verification = result.report.verification
    assert verification is not None
    assert "the engine was not run: no Python here has TensorRT" in (verification.runner or "")
    assert "the engine: TensorRT builds it on the board" not in verification.not_verified


@pytest.mark.usefixtures("on_a_board")
def test_a_bundle_for_another_board_is_not_built_here() -> None:
    assert compiled(target="jetson-agx-orin").artifact.entry == "model.onnx"


@pytest.mark.usefixtures("on_a_board")
def test_a_board_whose_tensorrt_does_not_suit() -> None:
    result = compiled(jetpack="7.2")
    assert result.artifact.entry == "model.onnx"
    (told,) = [d for d in result.diagnostics if d.code == "EC0689"]
    assert "this board has TensorRT 10.3.0" in told.message


@pytest.mark.usefixtures("on_a_board")
def test_a_board_whose_trtexec_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAIL", "no room")
    with pytest.raises(EdgecError, match="built no engine: trtexec failed"):
        compiled()
