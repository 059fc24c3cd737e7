"""A graph to the `.tflite` file Vela compiled for an Ethos-U, with what the NPU runs, how long, and in how much memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.actual_placement import ActualNode, ActualPlacement
from edgec.diagnostics import EdgecError, Location
from edgec.target import Artifact, EmitJob, Estimate
from edgec.target_options import parse_options
from edgec.targets.tflite.emit import MODEL, write_model
from edgec.targets.tflite.endpoints import Interface
from edgec.targets.tflite.ethosu.options import EthosUOptions
from edgec.targets.tflite.ethosu.vela import (
    NPU_OPERATOR,
    VELA_MODEL,
    VelaResult,
    cpu_operators,
    macs_per_cycle,
    run_vela,
)
from edgec.targets.tflite.kernels import kernels
from edgec.targets.tflite.micro.emit import (
    ArenaPlan,
    described,
    memory_facts,
    micro_runner,
    say_interface,
    sources_of,
)
from edgec.targets.tflite.micro.memory import Budget, Need, check
from edgec.targets.tflite.micro.products import agreeing_products
from edgec.targets.tflite.micro.resolver import ETHOS_U, METHODS
from edgec.targets.tflite.micro.source import Module, namespace
from edgec.targets.tflite.reader import read
from edgec.targets.tflite.runner import LiteRtRunner, available

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.specs.schema import TargetSpec
    from edgec.targets.tflite.model import Operator, TfliteModel

STRUCTURES = 4096
"""Bytes allowed for tflite-micro's own structures where the whole model is one operator of the NPU."""

_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})

_SAID = 8
"""So many operators left to the CPU are named each; the rest is counted."""

NOT_RUN = (
    "the NPU's command stream: nothing on this host executes it; what was run is the file before Vela, "
    "and cycles, time and memory are Vela's estimates"
)


def ethosu_artifact(graph: Graph, spec: TargetSpec, job: EmitJob) -> Artifact:
    """For Ethos-U NPUs.

    Raises:
        EdgecError: EC0665, EC0666 more memory than there is; EC0667 no kernel for what the CPU must do; EC0674 Vela failed.
    """
    options = parse_options(EthosUOptions, job.options)
    path, lowered, ends, facts = write_model(graph, job, options, adjust=agreeing_products)
    facts["before Vela bytes"] = facts.pop("bytes")
    say_interface(ends, options, job)
    result = run_vela(path, spec, options, job)
    compiled = read(result.path.read_bytes())
    on_cpu = [o for o in compiled.main.operators if not on_npu(o)]
    actual = placement(lowered.model, on_cpu, result)
    _say_cpu(lowered.model, on_cpu, result, job, graph)
    budget = Budget.of(options, spec.memory, spec.name)
    need = Need(result.path.stat().st_size, result.feature_maps, None, "Vela's plan of the tensors takes")
    if not job.weighing:
        check(lowered.model, need, budget, job.precision, graph.source)
    facts |= {
        "interface": ends.to_json(),
        **npu_facts(result, spec, on_cpu, lowered.model),
        **memory_facts(need, budget),
    }
    facts["versions"] = {"ethos-u-vela": result.version}
    plan = _plan_arena(path, ends, result, bool(on_cpu), job)
    methods = _methods(compiled)
    module = Module(namespace(graph.source), ends, methods, plan.bytes, plan.reasons, *described(facts))
    sources, told, unchecked = sources_of(result.path, module, spec, options, job)
    facts |= {**plan.facts, "generated source": told}
    found = kernels(lowered.model, hybrid=False)
    return Artifact(
        {VELA_MODEL: result.path, MODEL: path, **sources},
        VELA_MODEL,
        actual=actual,
        facts=facts,
        not_verified=[NOT_RUN, *unchecked],
        kernels=found,
        kernels_by="the .tflite file before Vela",
        estimate=Estimate(float(result.summary["inference_time"]), "s", f"Vela {result.version}"),
    )


def on_npu(o: Operator) -> bool:
    return o.op == "CUSTOM" and o.options.get("custom_code") == NPU_OPERATOR


def placement(model: TfliteModel, on_cpu: list[Operator], result: VelaResult) -> ActualPlacement:
    """Every operator of the file before Vela: on the CPU where Vela's file still has it, else on the NPU.

    Conversions to and from float are not the model's nodes: op tables say nothing of an interface in float.
    """
    left = {t.name for o in on_cpu for t in o.outputs}
    nodes = [
        ActualNode(
            o.outputs[0].name,
            o.op,
            "fallback" if any(t.name in left for t in o.outputs) else "accelerator",
            (o.source,) if o.source and o.op not in _CONVERSIONS else (),
        )
        for o in model.main.operators
    ]
    return ActualPlacement(tuple(nodes), f"the file Vela {result.version} wrote")


