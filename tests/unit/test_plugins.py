"""The registry and `testing.check_plugin`: good plugins are found, bad ones spoil only themselves."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pluggy
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.hookspecs import hookimpl
from edgec.pipeline import Pass, PassContext, PassResult
from edgec.plugins import Registry
from edgec.target import Artifact, EmitJob, Target
from edgec.testing import check_plugin


@dataclass(frozen=True)
class Mine(Pass):
    name: ClassVar[str] = "mine"
    level: int = 1

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        return PassResult(False)


class Board(Target):
    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        return Artifact({"m.onnx": graph.to_bytes()}, entry="m.onnx")


def plugin(**tables: object) -> object:
    """A plugin object with these hooks: `passes={...}`."""

    def hook(name: str, table: object) -> object:
        def give() -> object:
            if isinstance(table, Exception):
                raise table
            return table

        give.__name__ = f"edgec_{name}"
        return hookimpl(give)

    return SimpleNamespace(**{f"edgec_{name}": hook(name, table) for name, table in tables.items()})


def registry(*plugins: object) -> Registry:
    r = Registry(discover=False)
    for i, p in enumerate(plugins):
        r.register(p, f"plugin{i}")
    return r


# --- the registry ------------------------------------------------------------------------------------------------------


def test_builtin_passes_and_targets_come_through_the_same_door() -> None:
    r = Registry()
    assert not [d for d in r.diagnostics if "builtin" in d.message]
    assert r.passes().plugin("fold-bn") == "builtin-passes"
    assert r.targets().plugin("rk3588") == "builtin-targets"


def test_every_builtin_class_loads() -> None:
    r = Registry()
    for catalog in (r.passes(), r.targets()):
        assert len(catalog) > 10
        for name in catalog:
            assert isinstance(catalog[name], type)


def test_listing_imports_nothing() -> None:
    r = registry(plugin(passes={"far": "no.such.module:Class"}))
    assert list(r.passes()) == ["far"]
    assert "far" in r.passes()
    with pytest.raises(EdgecError, match=r"EC0113.*no\.such\.module:Class"):
        r.passes()["far"]


def test_classes_and_strings() -> None:
    found = registry(plugin(passes={"mine": Mine, "cse": "edgec.passes.optimize.cse:CommonSubexpressions"})).passes()
    assert found["mine"] is Mine
    assert found["cse"].name == "cse"
    assert dict(found.items()).keys() == {"mine", "cse"}


def test_registries_are_independent() -> None:
    assert "mine" in registry(plugin(passes={"mine": Mine})).passes()
    assert "mine" not in registry().passes()


def test_a_name_taken_twice_names_both_plugins() -> None:
    r = registry(plugin(passes={"mine": Mine}), plugin(passes={"mine": Mine, "other": Mine}))
    with pytest.raises(EdgecError, match=r"EC0112.*'plugin0', 'plugin1'|EC0112.*'plugin1', 'plugin0'"):
        r.passes()["mine"]
    assert r.passes()["other"] is Mine


@pytest.mark.parametrize("ref", [42, "edgec.graph:Graph", Graph, Board])
def test_what_is_no_pass_is_told(ref: object) -> None:
    with pytest.raises(EdgecError, match=r"EC0114.*not a subclass of edgec\.Pass"):
        registry(plugin(passes={"x": ref})).passes()["x"]


def test_a_hook_that_fails_spoils_only_its_plugin() -> None:
    r = registry(plugin(passes=RuntimeError("broken")), plugin(passes=3), plugin(passes={"mine": Mine}))
    assert list(r.passes()) == ["mine"]
    assert [d.code for d in r.diagnostics] == ["EC0111", "EC0111"]
    assert "RuntimeError: broken" in str(r.diagnostics.items[-1]) + str(r.diagnostics.items[0])


class Misspelt:
    @hookimpl
    def edgec_pases(self) -> dict[str, type[Pass]]:
        return {}


def test_misspelt_hooks_are_refused_with_a_hint() -> None:
    for bad in (plugin(pases={}), Misspelt()):
        with pytest.raises(pluggy.PluginValidationError, match="edgec_pases"):
            registry(bad)


def test_a_forgotten_decorator_is_refused() -> None:
    with pytest.raises(pluggy.PluginValidationError, match="lacks the @hookimpl"):
        registry(SimpleNamespace(edgec_passes=dict))


def test_a_refused_plugin_may_be_registered_once_mended() -> None:
    r = Registry(discover=False)
    bad = SimpleNamespace(edgec_passes=lambda: {"mine": Mine})
    with pytest.raises(pluggy.PluginValidationError):
        r.register(bad, "one")
    bad.edgec_passes = hookimpl(lambda: {"mine": Mine})
    r.register(plugin(passes={"mine": Mine}), "one")
    assert "mine" in r.passes()


def test_unknown_targets_are_told_with_the_nearest() -> None:
    with pytest.raises(EdgecError, match="EC0101") as e:
        Registry().target("rk3589")
    assert "rk358" in str(e.value) or "rk35" in str(e.value)


def test_targets_know_the_name_they_were_asked_by() -> None:
    r = registry(plugin(targets={"rk3588": Board, "rk3568": Board}))
    assert r.target("rk3568").name == "rk3568"


# --- check_plugin ----------------------------------------------------------------------------------------------------------


def test_a_good_plugin_has_no_findings() -> None:
    assert check_plugin(plugin(passes={"mine": Mine}, targets={"rk3588": Board})) == []


def test_the_builtin_plugins_have_no_findings() -> None:
    import edgec.passes
    import edgec.targets

    assert check_plugin(edgec.passes) == []
    assert check_plugin(edgec.targets) == []


class Loud(Board):
    def pipeline(self, precision: str) -> list[str | dict[str, object]]:
        return ["fold-bn", {"repeat": ["no-such-pass"]}]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (plugin(pases={}), "edgec_pases"),
        (plugin(passes=ValueError("oh")), "ValueError: oh"),
        (plugin(passes={"x": "no.such:Thing"}), "cannot be loaded"),
        (plugin(passes={"x": 3}), "not a subclass"),
        (plugin(passes={"other-name": Mine}), "calls itself 'mine'"),
        (plugin(targets={"nowhere": Board}), "nowhere"),
        (plugin(targets={"rk3588": Loud}), "no pass is called 'no-such-pass'"),
    ],
)
def test_findings(bad: object, says: str) -> None:
    found = check_plugin(bad)
    assert any(says in f for f in found), found


def test_a_forgotten_dataclass_decorator_is_found() -> None:
    class Loose(Pass):
        name: ClassVar[str] = "loose"
        level: int = 1

        def run(self, graph: Graph, ctx: PassContext) -> PassResult:
            return PassResult(False)

    (finding,) = check_plugin(plugin(passes={"loose": Loose}))
    assert "lacks @dataclass(frozen=True): ['level']" in finding
