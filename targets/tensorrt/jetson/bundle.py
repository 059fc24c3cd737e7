"""A graph to a bundle: the ONNX file, the script that builds the engine on the board, and what is needed to check it there."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import Location
from edgec.plugin_ops import plugin_nodes
from edgec.runtime import Session
from edgec.target import Artifact, EmitJob
from edgec.target_options import parse_options
from edgec.targets.tensorrt.jetson.board_samples import board_samples
from edgec.targets.tensorrt.jetson.on_board import PLAN, build_here
from edgec.targets.tensorrt.jetson.oracle_opinion import Findings, ask_oracle
from edgec.targets.tensorrt.jetson.readme import readme
from edgec.targets.tensorrt.jetson.script import SCRIPT, Build
from edgec.targets.tensorrt.options import JetsonOptions
from edgec.targets.tensorrt.profiles import profiles
from edgec.targets.tensorrt.reference import OnnxRunner, file_session
from edgec.targets.tensorrt.releases import Release, Span, has_qdq, oldest_parser
from edgec.weight_patterns import weight_patterns

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.specs.schema import TargetSpec
    from edgec.target import Runner
    from edgec.targets.tensorrt.jetson.dla import DlaParts

MODEL, VERIFY, PROFILES, SAMPLES, ABOUT, README = (
    "model.onnx", "verify.py", "profiles.json", "samples.npz", "bundle.json", "README.md",
)  # fmt: skip

ENGINE = "the engine: TensorRT builds it on the board"


def bundle(graph: Graph, spec: TargetSpec, job: EmitJob, release: Release) -> Artifact:
    """Write the bundle.

    Raises:
        EdgecError: EC0692 shapes that do not fit; EC0685 TensorRT's parser refuses the file.
    """
    options = parse_options(JetsonOptions, job.options)
    folder = job.workdir / "bundle"
    folder.mkdir()
    found = Findings()
    written = graph.save(folder / MODEL)
    sample = next(iter(job.verification or ()), None)
    guessed = job.verification is None or job.verification.generated
    shapes = profiles(graph, options, sample, job.diagnostics, guessed=guessed)
    versions = takes(graph, release, job)
    verdict = ask_oracle(graph, folder / MODEL, job, release, options, shapes, found)
    parts = _dla_parts(graph, job, release, options, folder)
    built = [*written] if parts is None else [Path(p) for n, p in parts.files.items() if isinstance(p, Path)]
    if parts is not None and parts.model == MODEL:
        built += written
    hashes = {p.name: _sha256(p) for p in built}
    if parts is not None:
        hashes.update({n: _sha256(data) for n, data in parts.files.items() if isinstance(data, bytes)})
    build = Build(
        MODEL if parts is None else parts.model,
        hashes,
        release,
        spec.precisions[job.precision].variant_of or job.precision,
        parts.versions if parts is not None and parts.versions is not None else versions,
        type_flags(spec, job.precision, quantised=parts is None and has_qdq(graph)) if release.form == "weak" else (),
        shapes,
        options.workspace,
        parts.dla if parts is not None else None,
        sparse=weight_patterns(graph).two_four > 0,
    )
    files: dict[str, bytes | Path] = {p.name: p for p in written}
    if parts is not None:
        files.update(parts.files)
    files[SCRIPT] = build.script()
    files[VERIFY] = package_files("edgec.targets.tensorrt.jetson").joinpath("verify_on_board.py").read_bytes()
    files[PROFILES] = _json({"inputs": {p.name: p.to_json() for p in shapes}})
    count = 0
    if job.verification is not None:
        files[SAMPLES], count = _samples(graph, job)
    _say(found, graph, job, spec, release, parts, count)
    about = {
        "format": 1,
        **release.to_json(),
        "tensorrt_versions": {"from": _dots(build.versions.first), "until": _dots(build.versions.end)},
        "precision": build.precision,
        "model": {"file": build.model, "opset": graph.opset, "sha256": build.hashes[build.model]},
        "profiles": {p.name: p.to_json() for p in shapes},
        "plugins": sorted({n.op_type for n in plugin_nodes(graph)}),
        "parser": verdict.to_json() if verdict is not None else None,
        "dla": dict(parts.facts) if parts is not None else None,
        "checked": found.checked,
        "not_checked": found.not_checked,
    }
    files[README] = readme(_name(graph), build, found.checked, found.not_checked, files, samples=count)
    about["files"] = {name: _sha256(data) for name, data in sorted(files.items())}
    files[ABOUT] = _json(about)
    here = build_here(files, release, job, options.timeout)
    not_verified = found.not_checked if here is None else [n for n in found.not_checked if n != ENGINE]
    if here is not None:
        files.update(here.files)
    facts: dict[str, Any] = {
        "for": f"JetPack {release.jetpack}: TensorRT {release.tensorrt_text}, CUDA {release.cuda}, compute capability {about['compute_capability']}",
        "the engine builds with": f"TensorRT {_dots(build.versions.first)} up to, but without, {_dots(build.versions.end)}",
    }
    if verdict is not None:
        facts["parser"] = f"{verdict.summary}; this is not a build on the board (NVIDIA/TensorRT#4832)"
        facts["verdict"] = [verdict.to_json()]
    if shapes:
        facts["shapes"] = {
            p.name: " to ".join("x".join(map(str, s)) for s in dict.fromkeys((p.min, p.max))) for p in shapes
        }
    if parts is not None:
        facts.update(parts.facts)
    facts["on the board"] = f"sh {SCRIPT} && python3 {VERIFY}"
    if here is not None:
        facts["engine"] = here.told
        facts["not_reproducible"] = "TensorRT times kernels while it builds: two builds may choose others"
    return Artifact(
        files, MODEL if here is None else PLAN, facts=facts, not_verified=tuple(not_verified), reproducible=here is None
    )


def _dla_parts(graph: Graph, job: EmitJob, release: Release, options: JetsonOptions, folder: Path) -> DlaParts | None:
    if not options.dla:
        return None
    from edgec.targets.tensorrt.jetson.dla import dla_parts

    return dla_parts(graph, job, release, options, folder)


def type_flags(spec: TargetSpec, precision: str, *, quantised: bool = False) -> tuple[str, ...]:
    """What lets trtexec compute a float32-typed file in the precision's types. `quantised`: it has Q/DQ pairs."""
    weights = spec.precisions[precision].weights
    flags = {"float32": (), "float16": ("--fp16",), "int8": ("--fp16", "--int8")}.get(weights, ("--fp16",))
    return (*flags, "--int8") if quantised and "--int8" not in flags else flags


