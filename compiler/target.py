"""Target: what turns a graph into files for one device. Artifact: the files. Runner: what executes them on this host."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from edgec.diagnostics import Diagnostics, error

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgec.coverage import Kernel
    from edgec.graph import Graph
    from edgec.placement import ActualPlacement, Placement
    from edgec.quantization.record import QuantRecord
    from edgec.recipe import Step
    from edgec.report import Report
    from edgec.samples import Preprocess, Samples
    from edgec.specs.schema import Effort, TargetSpec
    from edgec.toolchain import ToolchainManager, Worker

    Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Estimate:
    """What an inference takes by the vendor's own model of the device: `amount` of `unit`, as `by` says.

    `unit`: "s" wherever the clock is known; else a count that time goes with ("convolution cycles").
    """

    amount: float
    unit: str
    by: str


@dataclass(frozen=True)
class Artifact:
    """What a target made: files (bytes, or a path to move), and what the vendor's toolchain told about them.

    `entry`: the file people load, or the folder that holds nothing but such files (`model.mlpackage`).
    `simulated`: outputs by name for each verification sample, where the SDK can only simulate in the process that
    built (RKNN). `actual`: where each node really runs, as the vendor's compiler says. `facts`: figures for the report
    (memory, cycles, versions). `reproducible`: False, with the reason in `facts`, where the SDK writes other bytes each
    time.
    """

    files: Mapping[str, bytes | Path]
    entry: str
    simulated: Sequence[Arrays] | None = None
    actual: ActualPlacement | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    not_verified: Sequence[str] = ()
    reproducible: bool = True
    kernels: Sequence[Kernel] | None = None
    """The convolutions and products as the artifact itself has them; None where it does not tell."""
    kernels_by: str = ""
    """Who told them, for people: "ONNX Runtime"."""
    estimate: Estimate | None = None
    """None where the vendor's compiler estimates nothing: goals of pruning in time are then refused."""

    def size(self, name: str) -> int:
        """Bytes of one file."""
        data = self.files[name]
        return data.stat().st_size if isinstance(data, Path) else len(data)

    def entry_size(self) -> int:
        """Bytes of what people load: the file `entry`, or all in that folder."""
        return sum(self.size(n) for n in self.files if n == self.entry or n.startswith(f"{self.entry}/"))

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file."""
        return {name: _sha256(data) for name, data in sorted(self.files.items())}


def _sha256(data: bytes | Path) -> str:
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with open(data, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@dataclass
class EmitJob:
    """What `emit` may use: the settled options of one compilation."""

    precision: str
    workdir: Path
    """An empty folder of this compilation; what is left in it is deleted, `workdir/logs` is kept."""
    toolchains: ToolchainManager
    diagnostics: Diagnostics
    calibration: Samples | None = None
    verification: Samples | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Target options of the user (`--option key=value`, `options:` in edgec.yaml)."""
    progress: Callable[[str], None] = lambda text: None
    worker: Worker | None = None
    """What `warm_up` started."""
    quantization: QuantRecord | None = None
    """What the pass `quantize` did; its `reference` is the graph as it was before. None where it did nothing."""
    preprocess: Preprocess | None = None
    """How pixels become what the model takes, where the user said so."""
    source: str | None = None
    """The model's file, where it came from one."""
    reference: Graph | None = None
    """The model as loaded: what the artifact is compared with. Clone it before you run it."""
    weighing: bool = False
    """Built only to see what it takes (`edgec.trial`): too much of it is an answer, no error."""

    @property
    def logs(self) -> Path:
        return log_folder(self.workdir)


def log_folder(workdir: Path) -> Path:
    """Where logs of a compilation go that the user keeps."""
    path = workdir / "logs"
    path.mkdir(parents=True, exist_ok=True)
    return path


class Runner(Protocol):
    """Executes an artifact on this host."""

    describe: str
    """What ran it, for the report: "ONNX Runtime 1.31.1 on this CPU"."""

    def run(self, samples: Iterable[Arrays]) -> Iterable[Arrays]:
        """Outputs by name for each sample of inputs by name."""


