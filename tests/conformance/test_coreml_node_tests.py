"""The node tests of the onnx package as Core ML packages, decoded and evaluated: how many pass, that none is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import coreml_cases
import lowered_cases
import node_cases
import pytest

from edgec.toolchain import Toolchain

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]


PASSING = 1476
"""At least so many cases are right: a change may raise the number, never lower it."""


@pytest.fixture(scope="module")
def results(installed: Callable[[str], Toolchain], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Op -> what became of its cases."""
    toolchain = installed("coreml")
    found: dict[str, list[Any]] = defaultdict(list)
    tasks, ops = [], []
    for op, cases in node_cases.cases_by_op().items():
        for case in cases:
            made = coreml_cases.node_case(case.name, case.model, *case.data_sets[0])
            if isinstance(made, lowered_cases.Task):
                tasks.append(made)
                ops.append(op)
            else:
                found[op].append(made)
    for op, result in zip(ops, coreml_cases.run_all(tasks, toolchain, tmp_path_factory.mktemp("coreml")), strict=True):
        found[op].append(result)
    return found


def _named(results: dict[str, list[Any]], verdict: str) -> list[str]:
    return [f"{r.name}: {r.why} {r.ops}" for rows in results.values() for r in rows if r.verdict == verdict]


def test_none_is_wrong(results: dict[str, list[Any]]) -> None:
    assert not (wrong := _named(results, "wrong")), "\n".join(wrong)


def test_coremltools_refuses_none(results: dict[str, list[Any]]) -> None:
    """What MIL cannot say is refused by the lowering, with a reason, before coremltools sees it."""
    assert not (crashed := _named(results, "crashed")), "\n".join(crashed)


def test_so_many_pass(results: dict[str, list[Any]]) -> None:
    counts = Counter(r.verdict for rows in results.values() for r in rows)
    causes = Counter((r.code, r.why) for rows in results.values() for r in rows if r.verdict == "refused")
    print(dict(counts), *(f"{n:4} {code} {why}" for (code, why), n in causes.most_common()), sep="\n")
    assert counts["pass"] >= PASSING


def test_refusals_say_why(results: dict[str, list[Any]]) -> None:
    """Every refusal of the compiler has a code and a sentence; "none" is what never reached it."""
    refused = [r for rows in results.values() for r in rows if r.verdict == "refused"]
    assert all(r.why for r in refused)
    assert {r.code for r in refused} <= {"none", "EC0304", "EC0677", "EC0678"}
