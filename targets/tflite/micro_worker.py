"""Worker script: `.tflite` files through TensorFlow Lite for Microcontrollers, one after the other in one process.

Runs in the SDK's environment: standard library, numpy and tflite_micro only. It has the portable reference kernels of
the microcontroller library; arena figures are those of this 64-bit host (a 32-bit device has smaller structures).

Request (file names relative to the folder)
    arena         bytes of the tensor arena given to each model
    seconds       what one model may take; more ends the process with SIGALRM. None: no limit
    models        list of
        id           its number: the step is "model <id>: ...", the result results/<id>.json
        model        the file
        inputs, outputs   names for its inputs and outputs, in the file's order: the library knows them by position only
        samples      list of {input: .npy}
Answer
    {"done": [id, ...]}; each results/<id>.json holds
    error, step   what the library said, and where; nothing else then
    outputs       per sample {output: .npy}
    arena         bytes: "total", "head" (activations and scratch) and "tail" (what persists) of the library's own record,
                  "needed": the smallest arena it starts in; planning takes some memory that the record does not count
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import signal
from typing import Any

PROTOCOL = 1

_runtime: Any = None
_numpy: Any = None

_ARENA = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def prepare(job: Any) -> None:
    job.step("import")
    global _runtime, _numpy
    import numpy
    from tflite_micro import runtime

    _runtime, _numpy = runtime, numpy


def run(job: Any) -> dict[str, Any]:
    (job.folder / "results").mkdir(exist_ok=True)
    done = []
    for task in job.request["models"]:
        with _alarm(job.request.get("seconds")):
            result = _model(job, task)
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


def _model(job: Any, task: dict[str, Any]) -> dict[str, Any]:
    step, before = "load", len(job.log_text())

    def at(name: str) -> None:
        nonlocal step
        step = name
        job.step(f"model {task['id']}: {name}")

    try:
        return _run_model(job, task, at)
    except Exception as e:  # noqa: BLE001 - what the library refuses is the result of this model, and the next one follows
        # Its reasons go to standard error; the exception says "TFLM could not register custom op" and the like.
        said = [line.strip() for line in _ANSI.sub("", job.log_text()[before:]).splitlines() if line.strip()]
        raised = " ".join(str(e).split()) or type(e).__name__
        return {"error": ": ".join([raised, *said[-4:]]), "step": step}


def _run_model(job: Any, task: dict[str, Any], at: Any) -> dict[str, Any]:
    at("allocate")
    model = (job.folder / task["model"]).read_bytes()
    interpreter = _interpreter(model, job.request["arena"])
    rows = []
    for i, sample in enumerate(task["samples"]):
        at(f"sample {i}")
        if set(sample) != set(task["inputs"]):
            raise ValueError(f"the file's inputs are {task['inputs']}, the sample has {sorted(sample)}")
        if i:
            interpreter.reset()
        for position, name in enumerate(task["inputs"]):
            array = _numpy.load(job.folder / sample[name], allow_pickle=False)
            _check(name, array, interpreter.get_input_details(position))
            interpreter.set_input(_numpy.ascontiguousarray(array), position)
        interpreter.invoke()
        row = {}
        for position, name in enumerate(task["outputs"]):
            row[name] = f"results/{task['id']}_{i}_{position}.npy"
            _numpy.save(job.folder / row[name], interpreter.get_output(position))
        rows.append(row)
    at("arena")
    before = len(job.log_text())
    interpreter.print_allocations()
    arena = {kind: int(size) for kind, size in _ARENA.findall(job.log_text()[before:])}
    if set(arena) != {"total", "head", "tail"}:
        raise RuntimeError("the library printed no table of allocations")
    arena["needed"] = _smallest_arena(model, arena["total"], job.request["arena"])
    return {"outputs": rows, "arena": arena}


def _interpreter(model: bytes, arena: int) -> Any:
    config = _runtime.InterpreterConfig.kAllocationRecording
    return _runtime.Interpreter.from_bytes(model, arena_size=arena, intrepreter_config=config)  # the library's spelling


_STEP = 16  # bytes: what the arena is aligned to


def _smallest_arena(model: bytes, recorded: int, enough: int) -> int:
    """By bisection between the library's record and what it was given, in steps of 16 bytes, rounded up."""

    def starts(steps: int) -> bool:
        """In a process of its own: some kernels read through a null pointer where the arena is a little too small."""
        child = os.fork()
        if child == 0:
            faulthandler.disable()
            try:
                _interpreter(model, steps * _STEP)
            except RuntimeError:  # its reason is in the log
                os._exit(1)
            os._exit(0)
        return os.waitpid(child, 0)[1] == 0

    low, high = recorded // _STEP, -(-enough // _STEP)  # `low` is too small or exact, `high` is enough
    width = 64
    while low + width < high and not starts(low + width):
        low, width = low + width, width * 2
    high = min(high, low + width)
    while low < high:
        middle = (low + high) // 2
        if starts(middle):
            high = middle
        else:
            low = middle + 1
    return high * _STEP


def _check(name: str, array: Any, d: dict[str, Any]) -> None:
    shape, dtype = tuple(map(int, d["shape"])), _numpy.dtype(d["dtype"])
    if array.shape != shape or array.dtype != dtype:
        want = f"{shape} of {dtype}"
        raise ValueError(f"input {name!r} of the file is {want}, the sample has {array.shape} of {array.dtype}")
