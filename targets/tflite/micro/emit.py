"""A graph to what a firmware needs: `.tflite`, the same as C++ source, the arena's size, within the chip's memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import error
from edgec.target import Artifact, EmitJob
from edgec.target_options import parse_options
from edgec.targets.tflite.emit import MODEL, write_model
from edgec.targets.tflite.endpoints import Interface
from edgec.targets.tflite.kernels import kernels
from edgec.targets.tflite.micro.compilers import compile_sources, find_compiler
from edgec.targets.tflite.micro.exactness import Exactness, compare_stored
from edgec.targets.tflite.micro.memory import Budget, Need, check, peak
from edgec.targets.tflite.micro.options import MicroOptions
from edgec.targets.tflite.micro.products import agreeing_products
from edgec.targets.tflite.micro.resolver import resolver_methods
from edgec.targets.tflite.micro.scratch import cmsis_nn_scratch
from edgec.targets.tflite.micro.source import EXAMPLE_CC, OPS_H, Module, namespace, write_sources
from edgec.targets.tflite.runner import Arena, LiteRtRunner, MicroRunner, available

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.specs.schema import TargetSpec
    from edgec.targets.tflite.model import Quant, TfliteModel

EXACT_SAMPLES = 16
"""So many verification samples are compared bit by bit: reference kernels are slow."""

NOT_ON_A_BOARD = (
    "the chip itself: no board was used; kernels of the chip's vendor (CMSIS-NN, ESP-NN) may round a step apart from the "
    "portable ones, and take scratch memory of their own"
)


@dataclass(frozen=True)
class ArenaPlan:
    """`bytes` of kArenaSize, and why, a line each. None: not even a bound is known."""

    bytes: int | None
    reasons: tuple[str, ...]
    facts: Mapping[str, Any]


def micro_artifact(graph: Graph, spec: TargetSpec, job: EmitJob) -> Artifact:
    """For microcontrollers with tflite-micro.

    Raises:
        EdgecError: EC0665, EC0666 more memory than there is; EC0667 no kernel; EC0668 the source does not compile; EC0659
            tflite-micro refuses the file.
    """
    options = parse_options(MicroOptions, job.options)
    if job.precision == "fp32":
        options = replace(options, io_dtype="float")  # there are no integers to take and give
    path, lowered, ends, facts = write_model(graph, job, options, adjust=agreeing_products)
    del facts["bytes"]  # it is "flash bytes" here
    methods = resolver_methods(lowered.model, graph.source)
    say_interface(ends, options, job)
    budget = Budget.of(options, spec.memory, spec.name)
    runner = micro_runner(path, ends, job) if available(job, "tflite-micro") else None
    arena = runner.measure() if runner is not None else None
    size = path.stat().st_size
    if arena is not None:
        need = Need(size, arena.needed, arena)
    else:
        need = Need(size, peak(lowered.model).bytes, None, "the tensors alive at once take at least")
    if not job.weighing:
        check(lowered.model, need, budget, job.precision, graph.source)
    plan = plan_arena(lowered.model, runner, budget, spec, job)
    facts |= {"interface": ends.to_json(), **memory_facts(need, budget), **plan.facts}
    module = Module(namespace(graph.source), ends, methods, plan.bytes, plan.reasons, *described(facts))
    sources, compiled, unchecked = sources_of(path, module, spec, options, job)
    facts["generated source"] = compiled
    not_verified = [NOT_ON_A_BOARD, *unchecked]
    if runner is None:
        not_verified.append("the arena's size: tflite-micro does not run on this host")
    elif job.verification and available(job, "litert"):
        facts["bit-equal to LiteRT's reference kernels"] = str(_exactness(runner, path, ends, job))
    found = kernels(lowered.model, hybrid=False) if job.precision.startswith("int") else None
    files = {MODEL: path, **sources}
    return Artifact(files, MODEL, facts=facts, not_verified=not_verified, kernels=found, kernels_by="the .tflite file")


def micro_runner(path: Path, ends: Interface, job: EmitJob) -> MicroRunner:
    options = parse_options(MicroOptions, job.options)
    folder = job.workdir / "micro"
    folder.mkdir(exist_ok=True)
    return MicroRunner(path, ends, job.toolchains, folder, seconds=options.timeout, log=job.logs / "tflite-micro.log")


def described(facts: Mapping[str, Any]) -> tuple[str, Mapping[str, str]]:
    """edgec's version, and what was folded into the inputs: the last two fields of `Module`."""
    from edgec import __version__

    return __version__, facts.get("preprocessing in the file", {})


def say_interface(ends: Interface, options: MicroOptions, job: EmitJob) -> None:
    """That the interface is integers, which is another default than LiteRT's targets have."""
    integer = [e for e in (*ends.inputs, *ends.outputs) if e.quant is not None]
    if integer and "io-dtype" not in job.options and "io_dtype" not in job.options:
        told = ", ".join(f"{e.name} is {e.dtype}, real = {_real(e.quant)}" for e in integer if e.quant is not None)
        hint = "model_data.h has the constants; --io-dtype float puts the conversion into the model, for RAM and time"
        job.diagnostics.note("EC0671", f"the model takes and gives integers: {told}", hint=hint)


def _real(q: Quant) -> str:
    zero = int(q.zero_point[0])
    stored = f"(stored {'-' if zero > 0 else '+'} {abs(zero)})" if zero else "stored"
    return f"{stored} * {float(q.scale[0]):.6g}"


