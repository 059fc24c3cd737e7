"""Precisions with variants: the target's options choose, and everything after knows the settled name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

import edgec
from edgec.api import check
from edgec.diagnostics import EdgecError, error
from edgec.graph import Graph
from edgec.hookspecs import hookimpl
from edgec.lowering import lower
from edgec.pipeline import PassContext
from edgec.plugins import Registry
from edgec.specs.schema import Precision, TargetSpec, builtin_target
from edgec.target import Artifact, EmitJob, Target, settled

TABLE = {
    "schema_version": 1, "name": "small", "description": "runs Relu", "evidence": "a test",
    "ops": {"Relu": {"run": "accelerator"}}, "unlisted": {"run": "fallback", "reason": "not in the core"},
}  # fmt: skip


def model() -> Graph:
    return Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 19]>
        g (float[N,3,8,8] x) => (float[N,3,8,8] y) { a = Relu(x)  y = Sqrt(a) }"""
    )


class Cored(Target):
    """x86-64 with a small core that `core=true` asks for."""

    options: ClassVar[Mapping[str, str]] = {"core": "true: on the core"}

    def spec(self) -> TargetSpec:
        base = builtin_target("x86-64").model_dump(mode="json", exclude_none=True)
        base["name"] = "cored"
        base["precisions"]["fp32-core"] = base["precisions"]["fp32"] | {
            "variant_of": "fp32", "op_table": TABLE, "device": "the core", "fallback": "the GPU", "static_shapes": True,
        }  # fmt: skip
        return TargetSpec.model_validate_json(json.dumps(base))

    def settle(self, precision: str, options: Mapping[str, Any]) -> str:
        if str(options.get("core")) != "true":
            return precision
        if precision != "fp32":
            raise error("EC0403", "the core computes in float only")
        return "fp32-core"

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        return Artifact({"precision.txt": job.precision.encode()}, "precision.txt")


class Plugin:
    @hookimpl
    def edgec_targets(self) -> dict[str, type[Target]]:
        return {"cored": Cored}


@pytest.fixture
def registry() -> Registry:
    r = Registry()
    r.register(Plugin())
    return r


def test_options_choose_the_variant(registry: Registry, tmp_path: Path) -> None:
    made = edgec.compile(
        model(), target="cored", options={"core": "true"}, input_shapes=["1x3x8x8"], registry=registry, output=tmp_path / "o"
    )  # fmt: skip
    assert made.report.precision == made.placement.precision == "fp32-core"
    assert (tmp_path / "o/precision.txt").read_text() == "fp32-core"
    assert '"precision": "fp32-core"' in (tmp_path / "o/manifest.json").read_text()
    assert {n.op: n.where for n in made.placement.nodes} == {"Relu": "accelerator", "Sqrt": "fallback"}
    assert (made.placement.device, made.placement.other) == ("the core", "the GPU")
    told = [d for d in made.diagnostics if d.code == "EC0402"]
    assert len(told) == 1
    assert "runs on the GPU: not in the core" in told[0].message


def test_without_the_option_it_is_the_precision_itself(registry: Registry) -> None:
    made = edgec.compile(model(), target="cored", precision="fp32", registry=registry)
    assert made.report.precision == "fp32"
    assert made.placement.on_cpu


def test_check_settles_too(registry: Registry) -> None:
    given: dict[str, Any] = {"input_shapes": ["1x3x8x8"], "options": {"core": "true"}, "registry": registry}
    placed = check(model(), ["cored", "x86-64"], **given)
    assert placed["cored"].precision == "fp32-core"
    assert placed["cored"].counts["fallback"] == 1
    assert placed["x86-64"].precision == "fp32"


def test_settle_may_refuse(registry: Registry) -> None:
    with pytest.raises(EdgecError, match="in float only"):
        check(model(), ["cored"], precision="int8", options={"core": "true"}, registry=registry)


def test_check_refuses_an_option_that_nobody_has(registry: Registry) -> None:
    with pytest.raises(EdgecError) as e:
        check(model(), ["cored", "x86-64"], options={"cores": "true"}, registry=registry)
    assert e.value.diagnostics[0].code == "EC0103"


def test_a_variant_may_want_static_shapes(registry: Registry) -> None:
    with pytest.raises(EdgecError):
        lower(model(), Cored("cored"), options={"core": "true"}, registry=registry, ctx=PassContext())
    assert lower(model(), Cored("cored"), registry=registry, ctx=PassContext()).precision == "fp32"


def test_a_variant_is_no_choice_of_its_own() -> None:
    target = Cored("cored")
    assert "fp32-core" not in target.spec().choices
    with pytest.raises(EdgecError) as e:
        settled(target, "fp32-core", {})
    assert e.value.diagnostics[0].code == "EC0403"
    assert settled(target, "fp32-core", {"core": "true"}) == "fp32-core"  # settling twice changes nothing
    with pytest.raises(EdgecError) as e:  # the mistyped one is told the choices only
        settled(target, "fp33", {})
    assert "fp32-core" not in str(e.value.diagnostics[0].hint)


def test_a_variant_must_be_of_a_precision_that_is_offered() -> None:
    base = builtin_target("x86-64")
    lost = {
        **base.precisions,
        "odd": Precision.model_validate(base.precisions["fp32"].model_dump() | {"variant_of": "fp8"}),
    }
    with pytest.raises(ValidationError, match="variant of 'fp8'"):
        TargetSpec.model_validate(base.model_dump() | {"precisions": lost})