def npu_facts(result: VelaResult, spec: TargetSpec, on_cpu: list[Operator], model: TfliteModel) -> dict[str, Any]:
    """Vela's figures; those of memory in bytes."""
    s = result.summary
    total = len(model.main.operators)
    return {
        "operators on the NPU": f"{total - len(on_cpu)} of {total}",
        **({"operators on the CPU": cpu_operators([o.op for o in on_cpu])} if on_cpu else {}),
        "cycles": result.cycles,
        "inference time": f"{s['inference_time'] * 1e3:.3g} ms",
        "multiply-adds": int(s["nn_macs"]),
        "multipliers in use": f"{100 * result.utilisation(macs_per_cycle(spec.compiler['accelerator-config'])):.1f} %",
        "SRAM bytes": result.sram,
        "Vela": {
            "seconds an inference": s["inference_time"],
            "NPU cycles": int(s["cycles_npu"]),
            "SRAM access cycles": int(s["cycles_sram_access"]),
            "DRAM access cycles": int(s["cycles_dram_access"]),
            "on-chip flash access cycles": int(s["cycles_on_chip_flash_access"]),
            "off-chip flash access cycles": int(s["cycles_off_chip_flash_access"]),
            "DRAM bytes": round(s["dram_memory_used"] * 1024),
            "on-chip flash bytes": round(s["on_chip_flash_memory_used"] * 1024),
            "off-chip flash bytes": round(s["off_chip_flash_memory_used"] * 1024),
            "clock MHz": s["core_clock"] / 1e6,
            "configuration": f"{s['accelerator_configuration']}, {s['system_config']}, {s['memory_mode']}",
        },
        "layers": [dict(row) for row in result.layers],
    }


def ethosu_runner(path: Path, ends: Interface, job: EmitJob) -> LiteRtRunner | None:
    """The file before Vela, in LiteRT with its reference kernels, whose arithmetic the NPU is specified to have."""
    if not available(job, "litert"):
        return None
    folder = job.workdir / "litert"
    folder.mkdir(exist_ok=True)
    options = parse_options(EthosUOptions, job.options)
    runner = LiteRtRunner(
        path,
        ends,
        job.toolchains,
        folder,
        kernels="reference",
        seconds=options.timeout,
        log=job.logs / "litert.log",
    )
    runner.describe = f"{runner.describe}, the file before Vela"
    return runner


def _methods(compiled: TfliteModel) -> list[str]:
    """Of the resolver, for what Vela wrote. What has no kernel was refused by the op table, or warned of (EC0675)."""
    return sorted(
        {ETHOS_U if on_npu(o) else METHODS[o.op] for o in compiled.main.operators if on_npu(o) or o.op in METHODS}
    )


def _say_cpu(model: TfliteModel, on_cpu: list[Operator], result: VelaResult, job: EmitJob, graph: Graph) -> None:
    """0 % NPU is EC0673; each operator that stays on the CPU EC0675, with Vela's reason where it gives one."""
    why = result.reasons()
    made_for = {t.name: o for o in model.main.operators for t in o.outputs}
    if on_cpu and len(on_cpu) == len(model.main.operators):
        first = on_cpu[0].outputs[0].name
        reason = f": {why[first]}" if first in why else ""
        what = f"nothing of the model runs on the NPU, Vela leaves all {len(on_cpu)} operators to the CPU{reason}"
        hint = "the NPU computes in int8 and int16: `edgec check` says what stands in the way of each node"
        job.diagnostics.warn("EC0673", what, Location(graph.source), hint)
    for o in on_cpu[:_SAID]:
        name = o.outputs[0].name
        ours = made_for.get(name)
        node = (ours.source or name) if ours is not None else name
        what = f"Vela leaves {o.op} to the CPU: {why.get(name, 'it gives no reason')}"
        nor = None if o.op in METHODS else f"tflite-micro has no kernel of {o.op} there either"
        job.diagnostics.warn("EC0675", what, Location(graph.source, node=node), nor)
    if len(on_cpu) > _SAID:
        rest = cpu_operators([o.op for o in on_cpu[_SAID:]])
        job.diagnostics.warn("EC0675", f"Vela leaves {len(on_cpu) - _SAID} more operators to the CPU: {rest}")


def _plan_arena(path: Path, ends: Interface, result: VelaResult, cpu: bool, job: EmitJob) -> ArenaPlan:
    """Vela's plan of the tensors, and room for tflite-micro's structures, which are few where the NPU runs all."""
    tail = _tail_without_npu(path, ends, job) if cpu else None
    structures = STRUCTURES + (tail or 0)
    size = -(-(result.feature_maps + structures) // 16) * 16
    reasons = [
        f"{result.feature_maps} bytes are Vela's plan of the tensors.",
        f"{structures} bytes more are allowed for tflite-micro's structures"
        + (", a bound: as much as without the NPU." if tail is not None else ", which was not measured."),
        "interpreter.arena_used_bytes() says what it really takes.",
    ]
    facts = {"arena": {"Vela's plan": f"{result.feature_maps} bytes", "kArenaSize": f"{size} bytes"}}
    return ArenaPlan(size, tuple(reasons), facts)


def _tail_without_npu(path: Path, ends: Interface, job: EmitJob) -> int | None:
    """Bytes of structures for the file before Vela; None where tflite-micro is not here, or does not run that file."""
    if not available(job, "tflite-micro"):
        return None
    try:
        return micro_runner(path, ends, job).measure().tail
    except EdgecError as e:
        why = e.diagnostics[0].message
        job.diagnostics.warn("EC0669", f"memory for operators left to the CPU is not known: {why}")
        return None
