"""Pipelines as text and as YAML: the same thing in two spellings.

    fold-bn,[fold-constants{max-bytes=65536},eliminate-noops]*      text, for `-p` on the command line
    [fold-bn: {}, repeat: [...]]                                    the list a YAML file holds

A step is `{name: {option: value}}`; `{"repeat": [steps]}` groups; a bare string is a step without options.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgec.diagnostics import Diagnostic, EdgecError, Location, Severity, did_you_mean
from edgec.pipeline import Pass, Repeat
from edgec.plugins import Catalog

Step = str | Mapping[str, Any]


def parse_pipeline(text: str) -> list[Step]:
    """Read the textual form.

    Raises:
        EdgecError: EC0201 with the column where reading stopped.
    """
    steps, pos = _steps(text, 0, closing="")
    if pos != len(text):
        raise _syntax(text, pos, "unexpected text")
    return steps


def _syntax(text: str, pos: int, what: str) -> EdgecError:
    return EdgecError(
        Diagnostic(
            "EC0201",
            Severity.ERROR,
            f"cannot read the pipeline: {what} at {text[pos : pos + 20]!r}",
            Location("<pipeline>", 1, pos + 1),
            'write e.g. "fold-bn,[fold-constants{max-bytes=65536},cse]*"',
        )
    )


def _skip(text: str, pos: int) -> int:
    while pos < len(text) and text[pos].isspace():
        pos += 1
    return pos


def _steps(text: str, pos: int, closing: str) -> tuple[list[Step], int]:
    steps: list[Step] = []
    pos = _skip(text, pos)
    while pos < len(text) and text[pos] != closing:
        if text[pos] == "[":
            inner, pos = _steps(text, pos + 1, "]")
            if text[pos : pos + 2] != "]*":
                raise _syntax(text, pos, "a group ends with ]*")
            steps.append({"repeat": inner})
            pos += 2
        else:
            step, pos = _step(text, pos)
            steps.append(step)
        pos = _skip(text, pos)
        if pos < len(text) and text[pos] == ",":
            pos = _skip(text, pos + 1)
            if pos == len(text) or text[pos] == closing:
                raise _syntax(text, pos, "a pass name is missing after the comma")
        elif pos < len(text) and text[pos] != closing:
            raise _syntax(text, pos, "a comma is missing")
    return steps, pos


def _word(text: str, pos: int) -> int:
    end = pos
    while end < len(text) and (text[end].isalnum() or text[end] in "-_"):
        end += 1
    return end


def _step(text: str, pos: int) -> tuple[Step, int]:
    end = _word(text, pos)
    if end == pos:
        raise _syntax(text, pos, "a pass name is expected")
    name, pos = text[pos:end], end
    if text[pos : pos + 1] != "{":
        return {name: {}}, pos
    options: dict[str, Any] = {}
    pos = _skip(text, pos + 1)
    while text[pos : pos + 1] != "}":
        end = _word(text, pos)
        if end == pos or text[end : end + 1] != "=":
            raise _syntax(text, pos, "an option is written name=value")
        key = text[pos:end].replace("-", "_")
        value, pos = _value(text, end + 1)
        options[key] = value
        pos = _skip(text, pos)
    return {name: options}, pos + 1


def _value(text: str, pos: int) -> tuple[Any, int]:
    """JSON where it is JSON, else the characters up to a blank or the closing brace, as a string."""
    if text[pos : pos + 1] in ('"', "[", "{"):
        try:
            value, end = json.JSONDecoder().raw_decode(text, pos)
        except json.JSONDecodeError as e:
            raise _syntax(text, pos, f"not JSON ({e.msg})") from None
        return value, end
    end = pos
    while end < len(text) and not text[end].isspace() and text[end] not in "}":
        end += 1
    if end == pos:
        raise _syntax(text, pos, "a value is missing")
    word = text[pos:end]
    try:
        return json.loads(word), end
    except json.JSONDecodeError:
        return word, end


def build_passes(steps: Iterable[Step], known: Catalog[Pass]) -> list[Pass]:
    """Turn steps into passes, options checked by type.

    Raises:
        EdgecError: every unknown name (EC0202), unknown option (EC0203) and ill-typed value (EC0204) at once.
    """
    errors: list[Diagnostic] = []
    passes = _build(steps, known, errors)
    if errors:
        raise EdgecError(*errors)
    return passes


def _build(steps: Iterable[Step], known: Catalog[Pass], errors: list[Diagnostic]) -> list[Pass]:
    out: list[Pass] = []
    for step in steps:
        if isinstance(step, str):
            step = {step: {}}
        if not isinstance(step, Mapping) or len(step) != 1:
            errors.append(_misshapen(f"a pipeline step names one pass, this one: {step!r}"))
            continue
        ((name, options),) = step.items()
        if name == "repeat":
            if isinstance(options, Sequence) and not isinstance(options, str):
                out.append(Repeat(tuple(_build(options, known, errors))))
            else:
                errors.append(_misshapen(f"repeat takes a list of steps, not {options!r}"))
            continue
        if not isinstance(options, Mapping | None):
            errors.append(_misshapen(f"the options of pass {name!r} are written name: value, not {options!r}"))
            continue
        made = _one(str(name), {str(k): v for k, v in (options or {}).items()}, known, errors)
        if made is not None:
            out.append(made)
    return out


def _misshapen(message: str) -> Diagnostic:
    return Diagnostic("EC0205", Severity.ERROR, message)


def _one(name: str, options: dict[str, Any], known: Catalog[Pass], errors: list[Diagnostic]) -> Pass | None:
    if name not in known:
        hint = did_you_mean(name, list(known), "`edgec passes` lists them")
        errors.append(Diagnostic("EC0202", Severity.ERROR, f"no pass is called {name!r}", hint=hint))
        return None
    cls = known[name]
    fields = [f.name for f in dataclasses.fields(cls)]
    options = {k.replace("-", "_"): v for k, v in options.items()}
    unknown = sorted(set(options) - set(fields))
    if unknown:
        hint = f"its options: {', '.join(fields) or 'none'}"
        errors.append(Diagnostic("EC0203", Severity.ERROR, f"pass {name!r} has no option {unknown}", hint=hint))
        return None
    if not options and all(_has_default(f) for f in dataclasses.fields(cls)):
        return cls()  # without paying for pydantic
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_json(json.dumps(options), strict=True)
    except ValidationError as e:
        by_option: dict[str, list[Any]] = {}
        for x in e.errors():
            by_option.setdefault(str(x["loc"][0]) if x["loc"] else "", []).append(x)
        for option, wrong in by_option.items():
            where = ".".join(map(str, wrong[0]["loc"])) if len(wrong) == 1 else option
            why = " or ".join(dict.fromkeys(x["msg"].lower() for x in wrong))
            spelling = f'{option}=["one", "two"]' if any(x["type"] in _LISTS for x in wrong) else None
            errors.append(Diagnostic("EC0204", Severity.ERROR, f"pass {name!r}, option {where}: {why}", hint=spelling))
        return None


_LISTS = frozenset({"tuple_type", "list_type"})
"""pydantic's names for the error that something is no list."""


def _has_default(f: dataclasses.Field[Any]) -> bool:
    return f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING


def pipeline_text(passes: Iterable[Pass]) -> str:
    """The textual form of passes: `parse_pipeline` reads it back."""
    return ",".join(p.spec() for p in passes)
