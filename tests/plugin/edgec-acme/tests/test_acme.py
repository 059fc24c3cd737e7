"""The plugin as edgec sees it: found, its specs valid, its artifact right."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from edgec_acme.sub_to_add import SubToAdd

import edgec
from edgec.diagnostics import Severity
from edgec.pipeline import PassContext
from edgec.plugins import Registry
from edgec.specs.schema import check_spec
from edgec.testing import assert_equivalent

MODEL = """<ir_version: 10, opset_import: ["": 21]>
net (float[2,3] x) => (float[2,2] y)
<float[3,4] w = {1,-2,3,4, 5,6,-7,8, 9,1,2,-3}, float[4] c = {0.5,1,-1,2}, float[4,2] v = {1,0, 0,1, -1,2, 3,1}>
{ a = MatMul(x, w) b = Sub(a, c) r = Relu(b) y = MatMul(r, v) }"""


def test_edgec_finds_it() -> None:
    registry = Registry()
    assert not list(registry.diagnostics)
    assert registry.targets().plugin("acme-a1") == "acme"
    assert registry.passes()["acme-a1-sub-to-add"] is SubToAdd


def test_the_specs_are_valid() -> None:
    known = list(Registry().passes())
    for spec in Path(str(files("edgec_acme"))).glob("*.yaml"):
        assert check_spec(spec, known) == []


def test_the_pass_keeps_the_numbers() -> None:
    before = edgec.Graph.from_text(MODEL)
    after = before.clone()
    assert SubToAdd().run(after, PassContext()).changed
    assert after.op_counts()["Sub"] == 0
    assert_equivalent(before, after)


def test_a_model_compiles_and_computes_the_same(tmp_path: Path) -> None:
    graph = edgec.Graph.from_text(MODEL)
    result = edgec.compile(graph, target="acme-a1", output=tmp_path / "out", options={"comment": "hello"})
    assert json.loads((tmp_path / "out" / "program.json").read_text())["comment"] == "hello"
    assert result.placement.counts["accelerator"] == len(result.placement.nodes)
    verification = result.report.verification
    assert verification is not None
    assert verification.comparison is not None
    (output,) = verification.comparison["outputs"]
    assert output["exact"] or output["sqnr_db"] > 100
    assert not [d for d in result.diagnostics if d.severity >= Severity.WARNING]
