"""The node tests of the onnx package whose ops training knows: torch gives what ONNX Runtime gives."""

from __future__ import annotations

from typing import Any

import node_cases
import numpy as np
import pytest
import torch

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.training import TorchGraph
from edgec.training.ops import OPS

JUDGED = 900
"""At least so many cases are of known ops, have a kernel in ONNX Runtime, and are not refused."""

REFUSED = (
    "dilations", "training mode", "mask", "only numbers", "batch_dims", "Sequence", "peepholes", "indices", "of nothing",
    "of a region", "antialias", "keep_aspect_ratio_policy", "reduction",
)  # fmt: skip
"""What is said of the forms of known ops that have no counterpart."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "op" in metafunc.fixturenames:
        metafunc.parametrize("op", [op for op in node_cases.cases_by_op() if op in OPS or op == "If"])


@pytest.fixture(scope="module")
def judged() -> list[str]:
    return []


def _differs(want: Any, got: torch.Tensor) -> bool:
    a, b = np.asarray(want), got.numpy()
    if a.shape != b.shape:
        return True
    if a.dtype.kind not in "biu":  # half types are computed in float32 here
        loose = a.dtype.itemsize < 4
        kept = np.allclose(
            b, a.astype(np.float32), rtol=1e-2 if loose else 1e-4, atol=1e-3 if loose else 1e-5, equal_nan=True
        )
        return not kept
    return not (a.astype(np.int64) == b.astype(np.int64)).all()


def test_cases_of(op: str, judged: list[str]) -> None:
    wrong = []
    for case in node_cases.cases_by_op()[op]:
        if not {n.op_type for n in case.model.graph.node} <= {*OPS, "If"}:
            continue
        for inputs, _ in case.data_sets:
            feeds = dict(zip((v.name for v in case.model.graph.input), inputs, strict=False))
            want = node_cases.answers(case.model, feeds)
            if want is None:
                continue
            try:
                with torch.no_grad():
                    got = TorchGraph(Graph.from_proto(case.model)).run(feeds)
            except EdgecError as e:
                if e.diagnostics[0].code != "EC0321" or not any(reason in str(e) for reason in REFUSED):
                    wrong.append(f"{case.name}: {e}")
                continue
            judged.append(case.name)
            wrong += [f"{case.name}: {n}" for a, (n, b) in zip(want, got.items(), strict=True) if _differs(a, b)]
    assert not wrong


def test_that_many_were_judged(judged: list[str], request: pytest.FixtureRequest) -> None:
    """Only of a whole run: -k takes some out."""
    if not request.config.option.keyword and not any("::" in a for a in request.config.args):
        assert len(judged) >= JUDGED
