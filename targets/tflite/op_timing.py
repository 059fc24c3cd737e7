"""Seconds of each operator on this host: every one cut out into a model of its own, fed with what it really gets.

LiteRT's wheel has no profiler that Python can read. A model of one operator runs the same kernel (XNNPACK takes it too),
without what fusing saves: the sum is not the time of the whole. Operators that only unpack constants (DEQUANTIZE of
float16 weights) go along with those that read them: XNNPACK wants to see constants there, and unpacks them once.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.targets.tflite.model import Array, Operator, SubGraph, Tensor, TfliteModel
from edgec.targets.tflite.model_runs import Kernels, ModelRun, run_litert
from edgec.targets.tflite.runner import failure
from edgec.targets.tflite.writer import write

if TYPE_CHECKING:
    from edgec.toolchain import Toolchain


@dataclass(frozen=True)
class OperatorTime:
    """`seconds`: median of the runs; None where the operator does not run alone, with the reason in `why`.

    `output`: the name of its first output; `source`: of the ONNX node it was made for.
    """

    index: int
    op: str
    source: str
    output: str
    seconds: float | None
    delegated: bool = False
    why: str = ""


def time_operators(
    model: TfliteModel,
    sample: Mapping[str, Array],
    toolchain: Toolchain,
    folder: Path,
    *,
    kernels: Kernels = "xnnpack",
    threads: int = 1,
    runs: int = 20,
    warm_up: int = 3,
) -> list[OperatorTime]:
    """Each operator of the main subgraph, in order. `sample`: as the file takes it (`Interface.store`).

    Raises what a runner raises where the whole model does not run (EC0655 to EC0658).
    """
    whole = ModelRun(write(model), [sample], all_tensors=True)
    (outcome,) = run_litert(toolchain, [whole], folder=folder, kernels="reference", threads=threads)
    if outcome.status != "ok":
        raise failure(outcome, "LiteRT", "EC0658")
    index = {id(t): i for i, t in enumerate(model.main.tensors())}
    values = {id(t): sample[n] for t, n in zip(model.main.inputs, model.input_names, strict=True)}
    for t in model.main.tensors():
        if index[id(t)] in outcome.tensors[0]:
            values[id(t)] = outcome.tensors[0][index[id(t)]]
    unpacking = {id(t): o for o in model.main.operators if not _computed(o.inputs) for t in o.outputs}
    alone = [_alone(o, model, values, unpacking, runs, warm_up) for o in model.main.operators]
    asked = [r for r in alone if isinstance(r, ModelRun)]
    outcomes = iter(run_litert(toolchain, asked, folder=folder, kernels=kernels, threads=threads))
    rows = []
    for i, (operator, run) in enumerate(zip(model.main.operators, alone, strict=True)):
        told = (i, operator.op, operator.source, operator.outputs[0].name if operator.outputs else "")
        if isinstance(run, str):
            rows.append(OperatorTime(*told, None, why=run))
            continue
        got = next(outcomes)
        if got.status != "ok":
            rows.append(OperatorTime(*told, None, why=f"alone it {got.status}: {got.message}"))
        else:
            taken = any(delegated for _, delegated in got.operators)
            rows.append(OperatorTime(*told, statistics.median(got.seconds), taken))
    return rows


def _alone(
    operator: Operator,
    model: TfliteModel,
    values: Mapping[int, Array],
    unpacking: Mapping[int, Operator],
    runs: int,
    warm_up: int,
) -> ModelRun | str:
    """The operator as a model, or why it cannot be one."""
    computed = _computed(operator.inputs)
    first = list({id(o): o for t in computed if (o := unpacking.get(id(t))) is not None}.values())
    inputs = [t for t in computed if id(t) not in unpacking]
    if not inputs:
        return "it reads constants only"
    missing = [t.name for t in inputs if id(t) not in values]
    if missing:
        return f"the value of {missing[0]!r} is not known"
    names = [f"in{i}" for i in range(len(inputs))]
    outputs = list(operator.outputs)
    cut = TfliteModel(
        [SubGraph(inputs=inputs, outputs=outputs, operators=[*first, operator]), *model.subgraphs[1:]],
        names,
        [f"out{i}" for i in range(len(outputs))],
    )
    sample = {name: values[id(t)] for name, t in zip(names, inputs, strict=True)}
    return ModelRun(write(cut), [sample], runs=runs, warm_up=warm_up)


def _computed(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """Those that are neither constant nor state, each once."""
    return list({id(t): t for t in tensors if t is not None and t.data is None and not t.is_variable}.values())
