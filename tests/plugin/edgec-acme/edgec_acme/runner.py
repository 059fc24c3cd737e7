"""Executes a program of acme-a1 on this host, with NumPy."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


class ProgramRunner:
    """What edgec compares the float model with."""

    describe = "the NumPy interpreter of edgec-acme"

    def __init__(self, program: bytes, weights: bytes) -> None:
        self._program = json.loads(program)
        with np.load(io.BytesIO(weights), allow_pickle=False) as stored:
            self._weights = dict(stored)

    def run(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for sample in samples:
            values = {**self._weights, **sample}
            for step in self._program["steps"]:
                values[step["output"]] = _execute(step, [values[name] for name in step["inputs"] if name is not None])
            yield {name: values[name] for name in self._program["outputs"]}


def _execute(step: dict[str, Any], x: list[Any]) -> Any:
    match step["op"]:
        case "MatMul":
            return x[0] @ x[1]
        case "Gemm":
            a = x[0].T if step.get("transA") else x[0]
            b = x[1].T if step.get("transB") else x[1]
            y = np.float32(step.get("alpha", 1.0)) * (a @ b)
            return y + np.float32(step.get("beta", 1.0)) * x[2] if len(x) > 2 else y
        case "Add":
            return x[0] + x[1]
        case "Mul":
            return x[0] * x[1]
        case "Relu":
            return np.maximum(x[0], 0)
    raise ValueError(f"the device has no {step['op']}")
