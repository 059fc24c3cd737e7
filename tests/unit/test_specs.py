"""Spec files: how they are read, what is wrong with them and where, how they inherit, and that all built-in ones are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgec.diagnostics import EdgecError
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.specs import schema, yaml_file
from edgec.specs.conditions import Model
from edgec.specs.schema import (
    OpTable,
    PipelineSpec,
    Scheme,
    TargetSpec,
    builtin_target,
    check_spec,
    json_schema,
    load_spec,
)

ROOT = Path(__file__).resolve().parents[2]
SPECS = [*sorted((ROOT / "specs/ops").glob("*.yaml")), *sorted((ROOT / "specs/targets").glob("*.yaml"))]

TABLE = """\
schema_version: 1
name: acme
description: a test
evidence: Acme manual, page 7
unlisted: {run: impossible}
ops:
  Conv: {run: accelerator}
  Relu: {run: accelerator}
"""
TARGET = """\
schema_version: 1
name: acme-1
family: acme
vendor: Acme
description: a test
platform: a1
precisions:
  fp16: {weights: float16, activations: float16, pipeline: float, evidence: manual}
default_precision: fp16
opset: 21
static_shapes: true
op_table: acme
runner: none
evidence: manual
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def mistakes(cls: type[Model], path: Path) -> list[tuple[str, int | None, int | None, str]]:
    with pytest.raises(EdgecError) as caught:
        load_spec(cls, path)
    return [(d.code, d.location.line, d.location.column, d.message) for d in caught.value.diagnostics]


def test_every_mistake_at_once_with_its_line(tmp_path: Path) -> None:
    text = TABLE + "  Clip: {runs: fallback}\n  Add: {run: 'npu'}\n  Relu: {run: fallback}\n"
    found = mistakes(OpTable, write(tmp_path, t=text))
    assert [(code, line) for code, line, _, _ in found] == [
        ("EC0503", 9),
        ("EC0503", 9),
        ("EC0503", 10),
        ("EC0502", 11),
    ]
    assert {m for _, _, _, m in found} >= {"ops.Clip.run: field required", "key 'Relu' is given twice"}
    assert found[3][2] == 3  # the column of the second Relu


def test_yaml_1_1_traps_are_not_traps(tmp_path: Path) -> None:
    path = write(tmp_path, t="a: on\nb: 012\nc: 2026-01-01\nd: 1e3\ne: true\nf: 0x10\ng: 12\nh: no\ni: 1:20\n")
    data = yaml_file.read(path).data
    assert data == {
        "a": "on", "b": "012", "c": "2026-01-01", "d": 1000.0, "e": True, "f": 16, "g": 12, "h": "no", "i": "1:20",
    }  # fmt: skip


def test_types_are_not_guessed(tmp_path: Path) -> None:
    found = mistakes(OpTable, write(tmp_path, t=TABLE.replace("schema_version: 1", 'schema_version: "1"')))
    assert found == [("EC0503", 1, 1, "schema_version: input should be 1")]


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("a: [1\nb: 2\n", "EC0501", 2),
        ("- 1\n", "EC0501", 1),
        ("", "EC0501", 1),
        ("a: &x {b: 1}\nc: *x\n", "EC0504", 1),
        ("a: \x07\n", "EC0501", None),
    ],
)
def test_what_is_not_a_spec(tmp_path: Path, text: str, code: str, line: int | None) -> None:
    found = mistakes(OpTable, write(tmp_path, t=text))
    assert (found[0][0], found[0][1] if line else None) == (code, line)


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    assert {code for code, *_ in mistakes(OpTable, write(tmp_path, t="\n".join(lines)))} >= {"EC0504"}


def test_missing_file_and_binary_file(tmp_path: Path) -> None:
    assert mistakes(OpTable, tmp_path / "none.yaml")[0][0] == "EC0501"
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert mistakes(OpTable, tmp_path / "b.yaml")[0][0] == "EC0501"


def test_extends_replaces_and_removes_rows(tmp_path: Path) -> None:
    child = (
        "schema_version: 1\nextends: base\nname: c\nops:\n  Conv: null\n  Relu: {run: fallback}\n  Add: {run: either}\n"
    )
    table = load_spec(OpTable, write(tmp_path, c=child, base=TABLE))
    assert {k: v.run for k, v in table.ops.items()} == {"Relu": "fallback", "Add": "either"}
    assert table.description == "a test"


def test_evidence_stays_with_the_file_that_gave_it(tmp_path: Path) -> None:
    child = "schema_version: 1\nextends: base\nname: c\nevidence: other manual\nops:\n  Add: {run: fallback}\n"
    table = load_spec(OpTable, write(tmp_path, c=child, base=TABLE))
    assert table.ops["Conv"].evidence == "Acme manual, page 7"
    assert table.ops["Add"].evidence == "other manual"


