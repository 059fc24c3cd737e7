"""edgec.yaml: a whole project (model, inputs, data, targets) as the arguments of `edgec.api.compile`.

    schema_version: 1
    model: model.onnx
    input_shapes: {images: 1x3x640x640}
    preprocess: {mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375]}
    calibration: data/calibration
    targets:
      - name: rk3588
        precision: int8
      - name: x86-64

What stands at the top holds for every target that does not say otherwise. Paths are relative to the file.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from edgec.accuracy import Accuracy
from edgec.diagnostics import Diagnostic, EdgecError, Location, Severity, error
from edgec.recipe import parse_pipeline
from edgec.specs import yaml_file

Text = Annotated[str, Field(min_length=1)]

_TARGET_OPTIONS = ("io_layout", "io_dtype", "flash", "ram")
"""Settings that are options of targets."""

_FILE_OPTIONS = ("labels",)
"""Options of targets that are paths."""

_FILE_STEP_OPTIONS = ("script",)
"""Options of passes that are paths."""


class _Settings(BaseModel):
    """What may stand at the top and in each target."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_shapes: dict[str, str | tuple[int, ...]] = Field(
        {}, description="input name -> 1x3x224x224 or [1, 3, 224, 224]"
    )
    preprocess: dict[str, JsonValue] | None = Field(
        None, description="mean, std, scale, resize, mode, crop, layout, colour, interpolation, pad"
    )
    calibration: Text | None = Field(None, description=".npy, .npz, folder of images or module:function")
    samples: Text | None = Field(None, description="inputs to verify with; by default the first of calibration")
    compress: Text | tuple[str | dict[str, JsonValue], ...] | None = Field(
        None, description="passes that make the float model smaller before the target's own: prune, recover"
    )
    pipeline: Text | tuple[str | dict[str, JsonValue], ...] | None = Field(
        None, description="passes to run instead of the target's own"
    )
    io_layout: Text | None = Field(None, description="option io-layout of targets that have it: keep or nhwc")
    io_dtype: Text | None = Field(None, description="option io-dtype of targets that have it: float, integer or uint8")
    flash: Text | int | None = Field(None, description="option flash of targets that have it: 300KB")
    ram: Text | int | None = Field(None, description="option ram of targets that have it: 80KB")
    no_fallback: bool | None = Field(None, description="a node off the accelerator is an error")
    effort: Literal["low", "medium", "high"] | None = Field(None, description="time spent on accuracy")
    min_sqnr: float | None = Field(None, description="dB every output must reach against the float model")
    min_agreement: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="share of samples that must keep the float model's class"
    )
    max_drop: Text | None = Field(None, description="how much of `metric` may be lost: 1% or 0.5pt")
    max_kept: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="share of the multiply-accumulates that may leave integers to reach it; 0.5 if not given"
    )
    metric: Text | None = Field(None, description="file.py:function, higher is better; the file beside this one")

    @field_validator("input_shapes")
    @classmethod
    def _shapes(cls, shapes: dict[str, str | tuple[int, ...]]) -> dict[str, str | tuple[int, ...]]:
        for name, shape in shapes.items():
            dims = shape.split("x") if isinstance(shape, str) else shape
            if not all(str(d).isdigit() and int(d) > 0 for d in dims):
                raise ValueError(f"{name}: a shape is written 1x3x224x224, not {shape}")
        return shapes


class TargetEntry(_Settings):
    """One compilation."""

    name: Text = Field(description="a name of `edgec targets`")
    precision: Text | None = Field(None, description="one the target offers; by default its own")
    options: dict[str, JsonValue] = Field({}, description="the target's options")
    output: Text | None = Field(None, description="by default build/<model>-<target>[-<precision>]")


