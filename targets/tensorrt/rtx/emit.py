"""A graph to TensorRT-RTX plans, each built in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import Location, error
from edgec.target import Artifact, EmitJob, Runner
from edgec.target_options import parse_options
from edgec.targets.tensorrt.engines import EngineRunner, Gpu, look
from edgec.targets.tensorrt.options import RtxOptions
from edgec.targets.tensorrt.oracle import PORTABLE, TOOLCHAIN, Verdict, ask, model_files, sm_names, verdict_of
from edgec.targets.tensorrt.oracle_messages import tell
from edgec.targets.tensorrt.plan import read_plan
from edgec.targets.tensorrt.profiles import Profile, profiles
from edgec.targets.tensorrt.reference import OnnxRunner

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.specs.schema import TargetSpec
    from edgec.toolchain import Toolchain

MODULE = "tensorrt_rtx_bindings"
CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""What TensorRT-RTX 1.7.1 builds for."""

_UNKNOWN_TYPES = "which layers of the plan compute in int8: TensorRT-RTX does not tell ahead of time"


@dataclass(frozen=True)
class Build:
    """One plan and what the SDK said while it made it."""

    capability: str
    path: Path
    verdict: Verdict
    seconds: float


def emit(graph: Graph, spec: TargetSpec, job: EmitJob, folder: Path) -> Artifact:
    """The ONNX file and its plans.

    Raises:
        EdgecError: EC0685 the parser refuses a node; EC0686 it builds no plan for one of the capabilities; EC0687 a
            capability nobody has; EC0692 shapes that do not fit.
    """
    options = parse_options(RtxOptions, job.options)
    wanted = capabilities(options.capabilities, spec)
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(job.verification), None) if job.verification is not None else None
    guessed = job.verification is None or job.verification.generated
    shapes = profiles(graph, options, first, job.diagnostics, guessed=guessed)
    toolchain = job.toolchains.ensure(TOOLCHAIN)
    job.diagnostics.items.extend(toolchain.diagnostics)
    written = graph.save(folder / "model.onnx")
    builds = []
    for capability in wanted:
        job.progress(f"build for {capability}")
        build = _build(written[0], capability, shapes, options, toolchain, folder / capability, job.logs)
        tell(build.verdict, graph, job.diagnostics, target=spec.name)
        if build.verdict.cannot_say:
            _no_plugin(build.verdict, graph)
        builds.append(build)
        if not build.verdict.parsed:
            break  # the others would say the same
    job.diagnostics.raise_if_errors()
    found = look(toolchain, MODULE, folder / "device")
    names = {b.capability: "model.plan" if b.capability == PORTABLE else f"model.{b.capability}.plan" for b in builds}
    files: dict[str, bytes | Path] = {p.name: p for p in written}
    files |= {names[b.capability]: b.path for b in builds}
    here = plan_for(found.gpu, wanted)
    timed = {}
    if found.gpu is not None and here is not None and first is not None:
        path = next(b.path for b in builds if b.capability == here)
        timed = {"latency ms": round(_engine(path, graph, found.gpu, job).latency(first).median * 1e3, 4)}
    return Artifact(
        files,
        entry=names[wanted[0]],
        facts={
            "versions": dict(toolchain.versions),
            "layers": builds[0].verdict.layers,
            "plans": {names[b.capability]: _plan_facts(b) for b in builds},
            "inputs": builds[0].verdict.inputs,
            "outputs": builds[0].verdict.outputs,
            "profiles": {p.name: p.to_json() for p in shapes},
            "gpu": found.gpu.to_json() if found.gpu is not None else found.reason,
            "run": names[here] if here is not None else None,
            **timed,
            **({"warnings": list(w)} if (w := builds[0].verdict.warnings) else {}),
        },
        not_verified=(
            *_not_verified([names[c] for c in wanted if c != here], found.gpu, here is not None),
            *([_UNKNOWN_TYPES] if job.precision == "int8" else []),
        ),
    )