def test_a_mistake_in_a_parent_is_told_with_the_parents_line(tmp_path: Path) -> None:
    child = "schema_version: 1\nextends: base\nname: c\n"
    path = write(tmp_path, c=child, base=TABLE.replace("Relu: {run: accelerator}", "Relu: {run: gpu}"))
    with pytest.raises(EdgecError) as caught:
        load_spec(OpTable, path)
    (d,) = caught.value.diagnostics
    assert (Path(d.location.file or "").name, d.location.line) == ("base.yaml", 8)


def test_extends_in_a_circle_and_into_nothing(tmp_path: Path) -> None:
    a, b = "schema_version: 1\nname: a\nextends: b\n", "schema_version: 1\nname: b\nextends: ./a.yaml\n"
    assert any("circle" in m for code, _, _, m in mistakes(OpTable, write(tmp_path, a=a, b=b)) if code == "EC0505")
    found = mistakes(OpTable, write(tmp_path, x="schema_version: 1\nname: x\nextends: rkn\n"))
    assert ("EC0505", 3) in [(code, line) for code, line, *_ in found]


def test_a_third_partys_target_beside_its_table(tmp_path: Path) -> None:
    spec = load_spec(TargetSpec, write(tmp_path, target=TARGET, acme=TABLE))
    assert spec.op_table.name == "acme"
    assert spec.pipeline("fp16") == list(schema.builtin_pipeline("float").steps)
    assert check_spec(tmp_path / "target.yaml", Registry().passes()) == []


def test_a_third_partys_target_may_extend_a_built_in_family(tmp_path: Path) -> None:
    text = "schema_version: 1\nextends: rknn\nname: board\ndescription: d\nplatform: rk3588\nprecisions: {int8: null}\n"
    spec = load_spec(TargetSpec, write(tmp_path, board=text))
    assert list(spec.precisions) == ["fp16"]
    assert spec.op_table.ops["Conv"].run == "accelerator"


def test_check_spec_knows_unknown_passes(tmp_path: Path) -> None:
    text = "schema_version: 1\nname: p\ndescription: d\nsteps: [fold-nb, {repeat: [cse, nope]}]\n"
    found = check_spec(write(tmp_path, p=text), ["fold-bn", "cse"])
    assert [d.code for d in found] == ["EC0506", "EC0506"]
    assert found[0].hint == "did you mean 'fold-bn'?"


def test_pipelines_extend_by_appending(tmp_path: Path) -> None:
    base = "schema_version: 1\nname: base\ndescription: d\nsteps: [a, b]\n"
    path = write(tmp_path, p="schema_version: 1\nextends: base\nname: p\nsteps: [c, {d: {x: 1}}]\n", base=base)
    assert load_spec(PipelineSpec, path).steps == ("a", "b", "c", {"d": {"x": 1}})
    bad = write(tmp_path, q="schema_version: 1\nname: q\ndescription: d\nsteps: [{a: {}, b: {}}]\n")
    assert "names 2 passes" in mistakes(PipelineSpec, bad)[0][3]


def test_precisions() -> None:
    assert builtin_target("rk3588").precision()[0] == "fp16"
    with pytest.raises(EdgecError, match=r"EC0403.*refuses to build without quantisation") as caught:
        builtin_target("rv1106").pipeline("fp16")
    assert caught.value.diagnostics[0].hint == "rv1106 offers int8"
    with pytest.raises(EdgecError, match="EC0404") as caught:
        builtin_target("rk3558")
    assert "did you mean" in (caught.value.diagnostics[0].hint or "")
    with pytest.raises(EdgecError, match="EC0404"):
        builtin_target("../ops/rknn")


@pytest.mark.parametrize("path", SPECS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_built_in_specs_are_right(path: Path) -> None:
    assert check_spec(path) == []


def test_every_row_has_evidence() -> None:
    for path in sorted((ROOT / "specs/ops").glob("*.yaml")):
        table = load_spec(OpTable, path)
        assert all(row.evidence for row in table.ops.values())
        assert all(unit.evidence for unit in table.units)


@pytest.mark.parametrize("name", schema.builtin_targets())
def test_built_in_pipelines_name_existing_passes(name: str) -> None:
    spec = builtin_target(name)
    for precision in spec.precisions:
        build_passes(spec.pipeline(precision), Registry().passes())


@pytest.mark.parametrize(
    ("name", "cls"), [("target", TargetSpec), ("ops", OpTable), ("pipeline", PipelineSpec), ("scheme", Scheme)]
)
def test_published_json_schemas_are_current(name: str, cls: type[Model]) -> None:
    published = json.loads((ROOT / "docs/schema" / f"{name}.json").read_text())
    assert published == json.loads(json.dumps(json_schema(cls))), "run tools/write_schemas.py"
