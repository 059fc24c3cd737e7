"""Options of targets: one parser for dataclasses, checked before a model is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

import edgec
from edgec.diagnostics import EdgecError
from edgec.plugins import Registry
from edgec.target_options import Bytes, parse_options


@dataclass(frozen=True)
class Options:
    kind: Literal["a", "b"] = "a"
    fast: bool = False
    level: int = 3
    seconds: float = 1.5
    title: str | None = None
    room: Bytes | None = None
    two_words: bool = False


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Options()),
        ({"kind": "b", "fast": "True", "level": "2", "seconds": "60"}, Options("b", True, 2, 60.0)),
        ({"fast": True, "level": 0, "title": 7}, Options(fast=True, level=0, title="7")),
        ({"two-words": "true"}, Options(two_words=True)),
        ({"two_words": "true"}, Options(two_words=True)),
        ({"title": None, "room": None}, Options()),
        ({"room": "300KB"}, Options(room=Bytes(300_000))),
        ({"room": "300 KiB"}, Options(room=Bytes(307_200))),
        ({"room": "1.5mb"}, Options(room=Bytes(1_500_000))),
        ({"room": 4096}, Options(room=Bytes(4096))),
    ],
)
def test_values(given: dict[str, Any], expected: Options) -> None:
    assert parse_options(Options, given) == expected


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ({"kind": "c"}, "EC0463", "a, b"),
        ({"fast": "maybe"}, "EC0463", "true or false"),
        ({"level": "high"}, "EC0463", "a number"),
        ({"level": True}, "EC0463", "a number"),
        ({"level": -1}, "EC0463", "negative"),
        ({"seconds": "nan"}, "EC0463", "a number"),
        ({"room": "much"}, "EC0463", "300KB"),
        ({"room": "-3KB"}, "EC0463", "300KB"),
        ({"roam": 1}, "EC0103", "room"),
        ({"__class__": 1}, "EC0103", "there is no option"),
    ],
)
def test_mistakes(given: dict[str, Any], code: str, said: str) -> None:
    with pytest.raises(EdgecError, match=f"(?s){code}.*{said}"):
        parse_options(Options, given)


@pytest.mark.parametrize(
    ("target", "options", "code"),
    [
        ("android", {"io-layout": "nchw"}, "EC0463"),
        ("cortex-m4", {"flash": "lots"}, "EC0463"),
        ("android", {"io-layuot": "nhwc"}, "EC0103"),
        ("rk3588", {"optimization-level": "high"}, "EC0463"),
        ("rk3588", {"io-layout": "nhwc"}, "EC0103"),
        ("x86-64", {"flash": "1MB"}, "EC0103"),
    ],
)
def test_they_are_checked_before_anything_else(target: str, options: dict[str, Any], code: str) -> None:
    with pytest.raises(EdgecError, match=code):
        edgec.compile(Path("there is no such model.onnx"), target=target, options=options)


@pytest.mark.parametrize("name", Registry().targets())
def test_a_type_has_the_options_that_help_names(name: str) -> None:
    target = Registry().target(name)
    if target.option_type is not None:
        fields = {f.replace("_", "-") for f in target.option_type.__dataclass_fields__ if f != "HELP"}
        assert set(target.options) <= fields
        parse_options(target.option_type, {})


def test_microcontrollers_have_no_metadata() -> None:
    with pytest.raises(EdgecError, match=r"EC0103.*labels"):
        edgec.compile(_model(), target="cortex-m4", options={"labels": "labels.txt"})


def test_a_precision_that_is_not_offered_says_why() -> None:
    with pytest.raises(EdgecError, match=r"EC0403.*refuses to build without quantisation"):
        edgec.compile(_model(), target="rv1106", precision="fp16")


def _model() -> edgec.Graph:
    return edgec.Graph.from_text("""<ir_version: 10, opset_import: ["": 21]>
        net (float[1,2,4,4] x) => (float[1,2,4,4] y) { y = Relu(x) }""")
