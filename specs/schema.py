"""The schema of specs/*.yaml: targets and pipelines (op tables: op_table.py), and how they are loaded.

pydantic is used in this package only; importing it costs a tenth of a second, so nothing that `edgec --help` loads
imports this module.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from edgec.diagnostics import Diagnostic, EdgecError, Location, Severity, did_you_mean, error
from edgec.specs import yaml_file
from edgec.specs.conditions import DType, Model
from edgec.specs.op_table import OpRow, OpTable, Text, UnitSpec
from edgec.specs.scheme import Scheme

__all__ = [
    "OpRow", "OpTable", "PatternUse", "PipelineSpec", "Precision", "Scheme", "TargetSpec", "ToolchainNeed", "UnitSpec",
    "builtin_pipeline", "builtin_scheme", "builtin_schemes", "builtin_target", "builtin_targets", "check_spec",
    "json_schema", "load_spec",
]  # fmt: skip

Effort = Literal["low", "medium", "high"]
"""How much time to spend on accuracy."""

StepSpec = str | dict[str, JsonValue]


class PipelineSpec(Model):
    """A list of passes with options. With `extends`, the steps are appended to the inherited ones."""

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    description: Text
    steps: tuple[StepSpec, ...] = Field(description="`pass`, `pass: {option: value}` or `repeat: [steps]`")

    @field_validator("steps")
    @classmethod
    def _one_pass_a_step(cls, steps: tuple[StepSpec, ...]) -> tuple[StepSpec, ...]:
        for i, step in enumerate(steps):
            if isinstance(step, dict) and len(step) != 1:
                raise ValueError(f"step {i + 1} names {len(step)} passes; a step is one `pass: {{option: value}}`")
        return steps


class ToolchainNeed(Model):
    """The vendor SDK the target is emitted with, and the version everything here was tested with."""

    name: Text
    version: Text


class Precision(Model):
    """One way to run on the device: element types, and the pipeline that prepares a graph for it."""

    weights: DType
    activations: DType
    pipeline: PipelineSpec = Field(description="a pipeline's name, or a pipeline written out")
    efforts: dict[Literal["low", "high"], PipelineSpec] = Field(
        {}, description="other pipelines: `low` for the fastest compile, `high` for the best accuracy"
    )
    calibration: bool = Field(False, description="whether sample inputs are needed to choose ranges")
    quantization: Scheme | None = Field(
        None, description="a quantisation scheme's name, or a scheme written out: what Q/DQ the target reads"
    )
    variant_of: Text | None = Field(
        None,
        description="the precision users ask for, where the target's options make this one of it: no choice of its own",
    )
    op_table: OpTable | None = Field(
        None, description="who runs the nodes at this precision, where that is not the target's op table"
    )
    device: Text | None = Field(None, description="what runs the nodes at this precision, where that is not `device`")
    fallback: Text = Field("the CPU", description="who runs what the device does not, for people")
    static_shapes: bool = Field(False, description="whether every dimension must be a number at this precision")
    evidence: Text


class PatternUse(Model):
    """What a target makes of a pattern in the weights."""

    gain: Literal["none", "size", "speed", "both"]
    how: Text = Field(description="what the target does with it, for people, with the evidence")


class TargetSpec(Model):
    """One device. Everything edgec knows about it that is not code."""

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    family: Text
    vendor: Text
    description: Text
    platform: Text = Field(description="what the vendor's SDK calls the device")
    device: Text = Field(
        "the accelerator", description="what runs the nodes, for people; `the CPU` where there is no other"
    )
    toolchain: ToolchainNeed | None = Field(
        None, description="the SDK needed to emit; none for what edgec emits itself"
    )
    precisions: Annotated[dict[str, Precision], Field(min_length=1)]
    default_precision: Text
    unavailable: dict[str, Text] = Field({}, description="precisions users will ask for, and why there are not offered")
    opset: Annotated[int, Field(ge=1)] = Field(description="the newest ONNX opset the device's compiler reads")
    static_shapes: bool = Field(description="whether every dimension must be a number")
    layout: Text | None = Field(None, description="how the device stores feature maps")
    alignment: dict[str, Annotated[int, Field(gt=0)]] = Field({}, description="what sizes are rounded up to")
    memory: dict[str, Annotated[int, Field(gt=0)]] = Field(
        {}, description="bytes of the device's memories by name (flash, ram): what an artifact is checked against"
    )
    weight_patterns: dict[Literal["zeros", "two_four", "few"], PatternUse] = Field(
        {}, description="what zeros anywhere, two zeros in every four, and few values in the weights are worth"
    )
    compiler: dict[str, Text] = Field({}, description="options of the SDK's compiler that make the device, by name")
    op_table: OpTable = Field(description="an op table's name, or a table written out")
    runner: Text = Field(description="what executes the artifact on this host, for people")
    notes: tuple[Text, ...] = ()
    evidence: Text

    @model_validator(mode="after")
    def _default_is_offered(self) -> TargetSpec:
        if self.default_precision not in self.precisions:
            raise ValueError(f"default_precision {self.default_precision!r} is not one of {list(self.precisions)}")
        both = sorted(set(self.precisions) & set(self.unavailable))
        if both:
            raise ValueError(f"{both} cannot be offered and unavailable at once")
        for name, precision in self.precisions.items():
            base = self.precisions.get(precision.variant_of or name)
            if base is None or base.variant_of is not None:
                raise ValueError(f"precision {name!r} is a variant of {precision.variant_of!r}, which is not offered")
        if self.precisions[self.default_precision].variant_of is not None:
            raise ValueError(f"default_precision {self.default_precision!r} is one that only options lead to")
        return self

    @property
    def choices(self) -> list[str]:
        """The precisions a user may ask for: all but those that only options lead to."""
        return [name for name, precision in self.precisions.items() if precision.variant_of is None]

    def table(self, precision: str) -> OpTable:
        """Who runs the nodes at a precision."""
        return self.precisions[precision].op_table or self.op_table

    @property
    def units(self) -> tuple[UnitSpec, ...]:
        """The fused units of the device's compiler; a precision with an op table of its own has that table's."""
        return self.op_table.units

    def precision(self, name: str | None = None) -> tuple[str, Precision]:
        """The precision called `name`, or the default one.

        Raises:
            EdgecError: EC0403 the target does not offer it; the message says why where the spec knows.
        """
        name = name or self.default_precision
        if name in self.precisions:
            return name, self.precisions[name]
        offered = f"{self.name} offers {', '.join(self.choices)}"
        why = self.unavailable.get(name)
        message = f"{self.name} has no precision {name!r}" + (f": {why}" if why else "")
        raise error("EC0403", message, hint=offered if why else did_you_mean(name, self.choices, offered))

    def pipeline(self, precision: str | None = None, effort: Effort = "medium") -> list[str | Mapping[str, Any]]:
        """The steps that prepare a graph for this target at a precision (by default the default one).

        An effort for which there is no pipeline of its own gets the default pipeline.

        Raises:
            EdgecError: EC0403 as `precision`.
        """
        found = self.precision(precision)[1]
        chosen = found.pipeline if effort == "medium" else found.efforts.get(effort, found.pipeline)
        return list(chosen.steps)


M = TypeVar("M", bound=Model)

_KINDS: Mapping[str, yaml_file.Kind] = {
    "target": yaml_file.Kind(
        folders=("targets", "targets/families"),
        rows=frozenset({"precisions", "unavailable", "alignment", "memory", "compiler"}),
        includes={
            ("op_table",): "op table",
            ("precisions", "*", "pipeline"): "pipeline",
            ("precisions", "*", "efforts", "*"): "pipeline",
            ("precisions", "*", "quantization"): "scheme",
            ("precisions", "*", "op_table"): "op table",
        },
    ),
    "op table": yaml_file.Kind(folders=("ops",), rows=frozenset({"ops"}), prepare=lambda doc: _spread_evidence(doc)),
    "pipeline": yaml_file.Kind(folders=("pipelines",), grows=frozenset({"steps"})),
    "scheme": yaml_file.Kind(
        folders=("quantization",), rows=frozenset({"ops"}), includes={("units",): "op table.units"}
    ),
}
_KIND_OF: Mapping[type[Model], str] = {
    TargetSpec: "target", OpTable: "op table", PipelineSpec: "pipeline", Scheme: "scheme",
}  # fmt: skip


def _spread_evidence(doc: yaml_file.Document) -> None:
    """A table's evidence belongs to the rows of that file, also where another table inherits them."""
    ops, evidence = doc.data.get("ops"), doc.data.get("evidence")
    if isinstance(ops, dict) and isinstance(evidence, str):
        for row in ops.values():
            if isinstance(row, dict):
                row.setdefault("evidence", evidence)