class Target(ABC):
    """Subclass and implement `emit`. Spec, pipelines and placement come from YAML unless overridden.

    One class may serve many names (every Rockchip SoC): `self.name` is the name the user gave.
    """

    options: ClassVar[Mapping[str, str]] = {}
    """Option -> one line of help: what `--option key=value` takes for this target."""

    option_type: ClassVar[type | None] = None
    """A frozen dataclass with a field for each of `options` (`edgec.target_options`): wrong values are then told at once."""

    def __init__(self, name: str) -> None:
        self.name = name

    def spec(self) -> TargetSpec:
        """The validated spec; by default `edgec/specs/targets/<name>.yaml`."""
        from edgec.specs.schema import builtin_target

        return builtin_target(self.name)

    def settle(self, precision: str, options: Mapping[str, Any]) -> str:
        """The variant of `precision` that the user's options lead to; by default `precision` itself.

        A variant is a precision of the spec with `variant_of`: users ask for `int8`, and with `--dla` the pipeline,
        scheme, op table and device of `int8-dla` are meant. `precision` is never a variant itself. Everything after
        the call, the report and the manifest included, knows the settled name only. Callers use `settled`.
        """
        return precision

    def pipeline(self, precision: str, effort: Effort = "medium") -> Sequence[Step]:
        """The steps that prepare a graph for this target at `precision`."""
        return self.spec().pipeline(precision, effort)

    def prepare(
        self, steps: Sequence[Step], precision: str, options: Mapping[str, Any], preprocess: Preprocess | None
    ) -> Sequence[Step]:
        """The pipeline's steps with what the user's options and preprocessing ask for besides."""
        return steps

    def quantises(self, precision: str, options: Mapping[str, Any]) -> bool:
        """Whether the vendor's tool alone quantises what `emit` gets, as `options` ask: passes that calibrate are left out."""
        return False

    def placement(self, graph: Graph, precision: str) -> Placement:
        """Who runs each node, and why: by the op table of the spec. `precision` is settled."""
        from edgec.placement import place

        return place(graph, self.spec(), precision)

    def read_plan(self, path: Path, report: Report) -> ActualPlacement:
        """Where the artifact of `report` really runs, as a file from the device tells it.

        Raises:
            EdgecError: EC0411 there is no such file for this target; the target's own where it cannot be read.
        """
        what = f"nothing of {self.name} writes a plan of where operations run"
        raise error("EC0411", what, hint="its report.json has what is known")

    def kernels(self, graph: Graph) -> tuple[Sequence[Kernel], str] | None:
        """What the target's runtime makes of the convolutions and products of a graph with Q/DQ, and who says so; None
        where that is known of the artifact only.
        """
        return None

    def warm_up(self, toolchains: ToolchainManager, workdir: Path) -> AbstractContextManager[Worker | None]:
        """Called before the model is read: start the SDK here if that takes long. `emit` finds it as `job.worker`."""
        return nullcontext()

    @abstractmethod
    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        """Make the files. A vendor's SDK runs through `job.toolchains`, never in this process."""

    def runner(self, artifact: Artifact, graph: Graph, job: EmitJob) -> Runner | None:
        """What executes (or decodes and evaluates) the artifact here; None where `simulated` holds the outputs.

        `job` is the one `emit` had: a runtime that must not be imported here runs through `job.toolchains`.
        """
        return None


def settled(target: Target, precision: str | None, options: Mapping[str, Any]) -> str:
    """The precision a compilation runs at: the one asked for (None: the default), or its variant by the options.

    The name of a variant is taken too where the options lead to it: settling twice changes nothing, and what a
    manifest says can be asked for again.

    Raises:
        EdgecError: EC0403 the target does not offer it, or these options do not lead to it.
    """
    spec = target.spec()
    name, how = spec.precision(precision)
    chosen, _ = spec.precision(target.settle(how.variant_of or name, options))
    if how.variant_of is not None and chosen != name:
        what = f"{target.name} has precision {name!r} only where its options ask for it"
        raise error("EC0403", what, hint=f"ask for {how.variant_of!r}; `edgec targets {target.name}` lists the options")
    return chosen
