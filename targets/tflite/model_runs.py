"""Many .tflite files in one process of a runtime; one that crashes or hangs costs itself only.

The worker script leaves the result of each model on disk before it starts the next. When the process dies, the model it
was at is to blame, and another process goes on behind it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgec.targets.tflite.model import Array

if TYPE_CHECKING:
    from edgec.toolchain import Toolchain, WorkerError

LITERT_WORKER = Path(__file__).with_name("litert_worker.py")
MICRO_WORKER = Path(__file__).with_name("micro_worker.py")

Kernels = Literal["xnnpack", "builtin", "reference"]
Status = Literal["ok", "refused", "crashed", "hung", "memory"]

_STATUS: Mapping[str, Status] = {"timeout": "hung", "memory": "memory"}
"""By `WorkerError.reason`; every other end of the process is a crash."""

SPARE_SECONDS = 120.0
"""For starting the interpreter and writing results, beyond what the models may take."""


@dataclass(frozen=True)
class ModelRun:
    """What one file is to do. `samples`: as the file takes them, by the names of its inputs.

    `inputs`, `outputs`: names by position, for tflite-micro, which knows no others. `all_tensors`, `runs`, `warm_up`:
    LiteRT only, see `litert_worker`.
    """

    model: bytes | Path
    samples: Sequence[Mapping[str, Array]] = ()
    all_tensors: bool = False
    runs: int = 0
    warm_up: int = 0
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of it. `refused`: the runtime said no, in `message`. Otherwise, unless `ok`, its process is gone.

    `outputs`: by name, for each sample. `tensors`: by index in the file, for each sample. `operators`: name and whether
    XNNPACK took it, in file order. `seconds`: of each timed run. `arena`: bytes by name (tflite-micro), see
    `runner.Arena`.
    """

    status: Status
    step: str = ""
    message: str = ""
    signal: str | None = None
    outputs: Sequence[dict[str, Array]] = ()
    tensors: Sequence[dict[int, Array]] = ()
    operators: Sequence[tuple[str, bool]] = ()
    seconds: Sequence[float] = ()
    arena: Mapping[str, int] = field(default_factory=dict)


def run_litert(
    toolchain: Toolchain,
    models: Sequence[ModelRun],
    *,
    folder: Path,
    kernels: Kernels = "xnnpack",
    threads: int = 1,
    seconds: float = 600.0,
    memory: int | None = None,
    log: Path | None = None,
) -> list[Outcome]:
    """Run each model on its samples; one outcome a model, in order.

    `seconds` is what one model may take with all its samples, `memory` bytes what the process may. `folder` gets a
    temporary folder. `log` is that of the last process. Raises WorkerError where the runtime itself does not start.
    """
    request = {"kernels": kernels, "threads": threads, "seconds": seconds}
    return _run(toolchain, LITERT_WORKER, request, models, folder, memory, log)


def run_micro(
    toolchain: Toolchain,
    models: Sequence[ModelRun],
    *,
    folder: Path,
    arena: int,
    seconds: float = 600.0,
    memory: int | None = None,
    log: Path | None = None,
) -> list[Outcome]:
    """The same in tflite-micro, each model in an arena of so many bytes."""
    request = {"arena": arena, "seconds": seconds}
    return _run(toolchain, MICRO_WORKER, request, models, folder, memory, log)


def _run(
    toolchain: Toolchain,
    script: Path,
    request: Mapping[str, Any],
    models: Sequence[ModelRun],
    folder: Path,
    memory: int | None,
    log: Path | None,
) -> list[Outcome]:
    from edgec.toolchain import WorkerError

    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="tflite-", dir=folder))
    try:
        tasks = [_write(place, i, run) for i, run in enumerate(models)]
        ended: dict[int, Outcome] = {}
        while pending := [t for t in tasks if t["id"] not in ended and not _result(place, t["id"]).exists()]:
            timeout = request["seconds"] * len(pending) + SPARE_SECONDS
            try:
                toolchain.run(
                    script,
                    {**request, "models": pending},
                    workdir=place,
                    timeout=timeout,
                    memory=memory,
                    log=log,
                    progress=lambda _: None,
                )
            except WorkerError as e:
                at = _model_at(e)
                if at is None or at in ended:
                    raise
                # It may have died between the result and the next step: then the result counts.
                if not _result(place, at).exists():
                    ended[at] = _ended(e)
        return [ended[i] if i in ended else _read(place, i) for i in range(len(models))]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write(place: Path, number: int, run: ModelRun) -> dict[str, Any]:
    """The files of one model, and its task for the worker."""
    folder = place / str(number)
    folder.mkdir()
    model = folder / "model.tflite"
    if isinstance(run.model, bytes):
        model.write_bytes(run.model)
    else:
        model.symlink_to(run.model.resolve())
    samples = []
    for i, sample in enumerate(run.samples):
        files = {name: f"{number}/{i}_{j}.npy" for j, name in enumerate(sample)}
        for name, file in files.items():
            np.save(place / file, sample[name], allow_pickle=False)
        samples.append(files)
    return {
        "id": number,
        "model": f"{number}/model.tflite",
        "samples": samples,
        "all_tensors": run.all_tensors,
        "runs": run.runs,
        "warm_up": run.warm_up,
        "inputs": list(run.inputs),
        "outputs": list(run.outputs),
    }


def _result(place: Path, number: int) -> Path:
    return place / "results" / f"{number}.json"


def _model_at(e: WorkerError) -> int | None:
    """The number of the model its step names ("model 3: load"); None where it was not at one."""
    kind, _, rest = (e.step or "").partition(" ")
    number = rest.partition(":")[0]
    return int(number) if kind == "model" and number.isdigit() else None


def _ended(e: WorkerError) -> Outcome:
    status: Status = "hung" if e.signal == "SIGALRM" else _STATUS.get(e.reason, "crashed")
    step = (e.step or "").partition(": ")[2]
    said = [
        line
        for line in e.tail
        if not line.startswith(("File ", "Fatal Python error", "Current thread", "Extension modules"))
    ]
    return Outcome(status, step, " | ".join(said[-3:]), e.signal)


def _read(place: Path, number: int) -> Outcome:
    result = json.loads(_result(place, number).read_bytes())
    if "error" in result:
        return Outcome("refused", result["step"], result["error"])
    return Outcome(
        "ok",
        outputs=list(_load(place, result["outputs"])),
        tensors=[{int(k): v for k, v in row.items()} for row in _load(place, result.get("tensors", ()))],
        operators=[(name, delegated) for name, delegated in result.get("operators", ())],
        seconds=result.get("seconds", ()),
        arena=result.get("arena", {}),
    )


def _load(place: Path, rows: Sequence[Mapping[str, str]]) -> Iterator[dict[str, Array]]:
    for row in rows:
        yield {name: np.load(place / file, allow_pickle=False) for name, file in row.items()}
