"""Vela on one file: what it is asked, what it answers, and how it fails."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import EdgecError, Location, error
from edgec.toolchain import WorkerError

if TYPE_CHECKING:
    from edgec.specs.schema import TargetSpec
    from edgec.target import EmitJob
    from edgec.targets.tflite.ethosu.options import EthosUOptions

WORKER = Path(__file__).parent.parent / "vela_worker.py"

VELA_MODEL = "model_vela.tflite"

NPU_OPERATOR = "ethos-u"
"""The custom operator that holds a command stream for the NPU."""


@dataclass(frozen=True)
class VelaResult:
    """`summary`, `layers`: Vela's own tables, by its names of columns. `log`: all it printed."""

    path: Path
    summary: Mapping[str, Any]
    layers: Sequence[Mapping[str, Any]]
    version: str
    log: str

    @property
    def cycles(self) -> int:
        return int(self.summary["cycles_total"])

    @property
    def sram(self) -> int:
        """Bytes."""
        return round(float(self.summary["sram_memory_used"]) * 1024)

    @property
    def feature_maps(self) -> int:
        """Bytes in the memory where tensors live: what of the arena the NPU takes. Weights may share that memory."""
        area = str(self.summary["feature_map_storage_area"]).lower().replace("-", "_").replace(" ", "_")
        return round(float(self.summary[f"{area}_memory_used"]) * 1024)

    def utilisation(self, macs_per_cycle: int) -> float:
        """Share of the NPU's multipliers that work, over the whole inference."""
        return float(self.summary["nn_macs"] / (self.cycles * macs_per_cycle)) if self.cycles else 0.0

    def reasons(self) -> dict[str, str]:
        """Why an operator went to the CPU, by the name Vela gives it; only where Vela says so."""
        return reasons(self.log)


_PLACED = re.compile(r"Warning \(supported operators\) operator: (?P<op>\S+), ofm: '(?P<name>.*)'")


def reasons(log: str) -> dict[str, str]:
    """Vela's paragraphs "Warning (supported operators) operator: OP, ofm: 'NAME'", "Reason: ..." and what follows, joined."""
    found: dict[str, str] = {}
    name = None
    for line in map(str.strip, log.splitlines()):
        if m := _PLACED.match(line):
            name = m["name"]
        elif name is not None and line:
            text = line.removeprefix("Reason: ")
            found[name] = f"{found[name]}; {text}" if name in found else text
        else:
            name = None
    return found


def macs_per_cycle(accelerator: str) -> int:
    """`ethos-u55-128` -> 128: the number in Arm's names is that of multiply-accumulates a cycle."""
    return int(accelerator.rpartition("-")[2])


def run_vela(model: Path, spec: TargetSpec, options: EthosUOptions, job: EmitJob) -> VelaResult:
    """Raises: EC0674 Vela refused or crashed; EC0676 the spec or the options do not say for what; EC0601 to EC0607."""
    accelerator = spec.compiler.get("accelerator-config")
    system = options.system_config or spec.compiler.get("system-config")
    memory = options.memory_mode or spec.compiler.get("memory-mode")
    lacking = [
        name
        for name, value in (("accelerator-config", accelerator), ("system-config", system), ("memory-mode", memory))
        if value is None
    ]
    if lacking:
        hint = (
            "compiler: {accelerator-config: ethos-u55-128, system-config: ..., memory-mode: ...} in the target's spec"
        )
        raise error("EC0676", f"{spec.name} does not say its {' and '.join(lacking)} for Vela", hint=hint)
    folder = job.workdir / "vela"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(model, folder / "model.tflite")
    request = {
        "model": "model.tflite",
        "accelerator": accelerator,
        "system_config": system,
        "memory_mode": memory,
        "config": _config(options.vela_config, folder),
        "options": ["--optimise", options.optimise.capitalize()],
    }
    toolchain = job.toolchains.ensure("vela")
    job.diagnostics.items.extend(toolchain.diagnostics)
    log = job.logs / "vela.log"
    try:
        answer = toolchain.run(WORKER, request, workdir=folder, timeout=options.timeout, log=log)
    except WorkerError as e:
        raise _failure(e, log) from e
    v = answer.values
    path = answer.path(v["artifact"])
    return VelaResult(path, v["summary"], v["layers"], v["version"], answer.log_text())


def _config(given: str | None, folder: Path) -> str | None:
    if given is None:
        return None
    source = Path(given).expanduser()
    if not source.is_file():
        raise error(
            "EC0676", f"option vela-config: there is no file {given}", hint="the .ini of your board, as for Vela"
        )
    shutil.copyfile(source, folder / "vela.ini")
    return "vela.ini"


def _failure(e: WorkerError, log: Path) -> EdgecError:
    """One error, whatever Vela did; the file it was given is one LiteRT runs."""
    first = e.diagnostics[0]
    if e.reason == "start":
        return e
    said = f"was killed by {e.signal}" if e.signal else first.message
    hint = "the file before Vela is fine for LiteRT: try --target cortex-m; please report the model if you can share it"
    return error("EC0674", f"Vela could not compile the model: {said}", Location(str(log)), hint)


def cpu_operators(names: Sequence[str]) -> str:
    """`LOG_SOFTMAX 2, QUANTIZE 1`."""
    return ", ".join(f"{op} {n}" for op, n in Counter(names).most_common())