def plan_arena(
    model: TfliteModel, runner: MicroRunner | None, budget: Budget, spec: TargetSpec, job: EmitJob
) -> ArenaPlan:
    """The measured arena and what CMSIS-NN may want on top, as far as the budget goes (EC0669)."""
    if runner is None or runner.arena is None:
        top = peak(model).bytes
        why = (
            "kArenaSize is not here: tflite-micro, which measures it, does not run on the host this was written on.",
            f"Tensors alive at once take {top} bytes; tflite-micro needs more than that for its structures.",
        )
        what = "the arena's size is not known: tflite-micro does not run on this host"
        job.diagnostics.warn("EC0669", what, hint=f"begin with more than {top} bytes; arena_used_bytes() says the rest")
        return ArenaPlan(None, why, {"tensors alive at once bytes": top})
    arena = runner.arena
    arm = not (spec.platform or "").startswith("esp32")
    extra, operator = cmsis_nn_scratch(model) if arm else (0, None)
    size = _up(arena.needed + extra)
    reasons = [
        f"{arena.needed} bytes are what {runner.describe.partition(' on ')[0]} needs on a 64-bit host, with portable kernels.",
    ]
    if operator is not None:
        reasons.append(f"{extra} bytes more, for scratch that CMSIS-NN may want, of {operator.op} at most.")
    elif not arm:
        reasons.append("ESP-NN wants scratch memory on top, which is not in it: it was not measured.")
    reasons.append(
        "On a 32-bit chip structures are smaller: interpreter.arena_used_bytes() says what yours really takes."
    )
    if budget.ram is not None and size > budget.ram:
        what = (
            f"the arena fits into {budget.ram_from} with {budget.ram - arena.needed} bytes to spare; CMSIS-NN may want "
            f"{extra} for scratch"
        )
        job.diagnostics.warn(
            "EC0669", what, hint="the portable kernels need none; a 32-bit chip takes less for structures"
        )
        size = budget.ram // 16 * 16
        reasons.append("Cut to the budget: it may not be enough for all of CMSIS-NN's scratch.")
    return ArenaPlan(size, tuple(reasons), _arena_facts(arena, size, extra))


def _arena_facts(arena: Arena, size: int, extra: int) -> dict[str, Any]:
    return {
        "arena bytes": arena.needed,
        "arena": {
            "activations and scratch": f"{arena.head} bytes",
            "persistent, on a 64-bit host": f"{arena.tail} bytes",
            "CMSIS-NN scratch, at most": f"{extra} bytes",
            "kArenaSize": f"{size} bytes",
        },
    }


def memory_facts(need: Need, budget: Budget) -> dict[str, Any]:
    """Use against budgets, as text; code is never counted."""
    facts: dict[str, Any] = {"flash bytes": need.flash}
    parts = {}
    for name, used, of, who in (
        ("flash", need.flash, budget.flash, budget.flash_from),
        ("RAM", need.arena, budget.ram, budget.ram_from),
    ):
        if of is not None:
            parts[name] = f"{used} of {of} bytes, {who}"
    if parts:
        facts["memory"] = parts
    facts["memory not counted"] = "code of kernels and program in flash; stack and the program's own data in RAM"
    return facts


def sources_of(
    model: Path, module: Module, spec: TargetSpec, options: MicroOptions, job: EmitJob
) -> tuple[dict[str, Path], str, list[str]]:
    """The C++ files, what was compiled of them, and what was not (for `not_verified`)."""
    folder = job.workdir / "source"
    folder.mkdir(exist_ok=True)
    files = write_sources(model, module, folder)
    compiler = find_compiler(spec.compiler, spec.platform)
    if compiler is None:
        return files, "not compiled", ["the generated source: there is no C++ compiler on this host"]
    headers = Path(options.tflm).expanduser() if options.tflm is not None else None
    if headers is not None and not (headers / "tensorflow/lite/micro").is_dir():
        hint = "it is the folder that holds tensorflow/lite/micro"
        raise error("EC0463", f"option tflm: {headers} is no source tree of tflite-micro", hint=hint)
    done = compile_sources(compiler, folder, headers, job.logs / "compiler.log")
    told = f"{', '.join(done)} compiled with {compiler.describe}"
    unchecked = []
    if left := [n for n in (OPS_H, EXAMPLE_CC) if n in files and n not in done]:
        unchecked.append(f"{' and '.join(left)}: compiling needs tflite-micro's headers (--option tflm=FOLDER)")
    if not compiler.cross:
        unchecked.append(
            "the generated source for the chip: its cross compiler is not on this host, g++ of the host took it"
        )
    return files, told, unchecked


def _exactness(runner: MicroRunner, path: Path, ends: Interface, job: EmitJob) -> Exactness:
    """tflite-micro against LiteRT's reference kernels; EC0670 where they are not the same."""
    samples = list(islice(job.verification or (), EXACT_SAMPLES))
    folder = job.workdir / "litert"
    folder.mkdir(exist_ok=True)
    options = parse_options(MicroOptions, job.options)
    reference = LiteRtRunner(
        path,
        ends,
        job.toolchains,
        folder,
        kernels="reference",
        seconds=options.timeout,
        log=job.logs / "litert.log",
    )
    found = compare_stored(runner.stored(samples), reference.stored(samples))
    if not found.equal:
        what = f"tflite-micro is not bit-equal to LiteRT's reference kernels: {found}"
        job.diagnostics.warn(
            "EC0670", what, hint="the figures of accuracy are tflite-micro's; kernels differ in rounding"
        )
    return found


def _up(n: int, step: int = 16) -> int:
    return -(-n // step) * step
