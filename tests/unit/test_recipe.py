"""Pipelines as text and as YAML: one thing in two spellings, every mistake told at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.pipeline import Pass, PassContext, PassResult, Repeat, option_text
from edgec.plugins import Catalog, Registry
from edgec.recipe import build_passes, parse_pipeline, pipeline_text


@dataclass(frozen=True)
class Tune(Pass):
    name: ClassVar[str] = "tune"
    level: int = 0
    ratio: float = 0.5
    method: str = "minmax"
    strict: bool = False
    label: str | None = None
    ops: tuple[str, ...] = ()
    max_bytes: int = 1024

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        return PassResult(False)


@dataclass(frozen=True)
class Plain(Pass):
    name: ClassVar[str] = "plain"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        return PassResult(False)


@pytest.fixture(scope="module")
def known() -> Catalog[Pass]:
    return catalog()


def catalog() -> Catalog[Pass]:
    c: Catalog[Pass] = Catalog("Pass")
    c.add("tune", "tests", Tune)
    c.add("plain", "tests", Plain)
    return c


def codes(error: pytest.ExceptionInfo[EdgecError]) -> list[str]:
    return [d.code for d in error.value.diagnostics]


# --- text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", []),
        ("  ", []),
        ("plain", [{"plain": {}}]),
        (" plain , tune ", [{"plain": {}}, {"tune": {}}]),
        ("tune{}", [{"tune": {}}]),
        ("tune{level=3}", [{"tune": {"level": 3}}]),
        ("tune{level=3 ratio=0.25  strict=true}", [{"tune": {"level": 3, "ratio": 0.25, "strict": True}}]),
        ("tune{max-bytes=9}", [{"tune": {"max_bytes": 9}}]),
        ("tune{label=null}", [{"tune": {"label": None}}]),
        ("tune{method=a-b_c.d/e:f}", [{"tune": {"method": "a-b_c.d/e:f"}}]),
        ('tune{method="two words, } and a \\" mark"}', [{"tune": {"method": 'two words, } and a " mark'}}]),
        ('tune{ops=["Conv","Add"]}', [{"tune": {"ops": ["Conv", "Add"]}}]),
        ("[plain,tune{level=1}]*", [{"repeat": [{"plain": {}}, {"tune": {"level": 1}}]}]),
        ("plain,[tune,[plain]*]*", [{"plain": {}}, {"repeat": [{"tune": {}}, {"repeat": [{"plain": {}}]}]}]),
    ],
)
def test_parse(text: str, steps: list[Any]) -> None:
    assert parse_pipeline(text) == steps


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("plain,", 7, "missing after the comma"),
        ("plain tune", 7, "a comma is missing"),
        (",plain", 1, "a pass name is expected"),
        ("tune{level}", 6, "name=value"),
        ("tune{level=}", 12, "a value is missing"),
        ("tune{level=1", 13, "name=value"),
        ("tune{=1}", 6, "name=value"),
        ("tune}", 5, "a comma is missing"),
        ("[plain]", 7, "a group ends with"),
        ("[plain", 7, "a group ends with"),
        ("plain]*", 6, "a comma is missing"),
        ('tune{method="open}', 13, "not JSON"),
        ("tune{ops=[1,}", 10, "not JSON"),
        ("[plain,]*", 8, "missing after the comma"),
        ("!", 1, "a pass name is expected"),
    ],
)
def test_syntax_errors_have_a_column(text: str, column: int, says: str) -> None:
    with pytest.raises(EdgecError, match="EC0201") as e:
        parse_pipeline(text)
    (d,) = e.value.diagnostics
    assert d.location.column == column
    assert says in d.message


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        steps = parse_pipeline(text)
    except EdgecError as e:
        if [d.code for d in e.diagnostics] != ["EC0201"]:
            raise
    else:
        assert steps or not text.strip()


# --- steps to passes -----------------------------------------------------------------------------------------------------


def test_options_arrive(known: Catalog[Pass]) -> None:
    (p,) = build_passes([{"tune": {"level": 2, "ops": ["Conv"], "max-bytes": 5}}], known)
    assert p == Tune(level=2, ops=("Conv",), max_bytes=5)


def test_bare_names_and_empty_options(known: Catalog[Pass]) -> None:
    assert build_passes(["plain", {"plain": None}, {"plain": {}}], known) == [Plain()] * 3


def test_groups_nest(known: Catalog[Pass]) -> None:
    (p,) = build_passes([{"repeat": ["plain", {"repeat": ["plain"]}]}], known)
    assert isinstance(p, Repeat)
    assert [q.name for q in p.flat()] == ["plain", "plain"]


@pytest.mark.parametrize(
    ("step", "code", "says"),
    [
        ("plan", "EC0202", "did you mean 'plain'"),
        ("nothing-like-it", "EC0202", "edgec passes"),
        ({"plain": {"level": 1}}, "EC0203", "no option ['level']"),
        ({"tune": {"lvel": 1}}, "EC0203", "its options: level"),
        ({"tune": {"level": "high"}}, "EC0204", "option level"),
        ({"tune": {"level": "4"}}, "EC0204", "option level"),
        ({"tune": {"level": True}}, "EC0204", "option level"),
        ({"tune": {"ops": "Conv"}}, "EC0204", "option ops"),
        ({"plain": {}, "tune": {}}, "EC0205", "names one pass"),
        ({}, "EC0205", "names one pass"),
        (3, "EC0205", "names one pass"),
        (["plain"], "EC0205", "names one pass"),
        ({"tune": 3}, "EC0205", "options"),
        ({"tune": ["level"]}, "EC0205", "options"),
        ({"repeat": {"plain": {}}}, "EC0205", "list of steps"),
        ({"repeat": "plain"}, "EC0205", "list of steps"),
    ],
)
def test_mistakes(step: Any, code: str, says: str, known: Catalog[Pass]) -> None:
    with pytest.raises(EdgecError) as e:
        build_passes([step], known)
    assert codes(e) == [code]
    assert says in str(e.value)


def test_all_mistakes_at_once(known: Catalog[Pass]) -> None:
    steps: list[Any] = ["plan", {"tune": {"level": "x", "ratio": "y"}}, {"repeat": ["none", {"tune": {"no": 1}}]}]
    with pytest.raises(EdgecError) as e:
        build_passes(steps, known)
    assert codes(e) == ["EC0202", "EC0204", "EC0204", "EC0202", "EC0203"]


# --- round trips -----------------------------------------------------------------------------------------------------------

tunes = st.builds(
    Tune,
    level=st.integers(-(2**40), 2**40),
    ratio=st.floats(allow_nan=False),
    method=st.text(max_size=12),
    strict=st.booleans(),
    label=st.none() | st.text(max_size=6) | st.sampled_from(["null", "1e5", "NaN", "Infinity", "true", "-1", "0x1"]),
    ops=st.lists(st.text(max_size=5), max_size=3).map(tuple),
)
trees = st.recursive(
    tunes | st.just(Plain()),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda ps: Repeat(tuple(ps))),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.lists(trees, max_size=4))
def test_passes_to_text_and_back(passes: list[Pass]) -> None:
    assert build_passes(parse_pipeline(pipeline_text(passes)), catalog()) == passes


@settings(deadline=None)
@given(st.lists(trees, max_size=4))
def test_text_and_yaml_say_the_same(passes: list[Pass]) -> None:
    """What the text reads as, written to YAML and read again, makes the same passes."""
    steps = parse_pipeline(pipeline_text(passes))
    again = yaml.safe_load(yaml.safe_dump(steps))
    assert build_passes(again, catalog()) == passes


@settings(deadline=None)
@given(st.floats(allow_nan=False) | st.integers() | st.booleans() | st.none() | st.text(max_size=20))
def test_every_option_value_survives(value: Any) -> None:
    ((step,),) = [parse_pipeline(f"tune{{label={option_text(value)}}}")]
    assert isinstance(step, dict)
    got = step["tune"]["label"]
    assert got == value
    assert type(got) is type(value)


def test_only_changed_options_are_spelled_out() -> None:
    assert Tune().spec() == "tune"
    assert Tune(level=3, ops=("a", "b"), max_bytes=1).spec() == 'tune{level=3 ops=["a","b"] max-bytes=1}'


def test_every_registered_pass_has_a_name_that_reads_back() -> None:
    known = Registry().passes()
    for name in known:
        assert parse_pipeline(name) == [{name: {}}]
        assert known[name].name == name


def test_an_option_of_two_types_is_one_error_and_a_list_is_spelt_out() -> None:
    with pytest.raises(EdgecError) as e:
        build_passes(parse_pipeline("prune{flash=true keep=conv1}"), Registry().passes())
    found = {d.message: d.hint for d in e.value.diagnostics}
    assert list(found) == [
        "pass 'prune', option flash: input should be a valid number or input should be a valid string",
        "pass 'prune', option keep: input should be a valid array",
    ]
    assert list(found.values()) == [None, 'keep=["one", "two"]']