class ProjectFile(_Settings):
    """The file as it is written."""

    schema_version: Literal[1]
    model: Text = Field(description="an ONNX file")
    targets: Annotated[tuple[TargetEntry, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Project:
    """A project file that was read and is valid."""

    path: Path
    file: ProjectFile

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Project:
        """Read a project file.

        Raises:
            EdgecError: EC0910 there is none; EC0911 every mistake in it, with line and column; EC0912 it is not YAML.
        """
        path = Path(path)
        if not path.is_file():
            hint = "give a model, or write edgec.yaml (docs/project.md) and run edgec in its folder"
            raise error("EC0910", f"there is no project file {path.name}", Location(str(path)), hint)
        doc = yaml_file.read(path)
        if doc.errors:
            text = [d.message.replace("a spec is", "a project file is") for d in doc.errors]
            code = ["EC0911" if d.code == "EC0502" else "EC0912" for d in doc.errors]
            raise EdgecError(
                *(
                    Diagnostic(c, Severity.ERROR, t, d.location, d.hint)
                    for c, t, d in zip(code, text, doc.errors, strict=True)
                )
            )
        try:  # through JSON: strict mode takes JSON's lists for tuples
            file = ProjectFile.model_validate_json(json.dumps(doc.data), strict=True)
        except ValidationError as e:
            raise EdgecError(*_mistakes(e, doc)) from None
        project = cls(path, file)
        project._check_outputs(doc)
        return project

    def jobs(self) -> list[dict[str, Any]]:
        """Keyword arguments of `edgec.api.compile`, one mapping a target, in the order of the file."""
        return [self._job(t) for t in self.file.targets]

    def _job(self, target: TargetEntry) -> dict[str, Any]:
        from edgec.samples import Preprocess

        shapes = {**self.file.input_shapes, **target.input_shapes}
        found: dict[str, Any] = {name: self._setting(target, name) for name in ("no_fallback", "effort")}
        wanted = Accuracy(*(self._setting(target, n) for n in ("min_sqnr", "min_agreement", "max_drop")))
        if (kept := self._setting(target, "max_kept")) is not None:
            wanted = replace(wanted, max_kept=kept)
        if (metric := self._setting(target, "metric")) is not None:
            path, _, function = metric.rpartition(":")
            found["metric"] = f"{self._path(path)}:{function}"
            wanted = replace(wanted, metric=found["metric"])
        found["accuracy"] = wanted or None
        for name in ("calibration", "samples"):
            source = self._setting(target, name)
            found[name] = self._source(source) if source is not None else None
        if (options := self._setting(target, "preprocess")) is not None:
            found["preprocess"] = Preprocess.parse(options)
        for name in ("compress", "pipeline"):
            steps = self._setting(target, name)
            if steps is not None:
                found[name] = self._steps(parse_pipeline(steps) if isinstance(steps, str) else steps)
        options = {name.replace("_", "-"): self._setting(target, name) for name in _TARGET_OPTIONS}
        options = {k: v for k, v in options.items() if v is not None} | target.options
        options |= {k: str(self._path(str(v))) for k, v in options.items() if k in _FILE_OPTIONS}
        return {
            "model": self._path(self.file.model),
            "target": target.name,
            **({"precision": target.precision} if target.precision is not None else {}),
            "output": self.output(target),
            **({"input_shapes": [f"{k}={_shape(v)}" for k, v in shapes.items()]} if shapes else {}),
            **({"options": options} if options else {}),
            **{k: v for k, v in found.items() if v is not None},
        }

    def output(self, target: TargetEntry) -> Path:
        """The folder one target is written to."""
        if target.output is not None:
            return self._path(target.output)
        parts = [Path(self.file.model).stem, target.name, *([target.precision] if target.precision else [])]
        return self._path(f"build/{'-'.join(parts)}")

    def _setting(self, target: TargetEntry, name: str) -> Any:
        own = getattr(target, name)
        return getattr(self.file, name) if own is None else own

    def _path(self, text: str) -> Path:
        return self.path.parent / text

    def _steps(self, steps: Sequence[Any]) -> list[Any]:
        """The steps of a pipeline with the paths in them, groups included."""
        out: list[Any] = []
        for step in steps:
            if isinstance(step, Mapping):
                step = {
                    name: self._steps(options)
                    if name == "repeat" and isinstance(options, list)
                    else {k: str(self._path(str(v))) if k in _FILE_STEP_OPTIONS else v for k, v in options.items()}
                    if isinstance(options, Mapping)
                    else options
                    for name, options in step.items()
                }
            out.append(step)
        return out

    def _source(self, text: str) -> str:
        """A path beside the file where there is one (or it looks like one), else `module:function` as it stands."""
        from edgec.samples.functions import is_function

        beside = self._path(text)
        return text if is_function(text) and not beside.exists() else str(beside)

    def _check_outputs(self, doc: yaml_file.Document) -> None:
        count = Counter(self.output(t) for t in self.file.targets)
        twice = [
            Diagnostic(
                "EC0911", Severity.ERROR, f"two targets would write to {self.output(t)}", doc.place(("targets", i)),
                "give them different `output`",
            )
            for i, t in enumerate(self.file.targets)
            if count[self.output(t)] > 1
        ]  # fmt: skip
        if twice:
            raise EdgecError(*twice)


def _shape(shape: str | tuple[int, ...]) -> str:
    return shape if isinstance(shape, str) else "x".join(map(str, shape))


def _mistakes(e: ValidationError, doc: yaml_file.Document) -> list[Diagnostic]:
    """One diagnostic for each place, in the order of the file; of the alternatives of a union only the first."""
    out: dict[tuple[Location, str], Diagnostic] = {}
    for x in e.errors():
        if x["type"] == "too_short" and any(y["loc"][: len(x["loc"])] == x["loc"] != y["loc"] for y in e.errors()):
            continue  # pydantic counts only the valid entries: the invalid ones have their own messages
        loc = tuple(k for k in x["loc"] if isinstance(k, int) or (k.isidentifier() and k not in ("str", "tuple")))
        where = ".".join(map(str, loc))
        text = x["msg"].removeprefix("Value error, ")
        text = "there is no such setting" if x["type"] == "extra_forbidden" else text[:1].lower() + text[1:]
        place = doc.place(loc)
        hint = _fields_hint(loc) if x["type"] == "extra_forbidden" else None
        out.setdefault((place, where), Diagnostic("EC0911", Severity.ERROR, f"{where}: {text}", place, hint))
    return sorted(out.values(), key=lambda d: (d.location.line or 0, d.location.column or 0))


def _fields_hint(loc: tuple[str | int, ...]) -> str:
    from edgec.diagnostics import did_you_mean

    fields = list((TargetEntry if loc[0] == "targets" else ProjectFile).model_fields)
    return did_you_mean(str(loc[-1]), fields, f"settings here: {', '.join(fields)}")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of edgec.yaml; docs/schema/project.json is this, and a test keeps them equal."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ProjectFile.model_json_schema()}
