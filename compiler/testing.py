"""For pass and target authors, inside and outside this repository: inputs, equality, and plugin checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, ir

Arrays = dict[str, npt.NDArray[Any]]


def random_inputs(graph: Graph, *, seed: int = 0, free_dim: int = 2) -> Arrays:
    """Inputs by name: normal floats, small non-negative integers, random booleans; `free_dim` for unknown dimensions."""
    rng = np.random.default_rng(seed)
    out: Arrays = {}
    for v in graph.inputs:
        assert v.shape is not None
        assert v.dtype is not None
        assert v.name is not None
        shape = [d if isinstance(d, int) else free_dim for d in v.shape]
        dtype = v.dtype.numpy()
        if dtype.kind == "b":
            out[v.name] = rng.integers(0, 2, shape).astype(bool)
        elif dtype.kind in "iu":
            out[v.name] = rng.integers(0, 4, shape).astype(dtype)
        else:
            out[v.name] = rng.standard_normal(shape).astype(dtype)
    return out


def run(graph: Graph, feeds: Arrays) -> list[npt.NDArray[Any]]:
    """With ONNX Runtime, its own optimisations off: it must run the graph we made, not its own."""
    import onnxruntime as ort

    o = ort.SessionOptions()
    o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    o.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(graph.model).SerializeToString(), o, providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}
    return list(session.run(None, {k: v for k, v in feeds.items() if k in names}))


def assert_equivalent(before: Graph, after: Graph, *, rtol: float = 1e-4, atol: float = 1e-5, seeds: int = 2) -> None:
    """Both graphs have the same interface and compute the same numbers on random inputs."""
    assert [(v.name, v.dtype) for v in before.inputs] == [(v.name, v.dtype) for v in after.inputs]
    assert [(v.name, v.dtype) for v in before.outputs] == [(v.name, v.dtype) for v in after.outputs]
    for seed in range(seeds):
        feeds = random_inputs(before, seed=seed)
        want, got = run(before, feeds), run(after, feeds)
        for v, a, b in zip(before.outputs, want, got, strict=True):
            assert a.shape == b.shape, f"output {v.name}: shape {b.shape} instead of {a.shape}"
            np.testing.assert_allclose(b, a, rtol=rtol, atol=atol, err_msg=f"output {v.name}, seed {seed}")