def capabilities(given: str | None, spec: TargetSpec) -> list[str]:
    """What to build for: the target's own, or what the option of `tensorrt-rtx` lists. EC0687 what nobody can."""
    if given is None:
        return [spec.platform]
    if spec.platform != PORTABLE:
        what = f"{spec.name} is built for {spec.platform}: it takes no option capabilities"
        raise error("EC0687", what, hint="--target tensorrt-rtx takes it")
    out = []
    for text in given.split(","):
        names = [c.strip().lower() for c in text.split("+")]
        for name in names:
            if name not in (*CAPABILITIES, PORTABLE) or (name == PORTABLE and len(names) > 1):
                known = f"it does for {', '.join((*CAPABILITIES, PORTABLE))}"
                raise error("EC0687", f"TensorRT-RTX builds no plan for {name!r}", hint=known)
        out.append("+".join(names))
    return list(dict.fromkeys(out))


def _build(
    model: Path,
    capability: str,
    shapes: Sequence[Profile],
    options: RtxOptions,
    toolchain: Toolchain,
    folder: Path,
    logs: Path,
) -> Build:
    """One plan in a fresh process: what was built before in the same one would change its bytes."""
    task = {
        "id": 0,
        "model": model.name,
        "profiles": [{p.name: [list(p.min), list(p.opt), list(p.max)] for p in shapes}] if shapes else [],
        "workspace": options.workspace,
        "builds": [{"name": capability, "capabilities": sm_names(capability), "plan": "model.plan"}],
    }
    crashed: dict[int, dict[str, str]] = {0: {}}
    files: dict[str, Path | bytes] = dict(model_files(model))
    log = logs / f"tensorrt-rtx-{capability}.log"
    result = ask(toolchain, [task], crashed, files=files, workdir=folder, timeout=options.timeout, log=log)[0]
    verdict = verdict_of(result, crashed[0], [capability], toolchain)
    seconds = 0.0
    if result is not None:
        seconds = json.loads(result.read_text(encoding="utf-8"))["builds"].get(capability, {}).get("seconds", 0.0)
    return Build(capability, folder / "model.plan", verdict, seconds)


def _no_plugin(verdict: Verdict, graph: Graph) -> None:
    r = verdict.refusals[0]
    what = f"TensorRT-RTX has no plugin library: it cannot build {r.op}"
    raise error(
        "EC0685",
        what,
        Location(graph.source, node=r.node or None),
        "cut the model before it, or compute it in ONNX ops",
    )


def _plan_facts(build: Build) -> dict[str, Any]:
    head = read_plan(build.path)
    return {
        "capability": build.capability, "bytes": head.bytes, "magic": head.magic, "version": head.version, "seconds": build.seconds,
    }  # fmt: skip


def plan_for(gpu: Gpu | None, wanted: Sequence[str]) -> str | None:
    """Which of the plans this machine's GPU runs: its own first, then the portable one. None: none of them."""
    if gpu is None:
        return None
    own = next((c for c in wanted if gpu.capability in c.split("+")), None)
    return own or (PORTABLE if PORTABLE in wanted and gpu.capability in CAPABILITIES else None)


def _not_verified(plans: Sequence[str], gpu: Gpu | None, ran: bool) -> list[str]:
    if not plans:
        return []
    why = "this machine has no NVIDIA GPU" if gpu is None else f"this machine's GPU is {gpu.capability}"
    instead = "" if ran else "; instead, ONNX Runtime ran model.onnx, from which it was built"
    return [f"{plan} was not executed: {why}{instead}" for plan in plans]


def runner(artifact: Artifact, graph: Graph, job: EmitJob) -> Runner:
    """What executes the plan, or the ONNX file it was built from."""
    name = artifact.facts["run"]
    if name is None:
        model = artifact.files["model.onnx"]
        assert isinstance(model, Path)  # emit writes files
        return OnnxRunner(model, "the plan itself was not executed")
    plan = artifact.files[name]
    assert isinstance(plan, Path)  # emit writes files
    return _engine(plan, graph, Gpu(**artifact.facts["gpu"]), job)


def _engine(plan: Path, graph: Graph, gpu: Gpu, job: EmitJob) -> EngineRunner:
    return EngineRunner(
        plan,
        graph,
        job.toolchains.ensure(TOOLCHAIN),
        MODULE,
        job.workdir / "tensorrt-rtx-run",
        describe=f"TensorRT-RTX {read_plan(plan).version} on {gpu.name} ({gpu.capability})",
        log=job.logs / "tensorrt-rtx-run.log",
    )
