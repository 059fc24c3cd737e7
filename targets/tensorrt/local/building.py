"""An engine built with this machine's TensorRT, in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import Diagnostics, Location, error
from edgec.targets.tensorrt.engines import WORKER, request
from edgec.targets.tensorrt.local.discovery import MODULE, TRTEXEC_WORKER
from edgec.targets.tensorrt.oracle import Refusal, Verdict, model_files
from edgec.targets.tensorrt.oracle_messages import plain, tell
from edgec.targets.tensorrt.releases import has_qdq
from edgec.toolchain import WorkerError
from edgec.weight_patterns import weight_patterns

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.targets.tensorrt.local.discovery import LocalTensorRT
    from edgec.targets.tensorrt.profiles import Profile
    from edgec.toolchain import Answer

PLAN, CACHE, LAYERS = "model.plan", "timing.cache", "layers.json"


@dataclass(frozen=True)
class Built:
    """Files of one build. `layers` is None where TensorRT told nothing of them."""

    plan: Path
    timing_cache: Path
    layers: Path | None
    seconds: float
    warnings: tuple[str, ...]


def flags(precision: str, *, strong: bool, quantised: bool = False) -> list[str]:
    """Builder flags of a base precision: none where the file says in which types to compute. `quantised`: it has Q/DQ pairs."""
    kinds = {"fp32": [], "fp16": ["FP16"], "int8": ["INT8", "FP16"]}[precision]
    return [] if strong else (["INT8", *kinds] if quantised and "INT8" not in kinds else kinds)


def build(
    local: LocalTensorRT,
    model: Path,
    graph: Graph,
    *,
    precision: str,
    folder: Path,
    target: str = "tensorrt",
    profiles: Sequence[Profile] = (),
    workspace: int | None = None,
    timing_cache: Path | None = None,
    dla_core: int | None = None,
    gpu_fallback: bool = True,
    calibration_cache: Path | None = None,
    diagnostics: Diagnostics | None = None,
    timeout: float = 1800.0,
    log: Path | None = None,
) -> Built:
    """Build the ONNX file `model`, which is `graph`, in `folder`.

    `precision` is fp32, fp16 or int8; the file must be of the form `local.strong` says. `timing_cache`: of an earlier
    build. `calibration_cache` (int8 on the DLA up to TensorRT 10) needs trtexec: edgec writes no calibrator.

    Raises:
        EdgecError: EC0685 the ONNX parser refuses a node; EC0689 there is no engine, or the build crashed or hung.
    """
    notes = diagnostics if diagnostics is not None else Diagnostics()
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path | bytes] = dict(model_files(model))
    if timing_cache is not None:
        files[CACHE] = timing_cache
    if calibration_cache is not None:
        files["calib.cache"] = calibration_cache
        if local.trtexec is None:
            what = "an engine with a calibration cache is built by trtexec, which is not here"
            raise error(
                "EC0689",
                what,
                hint="sh build_engine.sh of the bundle does it; on JetPack: apt-get install libnvinfer-bin",
            )
    dla = {"core": dla_core, "fallback": gpu_fallback} if dla_core is not None else None
    asked: dict[str, Any]
    sparse = weight_patterns(graph).two_four > 0
    if local.trtexec is not None:
        arguments = trtexec_arguments(
            local, precision, profiles, quantised=has_qdq(graph), workspace=workspace, dla=dla,
            calibration=calibration_cache is not None, sparse=sparse,
        )  # fmt: skip
        paths = {"model": model.name, "plan": PLAN, "timing_cache": CACHE, "layers": LAYERS}
        asked = {"trtexec": str(local.trtexec), "build": {**paths, "arguments": arguments}}
        worker = TRTEXEC_WORKER
    else:
        wanted = {
            "model": model.name,
            "strong": local.strong,
            "flags": [
                *flags(precision, strong=local.strong, quantised=has_qdq(graph)),
                *(["SPARSE_WEIGHTS"] if sparse else []),
            ],
            "profiles": [{p.name: [list(p.min), list(p.opt), list(p.max)] for p in profiles}] if profiles else [],
            "workspace": workspace,
            "dla": dla,
        }
        asked = request(MODULE, PLAN, build=wanted, timing_cache=CACHE, layers=LAYERS)
        worker = WORKER
    try:
        answer = local.toolchain.run(worker, asked, workdir=folder, files=files, timeout=timeout, log=log)
    except WorkerError as e:
        first = e.diagnostics[0]
        raise error(
            "EC0689", f"TensorRT {local.text} built no engine: {first.message}", first.location, first.hint
        ) from e
    return _built(answer, local, graph, target, notes)


def _built(answer: Answer, local: LocalTensorRT, graph: Graph, target: str, notes: Diagnostics) -> Built:
    values: Mapping[str, Any] = answer.values
    if "refusals" in values:
        refusals = tuple(Refusal(r["node"], r["op"], r["message"], r["code"], r["index"]) for r in values["refusals"])
        verdict = Verdict(False, refusals, tuple(values["warnings"]), {}, local.text, product="TensorRT")
        tell(verdict, graph, notes, target=target)
        notes.raise_if_errors()
        raise error("EC0689", f"{verdict.summary}", Location(str(answer.log)), "is its plugin library loaded?")
    if "reason" in values:
        what = f"TensorRT {local.text} built no engine: {plain(values['reason'])}"
        raise error("EC0689", what, Location(str(answer.log)), "`edgec explain EC0689`")
    layers = answer.path(LAYERS) if values["layers"] else None
    return Built(answer.path(PLAN), answer.path(CACHE), layers, values["seconds"], tuple(values["warnings"]))


def trtexec_arguments(
    local: LocalTensorRT,
    precision: str,
    profiles: Sequence[Profile],
    *,
    quantised: bool = False,
    workspace: int | None,
    dla: Mapping[str, Any] | None,
    calibration: bool,
    sparse: bool = False,
) -> list[str]:
    """What trtexec of this version takes beside file names."""
    from edgec.targets.tensorrt.profiles import trtexec_shapes

    out = ["--skipInference" if local.version >= (8, 6) else "--buildOnly"]
    if not local.strong:
        out += [f"--{name.lower()}" for name in flags(precision, strong=False, quantised=quantised)]
    elif local.version < (11,):
        out.append("--stronglyTyped")
    if profiles:
        out += [f"--{kind}Shapes={text}" for kind, text in trtexec_shapes(profiles).items()]
    if workspace is not None:
        out.append(f"--memPoolSize=workspace:{-(-workspace // 2**20)}")  # MiB
    if dla is not None:
        out.append(f"--useDLACore={dla['core']}")
        if dla["fallback"]:
            out.append("--allowGPUFallback")
    if sparse:
        out.append("--sparsity=enable")
    if calibration:
        out.append("--calib=calib.cache")
    return out