def load_spec(cls: type[M], source: str | os.PathLike[str] | Traversable) -> M:
    """Read and validate a spec file, with everything it extends and includes.

    Raises:
        EdgecError: every mistake of every file at once, with file, line and column (EC0501..EC0505).
    """
    spec, errors = _load(cls, source)
    if spec is None or errors:
        raise EdgecError(*errors)
    return spec


def _load(cls: type[M], source: str | os.PathLike[str] | Traversable) -> tuple[M | None, list[Diagnostic]]:
    doc = yaml_file.load(source, _KIND_OF[cls], _KINDS)
    spec: M | None = None
    errors = list(doc.errors)
    unread = any(d.code in ("EC0501", "EC0504") for d in errors)  # what follows from half a file would only confuse
    if isinstance(doc.data, dict) and not unread:
        try:  # through JSON: pydantic's strict mode takes JSON's lists for tuples, Python's it refuses
            spec = cls.model_validate_json(json.dumps(doc.data))
        except ValidationError as e:
            errors += _mistakes(e, doc)
    return spec, sorted(
        set(errors), key=lambda d: (d.location.file or "", d.location.line or 0, d.location.column or 0)
    )


def _mistakes(e: ValidationError, doc: yaml_file.Document) -> Iterable[Diagnostic]:
    for x in e.errors():
        key = tuple(int(k) if isinstance(k, str) and k.isdigit() else k for k in x["loc"])
        place = max((doc.place(tuple(x["loc"])), doc.place(key)), key=lambda p: (p.line or 0, p.column or 0))
        where = ".".join(str(k) for k in x["loc"] if k != "[key]")
        text = x["msg"].removeprefix("Value error, ")
        text = text[:1].lower() + text[1:]
        yield Diagnostic("EC0503", Severity.ERROR, f"{where}: {text}" if where else text, place)