def takes(graph: Graph, release: Release, job: EmitJob) -> Span:
    """The TensorRT versions that take the file: those of its form whose parser reads its opset."""
    oldest = oldest_parser(graph.opset)
    if graph.opset > release.opset:
        what = f"the file is opset {graph.opset}; the parser of TensorRT {release.tensorrt_text} is documented up to {release.opset}"
        hint = f"end the pipeline with lower-opset{{to={release.opset}}}"
        job.diagnostics.warn("EC0694", what, Location(graph.source), hint)
        return release.versions
    assert oldest is not None  # the release's own parser reads it
    return Span(max(release.versions.first, oldest), release.versions.end)


def _say(
    found: Findings,
    graph: Graph,
    job: EmitJob,
    spec: TargetSpec,
    release: Release,
    parts: DlaParts | None,
    samples: int,
) -> None:
    """What was checked, and what nothing here can."""
    if samples:
        found.checked.insert(
            0, "ONNX Runtime ran model.onnx on this host's CPU; its outputs were compared with the float model's"
        )
    for op in sorted({n.op_type for n in plugin_nodes(graph)}):
        found.not_checked.append(f"plugin {op}: ONNX Runtime ran standard ops of the same meaning instead")
    found.not_checked += [
        ENGINE,
        "which kernels TensorRT chooses, latency and memory",
    ]
    if release.form == "weak" and spec.precisions[job.precision].weights != "float32":
        found.not_checked.append(
            "float16 rounding: TensorRT computes in float16 what is not int8, ONNX Runtime ran it in float32"
        )
    if parts is not None:
        found.not_checked += parts.not_verified


def runner(artifact: Artifact, graph: Graph, job: EmitJob) -> Runner:
    """The engine on this board's GPU, where it was built and Python has TensorRT; else ONNX Runtime with the bundle's file."""
    plan = artifact.files.get(PLAN)
    why = "TensorRT builds on the board"
    if isinstance(plan, Path):
        from edgec.targets.tensorrt.engines import EngineRunner
        from edgec.targets.tensorrt.local.discovery import MODULE, LocalTensorRT, find

        local = find(job.toolchains)
        if isinstance(local, LocalTensorRT) and local.trtexec is None:
            return EngineRunner(
                plan, graph, local.toolchain, MODULE, job.workdir / "engine-run", describe=local.describe,
                log=job.logs / "engine-run.log",
            )  # fmt: skip
        why = "the engine was not run: no Python here has TensorRT"
        job.diagnostics.warn("EC0689", why, hint="sudo apt-get install python3-libnvinfer; or run verify.py yourself")
    model = artifact.files[MODEL]
    assert isinstance(model, Path)  # `bundle` writes it
    return OnnxRunner(model, why)


def _samples(graph: Graph, job: EmitJob) -> tuple[bytes, int]:
    assert job.verification is not None  # asked by the caller
    names = [v.name or "" for v in graph.inputs], [v.name or "" for v in graph.outputs]
    model = file_session(job.workdir / "bundle" / MODEL)
    reference = Session(job.reference.clone(), fallback=True) if job.reference is not None else model
    return board_samples(job.verification, (names[0], names[1]), reference.run, model.run)


def _dots(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version)) if len(version) > 1 else f"{version[0]}.0"


def _name(graph: Graph) -> str:
    return Path(graph.source).stem if graph.source else graph.model.graph.name or "model"


def _sha256(data: bytes | Path) -> str:
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with data.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
