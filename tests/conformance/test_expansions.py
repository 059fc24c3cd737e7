"""The node tests of the onnx package, their op expanded: same answers, and most of them expanded at all."""

from __future__ import annotations

from typing import Any

import node_cases
import numpy as np
import onnx
import pytest

from edgec.graph import IR_OPSET, Graph
from edgec.infer import infer_shapes
from edgec.passes.legalize.expand_composites import ExpandComposites
from edgec.passes.legalize.expansions import ALTERNATIVES, EXPANSIONS
from edgec.passes.prepare.constants_to_initializers import ConstantsToInitializers
from edgec.pipeline import PassContext

WITHOUT_CASES = {"BitwiseAnd", "BitwiseOr", "CastLike", "GlobalLpPool", "MeanVarianceNormalization"}
"""Ops the package has no fitting node test of; tests/unit/test_expansions.py covers them."""

OTHERWISE = {
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}
"""Cases whose answers ONNX Runtime does not give either: they take input size * scale, unrounded, for the output size."""

EXPANDED = 475
"""At least so many cases are expanded and right."""


def _graph(case: Any, inputs: list[Any], *, freeze: bool) -> Graph | None:
    """The case in the IR's opset; with `freeze`, inputs after the first that are no float tensors as weights."""
    proto = onnx.ModelProto.FromString(case.model.SerializeToString())
    if [o.domain for o in proto.opset_import] != [""] or len(proto.graph.node) > 2:
        return None
    proto.opset_import[0].version = IR_OPSET
    try:  # later definitions that only added types are the same; others the checker refuses, as it does types
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
    if not all(isinstance(a, np.ndarray | np.generic) for a in inputs):
        return None
    if freeze:
        for i, (v, a) in enumerate(zip(list(proto.graph.input), inputs, strict=True)):
            if (i > 0 and np.asarray(a).dtype.kind != "f") or v.name in ("roi", "scales", "weight", "M"):
                proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(a), v.name))
                proto.graph.input.remove(v)
    graph = Graph.from_proto(proto)
    ConstantsToInitializers().run(graph, PassContext())
    infer_shapes(graph)
    return graph


def expanded(case: Any, inputs: list[Any], op: str) -> tuple[Graph | None, str]:
    """The case after expansion, or why not. Tried with all inputs first, then with parameters as weights."""
    why = "not in this opset, or no tensors"
    for freeze in (False, True):
        graph = _graph(case, inputs, freeze=freeze)
        if graph is None:
            continue
        context = PassContext()
        if ExpandComposites((op,)).run(graph, context).changed:
            return graph, ""
        why = next((r for w in context.rejections.values() for r in w.values()), "no match")
    return None, why


def answers(graph: Graph, feeds: dict[str, Any]) -> list[Any]:
    """By ONNX Runtime; where that has no kernel for a type, by the onnx package's reference implementation."""
    proto = graph.to_proto()
    got = node_cases.answers(proto, feeds)
    if got is not None:
        return list(got)
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(proto).run(None, feeds))


def _wide(arrays: list[Any]) -> list[Any]:
    """bfloat16 as float32; NumPy's own functions do not know it."""
    return [a.astype(np.float32) if "bfloat16" in str(a.dtype) else a for a in arrays]


@pytest.fixture(scope="module")
def counts() -> dict[str, tuple[int, int]]:
    return {}


@pytest.mark.parametrize("op", [*EXPANSIONS, *ALTERNATIVES])
def test_cases(op: str, counts: dict[str, tuple[int, int]]) -> None:
    right, left, wrong = 0, [], []
    for case in node_cases.cases_by_op().get(op.partition(".")[0], ()):
        if case.name.endswith("_expanded") or case.name in OTHERWISE:
            continue
        for inputs, outputs in case.data_sets:
            graph, why = expanded(case, inputs, op)
            if graph is None:
                left.append(f"{case.name}: {why}")
                continue
            graph.verify()
            feeds = dict(zip((v.name for v in case.model.graph.input), inputs, strict=False))
            names = {v.name for v in graph.inputs}
            half = any(getattr(a, "dtype", None) == np.float16 for a in outputs)
            try:
                got = answers(graph, {k: v for k, v in feeds.items() if k in names})
            except Exception as e:  # noqa: BLE001  collected, and reported below
                wrong.append(f"{case.name}: {str(e)[:300]}")
                continue
            rtol, atol = (2e-3, 2e-3) if half else (1e-4, 2e-6)
            if any("bfloat16" in str(getattr(a, "dtype", "")) for a in outputs):
                rtol, atol, outputs, got = 2e-2, 2e-2, _wide(outputs), _wide(got)
            found = [node_cases.differs(a, b, rtol, atol) for a, b in zip(outputs, got, strict=True)]
            if any(found):
                wrong.append(f"{case.name}: {next(f for f in found if f)}")
            else:
                right += 1
    counts[op] = (right, len(left))
    print(f"{op}: {right} right, {len(left)} not expanded", *left, sep="\n  ")
    assert not wrong, "\n".join(wrong)
    assert right or op in WITHOUT_CASES, left


def test_most_cases_are_expanded(counts: dict[str, tuple[int, int]]) -> None:
    """Guards against expansions that refuse everything; meaningful only where all of test_cases ran before."""
    if len(counts) == len(EXPANSIONS) + len(ALTERNATIVES):
        assert sum(right for right, _ in counts.values()) >= EXPANDED
