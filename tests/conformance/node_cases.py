"""The node tests the onnx package carries, grouped by operator: models of one op (or its expansion) and their answers."""

from __future__ import annotations

import warnings
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort


@cache
def cases_by_op() -> dict[str, list[Any]]:
    """Op type of a model's first real node -> its `onnx.backend.test` cases."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # the cases are made on import, some of them by overflowing on purpose
        cases = load_model_tests(kind="node")
    groups: dict[str, list[Any]] = defaultdict(list)
    for case in cases:
        nodes = case.model.graph.node
        first = next((n for n in nodes if n.op_type != "Constant"), nodes[0])
        groups[first.op_type].append(case)
    return dict(sorted(groups.items()))


def run(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """The outputs of a model in ONNX Runtime, its own optimiser off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = {v.name for v in session.get_inputs()}
    return list(session.run(None, {k: v for k, v in feeds.items() if k in taken}))


def answers(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any] | None:
    """As `run`; None where ONNX Runtime has no kernel for the model or does not take its inputs."""
    try:
        return run(proto, feeds)
    except Exception:  # noqa: BLE001  any refusal of the runtime's takes the case out of the suite; the suite counts them
        return None


def differs(want: Any, got: Any, rtol: float, atol: float) -> str | None:
    """What is wrong with an answer, or None. Sequences and optionals are compared element by element."""
    if isinstance(want, list) or isinstance(got, list):
        if not isinstance(want, list) or not isinstance(got, list) or len(want) != len(got):
            return "another sequence"
        return next((d for a, b in zip(want, got, strict=True) if (d := differs(a, b, rtol, atol))), None)
    if want is None or got is None:
        return None if want is got else "a value where none is due, or none"
    if isinstance(want, dict):
        return None if want == got else "another map"
    a, b = np.asarray(want), np.asarray(got)
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{b.dtype}{list(b.shape)} instead of {a.dtype}{list(a.shape)}"
    if a.dtype.kind in "fc":
        with np.errstate(all="ignore"):
            same = np.isclose(b, a, rtol=rtol, atol=atol, equal_nan=True)
        return None if same.all() else f"values differ by up to {np.nanmax(np.abs(b - a))}"
    return None if (a == b).all() else "values differ"
