"""ONNX's own node tests, written for opset 1 to 23, compute the same in ONNX Runtime once they are at opset 24."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.passes.prepare.upgrade_opset import UpgradeOpset
from edgec.pipeline import PassContext

MAY_REFUSE = ("spatial=0", "training mode", "mask output", "Scan 8", "Tile 1")


def node_tests() -> Iterator[Any]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in load_model_tests(kind="node"):
            opset = next((o.version for o in case.model.opset_import if o.domain == ""), 0) if case.model else 0
            if 0 < opset < 24:
                yield case


def session(model: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feeds(case: Any) -> dict[str, Any]:
    given = case.data_sets[0][0] if case.data_sets else []
    arrays = [x if isinstance(x, (np.ndarray, list)) else numpy_helper.to_array(x) for x in given]
    return {v.name: a for v, a in zip(case.model.graph.input, arrays, strict=False)}


def test_node_tests_compute_the_same(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    file = tmp_path / "case.onnx"
    for case in node_tests():
        onnx.save(case.model, file)
        try:
            inputs = feeds(case)
            want = session(file.read_bytes()).run(None, inputs)
        except Exception:  # noqa: BLE001  whatever ONNX Runtime cannot run there is nothing to compare with; counted
            counts["ONNX Runtime cannot"] += 1
            continue
        try:
            graph = Graph.load(file)
            UpgradeOpset().run(graph, PassContext())
            got = session(graph.to_bytes()).run(None, inputs)
        except EdgecError as e:
            counts["refused"] += 1
            if not any(reason in str(e) for reason in MAY_REFUSE):
                wrong.append(f"{case.name}: {e}")
            continue
        except Exception as e:  # noqa: BLE001  ONNX Runtime raises its own types for a graph it cannot load
            wrong.append(f"{case.name}: {type(e).__name__}: {e}")
            continue
        counts["compared"] += 1
        wrong += [f"{case.name}: {d}" for a, b in zip(want, got, strict=True) if (d := difference(a, b))]
    assert not wrong, "\n".join([f"{len(wrong)} differ", *wrong[:20]])
    assert counts["compared"] > 300, counts


def difference(want: Any, got: Any) -> str | None:
    if not isinstance(want, np.ndarray):
        return None if type(want) is type(got) else f"{type(got).__name__} instead of {type(want).__name__}"
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"{got.dtype}{got.shape} instead of {want.dtype}{want.shape}"
    if want.dtype.kind == "f":
        return None if np.allclose(got, want, rtol=1e-5, atol=1e-6, equal_nan=True) else "values differ"
    return None if (want == got).all() else "values differ"
