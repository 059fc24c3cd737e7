"""compile() and check() as a whole, on models of a few nodes and without any SDK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec
from edgec.api import check
from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.pipeline import Pass, PassResult
from edgec.runtime import Session
from edgec.samples import Samples, generated_samples

WEIGHTS = ",".join(f"{x:.4f}" for x in np.random.default_rng(0).normal(0, 0.3, 108))


def conv(batch: str = "1") -> Graph:
    return Graph.from_text(
        f"""<ir_version: 10, opset_import: ["" : 19]>
        g (float[{batch},3,8,8] x) => (float[{batch},4,6,6] y) <float[4,3,3,3] w = {{{WEIGHTS}}}>
        {{ c = Conv(x, w)  d = Identity(c)  y = Relu(d) }}"""
    )


def codes(e: pytest.ExceptionInfo[EdgecError]) -> list[str]:
    return [d.code for d in e.value.diagnostics]


# --- what is made ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["x86-64", "arm64"])
@pytest.mark.parametrize(
    ("form", "files"), [("onnx", {"model.onnx"}), ("ort", {"model.ort"}), ("both", {"model.onnx", "model.ort"})]
)
def test_cpu_artifacts_compute_the_model(target: str, form: str, files: set[str], tmp_path: Path) -> None:
    graph = conv()
    result = edgec.compile(graph, target=target, options={"format": form}, output=tmp_path / "out")
    assert set(result.artifact.files) == files
    assert result.folder == tmp_path / "out"
    assert {p.name for p in result.folder.iterdir()} == files | {"report.json", "manifest.json"}
    sample = next(iter(generated_samples(graph)))
    expected = Session(graph).run(sample)["y"]
    for path in result.artifact.files.values():
        assert isinstance(path, Path)
        assert path.parent == result.folder
        np.testing.assert_allclose(Session(path).run(sample)["y"], expected, rtol=1e-5, atol=1e-5)
    assert result.report.verification is not None
    assert result.report.verification.runner is not None
    assert result.report.verification.generated


def test_both_forms_are_compared() -> None:
    facts = edgec.compile(conv(), options={"format": "both"}).artifact.facts["model.ort against model.onnx"]
    assert facts["samples"] == 4
    assert facts["exact"] or facts["worst_sqnr_db"] > 80


def test_the_artifact_is_readable_by_runtimes_of_opset_21(tmp_path: Path) -> None:
    result = edgec.compile(conv(), output=tmp_path / "out")
    assert Graph.load(result.artifact.files["model.onnx"]).opset == 21  # type: ignore[arg-type]


def test_without_output_files_are_in_memory() -> None:
    result = edgec.compile(conv())
    data = result.artifact.files["model.onnx"]
    assert isinstance(data, bytes)
    assert result.folder is None
    sample = next(iter(generated_samples(conv())))
    np.testing.assert_allclose(Session(data).run(sample)["y"], Session(conv()).run(sample)["y"], rtol=1e-5, atol=1e-5)


def test_a_graph_given_stays_as_it_is() -> None:
    graph = conv("N")
    before = graph.to_bytes()
    edgec.compile(graph, input_shapes=["2x3x8x8"])
    check(graph, ["rk3588"], input_shapes=["x=1x3x8x8"])
    assert graph.to_bytes() == before


def test_a_changed_graph_is_not_taken_for_its_file(tmp_path: Path) -> None:
    conv().save(tmp_path / "m.onnx")
    graph = Graph.load(tmp_path / "m.onnx")
    untouched = edgec.compile(graph).report.model.sha256
    graph.model.graph.initializers["w"].const_value = edgec_tensor(np.ones((4, 3, 3, 3), np.float32))
    assert edgec.compile(graph).report.model.sha256 != untouched


def edgec_tensor(array: Any) -> Any:
    from edgec.graph import ir

    return ir.tensor(array, name="w")


def test_twice_gives_the_same_folder(tmp_path: Path) -> None:
    """All bytes but the report's timings, which the manifest does not hash."""
    conv().save(tmp_path / "m.onnx")
    folders = [edgec.compile(tmp_path / "m.onnx", options={"format": "both"}, output=tmp_path / n).folder for n in "ab"]
    assert all(folders)
    a, b = ({p.name: p.read_bytes() for p in f.iterdir()} for f in folders if f)
    assert a.keys() == b.keys() == {"model.onnx", "model.ort", "report.json", "manifest.json"}
    reports = [without_seconds(json.loads(x.pop("report.json"))) for x in (a, b)]
    assert reports[0] == reports[1]
    assert a == b
    manifest = json.loads(a["manifest.json"])
    assert manifest["reproducible"] is True
    assert set(manifest["outputs"]) == {"model.onnx", "model.ort"}
    assert "seconds" not in a["manifest.json"].decode()
    assert str(tmp_path) not in a["manifest.json"].decode()


