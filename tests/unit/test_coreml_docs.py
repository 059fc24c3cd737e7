"""docs/coreml.md lists the ops there are (EC0677 sends people there), the targets, precisions and options."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgec.plugins import Registry
from edgec.specs.schema import builtin_target
from edgec.targets.coreml import ops
from edgec.targets.coreml.options import CoreMlOptions
from edgec.targets.coreml.rules import RULES

DOC = (Path(__file__).parents[2] / "docs" / "coreml.md").read_text()


def section(title: str) -> str:
    return DOC.partition(f"## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """Cells of the section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_every_op_with_a_rule_is_listed_and_no_other() -> None:
    ops.load()
    by_family = {family: names.split() for family, names in rows("Ops")}
    real: dict[str, list[str]] = {}
    for op, rule in sorted(RULES.items()):
        real.setdefault(rule.emit.__module__.rpartition(".")[2], []).append(op)
    assert by_family == real


def test_the_targets_are_those_there_are() -> None:
    registry = Registry()
    real = {n for n in registry.targets() if registry.target(n).spec().family == "coreml"}
    assert {row[0].strip("`") for row in rows("Targets")} == real


@pytest.mark.parametrize("target", ["iphone", "iphone-ios18", "macos", "macos15"])
def test_every_precision_is_explained(target: str) -> None:
    told = {name.strip("` ") for row in rows("Precisions") for name in row[0].replace("(default)", "").split(",")}
    assert set(builtin_target(target).choices) <= told


def test_every_option_is_explained() -> None:
    options = set(CoreMlOptions.HELP) - {"timeout"}
    assert not {o for o in options if f"`{o}`" not in DOC and f"{o}=" not in DOC}
