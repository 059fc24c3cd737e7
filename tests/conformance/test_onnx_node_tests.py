"""Every node test of the onnx package that ONNX Runtime passes gives the same answer after the default float pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import node_cases
import numpy as np
import onnx
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.pipeline import PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.specs.schema import builtin_pipeline

HERE = Path(__file__).parent

JUDGED = 1300
"""At least so many of the package's 1,884 cases have a kernel in ONNX Runtime and inputs its Python API takes."""

REFUSED = {"test_scan_sum": "EC0304"}
"""Cases the pipeline refuses with a reason: Scan 8 has a batch axis no later version has."""

NOT_FOLDED = {"Bernoulli", "RandomNormalLike", "RandomUniformLike", "Multinomial"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "op" in metafunc.fixturenames:
        metafunc.parametrize("op", list(node_cases.cases_by_op()))


@pytest.fixture(scope="module")
def manager() -> PassManager:
    return PassManager(build_passes(builtin_pipeline("float").steps, Registry().passes()))


@pytest.fixture(scope="module")
def judged() -> list[str]:
    return []


def optimised(proto: onnx.ModelProto, manager: PassManager) -> onnx.ModelProto:
    graph = Graph.from_proto(proto)
    manager.run(graph)
    return graph.to_proto()


def interface(proto: onnx.ModelProto) -> list[tuple[str, Any]]:
    """Names and element types of inputs and outputs."""
    weights = {t.name for t in proto.graph.initializer}
    inputs = [v for v in proto.graph.input if v.name not in weights]
    return [
        (v.name, v.type.WhichOneof("value") or v.type.tensor_type.elem_type) for v in (*inputs, *proto.graph.output)
    ]


def cases(op: str) -> list[tuple[Any, dict[str, Any], list[Any]]]:
    """Case, inputs by name, and the runtime's answers, for those the runtime passes."""
    found = []
    for case in node_cases.cases_by_op()[op]:
        for inputs, outputs in case.data_sets:
            feeds = dict(zip((v.name for v in case.model.graph.input), inputs, strict=False))
            want = node_cases.answers(case.model, feeds)
            if want is None or len(want) != len(outputs):
                continue
            if not any(node_cases.differs(a, b, case.rtol, case.atol) for a, b in zip(outputs, want, strict=True)):
                found.append((case, feeds, want))
    return found


def compare(case: Any, want: list[Any], got: list[Any]) -> list[str]:
    """What differs. Half precision gets the case's own tolerance, everything else a tighter one."""
    half = any(getattr(a, "dtype", None) == np.float16 for a in want)
    rtol, atol = (case.rtol, max(case.atol, 1e-3)) if half else (1e-4, 1e-6)
    assert len(want) == len(got)
    found = (node_cases.differs(a, b, rtol, atol) for a, b in zip(want, got, strict=True))
    return [f"{case.name}: {d}" for d in found if d]


def test_node(op: str, manager: PassManager, judged: list[str]) -> None:
    wrong: list[str] = []
    for case, feeds, want in cases(op):
        judged.append(case.name)
        if case.name in REFUSED:
            with pytest.raises(EdgecError, match=REFUSED[case.name]):
                optimised(case.model, manager)
            continue
        after = optimised(case.model, manager)
        assert interface(after) == interface(case.model), case.name
        wrong += compare(case, want, node_cases.run(after, feeds))
    assert not wrong, "\n".join(wrong)


def test_most_cases_were_judged(judged: list[str], request: pytest.FixtureRequest) -> None:
    """Guards against a suite that silently judges nothing; meaningful only where all of test_node ran before."""
    ran = sum(1 for item in request.session.items if getattr(item, "originalname", "") == "test_node")
    if ran == len(node_cases.cases_by_op()):
        assert len(judged) >= JUDGED


def test_node_with_known_inputs(op: str, manager: PassManager) -> None:
    """The same with inputs turned into weights: what can be computed when compiling is computed right."""
    wrong: list[str] = []
    for case, feeds, want in cases(op):
        if case.name in REFUSED or op in NOT_FOLDED:
            continue
        frozen = _freeze(case.model, feeds)
        if frozen is None or node_cases.answers(frozen, {}) is None:
            continue
        wrong += compare(case, want, node_cases.run(optimised(frozen, manager), {}))
    assert not wrong, "\n".join(wrong)


def _freeze(model: onnx.ModelProto, feeds: dict[str, Any]) -> onnx.ModelProto | None:
    """The model with its inputs as initializers, or None where an input is no tensor."""
    if not feeds or not all(isinstance(a, np.ndarray | np.generic) for a in feeds.values()):
        return None
    frozen = onnx.ModelProto()
    frozen.CopyFrom(model)
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    for name, array in feeds.items():
        tensor = onnx.numpy_helper.from_array(np.asarray(array), name)
        if tensor.data_type != types[name]:
            return None
        frozen.graph.initializer.append(tensor)
    kept = [v for v in frozen.graph.input if v.name not in feeds]
    del frozen.graph.input[:]
    frozen.graph.input.extend(kept)
    return frozen