def without_seconds(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: without_seconds(v) for k, v in data.items() if k != "seconds"}
    return [without_seconds(v) for v in data] if isinstance(data, list) else data


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_dynamic_shapes_are_fine_on_cpus() -> None:
    result = edgec.compile(conv("N"))
    session = Session(result.artifact.files["model.onnx"])  # type: ignore[arg-type]
    assert session.run({"x": np.zeros((5, 3, 8, 8), np.float32)})["y"].shape == (5, 4, 6, 6)


TWO_DYNAMIC = """<ir_version: 10, opset_import: ["" : 19]>
    g (float[N,4] first, float[M,4] second) => (float[P,4] y) { y = Add(first, second) }"""


def test_npus_refuse_dynamic_shapes_naming_each_input() -> None:
    with pytest.raises(EdgecError, match=r"first.*second") as caught:
        edgec.compile(Graph.from_text(TWO_DYNAMIC), target="rk3588")
    assert codes(caught) == ["EC0053"]
    assert "--input-shape first=" in str(caught.value)


def test_an_input_left_dynamic_is_named_though_another_was_fixed() -> None:
    with pytest.raises(EdgecError, match="second") as caught:
        edgec.compile(Graph.from_text(TWO_DYNAMIC), target="rk3588", input_shapes=["first=2x4"])
    assert codes(caught) == ["EC0053"]
    assert "first" not in caught.value.diagnostics[0].message