def builtin_targets() -> list[str]:
    """Names of the targets edgec ships specs for."""
    return yaml_file.names("targets")


@cache
def builtin_target(name: str) -> TargetSpec:
    """The spec `specs/targets/<name>.yaml`.

    Raises:
        EdgecError: EC0404 there is none of that name.
    """
    return load_spec(TargetSpec, _builtin("targets", name, "EC0404", "target"))


def builtin_pipeline(name: str) -> PipelineSpec:
    """The pipeline `specs/pipelines/<name>.yaml`.

    Raises:
        EdgecError: EC0405 there is none of that name.
    """
    return load_spec(PipelineSpec, _builtin("pipelines", name, "EC0405", "pipeline"))


def builtin_schemes() -> list[str]:
    """Names of the quantisation schemes edgec ships."""
    return yaml_file.names("quantization")


@cache
def builtin_scheme(name: str) -> Scheme:
    """The quantisation scheme `specs/quantization/<name>.yaml`.

    Raises:
        EdgecError: EC0770 there is none of that name.
    """
    return load_spec(Scheme, _builtin("quantization", name, "EC0770", "quantisation scheme"))


def _builtin(folder: str, name: str, code: str, what: str) -> Traversable:
    source = files("edgec.specs").joinpath(folder, f"{name}.yaml")
    if "/" in name or not source.is_file():
        hint = did_you_mean(name, yaml_file.names(folder), f"built in: {', '.join(yaml_file.names(folder))}")
        raise error(code, f"no built-in {what} is called {name!r}", hint=hint)
    return source


