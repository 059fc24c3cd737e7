"""report.json: what is written is what is read, and the published schema says so."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from edgec.diagnostics import Diagnostic, EdgecError, Location, Severity
from edgec.graph import Graph
from edgec.manifest import build_manifest, manifest_text
from edgec.pipeline import PassRecord
from edgec.report import ArtifactFacts, ModelFacts, Report, Verification, json_schema, plain
from edgec.summary import size, summary_lines, summary_text
from edgec.target import Artifact

ROOT = Path(__file__).resolve().parents[2]

MODEL = """<ir_version: 10, opset_import: ["" : 24]>
net (float[1,2,N,4] x) => (float[1,2,N,4] y) <float[2,1,1] w = {1,2}> { a = Mul(x, w) y = Relu(a) }"""


@pytest.fixture
def report() -> Report:
    graph = Graph.from_text(MODEL)
    output = {
        "name": "y", "sqnr_db": 41.25, "cosine": 0.9999, "max_abs": 0.01, "top1_agreement": 0.995, "finite": True,
        "exact": False,
    }  # fmt: skip
    placement = {
        "target": "rk3588", "precision": "fp16", "counts": {"accelerator": 1, "fallback": 1, "impossible": 0},
        "mac_share": 0.5, "macs": 2_000_000, "boundary_bytes": 4096,
        "islands": [{"nodes": ["n1"], "tensors": {"a": 4096}, "bytes": 4096}],
        "nodes": [
            {"node": "n0", "op": "Mul", "where": "accelerator"},
            {"node": "n1", "op": "Relu", "where": "fallback", "reason": "too wide", "rewrite": "split-wide"},
        ],
    }  # fmt: skip
    return Report(
        edgec_version="0.1.0",
        model=ModelFacts.of(graph, path="/somewhere/net.onnx", sha256="ab" * 32),
        target="rk3588",
        precision="fp16",
        passes=(PassRecord("fold-bn", True, {"fold": 3}, 0.25, 9, 6, "close"), PassRecord("cse", False, {}, 0.0, 6, 6, "exact")),
        ops_before={"Relu": 1, "Conv": 5, "BatchNormalization": 3},
        ops_after={"Relu": 1, "Conv": 5},
        placement=placement,
        artifact=ArtifactFacts.of(Artifact({"net.rknn": b"abc"}, "net.rknn", facts={"weights_bytes": 4096})),
        verification=Verification("the simulator", 8, "8 images", comparison={"outputs": [output]}, not_verified=("speed",)),
        diagnostics=(Diagnostic("EC0402", Severity.WARNING, "runs on the CPU", Location(node="n1"), "split it"),),
        seconds={"emit": 1.5},
    )  # fmt: skip


def test_round_trip(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path / "report.json")
    assert Report.read(tmp_path / "report.json") == report


def test_the_order_of_keys_is_stable(report: Report) -> None:
    keys = list(report.to_json())
    assert keys[:3] == ["schema_version", "edgec_version", "model"]
    assert list(report.to_json()["ops_before"]) == ["Conv", "BatchNormalization", "Relu"]
    assert report.dumps() == Report.from_json(json.loads(report.dumps())).dumps()


def test_model_facts(report: Report) -> None:
    m = report.model
    assert (m.name, m.opset, m.parameters, m.weight_bytes, m.nodes) == ("net", 24, 2, 8, 2)
    assert str(m.inputs[0]) == "x float[1x2xNx4]"


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: [],
        lambda d: {},
        lambda d: {**d, "schema_version": 99},
        lambda d: {**d, "passes": "none"},
        lambda d: {k: v for k, v in d.items() if k != "target"},
        lambda d: {**d, "diagnostics": [{"code": "EC0001"}]},
    ],
)
def test_what_is_no_report_is_refused(report: Report, damage: object) -> None:
    with pytest.raises(EdgecError) as e:
        Report.from_json(damage(report.to_json()))  # type: ignore[operator]
    assert e.value.diagnostics[0].code == "EC0901"


def test_fields_of_a_newer_edgec_are_ignored(report: Report) -> None:
    assert Report.from_json({**report.to_json(), "energy": 3}) == report


def test_a_file_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b"\xff{")
    with pytest.raises(EdgecError, match="EC0901"):
        Report.read(tmp_path / "report.json")


def test_the_published_schema_is_current() -> None:
    assert json.loads((ROOT / "docs/schema/report.json").read_text()) == json_schema()


def test_the_schema_names_every_field(report: Report) -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(report.to_json())
    assert set(schema["required"]) <= set(report.to_json())


def test_plain_data() -> None:
    assert plain({"a": np.float32(1.5), "b": np.arange(2), 3: math.inf, "s": {"y", "x"}, "p": Path("a/b")}) == {
        "a": 1.5, "b": [0, 1], "3": "inf", "s": ["x", "y"], "p": "a/b"
    }  # fmt: skip
    with pytest.raises(TypeError, match="no place in a report"):
        plain(object())


def test_the_summary_says_what_matters(report: Report) -> None:
    text = summary_text(report)
    for part in (
        "net.onnx -> rk3588, fp16", "1 of 2 changed the graph, 9 -> 6 nodes", "BatchNormalization 3 -> 0",
        "1 nodes on the accelerator, 1 on the CPU", "on the CPU: Relu n1; 4.0 KiB", "why: too wide", "pass split-wide",
        "Artifact: net.rknn, 3 B", "weights 4.0 KiB", "SQNR 41.2 dB", "top-1 agreement 99.50%", "the simulator",
        "Not verified", "speed", "EC0402: runs on the CPU",
    ):  # fmt: skip
        assert part in text, part
    assert "\x1b" not in text


def test_generated_samples_are_named_as_such(report: Report) -> None:
    v = Verification("r", 4, "random", True, {"outputs": []})
    text = summary_text(Report.from_json({**report.to_json(), "verification": plain(v)}))
    assert "not real data" in text


def test_weights_in_constant_nodes_are_parameters() -> None:
    g = Graph.from_text("""<ir_version: 10, opset_import: ["": 24]> g (float[2] x) => (float[2] z)
        { w = Constant<value = float[2] {1, 2}>() s = Constant<value = float {3}>() i = Constant<value = int64[1] {2}>()
          y = Mul(x, w) u = Mul(y, s) z = Reshape(u, i) }""")
    facts = ModelFacts.of(g, path="net.onnx", sha256="0" * 64)
    assert (facts.parameters, facts.weight_bytes) == (2, 8)


def test_the_summary_is_short_and_says_things_once(report: Report) -> None:
    """Samples are described once, units stand behind numbers, equal warnings are one line."""
    data = report.to_json()
    data["artifact"]["facts"] = {
        "runner": "the simulator", "weight memory KB": 3610.81, "layers": 1200, "seconds": {"a": 0.001, "build": 4.85},
        "versions": {"numpy": "1.0", "sdk": "2.5"},
    }  # fmt: skip
    data["verification"]["source"] = "4 generated samples (random normal, seed 0): not real data"
    data["verification"] |= {"samples": 4, "generated": True, "not_verified": ["accuracy on real data: generated"]}
    warning = Diagnostic("EC0710", Severity.WARNING, "values are NaN", Location("a.npy[0]"))
    data["diagnostics"] = [plain(warning), plain(dataclasses.replace(warning, location=Location("a.npy[1]")))]
    lines = summary_text(Report.from_json(data)).splitlines()
    assert "  weight memory 3,610.8 KB, layers 1,200" in lines
    assert "  seconds: build 4.8" in lines or "  seconds: build 4.9" in lines
    assert "  versions: sdk 2.5" in lines
    assert "  on 4 generated samples (random normal, seed 0)" in lines
    assert "  EC0710: values are NaN (a.npy[0] and 1 more)" in lines
    assert sum("the simulator" in x for x in lines) == 1
    assert sum("real data" in x for x in lines) == 1


@pytest.mark.parametrize(
    ("output", "style"),
    [({}, "good"), ({"sqnr_db": 12.0}, "warning"), ({"sqnr_db": "inf"}, "good"), ({"finite": False}, "error")],
)
def test_poor_accuracy_is_not_shown_as_good(output: dict[str, object], style: str, report: Report) -> None:
    data = report.to_json()
    shown = {"name": "a\nb", "finite": True, "exact": False, "sqnr_db": 40.0, "cosine": 1.0, "max_abs": 0.0, **output}
    data["verification"]["comparison"] = {"outputs": [shown]}
    assert [s for s, text in summary_lines(Report.from_json(data)) if text.startswith("  a\\nb ")] == [style]


def test_sizes() -> None:
    assert [size(n) for n in (0, 1023, 1024, 5 << 20, 3 << 40)] == [
        "0 B",
        "1,023 B",
        "1.0 KiB",
        "5.0 MiB",
        "3072.0 GiB",
    ]


def test_the_manifest_names_no_place(report: Report) -> None:
    m = build_manifest(report, source=Graph.from_text(MODEL), pipeline="fold-bn,cse", settings={"cache": "/home/me/c"})
    text = manifest_text(m)
    assert m["inputs"]["model"] == {"name": "net.onnx", "sha256": "ab" * 32}
    assert m["inputs"]["pipeline"] == "fold-bn,cse"
    assert m["outputs"]["net.rknn"]["bytes"] == 3
    assert m["versions"]["packages"]["onnx"]
    assert "/home" not in text
    assert "/somewhere" not in text
    assert text == manifest_text(m)


def test_the_manifest_hashes_external_data(report: Report, tmp_path: Path) -> None:
    weights = ", ".join(["1"] * 300)
    graph = Graph.from_text(
        f'<ir_version: 10, opset_import: ["": 24]> g (float[300] x) => (float[300] y) <float[300] w = {{{weights}}}> {{ y = Mul(x, w) }}'
    )
    graph.save(tmp_path / "net.onnx", external_data=True)
    m = build_manifest(report, source=Graph.load(tmp_path / "net.onnx"), pipeline="")
    (side,) = tmp_path.glob("*.data")
    assert m["inputs"]["external_data"] == {side.name: hashlib.sha256(side.read_bytes()).hexdigest()}
