"""docs/tflite.md lists the ops there are: EC0640 sends people there."""

from __future__ import annotations

from pathlib import Path

from edgec.targets.tflite import ops
from edgec.targets.tflite.rules import RULES

DOC = Path(__file__).parents[2] / "docs" / "tflite.md"


def test_every_op_with_a_rule_is_listed_and_no_other() -> None:
    ops.load()
    section = DOC.read_text().partition("## Ops\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[2].split() for line in section.splitlines() if line.startswith("| ")][1:]
    assert sorted(op for row in rows for op in row) == sorted(RULES)