def check_spec(source: str | os.PathLike[str], passes: Iterable[str] | None = None) -> list[Diagnostic]:
    """Everything wrong with a spec file of any kind. `passes`: the names a pipeline may use, if that is to be checked."""
    from pathlib import Path

    kind = _kind(Path(source))
    spec, errors = _load(kind, source)
    if passes is not None and spec is not None:
        known = {*passes}
        pipelines: dict[str, PipelineSpec] = {}
        if isinstance(spec, PipelineSpec):
            pipelines[spec.name] = spec
        elif isinstance(spec, TargetSpec):
            pipelines = {q.name: q for p in spec.precisions.values() for q in (p.pipeline, *p.efforts.values())}
        for pipeline in pipelines.values():
            for name in step_names(pipeline.steps):
                if name not in known:
                    message = f"pipeline {pipeline.name}: no pass is called {name!r}"
                    hint = did_you_mean(name, sorted(known), "`edgec passes` lists them")
                    errors.append(Diagnostic("EC0506", Severity.ERROR, message, Location(str(source)), hint))
    return errors


def step_names(steps: Iterable[Any]) -> Iterable[str]:
    """Names of the passes in steps, groups included."""
    for step in steps:
        if isinstance(step, str):
            yield step
            continue
        for name, options in step.items():
            if name == "repeat" and isinstance(options, list):
                yield from step_names(options)
            else:
                yield name


def _kind(source: yaml_file.Source, children: tuple[str, ...] = ()) -> type[Model]:
    """What a file describes; where its own keys do not tell, what the file describes that it extends."""
    data = yaml_file.read(source).data
    keys = set(data) if isinstance(data, dict) else set()
    if "steps" in keys:
        return PipelineSpec
    if keys & {"weights", "mode", "bias"} or _has_lists(data):
        return Scheme
    if keys & {"ops", "unlisted", "units"}:
        return OpTable
    parent = data.get("extends") if isinstance(data, dict) else None
    if isinstance(parent, str) and str(source) not in children:
        for kind in _KIND_OF.values():
            found = yaml_file.find(parent, source, _KINDS[kind].folders)
            if found is not None:
                return _kind(found, (*children, str(source)))
    return TargetSpec


def _has_lists(data: Any) -> bool:
    """Whether `ops` holds lists of rules, as a scheme's, not rows, as an op table's."""
    ops = data.get("ops") if isinstance(data, dict) else None
    return isinstance(ops, dict) and any(isinstance(rules, list) for rules in ops.values())


def json_schema(cls: type[Model]) -> dict[str, Any]:
    """The JSON Schema of a kind of spec file, for editors: docs/schema/*.json.

    It describes files, not loaded specs: `extends` is allowed and then nothing is required, and where a file may be named
    instead of its contents, a string is.
    """
    schema = cls.model_json_schema()
    how = _KINDS[_KIND_OF[cls]]
    properties = cast("dict[str, Any]", schema["properties"])
    properties["extends"] = {
        "type": "string",
        "description": "a spec of the same kind to inherit from: a name or a path",
    }
    required = schema.pop("required", [])
    schema["anyOf"] = [{"required": ["extends"]}, {"required": required}]
    for pattern in how.includes:
        owner = schema if len(pattern) == 1 else schema["$defs"]["Precision"]
        holder, key = owner["properties"], pattern[-1]
        if key == "*":  # every entry of a mapping
            holder, key = holder[pattern[-2]], "additionalProperties"
        inner = holder[key]
        note = inner.pop("description", "")
        holder[key] = {"anyOf": [{"type": "string"}, inner], "description": note}
    for name in how.rows:
        inner = properties[name]
        if isinstance(entry := inner.get("additionalProperties"), dict):
            inner["additionalProperties"] = {"anyOf": [entry, {"type": "null"}]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