def test_a_shape_of_one_input_fixes_symbols_of_others() -> None:
    graph = Graph.from_text(TWO_DYNAMIC.replace("M", "N"))
    placement = check(graph, ["rk3588"], input_shapes=["first=2x4"])["rk3588"]
    assert placement.counts["accelerator"] == 1


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        ({"target": "rk3589"}, "EC0101", "rk3588"),
        ({"target": "rk3588", "precision": "fp32"}, "EC0403", "fp16, int8"),
        ({"options": {"fromat": "ort"}}, "EC0103", "'format'"),
        ({"options": {"format": "tar"}}, "EC0450", "tar"),
        ({"target": "rk3588", "options": {"quantized_algorithmn": "normal"}}, "EC0103", "quantized-algorithm"),
        ({"input_shapes": ["z=1x3x8x8"]}, "EC0050", "z"),
        ({"calibration": "no/such/folder"}, "EC0701", "no/such/folder"),
    ],
)
def test_mistakes_have_codes_and_leave_nothing(given: dict[str, Any], code: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(EdgecError, match=says) as caught:
        edgec.compile(conv(), output=tmp_path / "out", **given)
    assert codes(caught) == [code]
    assert list(tmp_path.glob("out*")) == []


def test_options_are_checked_before_anything_is_run() -> None:
    ran = []

    class Watch:
        def before(self, p: Pass, graph: Graph) -> None:
            ran.append(p.name)

        def after(self, p: Pass, graph: Graph, result: PassResult, seconds: float) -> None: ...

    with pytest.raises(EdgecError, match="EC0103"):
        edgec.compile(conv(), options={"nonsense": 1}, instruments=[Watch()])
    assert ran == []


def test_min_sqnr(tmp_path: Path) -> None:
    assert edgec.compile(conv(), min_sqnr=60, output=tmp_path / "good").folder is not None
    found = Diagnostics()
    with pytest.raises(EdgecError) as caught:
        edgec.compile(conv(), min_sqnr=1000, output=tmp_path / "bad", diagnostics=found)
    assert codes(caught) == ["EC0820"]
    assert [d.code for d in found] == ["EC0820"]
    assert not (tmp_path / "bad").exists()
    assert list(tmp_path.glob(".bad*")) == [] or all(p.is_file() for p in tmp_path.glob(".bad*"))  # the lock


def test_a_failure_leaves_the_older_result(tmp_path: Path) -> None:
    edgec.compile(conv(), output=tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(EdgecError):
        edgec.compile(conv(), min_sqnr=1000, output=tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


FALLS_BACK = """<ir_version: 10, opset_import: ["" : 19]>
    g (float[1,3,8,8] x) => (float[1,3,8,8] y) { a = Relu(x)  y = Sin(a) }"""


def test_no_fallback() -> None:
    found = Diagnostics()
    with pytest.raises(EdgecError, match="Sin") as caught:
        edgec.compile(Graph.from_text(FALLS_BACK), target="rk3588", no_fallback=True, diagnostics=found)
    assert codes(caught) == ["EC0402"]
    assert "EC0402" in [d.code for d in found]


def test_impossible_nodes_are_said_before_the_sdk_is_asked_for() -> None:
    graph = Graph.from_text(
        '<ir_version: 10, opset_import: ["" : 19]> g (float[4] x) => (int64[1,N] y) { y = NonZero(x) }'
    )

    class NoToolchains:
        def installed(self, name: str) -> None:
            """None is there."""

        def ensure(self, name: str) -> None:
            raise AssertionError("the SDK is not needed to see this")

    with pytest.raises(EdgecError, match="NonZero") as caught:
        edgec.compile(graph, target="rk3588", toolchains=NoToolchains())  # type: ignore[arg-type]
    assert codes(caught) == ["EC0401"]


@pytest.mark.parametrize("use", ["samples", "calibration"])
@pytest.mark.parametrize(
    ("rows", "code", "says"),
    [
        ([{"image": np.zeros((1, 3, 8, 8), np.float32)}], "EC0704", "'x'"),
        ([{"x": np.zeros((3, 8, 8), np.float32)}], "EC0705", r"\[3, 8, 8\]"),
        ([], "EC0702", "no samples"),
    ],
)
def test_samples_that_do_not_fit(use: str, rows: list[dict[str, Any]], code: str, says: str) -> None:
    given = Samples(lambda: iter(rows), describe="mine", count=len(rows))
    with pytest.raises(EdgecError, match=says) as caught:
        edgec.compile(conv(), **{use: given})  # type: ignore[arg-type]
    assert codes(caught) == [code]


def test_generated_inputs_a_model_cannot_take_are_said_to_be_generated() -> None:
    graph = Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 19]> g (int64[1,4] i) => (float[1,4] y) <float[2] t = {1, 2}>
        { y = Gather(t, i) }"""
    )
    with pytest.raises(EdgecError) as caught:
        edgec.compile(graph)
    assert codes(caught) == ["EC0810"]
    assert any("generated" in note for note in caught.value.__notes__)
    real = Samples(lambda: iter([{"i": np.array([[0, 1, 1, 0]])}]), describe="indices", count=1)
    assert edgec.compile(graph, samples=real).report.verification is not None


# --- how it is done --------------------------------------------------------------------------------------------------


def test_own_pipeline() -> None:
    kept = edgec.compile(conv(), pipeline="constants-to-initializers,upgrade-opset")
    assert [r.spec for r in kept.report.passes] == ["constants-to-initializers", "upgrade-opset"]
    assert kept.report.ops_after["Identity"] == 1
    assert "Identity" not in edgec.compile(conv()).report.ops_after
    frozen = edgec.compile(conv("N"), pipeline="infer-shapes", input_shapes=["2x3x8x8"])
    assert [r.spec for r in frozen.report.passes][1:] == ["infer-shapes"]
    assert frozen.report.passes[0].spec.startswith("freeze-shapes")


def test_verify_each_runs_the_contracts(monkeypatch: pytest.MonkeyPatch) -> None:
    import edgec.contracts

    checked = []
    real = edgec.contracts.check_contract
    monkeypatch.setattr(edgec.contracts, "check_contract", lambda p, *a: (checked.append(p.name), real(p, *a)))
    edgec.compile(conv(), verify="each", pipeline="eliminate-noops,infer-shapes")
    assert "repeat" in checked or "eliminate-noops" in checked
    checked.clear()
    edgec.compile(conv(), pipeline="eliminate-noops")
    assert checked == []


def test_instruments_see_every_pass() -> None:
    seen: list[tuple[str, str]] = []

    class Watch:
        def before(self, p: Pass, graph: Graph) -> None:
            seen.append(("before", p.spec()))

        def after(self, p: Pass, graph: Graph, result: PassResult, seconds: float) -> None:
            seen.append(("after", p.spec()))

    result = edgec.compile(conv(), instruments=[Watch()])
    assert seen == [(when, r.spec) for r in result.report.passes for when in ("before", "after")]


def test_progress_tells_the_stages() -> None:
    told: list[str] = []
    edgec.compile(conv(), progress=told.append)
    assert told == ["load", "passes", "emit", "verify", "done"]


def test_given_samples_verify_and_are_named() -> None:
    rows = [{"x": np.full((1, 3, 8, 8), i, np.float32)} for i in range(3)]
    result = edgec.compile(conv(), samples=Samples(lambda: iter(rows), describe="three of mine", count=3))
    v = result.report.verification
    assert v is not None
    assert (v.samples, v.source, v.generated) == (3, "three of mine", False)
    assert not any("generated" in line for line in v.not_verified)


def test_broken_plugins_are_told() -> None:
    from edgec.hookspecs import hookimpl

    class Broken:
        @hookimpl
        def edgec_targets(self) -> dict[str, str]:
            raise RuntimeError("no licence")

    registry = edgec.Registry()
    registry.register(Broken(), "acme")
    found = Diagnostics()
    edgec.compile(conv(), registry=registry, diagnostics=found)
    assert [(d.code, "no licence" in d.message) for d in found if d.code == "EC0111"] == [("EC0111", True)]


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_answers_for_each_target() -> None:
    found = check(Graph.from_text(FALLS_BACK), ["rk3588", "rk3576", "x86-64"])
    assert list(found) == ["rk3588", "rk3576", "x86-64"]
    assert {name: p.counts["fallback"] for name, p in found.items()} == {"rk3588": 1, "rk3576": 0, "x86-64": 0}
    assert found["rk3588"].target == "rk3588"


def test_check_shares_runs_of_the_same_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    import edgec.lowering

    runs = []
    real = edgec.lowering.lower
    monkeypatch.setattr(edgec.lowering, "lower", lambda *a, **k: (runs.append(a[1].name), real(*a, **k))[1])
    check(conv(), ["rk3588", "rk3566", "x86-64", "arm64"])
    assert runs == ["rk3588", "x86-64"]


def test_check_with_a_precision_nobody_has() -> None:
    with pytest.raises(EdgecError, match="int4"):
        check(conv(), ["rk3588", "x86-64"], precision="int4")
    assert check(conv(), ["rk3588", "x86-64"], precision="int8")["rk3588"].precision == "int8"
