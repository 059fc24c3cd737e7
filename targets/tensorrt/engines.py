"""An engine on the GPU of this machine: found, fed, timed; always in a process of its own (engine_worker.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import Location, error
from edgec.latency import Latency
from edgec.toolchain import WorkerError

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.target import Arrays
    from edgec.toolchain import Answer, Toolchain

WORKER = Path(__file__).with_name("engine_worker.py")

CHUNK_SAMPLES, CHUNK_BYTES = 64, 256 << 20
"""One process takes so many samples, and about so many bytes of them."""


@dataclass(frozen=True)
class Gpu:
    """`capability`: "sm89". `driver`: the CUDA version the driver serves."""

    name: str
    capability: str
    driver: str

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "capability": self.capability, "driver": self.driver}


@dataclass(frozen=True)
class Found:
    """What a Python with TensorRT says of its machine: `gpu`, or why there is none."""

    version: tuple[int, ...]
    gpu: Gpu | None
    reason: str = ""


def request(module: str, plan: str | None = None, **more: Any) -> dict[str, Any]:
    """A request to engine_worker.py; see there."""
    nothing: dict[str, Any] = {"build": None, "timing_cache": None, "layers": None, "samples": [], "runs": 0}
    return {"module": module, "plan": plan, **nothing, **more}


def look(toolchain: Toolchain, module: str, workdir: Path) -> Found:
    """The version and the GPU. A TensorRT that crashes when it is imported is one without a GPU, and says so."""
    try:
        answer = toolchain.run(WORKER, request(module), workdir=workdir, timeout=120, progress=lambda step: None)
    except WorkerError as e:
        if e.reason not in ("crash", "failed", "exit", "timeout"):
            raise
        return Found((), None, e.diagnostics[0].message)
    version, device = parse_version(answer.values["version"]), answer.values["device"]
    if "reason" in device:
        return Found(version, None, device["reason"])
    return Found(version, Gpu(device["name"], device["capability"], device["driver"]))


def parse_version(text: str) -> tuple[int, ...]:
    """ "10.3.0.post1" is (10, 3, 0)."""
    return tuple(int(n) for n in text.split(".") if n.isdigit())


class EngineRunner:
    """Runs a plan on this machine's GPU.

    Outputs come as the ONNX model has them: what TensorRT 8 narrows to int32 and float32 is widened again.
    """

    def __init__(
        self,
        plan: Path,
        graph: Graph,
        toolchain: Toolchain,
        module: str,
        folder: Path,
        *,
        describe: str,
        timeout: float = 600.0,
        log: Path | None = None,
    ) -> None:
        self._plan, self._toolchain, self._module, self._folder = plan, toolchain, module, folder
        self._types = {v.name or "": v.dtype.numpy() for v in graph.outputs if v.dtype is not None}
        self._timeout, self._log = timeout, log
        self.describe = describe

    def run(self, samples: Iterable[Arrays]) -> Iterator[Arrays]:
        """Outputs by name for each sample.

        Raises:
            EdgecError: EC0689 the engine does not load, take the samples or run; it crashed or hung.
        """
        for chunk in _chunks(samples):
            answer = self._once(chunk)
            yield from (self._read(answer, outputs) for outputs in answer.values["outputs"])

    def latency(self, sample: Mapping[str, Any], *, runs: int = 20, warm_up: int = 3) -> Latency:
        """Of one inference, inputs and outputs already on the GPU; the first `warm_up` do not count. Raises as `run` does."""
        return Latency.of(self._once([dict(sample)], warm_up + runs).values["times"][warm_up:])

    def _once(self, chunk: Sequence[Arrays], runs: int = 0) -> Answer:
        import numpy as np

        files: dict[str, Path | bytes] = {"model.plan": self._plan}
        described = []
        for i, sample in enumerate(chunk):
            inputs = {}
            for k, (name, array) in enumerate(sample.items()):
                files[f"samples/{i}-{k}.bin"] = np.ascontiguousarray(array).tobytes()
                inputs[name] = {"file": f"samples/{i}-{k}.bin", "dtype": array.dtype.name, "shape": list(array.shape)}
            described.append(inputs)
        asked = request(self._module, "model.plan", samples=described, runs=runs)
        try:
            answer = self._toolchain.run(
                WORKER, asked, workdir=self._folder, files=files, timeout=self._timeout, log=self._log
            )
        except WorkerError as e:
            what = f"the engine could not be run: {e.diagnostics[0].message}"
            raise error("EC0689", what, e.diagnostics[0].location, e.diagnostics[0].hint) from e
        if "reason" in answer.values:
            where = Location(str(answer.log))
            raise error("EC0689", answer.values["reason"], where, "`edgec explain EC0689`")
        return answer

    def _read(self, answer: Answer, outputs: Mapping[str, Any]) -> Arrays:
        import numpy as np

        out: Arrays = {}
        for name, what in outputs.items():
            dtype = _dtype(what["dtype"])
            array = np.frombuffer(answer.path(what["file"]).read_bytes(), dtype).reshape(what["shape"])
            out[name] = array.astype(self._types.get(name, dtype))
        return out


def _dtype(name: str) -> Any:
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _chunks(samples: Iterable[Arrays]) -> Iterator[list[Arrays]]:
    chunk: list[Arrays] = []
    size = 0
    for sample in samples:
        chunk.append(sample)
        size += sum(a.nbytes for a in sample.values())
        if len(chunk) == CHUNK_SAMPLES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
