"""Runners: a .tflite file in LiteRT or tflite-micro, in a process of its own, fed and read as the ONNX model would be."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.diagnostics import EdgecError, Location, error
from edgec.latency import Latency
from edgec.targets.tflite.endpoints import Interface
from edgec.targets.tflite.model import Array
from edgec.targets.tflite.model_runs import Kernels, ModelRun, Outcome, run_litert, run_micro

if TYPE_CHECKING:
    from edgec.target import Arrays, EmitJob
    from edgec.toolchain import ToolchainManager

CHUNK_BYTES = 128 << 20
"""Inputs of so many bytes travel at once: what is on disk and in memory stays bounded, whatever the number of samples."""

CHUNK_SAMPLES = 4096

TENSOR_SAMPLES = 8
"""Samples that share a process where every tensor of each is kept on disk."""

ARENA_BYTES = 256 << 20
"""What tflite-micro is given to find out how much it needs."""

_KERNELS: Mapping[Kernels, str] = {
    "xnnpack": "XNNPACK",
    "builtin": "its optimised kernels, without XNNPACK",
    "reference": "its reference kernels",
}


@dataclass(frozen=True)
class Arena:
    """Bytes tflite-micro takes of its tensor arena: `head` for activations and scratch, `tail` for what persists.

    `total` is both, as the library records it; `needed` is the smallest arena it really starts in (a multiple of 16):
    planning takes memory that it gives back. Of this 64-bit host: structures are smaller on a 32-bit device.
    """

    total: int
    head: int
    tail: int
    needed: int


class _FileRunner:
    """What both runtimes share: chunks of samples out, outputs back, failures as one error."""

    describe: str
    name: str
    refusal: str

    def __init__(self, model: bytes | Path, interface: Interface, folder: Path, log: Path | None) -> None:
        self.model, self.interface, self.folder, self.log = model, interface, folder, log

    def run(self, samples: Iterable[Arrays]) -> Iterator[Arrays]:
        """Outputs of the ONNX model's names, shapes and types for each sample.

        Raises: EC0655 crashed, EC0656 hung, EC0657 out of memory, EC0658 or EC0659 refused, EC0660 not the model's
            interface.
        """
        for outputs in self.stored(samples):
            yield self.interface.restore(outputs)

    def stored(self, samples: Iterable[Arrays]) -> Iterator[Mapping[str, Array]]:
        """The same as the file holds them: integers of a quantised output, channels last where it says so."""
        for chunk in _chunks(samples, self.interface):
            yield from self._once(chunk).outputs

    def _once(self, chunk: Sequence[Mapping[str, Array]]) -> Outcome:
        raise NotImplementedError

    def _checked(self, outcome: Outcome) -> Outcome:
        if outcome.status != "ok":
            raise failure(outcome, self.name, self.refusal, self.log)
        return outcome


class LiteRtRunner(_FileRunner):
    """LiteRT, as an app has it (`xnnpack`), or with its reference kernels. `folder` is for temporary files.

    `seconds` is what a chunk of samples may take, `memory` bytes what the process may (None: most of the machine's).
    `threads`: None takes up to four of this machine's.
    """

    name = "LiteRT"
    refusal = "EC0658"

    def __init__(
        self,
        model: bytes | Path,
        interface: Interface,
        toolchains: ToolchainManager,
        folder: Path,
        *,
        kernels: Kernels = "xnnpack",
        threads: int | None = None,
        seconds: float = 600.0,
        memory: int | None = None,
        log: Path | None = None,
    ) -> None:
        super().__init__(model, interface, folder, log)
        self._toolchain = toolchains.ensure("litert")
        self.kernels: Kernels = kernels
        self.threads = threads if threads is not None else min(4, os.cpu_count() or 1)
        self.seconds, self.memory = seconds, memory
        self.describe = f"LiteRT {self._toolchain.versions['ai-edge-litert']} with {_KERNELS[kernels]} on this CPU"

    def _once(self, chunk: Sequence[Mapping[str, Array]]) -> Outcome:
        return self._run(ModelRun(self.model, chunk))

    def _run(self, run: ModelRun, threads: int | None = None) -> Outcome:
        (outcome,) = run_litert(
            self._toolchain,
            [run],
            folder=self.folder,
            kernels=self.kernels,
            threads=threads or self.threads,
            seconds=self.seconds,
            memory=self.memory,
            log=self.log,
        )
        return self._checked(outcome)

    def tensors(self, sample: Mapping[str, Array]) -> dict[int, Array]:
        """Every tensor the file's operators compute, by its index in the file, as stored there."""
        return next(self.all_tensors([sample]))

    def all_tensors(self, samples: Iterable[Mapping[str, Array]]) -> Iterator[dict[int, Array]]:
        """The same for each sample; a few of them share a process."""
        stream = iter(samples)
        while chunk := [self.interface.store(s) for s in islice(stream, TENSOR_SAMPLES)]:
            yield from self._run(ModelRun(self.model, chunk, all_tensors=True)).tensors

    def operators(self, sample: Mapping[str, Array]) -> Sequence[tuple[str, bool]]:
        """The operators in file order, and whether XNNPACK took each."""
        return self._run(ModelRun(self.model, [self.interface.store(sample)])).operators

    def latency(self, sample: Mapping[str, Array], *, runs: int = 20, warm_up: int = 3) -> Latency:
        """With one thread."""
        run = ModelRun(self.model, [self.interface.store(sample)], runs=runs, warm_up=warm_up)
        return Latency.of(self._run(run, threads=1).seconds)


class MicroRunner(_FileRunner):
    """tflite-micro with its portable reference kernels. `arena_bytes`: give it no more than the device has.

    After the first sample of `run`, `arena` says what it took.
    """

    name = "tflite-micro"
    refusal = "EC0659"

    def __init__(
        self,
        model: bytes | Path,
        interface: Interface,
        toolchains: ToolchainManager,
        folder: Path,
        *,
        arena_bytes: int = ARENA_BYTES,
        seconds: float = 600.0,
        memory: int | None = None,
        log: Path | None = None,
    ) -> None:
        super().__init__(model, interface, folder, log)
        self._toolchain = toolchains.ensure("tflite-micro")
        self.arena_bytes, self.seconds, self.memory = arena_bytes, seconds, memory
        self.arena: Arena | None = None
        self.describe = f"tflite-micro {self._toolchain.versions['tflite-micro']} on this CPU"

    def measure(self) -> Arena:
        """The arena it takes, without running a sample."""
        self._once(())
        assert self.arena is not None  # _once sets it or raises
        return self.arena

    def _once(self, chunk: Sequence[Mapping[str, Array]]) -> Outcome:
        ends = (self.interface.inputs, self.interface.outputs)
        inputs, outputs = ([e.name for e in end] for end in ends)
        (outcome,) = run_micro(
            self._toolchain,
            [ModelRun(self.model, chunk, inputs=inputs, outputs=outputs)],
            folder=self.folder,
            arena=self.arena_bytes,
            seconds=self.seconds,
            memory=self.memory,
            log=self.log,
        )
        self.arena = Arena(**self._checked(outcome).arena)
        return outcome


_NOT_HERE = frozenset({"EC0603", "EC0604", "EC0605", "EC0607"})
"""Not installed and offline, not for this machine, no Python for it, no network: nothing is wrong with the artifact."""


def available(job: EmitJob, toolchain: str) -> bool:
    """Whether a runtime can be used here, installed now if need be. Where not, EC0661 says that nothing is executed.

    Anything else that is wrong with it is raised. A version that was not tested is said as a warning.
    """
    try:
        ready = job.toolchains.ensure(toolchain)
    except EdgecError as e:
        first = e.diagnostics[0]
        if first.code not in _NOT_HERE:
            raise
        what = f"the artifact cannot be executed here: {first.message}"
        job.diagnostics.warn("EC0661", what, hint=first.hint or "`edgec explain EC0661`")
        return False
    job.diagnostics.items.extend(ready.diagnostics)
    return True


def _chunks(samples: Iterable[Arrays], interface: Interface) -> Iterator[list[dict[str, Array]]]:
    """Samples as the file takes them, some at a time."""
    chunk: list[dict[str, Array]] = []
    size = 0
    for sample in samples:
        chunk.append(interface.store(sample))
        size += sum(a.nbytes for a in chunk[-1].values())
        if size >= CHUNK_BYTES or len(chunk) == CHUNK_SAMPLES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def failure(outcome: Outcome, runtime: str, refusal: str, log: Path | None = None) -> EdgecError:
    """The error for an outcome that is not ok. `refusal`: the code where the runtime said no."""
    at = f"in the step {outcome.step!r}"
    said = f": {outcome.message}" if outcome.message else ""
    where = Location(str(log)) if log is not None else Location()
    if outcome.status == "refused":
        return error(refusal, f"{runtime} refused the file {at}{said}", where, f"`edgec explain {refusal}`")
    if outcome.status == "hung":
        hint = "raise the time limit, or give fewer samples"
        return error("EC0656", f"{runtime} was not done with the file in time, {at}", where, hint)
    if outcome.status == "memory":
        hint = "a smaller input, or fewer samples"
        return error("EC0657", f"{runtime} took more memory than allowed {at}", where, hint)
    how = f"was killed by {outcome.signal}" if outcome.signal else "ended without a result"
    return error("EC0655", f"{runtime} {how} {at}{said}", where, "the file would do the same to an app: do not ship it")
