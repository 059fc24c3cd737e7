"""Every ONNX backend node test: in an older opset it computes the same numbers, or the pass says why it cannot."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import IR_OPSET, Graph
from edgec.passes.legalize.lower_opset import LowerOpset
from edgec.pipeline import PassContext
from edgec.testing import Arrays, run

RANDOM = ("test_bernoulli", "test_dropout", "test_training_dropout", "test_random", "test_multinomial")


@pytest.fixture(scope="module")
def cases() -> list[tuple[str, Graph, Arrays, list[npt.NDArray[Any]]]]:
    """Name, graph in the newest opset that has the same definitions, inputs and what ONNX Runtime makes of them."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases provoke overflows on purpose
        found = collect_testcases(None)
    out = []
    for case in found:
        model = case.model
        if case.name.startswith(RANDOM) or [o.domain for o in model.opset_import] != [""] or not case.data_sets:
            continue
        inputs = case.data_sets[0][0]
        if not all(isinstance(x, (np.ndarray, np.generic)) for x in inputs):
            continue  # sequences and optionals
        model = onnx.ModelProto.FromString(model.SerializeToString())
        version = model.opset_import[0].version
        if version > IR_OPSET:
            continue
        if all(onnx.defs.get_schema(n.op_type, IR_OPSET).since_version <= version for n in model.graph.node):
            model.opset_import[0].version = IR_OPSET
        graph = Graph.from_proto(model)
        if any(v.shape is None or v.dtype is None for v in graph.inputs):
            continue
        feeds = {v.name or "": np.asarray(x) for v, x in zip(graph.inputs, inputs, strict=False)}
        try:
            want = run(graph, feeds)
        except Exception as e:
            if type(e).__module__.startswith("onnxruntime") or isinstance(e, (RuntimeError, ValueError)):
                continue  # it lacks the op or the type
            raise
        if all(isinstance(y, np.ndarray) for y in want):  # not a sequence
            out.append((case.name, graph, feeds, want))
    assert len(out) > 500
    return out


@pytest.mark.parametrize("to", [21, 19, 17, 13])
def test_every_node_case_lowers_or_is_refused(
    cases: list[tuple[str, Graph, Arrays, list[npt.NDArray[Any]]]], to: int
) -> None:
    """One test for each target opset: the list of wrong cases is what one wants to read."""
    wrong: list[str] = []
    lowered = refused = 0
    for name, before, feeds, want in cases:
        if before.opset <= to:
            continue
        after = before.clone()
        try:
            LowerOpset(to).run(after, PassContext())
        except EdgecError:
            refused += 1
            continue
        lowered += 1
        try:
            got = run(after, feeds)
        except Exception as e:  # noqa: BLE001  collected, and reported below
            if "NOT_IMPLEMENTED" not in str(e):  # the runtime has no kernel of this old version: nothing to compare
                wrong.append(f"{name}: {str(e)[:200]}")
            continue
        if not all(_same(np.asarray(a), np.asarray(b)) for a, b in zip(want, got, strict=True)):
            wrong.append(f"{name}: numbers differ")
    assert not wrong, f"{len(wrong)} of {lowered} wrong ({refused} refused):\n" + "\n".join(wrong)
    assert lowered > 300


def _same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    tolerance = 1e-2 if a.dtype == np.float16 else 1e-4
    peak = float(
        np.abs(a[np.isfinite(a)]).max(initial=1)
    )  # what sums to 0 among large numbers is off by their rounding
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance * (1 if peak < 100 else peak / 100), equal_nan=True))
