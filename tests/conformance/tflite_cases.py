"""Models through the TFLite lowering and LiteRT, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lowered_cases
from lowered_cases import Result

from edgec.graph import Graph
from edgec.pipeline import Pass, PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.specs.schema import builtin_pipeline
from edgec.targets.tflite.lower import LoweredModel, lower
from edgec.targets.tflite.model_runs import Kernels, ModelRun, run_litert
from edgec.targets.tflite.writer import write
from edgec.toolchain import Toolchain


@cache
def legal_passes(pipeline: str = "tflite-fp32") -> list[Pass]:
    return build_passes(builtin_pipeline(pipeline).steps, Registry().passes())


def lowered(graph: Graph) -> LoweredModel:
    """The graph after the pipeline of the TFLite targets, as TFLite operators. Raises EdgecError."""
    PassManager(legal_passes()).run(graph, PassContext())
    return lower(graph)


def node_case(name: str, model: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """A node test as a file ready to run, or refused."""
    return lowered_cases.node_case(name, model, inputs, outputs, _file)


def _file(graph: Graph) -> tuple[bytes, tuple[str, ...]]:
    done = lowered(graph)
    return write(done.model), tuple(o.op for o in done.model.main.operators)


def run_all(tasks: Sequence[Any], litert: Toolchain, folder: Path, kernels: Kernels = "xnnpack") -> list[Any]:
    """Every file in LiteRT, compared."""
    runs = [ModelRun(t.model, [t.feeds]) for t in tasks]
    outcomes = run_litert(litert, runs, folder=folder, kernels=kernels, seconds=60)
    results = []
    for t, o in zip(tasks, outcomes, strict=True):
        if o.status == "ok":
            results.append(lowered_cases.judge(t, o.outputs[0]))
        else:
            why = f"{o.status} at {o.step}: {o.message[:300]} {o.signal or ''}"
            results.append(Result(t.name, "crashed", "", why, t.ops))
    return results
