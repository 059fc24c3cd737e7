"""Worker script: `.tflite` files through LiteRT, one after the other in one process.

Runs in the SDK's environment: standard library, numpy and ai_edge_litert only. LiteRT aborts on some files, and then this
process is gone: what each model gave is on disk before the next one starts, and the step says which one it was.

Request (file names relative to the folder)
    kernels       "xnnpack" (as an app gets it by default), "builtin" (optimised kernels, no delegate) or "reference"
    threads       how many the kernels may use
    seconds       what one model may take; more ends the process with SIGALRM. None: no limit
    models        list of
        id           its number: the step is "model <id>: ...", the result results/<id>.json
        model        the file
        samples      list of {input: .npy}; inputs by the names of the signature, or of the tensors where there is none
        all_tensors  true: every tensor the operators of the main subgraph compute as well
        runs         time the whole model so many times on the first sample, after `warm_up` runs; 0: do not
        warm_up
Answer
    {"done": [id, ...]}; each results/<id>.json holds
    error, step      what LiteRT refused, and where; nothing else then
    outputs          per sample {output: .npy}
    tensors          per sample {index of the tensor: .npy}, where asked for
    names            {index of the tensor: name}, where asked for
    operators        [[name, delegated], ...] of the main subgraph in the order of the file
    seconds          of each timed run
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from pathlib import Path
from typing import Any

PROTOCOL = 1

_litert: Any = None
_numpy: Any = None


def prepare(job: Any) -> None:
    job.step("import")
    global _litert, _numpy
    import numpy
    from ai_edge_litert import interpreter

    _litert, _numpy = interpreter, numpy


def run(job: Any) -> dict[str, Any]:
    kinds = _litert.OpResolverType
    kernels = {
        "xnnpack": kinds.AUTO,
        "builtin": kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "reference": kinds.BUILTIN_REF,
    }[job.request["kernels"]]
    seconds = job.request.get("seconds")
    (job.folder / "results").mkdir(exist_ok=True)
    done = []
    for task in job.request["models"]:
        with _alarm(seconds):
            result = _model(job, task, kernels)
        part = job.folder / "results" / f"{task['id']}.part"
        part.write_text(json.dumps(result), encoding="utf-8")
        part.replace(part.with_suffix(".json"))
        done.append(task["id"])
    return {"done": done}


@contextlib.contextmanager
def _alarm(seconds: float | None) -> Any:
    """End this process after `seconds`: with the default action also where C++ never comes back."""
    if seconds is None:
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


def _model(job: Any, task: dict[str, Any], kernels: Any) -> dict[str, Any]:
    step = "load"

    def at(name: str) -> None:
        nonlocal step
        step = name
        job.step(f"model {task['id']}: {name}")

    try:
        return _run_model(job, task, kernels, at)
    except Exception as e:  # noqa: BLE001 - whatever LiteRT refuses is the result of this model, and the next one follows
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        return {"error": " ".join(lines) or type(e).__name__, "step": step}


def _run_model(job: Any, task: dict[str, Any], kernels: Any, at: Any) -> dict[str, Any]:
    at("load")
    keep = bool(task.get("all_tensors"))
    interpreter = _litert.Interpreter(
        model_path=str(job.folder / task["model"]),
        num_threads=job.request["threads"],
        experimental_op_resolver_type=kernels,
        experimental_preserve_all_tensors=keep,
    )
    inputs, outputs = _interface(interpreter)
    at("allocate tensors")
    interpreter.allocate_tensors()
    operators, computed = _operators(interpreter)
    result: dict[str, Any] = {"outputs": [], "operators": operators}
    if keep:
        names = {d["index"]: d["name"] for d in interpreter.get_tensor_details()}
        result.update(tensors=[], names={str(i): names[i] for i in computed})
    for i, sample in enumerate(task["samples"]):
        at(f"sample {i}")
        _feed(interpreter, inputs, {n: _numpy.load(job.folder / f, allow_pickle=False) for n, f in sample.items()})
        interpreter.reset_all_variables()
        interpreter.invoke()
        stem = f"results/{task['id']}_{i}"
        result["outputs"].append(_save(job.folder, interpreter, {n: d["index"] for n, d in outputs.items()}, stem))
        if keep:
            result["tensors"].append(_save(job.folder, interpreter, {str(t): t for t in computed}, f"{stem}_t"))
    if task.get("runs"):
        at("timing")
        result["seconds"] = _time(interpreter, task["runs"], task.get("warm_up", 0))
    return result


def _interface(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Details of inputs and outputs by name."""
    signatures = interpreter.get_signature_list()
    if not signatures:
        ends = (interpreter.get_input_details(), interpreter.get_output_details())
        return tuple({d["name"]: d for d in end} for end in ends)  # type: ignore[return-value]
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    return runner.get_input_details(), runner.get_output_details()


def _operators(interpreter: Any) -> tuple[list[tuple[str, bool]], list[int]]:
    """The operators of the file, whether a delegate took each, and the tensors they compute.

    A delegate is one more node behind them that computes its outputs from its inputs: it took what lies between.
    """
    plan = interpreter._get_ops_details()
    nodes = [o for o in plan if o["op_name"] != "DELEGATE"]
    producer = {int(t): i for i, o in enumerate(nodes) for t in o["outputs"]}
    taken: set[int] = set()
    for delegate in (o for o in plan if o["op_name"] == "DELEGATE"):
        given = {int(t) for t in delegate["inputs"]}
        wanted = [int(t) for t in delegate["outputs"]]
        while wanted:
            tensor = wanted.pop()
            i = producer.get(tensor)
            if tensor not in given and i is not None and i not in taken:
                taken.add(i)
                wanted += [int(t) for t in nodes[i]["inputs"]]
    return [(o["op_name"], i in taken) for i, o in enumerate(nodes)], sorted(producer)


def _feed(interpreter: Any, inputs: dict[str, Any], sample: dict[str, Any]) -> None:
    if set(sample) != set(inputs):
        raise ValueError(f"the file's inputs are {sorted(inputs)}, the sample has {sorted(sample)}")
    for name, array in sample.items():
        d = inputs[name]
        shape, dtype = tuple(map(int, d["shape"])), _numpy.dtype(d["dtype"])
        if array.shape != shape or array.dtype != dtype:
            want = f"{shape} of {dtype}"
            raise ValueError(f"input {name!r} of the file is {want}, the sample has {array.shape} of {array.dtype}")
        interpreter.set_tensor(d["index"], array)


def _save(folder: Path, interpreter: Any, indices: dict[str, int], stem: str) -> dict[str, str]:
    """Tensors as .npy; those without data (optional ones, insides of a delegate) are left out."""
    files = {}
    for i, (name, index) in enumerate(indices.items()):
        try:
            array = interpreter.get_tensor(index)
        except ValueError:  # "Tensor data is null"
            continue
        files[name] = f"{stem}_{i}.npy"
        _numpy.save(folder / files[name], array)
    return files


def _time(interpreter: Any, runs: int, warm_up: int) -> list[float]:
    for _ in range(warm_up):
        interpreter.invoke()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        interpreter.invoke()
        seconds.append(time.perf_counter() - start)
    return seconds
