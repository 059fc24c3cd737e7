"""The node tests of the onnx package as .tflite files in LiteRT: how many pass, that none is wrong, and why others are refused.

For comparison: onnx2tf 2.6.9 gets 495 of the 663 cases in float right, 33 wrong, and writes 72 files that do not run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import lowered_cases
import node_cases
import pytest
import tflite_cases

from edgec.toolchain import Toolchain

pytestmark = pytest.mark.toolchain


PASSING = 1456
"""At least so many cases are right: a change may raise the number, never lower it."""

WITHOUT = {
    # sizes known at run time only, or random numbers
    "Bernoulli", "NonMaxSuppression", "NonZero", "RandomUniformLike",
    # no operators that say them
    "DeformConv", "MaxUnpool", "RoiAlign", "TensorScatter",
    # strings, sequences, optionals
    "LabelEncoder", "RegexFullMatch", "SequenceInsert", "SequenceLength", "SequenceMap", "SplitToSequence", "StringConcat",
    "StringNormalizer", "StringSplit",
    # later than the IR's opset
    "BitCast", "CausalConvWithState", "CumProd", "LinearAttention", "SwiGLU",
    # other domains
    "Adagrad", "Adam", "ArrayFeatureExtractor", "Binarizer", "FlexAttention", "Momentum", "TreeEnsemble",
}  # fmt: skip
"""The first ops of cases of which none passes; of 170 others at least one does."""


@pytest.fixture(scope="module")
def results(installed: Callable[[str], Toolchain], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Op -> what became of its cases."""
    litert = installed("litert")
    found: dict[str, list[Any]] = defaultdict(list)
    tasks, ops = [], []
    for op, cases in node_cases.cases_by_op().items():
        for case in cases:
            made = tflite_cases.node_case(case.name, case.model, *case.data_sets[0])
            if isinstance(made, lowered_cases.Task):
                tasks.append(made)
                ops.append(op)
            else:
                found[op].append(made)
    for op, result in zip(ops, tflite_cases.run_all(tasks, litert, tmp_path_factory.mktemp("tflite")), strict=True):
        found[op].append(result)
    return found


def _named(results: dict[str, list[Any]], verdict: str) -> list[str]:
    return [f"{r.name}: {r.why} {r.ops}" for rows in results.values() for r in rows if r.verdict == verdict]


def test_none_is_wrong(results: dict[str, list[Any]]) -> None:
    assert not (wrong := _named(results, "wrong")), "\n".join(wrong)


def test_none_crashes_or_is_refused_by_the_runtime(results: dict[str, list[Any]]) -> None:
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
    assert {r.code for r in refused} <= {"none", "EC0304", "EC0640", "EC0641", "EC0644", "EC0645"}


def test_every_other_op_has_a_case_that_passes(results: dict[str, list[Any]]) -> None:
    without = {op for op, rows in results.items() if all(r.verdict != "pass" for r in rows)}
    assert without <= WITHOUT
    assert len(results) - len(without) >= 170
