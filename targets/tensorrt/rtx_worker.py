"""Worker script: TensorRT-RTX's ONNX parser and ahead-of-time builder; needs no GPU.

Runs in the SDK's environment: standard library and the TensorRT-RTX bindings only. Every result is on disk before the next
model is touched: where the builder crashes, the step says on which model, and what came before is not lost.

Request (file names relative to the folder)
    models        list of
        id            its number: the steps are "parse <id>" and "build <id>: <build>", the result results/<id>.json
        model         the ONNX file; its external data lies beside it
        profiles      list of {input: [min, opt, max]}, each a list of sizes; needed where inputs have dynamic dimensions
        workspace     bytes TensorRT may use while it runs; None: what it takes itself
        builds        list of
            name          for the result
            capabilities  ["SM86", ...]; none: a portable plan
            plan          the file to write it to; None: do not keep it
Answer
    {"version": "1.7.1.116", "done": [id, ...]}; each results/<id>.json holds
    parsed        whether the parser took the file
    refusals      [{code, index, node, op, message}]: what it refused; it stops at the first
    warnings      what parser and builder warned of
    layers        of the network; inputs and outputs: {name: {dtype, shape}}
    builds        {name: {bytes, seconds} | {reason}}

A builder numbers what it compiles: the bytes of a plan depend on what the same process built before. Plans to keep are
built one a process.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

PROTOCOL = 1

_rtx: Any = None


def prepare(job: Any) -> None:
    job.step("import")
    global _rtx
    import tensorrt_rtx_bindings

    _rtx = tensorrt_rtx_bindings


def run(job: Any) -> dict[str, Any]:
    (job.folder / "results").mkdir(exist_ok=True)
    log = _log()
    builder = _rtx.Builder(log)
    done = []
    for task in job.request["models"]:
        result = _model(job, task, builder, log)
        part = job.folder / "results" / f"{task['id']}.part"
        part.write_text(json.dumps(result), encoding="utf-8")
        part.replace(part.with_suffix(".json"))
        done.append(task["id"])
    return {"version": _rtx.__version__, "done": done}


def _log() -> Any:
    """A logger that keeps what matters, as (severity, text)."""

    class Log(_rtx.ILogger):  # type: ignore[misc] # a class of the SDK, which has no types
        def __init__(self) -> None:
            _rtx.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            if severity.name not in ("VERBOSE", "INFO"):
                self.lines.append((severity.name, text))

        def take(self, *severities: str) -> list[str]:
            """Messages of these severities since the last call, each once; forgets all others."""
            found = dict.fromkeys(" ".join(t.split()) for s, t in self.lines if s in severities)
            self.lines = [line for line in self.lines if line[0] == "WARNING" and "WARNING" not in severities]
            return list(found)

    return Log()


def _model(job: Any, task: dict[str, Any], builder: Any, log: Any) -> dict[str, Any]:
    path = job.folder / task["model"]
    job.step(f"parse {task['id']}")
    log.lines.clear()
    network, parser = _parse(builder, log, path)
    refusals = [_refusal(parser.get_error(i)) for i in range(parser.num_errors)]
    faults = log.take("ERROR", "INTERNAL_ERROR")
    if network is not None and network.num_outputs == 0:  # it takes some files that are no models at all
        network, faults = None, ["the file holds no graph with outputs"]
    if network is None:
        if not refusals:  # a file that is no model at all is refused in the log only
            refusals = [
                {"code": "", "index": -1, "node": "", "op": "", "message": "; ".join(faults) or "no reason given"}
            ]
        return {
            "parsed": False, "refusals": refusals, "warnings": log.take("WARNING"), "layers": 0, "inputs": {}, "outputs": {},
            "builds": {b["name"]: {"reason": "the parser refuses the file"} for b in task["builds"]},
        }  # fmt: skip
    result: dict[str, Any] = {
        "parsed": True,
        "refusals": refusals,
        "layers": network.num_layers,
        "inputs": dict(_describe(network.get_input(i)) for i in range(network.num_inputs)),
        "outputs": dict(_describe(network.get_output(i)) for i in range(network.num_outputs)),
        "builds": {},
    }
    for build in task["builds"]:
        job.step(f"build {task['id']}: {build['name']}")
        if network is None:  # building spends it
            network, parser = _parse(builder, log, path)
        result["builds"][build["name"]] = _build(job, task, build, builder, network, log)
        network = None
    result["warnings"] = log.take("WARNING")
    return result


def _parse(builder: Any, log: Any, path: Any) -> tuple[Any, Any]:
    """The network, None where the parser refuses the file; and the parser, which must outlive it."""
    network = builder.create_network(0)
    parser = _rtx.OnnxParser(network, log)
    here = os.getcwd()
    os.chdir(path.parent)  # the log names the file as it is opened here: never a path of this machine
    try:
        ok = parser.parse_from_file(path.name)
    finally:
        os.chdir(here)
    return (network if ok else None), parser


def _refusal(e: Any) -> dict[str, Any]:
    return {
        "code": e.code().name,
        "index": e.node(),
        "node": e.node_name(),
        "op": e.node_operator(),
        "message": " ".join(e.desc().split()),
    }


def _describe(tensor: Any) -> tuple[str, dict[str, Any]]:
    try:
        shape = [None if d < 0 else d for d in tensor.shape]
    except ValueError:  # of unknown rank
        shape = None
    return tensor.name, {"dtype": tensor.dtype.name.lower(), "shape": shape}


def _build(
    job: Any, task: dict[str, Any], build: dict[str, Any], builder: Any, network: Any, log: Any
) -> dict[str, Any]:
    config = builder.create_builder_config()
    capabilities = build["capabilities"]
    known = _rtx.ComputeCapability.__members__
    unknown = [c for c in capabilities if c not in known]
    if unknown:
        return {"reason": f"this TensorRT-RTX does not know {', '.join(unknown)}: it builds for {', '.join(known)}"}
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for i, name in enumerate(capabilities):
            config.set_compute_capability(known[name], i)
    if task.get("workspace") is not None:
        config.set_memory_pool_limit(_rtx.MemoryPoolType.WORKSPACE, task["workspace"])
    problem = _profiles(builder, config, network, task["profiles"])
    if problem is not None:
        return {"reason": problem}
    start = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    seconds = round(time.monotonic() - start, 3)
    faults = log.take("ERROR", "INTERNAL_ERROR")
    if plan is None:
        return {"reason": "; ".join(faults) or "the builder gave no reason"}
    if build["plan"] is not None:
        (job.folder / build["plan"]).write_bytes(memoryview(plan))
    return {"bytes": plan.nbytes, "seconds": seconds}


def _profiles(builder: Any, config: Any, network: Any, profiles: list[dict[str, Any]]) -> str | None:
    """Give the shapes of dynamic inputs to the builder. Returns what is wrong with them."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    dynamic = [t for t in inputs if any(d < 0 for d in t.shape)]
    if not dynamic:
        return None
    if not profiles:
        names = ", ".join(t.name for t in dynamic)
        return f"inputs with dynamic dimensions need minimum, optimum and maximum shapes: {names}"
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for tensor in dynamic:
            if tensor.name not in shapes:
                return f"no shapes are given for input {tensor.name}, which has dynamic dimensions"
            try:
                profile.set_shape(tensor.name, *(tuple(s) for s in shapes[tensor.name]))
            except (ValueError, TypeError) as e:
                return f"input {tensor.name} does not take the shapes {shapes[tensor.name]}: {e}"
        if not profile or config.add_optimization_profile(profile) < 0:
            return f"the shapes are no valid profile: {shapes}"
    return None
